"""How supervisors come to be: each from a new interpreter, or forked from one that is kept ready.

To start an interpreter takes longer than all else before a task's first line, and most of a short task's CPU.
So while tasks are being submitted a *fork server* waits: a supervisor's interpreter with everything imported,
which forks for every task and never sees one: the job goes through a pipe of its own to the child. It has
touched nothing, holds nothing, and ends when its socket does, and so with the server however that ends.

Who was asked to run a task decides nothing: a supervisor takes the task's lock and marks the start first
(``private``). So a fork server may have been killed, or stopped, or may answer late: another supervisor is
made, and only one of them starts anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from gradient_jupyter.engines.local import process

_PROGRAM = Path(__file__).with_name("supervisor.py")
#: Where the loader of the supervisor's interpreter may have to look. Nothing else of ours is passed on.
_LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "PYTHONHOME")
_ANSWER_S = 2.0
"""For one that is forked to take its job. It does so at once, unless somebody stopped the fork server."""


class Supervisor:
    """One supervisor process, from its making until it has told how its job's start went. ``close`` it then:
    with its job it is on its own, and without one it ends. For one thread; the methods block.
    """

    def __init__(self, job: int, heard: int, launcher: subprocess.Popen[bytes] | None) -> None:
        """Takes over the descriptors: where the job is written, and where it tells. ``launcher`` forks it and
        ends; without one it comes from a fork server."""
        self._job = job
        self._heard = heard
        self._launcher = launcher
        self._said = b""
        os.set_blocking(job, False)

    @classmethod
    def make(cls) -> Supervisor:
        """A new process. Raises ``OSError`` when there can be none."""
        job, heard, theirs = _pipes()
        try:
            launcher = _launch("run", theirs[1], theirs[0])
        except BaseException:
            os.close(job)
            os.close(heard)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        return cls(job, heard, launcher)

    @property
    def forked(self) -> bool:
        """Whether a fork server made it."""
        return self._launcher is None

    @property
    def identity(self) -> process.Identity | None:
        """Who it is, once it has said so."""
        return _identity(self._said.partition(b"\n")[0])

    def run(self, job: bytes, timeout_s: float) -> bool:
        """Gives it its job. Returns when the command is started, or will never be, or time has passed.

        False when the job was not taken: the process is gone, or does not answer. In the second case it may
        still be run one day, if the task's lock and mark allow it.
        """
        patience = min(_ANSWER_S, timeout_s) if self.forked else timeout_s
        if not (self._give(job, patience) and self._says(b"taken\n", patience)):
            return False
        self._says(b"started\n", timeout_s)
        return True

    def given(self) -> bool:
        """Whether nothing more is written to it."""
        return self._job < 0

    def _give(self, job: bytes, timeout_s: float) -> bool:
        until = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._job, select.POLLOUT)
        left = memoryview(job)
        try:
            while left:
                if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    return False  # closed half-way, which it knows to be no job
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._job, left) :]
        except BrokenPipeError:
            return False
        finally:
            self._close_job()
        return True

    def _says(self, word: bytes, timeout_s: float) -> bool:
        """Waits until it has said so; not when it has ended without."""
        until = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._heard, select.POLLIN)
        while word not in self._said:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                return False
            piece = os.read(self._heard, 4096)
            if not piece:
                return False
            self._said += piece
        return True

    def _close_job(self) -> None:
        if self._job >= 0:
            os.close(self._job)
            self._job = -1

    def close(self, timeout_s: float = _ANSWER_S) -> None:
        """Lets go of it. May be called twice."""
        self._close_job()
        if self._heard >= 0:
            os.close(self._heard)
            self._heard = -1
        if self._launcher is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launcher.wait(timeout_s)  # not the supervisor: what we started forks at once and ends

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ForkServer:
    """At most one process that forks supervisors. Any thread may call; the methods block, ``fork`` hardly."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._control: socket.socket | None = None
        self._who: process.Identity | None = None
        self._wanted = False
        self._making = False
        self._closed = False

    @property
    def identity(self) -> process.Identity | None:
        """Who is ready."""
        with self._turn:
            return self._who

    def make(self, timeout_s: float) -> None:
        """Sees to it that there is one. Where none can be had there is none: that is no error."""
        with self._turn:
            if self._closed:
                return
            self._wanted = True
            if self._control is not None or self._making:
                return
            self._making = True
        ours: socket.socket | None = None
        who: process.Identity | None = None
        try:
            with contextlib.suppress(OSError):
                ours, who = _serve(timeout_s)
        finally:
            with self._turn:
                self._making = False
                if self._wanted and who is not None:
                    self._control, self._who = ours, who
                    ours = None
            if ours is not None:  # it did not come up, or nobody wants it any more
                ours.close()

    def fork(self) -> Supervisor | None:
        """A new supervisor, or None where nobody is there to fork it."""
        job, heard, theirs = _pipes()
        try:
            with self._turn:
                if self._control is not None:
                    socket.send_fds(self._control, [b"+"], theirs)
                    return Supervisor(job, heard, None)
        except OSError:  # it is gone, or so far behind that it is as good as gone
            self.dismiss()
        finally:
            for fd in theirs:
                os.close(fd)
        os.close(job)
        os.close(heard)
        return None

    def close(self) -> None:
        """Lets it end for good. Whoever is just about to make one finds it closed."""
        with self._turn:
            self._closed = True
        self.dismiss()

    def dismiss(self, *, kill: bool = False) -> None:
        """Lets it end, and also one that is just being made. ``kill``: it does not answer."""
        with self._turn:
            self._wanted = False
            control, self._control = self._control, None
            who, self._who = self._who, None
        if control is not None:
            control.close()
        if kill and who is not None:
            process.send(who, signal.SIGKILL)


def _pipes() -> tuple[int, int, list[int]]:
    """Our ends, to write the job to and to hear from; and the other side's, in that order."""
    job_theirs, job = os.pipe()
    try:
        heard, tell = os.pipe()
    except BaseException:
        os.close(job_theirs)
        os.close(job)
        raise
    return job, heard, [job_theirs, tell]


def _launch(mode: str, fd: int, stdin: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_PROGRAM), mode, str(fd)],
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={name: os.environ[name] for name in _LOADER if name in os.environ},
        pass_fds=(fd,),
        start_new_session=True,
    )


def _serve(timeout_s: float) -> tuple[socket.socket, process.Identity | None]:
    """A fork server's socket, and who it is; None when it did not come up in time."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            launcher = _launch("serve", theirs.fileno(), subprocess.DEVNULL)
        who = None
        ours.settimeout(timeout_s)
        with contextlib.suppress(OSError):
            who = _identity(ours.recv(4096))
        ours.setblocking(False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout_s)
    except BaseException:
        ours.close()
        raise
    return ours, who


def _identity(said: bytes) -> process.Identity | None:
    with contextlib.suppress(ValueError, TypeError):
        return process.Identity(**json.loads(said))
    return None
