"""How a task ended, in numbers for programs and one sentence for people.

Standard library only: part of the supervisor.
"""
# ruff: noqa: PTH123  # part of the supervisor, which starts in milliseconds: no pathlib

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import time

from gradient_jupyter.engines.local import command


def now_us() -> int:
    return time.time_ns() // 1000


class Ending:
    """How it ended; becomes ``exit.json``."""

    def __init__(self, exit_code: int | None, code: str, message: str = "") -> None:
        self.exit_code = exit_code
        self.code = code
        self.message = message
        self.stopped = False
        self.started_us: int | None = None
        self.ended_us = now_us()
        self.duration_s = 0.0


def exited(exit_code: int, *, overdue: bool, stopped: bool, oom: bool) -> Ending:
    """The command ended. ``overdue``: we killed it after its grace; ``oom``: the kernel killed for memory."""
    ending = Ending(exit_code, "exited")
    if exit_code == 128 + signal.SIGKILL:
        ending.code, ending.message = "killed", "It was killed (signal 9)."
        if overdue:
            ending.message = "It was killed because it did not end within its grace time."
        elif oom:
            ending.code = "out-of-memory"
            ending.message = (
                "It was killed (signal 9), likely because memory ran out: the system killed a process for "
                "that while it ran. Use a larger machine type, or less memory."
            )
    elif 128 < exit_code < 128 + signal.NSIG and not stopped:
        with contextlib.suppress(ValueError):
            name = signal.Signals(exit_code - 128).name
            ending.message = f"Exit code {exit_code} means that signal {name} ended it."
    return ending


def overdue(limit_s: float, *, killed: bool) -> Ending:
    """It ran longer than it may; the exit code is that of ``timeout(1)``, whatever the command's was."""
    how = ", and killed because it did not end within its grace time" if killed else ""
    message = f"It was stopped because it ran longer than its limit of {_lasting(limit_s)}{how} (exit 124)."
    return Ending(124, "max-duration", message)


def _lasting(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def unusable(problem: command.Unusable) -> Ending:
    """There was nothing that could be started."""
    ending = Ending(problem.exit_code, problem.code, str(problem))
    ending.started_us = ending.ended_us
    return ending


def reported(status: bytes) -> int | None:
    """The command's exit code in bubblewrap's JSON documents. None: no command was ever started."""
    for line in status.splitlines():
        with contextlib.suppress(ValueError):
            document = json.loads(line)
            if isinstance(document, dict) and "exit-code" in document:
                return int(document["exit-code"])
    return None


def world_failed(errors: bytes) -> Ending:
    """What bubblewrap's last words mean, when it never reported that the command ran."""
    said = errors.decode(errors="replace").strip().rpartition("\n")[2]
    if said.startswith("bwrap: execvp "):  # the world was made; what we looked up is no program after all
        missing = said.endswith(os.strerror(errno.ENOENT))
        problem = command.Unusable(
            command.NOT_FOUND if missing else command.NOT_EXECUTABLE,
            f"{said.removeprefix('bwrap: execvp ')}: this system cannot execute it.",
        )
        return Ending(problem.exit_code, problem.code, str(problem))
    return Ending(None, "world", f"Its world could not be made: {said or 'no reason given'}.")


def oom_kills() -> int:
    """How often the kernel has killed for want of memory: on this host, and in our own cgroup."""
    total = 0
    for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    total += int(line.split()[1])
    return total
