"""The command's processes, and how all of them are ended.

Standard library only: part of the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from gradient_jupyter.engines.local import process

LEFTOVER_GRACE_S = 2.0
"""What the command left running may take to end, once it has ended by itself."""


class Tree:
    """The command's processes, and how they are asked and made to end.

    Inside bubblewrap the tree is ``bwrap → init → command → …``, and the whole world dies with the outer
    ``bwrap``, which ends as soon as the command does. While a stop is under way that is too soon: a wrapping
    shell may die of TERM at once, with a training script below it still saving its state. So the outer
    process is held (SIGSTOP) until every process inside is gone, and then let go to tell the exit code.
    """

    def __init__(self, main: int, contained: bool) -> None:
        self._main = main
        self._outer = main if contained else 0
        self._asked: set[tuple[int, str]] = set()
        self._held = False
        self._running = True
        self.deadline: float | None = None
        self.killed = False
        """Whether the command itself had to be killed."""

    def end_by(self, deadline: float) -> None:
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def press(self) -> None:
        """One step of ending: TERM for whom it is new, KILL for all after the deadline."""
        assert self.deadline is not None
        late = time.monotonic() >= self.deadline
        family = process.descendants(os.getpid())
        machinery = {self._outer} | {pid for pid, entry in family.items() if entry.parent == self._outer}
        if not self._outer:
            machinery = set()
        inside = {pid: entry for pid, entry in family.items() if pid not in machinery}
        if self._outer in family:
            self._hold(bool(inside))
        for pid, entry in inside.items():
            if late:
                self.killed = self.killed or self._running
                process.signal_pid(pid, signal.SIGKILL)
            elif (pid, entry.start) not in self._asked:
                self._asked.add((pid, entry.start))
                process.signal_pid(pid, signal.SIGTERM)
        if late and not process.LINUX:
            self.kill_group()
        if time.monotonic() >= self.deadline + LEFTOVER_GRACE_S:
            for pid in family:
                process.signal_pid(pid, signal.SIGKILL)

    def kill_group(self) -> None:
        """Where orphans do not become our children, the process group is all that is left of the tree."""
        with contextlib.suppress(OSError):
            os.killpg(self._main, signal.SIGKILL)

    def _hold(self, hold: bool) -> None:
        if hold != self._held:
            process.signal_pid(self._outer, signal.SIGSTOP if hold else signal.SIGCONT)
            self._held = hold

    def main_ended(self) -> None:
        self._outer = 0
        self._running = False
