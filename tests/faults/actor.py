"""Small things done in children that can be killed at any effect (technique T1), without a start for each."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults.killing import Killer, place

_PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from importlib import import_module
from faults.actor import perform
perform(import_module(sys.argv[1]), sys.argv[2:])
"""


class Actor:
    """Does functions of one test module: each gets a directory, and may be a coroutine's. ``imported``: what
    each child would otherwise import for itself."""

    def __init__(self, module: str, *imported: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, module, *imported],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def killed(self, what: Callable[[Path], Any], root: Path, nth: int, calls: str, where: str) -> str | None:
        """Kills it at its ``nth`` such effect. The place; None when it came to its end before."""
        process = self._process
        assert process.stdin and process.stdout
        process.stdin.write(f"{what.__name__} {root}\n")
        pid = int(process.stdout.readline())
        try:
            with Killer(pid, nth, calls, where) as killer:
                os.kill(pid, signal.SIGCONT)
                status = int(process.stdout.readline())
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # stopped, it would be waited for
            raise
        assert status == (-signal.SIGKILL if killer.fired else 0)
        return place(killer.sites[-1], root) if killer.fired else None

    def __enter__(self) -> Actor:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def perform(module: Any, imported: list[str]) -> None:
    """The actor's own side: each child stops before its first call, until it is traced."""
    for name in imported:
        __import__(name)
    for line in sys.stdin:
        what, root = line.split()
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGSTOP)
            work = getattr(module, what)(Path(root))
            if inspect.iscoroutine(work):
                asyncio.run(work)
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
