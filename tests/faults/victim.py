"""A solo server that can be killed at a known point, of its work or of its very start."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from faults import remains
from faults.killing import ALL, HELD, TRACEABLE, Killer
from solo import SoloServer


class Victim(SoloServer):
    """Jobs that are stopped get little time, and temporary files lie where they can be counted."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__(root, "--GradientServer.stop_grace_s=1", *options)
        (root / "tmp").mkdir()
        self.environment["TMPDIR"] = str(root / "tmp")

    def launch(self, before: tuple[str, ...] = TRACEABLE) -> None:
        super().launch(before)

    def start(self) -> SoloServer:
        """With the owner's ``/storage`` made, so that a first kill meets what every later one meets."""
        super().start()
        self.storage()
        return self

    def stop(self) -> None:
        """With all that a test that failed has left of its jobs."""
        super().stop()
        for pid in remains.processes(self):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stand_behind(self, at: int, calls: str = ALL, where: str = "") -> Killer:
        """A killer of the running server."""
        assert self.process is not None
        return Killer(self.process.pid, at, calls, where)

    def start_before(self, at: int, calls: str = ALL, where: str = "") -> Killer:
        """Starts it with a killer behind it from its first call; ``ready`` tells whether it came up."""
        self.launch(HELD)
        assert self.process is not None
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        killer = Killer(self.process.pid, at, calls, where)
        self.process.send_signal(signal.SIGCONT)
        return killer

    def gone(self) -> None:
        """Waits for the end of one that was killed."""
        assert self.process is not None
        self.process.wait()
        self.kill()
