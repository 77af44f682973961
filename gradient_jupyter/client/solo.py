"""A user's own server: found by its runtime file, started when it is not there.

One server per data root. Whoever holds ``<runtime file>.start`` (an advisory lock) may start one; the
server itself holds a lock on the data root, so that a race ends with one server whoever starts it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import selectors
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from urllib3.exceptions import HTTPError

from gradient_jupyter import __version__
from gradient_jupyter.client.connection import PREFIX, Address, hello, open_pool
from gradient_jupyter.resources import server as wire
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import ServerUnavailable

READY_S = 60.0
"""How long a server may take from its start to its first answer (a migration is part of it)."""
END_S = 30.0
"""How long a server may take to end once it was asked to."""
RACES_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""How long to wait before each try, while another server is coming or going."""
DATA_ROOT_TAKEN = 3
"""The server's exit code when another server holds its data root."""
_LARGEST_RUNTIME_FILE = 65536


class _Ready(msgspec.Struct, frozen=True):
    """The one line a server prints when it can be reached."""

    url: str
    pid: int


class _Taken(Exception):
    """Another server holds the data root."""


class Solo:
    """Finds this user's solo server and, where allowed, starts it."""

    def __init__(self, *, start: bool = True, data: Path | None = None) -> None:
        self.data = data or wire.data_root()
        self.path = wire.runtime_file(self.data)
        self._start = start

    def find(self) -> Address:
        """A server that answers, has proved itself and is not older than we are."""
        if address := self.running():
            return address
        if not self._start:
            raise ServerUnavailable(
                "No Gradient server is running here.",
                next="Start it: gradient server start.",
                code="not-running",
            )
        with self._only_starter():
            for wait_s in RACES_S:
                time.sleep(wait_s)
                if address := self.running():
                    return address
                self.stop(older_only=True)  # it hands over; its jobs go on under their supervisors
                with contextlib.suppress(_Taken):
                    return self._started()
        raise ServerUnavailable(
            f"Another Gradient server holds {self.data}, but it cannot be reached.",
            next=f"Look at {self.data / 'server.log'}, end that server and try again.",
        )

    def running(self) -> Address | None:
        """The server there is, if it answers and proves itself; with ``start``, only if it is not older."""
        if (runtime := read_runtime(self.path)) is None:
            return None
        address = Address(url=runtime.url.rstrip("/"), token=runtime.token)
        try:
            answer = hello(address)
        except ServerUnavailable:
            return None
        if self._start and _release(answer.version) < _release(__version__):
            return None
        if answer.api != wire.API:
            raise ServerUnavailable(
                f"The server here is version {answer.version}; this client, {__version__}, is too old.",
                next="Update gradient-jupyter where this client runs, or restart its kernel.",
                code="client-too-old",
            )
        return address

    def stop(self, *, older_only: bool = False) -> bool:
        """Asks the server to end and waits until its process is gone. False: there was none to stop."""
        runtime = read_runtime(self.path)
        if runtime is None:
            return False
        address = Address(url=runtime.url.rstrip("/"), token=runtime.token)
        try:
            answer = hello(address)
        except ServerUnavailable:
            return False
        if older_only and _release(answer.version) >= _release(__version__):
            return False
        with _watched(runtime.pid) as ended:
            _ask_to_end(address)
            if not ended.wait(END_S):
                raise ServerUnavailable(
                    f"The Gradient server (process {runtime.pid}) does not end.",
                    next=f"Look at {self.data / 'server.log'}; kill {runtime.pid} ends it, its jobs go on.",
                )
        return True

    @contextlib.contextmanager
    def _only_starter(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self.path.with_name(self.path.name + ".start")
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _started(self) -> Address:
        """Starts a server and waits for its line. Raises _Taken when another one holds the data root."""
        if not sys.executable:
            raise ServerUnavailable("This program does not know its Python, so it cannot start the server.")
        log_file, log = self._open_log()
        before = os.fstat(log).st_size
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "gradient_jupyter.server", "--data", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                start_new_session=True,
            )
        finally:
            os.close(log)
        ready = _first_line(process)
        # Reaps it, whenever it ends, so that a long-lived notebook keeps no zombie.
        threading.Thread(target=process.wait, name="gradient-server", daemon=True).start()
        if ready is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(timeout=END_S) == DATA_ROOT_TAKEN:
                    raise _Taken
            tail = _tail(log_file, before)
            raise ServerUnavailable(
                "The Gradient server did not start" + (f": {tail}" if tail else "."),
                next=f"The whole of it stands in {log_file}.",
                code="start-failed",
            )
        runtime = read_runtime(self.path)
        if runtime is None or runtime.url.rstrip("/") != ready.url.rstrip("/"):
            raise ServerUnavailable(
                f"The Gradient server started, but {self.path} does not lead to it.",
                next="Are JUPYTER_RUNTIME_DIR and GRADIENT_DATA_DIR the same for both?",
                code="start-failed",
            )
        return Address(url=runtime.url.rstrip("/"), token=runtime.token)

    def _open_log(self) -> tuple[Path, int]:
        """Where the server speaks: beside its data or, where nothing can be written there, beside its runtime
        file."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        path = self.data / "server.log"
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            return path, os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                raise
        path = self.path.with_suffix(".log")
        return path, os.open(path, flags, 0o600)


def _ask_to_end(address: Address) -> None:
    """Raises nothing: a server that no longer answers is ending already, and whoever asked waits for that."""
    pool = open_pool(address)
    try:
        pool.urlopen("POST", f"{PREFIX}/server/stop", headers={"Authorization": f"Bearer {address.token}"})
    except (HTTPError, ServerUnavailable):
        pass
    finally:
        pool.close()


def read_runtime(path: Path) -> wire.Runtime | None:
    """What a server wrote there, or None. Refused when somebody else could have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, "it is not a regular file")
        if found.st_uid != os.geteuid():
            raise _refused(path, f"it belongs to user {found.st_uid}, not to you")
        if found.st_mode & 0o077:
            raise _refused(path, f"others may open it (mode {stat.S_IMODE(found.st_mode):04o})")
        content = file.read(_LARGEST_RUNTIME_FILE)
    try:
        return decode(content, type=wire.Runtime)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # a server that starts writes it anew


def _refused(path: Path, why: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"{path} should lead to your Gradient server, but {why}.",
        next="Remove it and try again.",
        code="runtime-file",
    )


def _release(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: ``1.10.0.dev3`` is ``(1, 10, 0)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _first_line(process: subprocess.Popen[bytes]) -> _Ready | None:
    """The server's one line, or None when it closes its end without one or takes too long."""
    assert process.stdout is not None
    deadline = time.monotonic() + READY_S
    line = b""
    with process.stdout as pipe:
        while b"\n" not in line and (left := deadline - time.monotonic()) > 0:
            if not _readable(pipe.fileno(), left):
                break
            if not (more := os.read(pipe.fileno(), 65536)):
                break
            line += more
    try:
        return decode(line.partition(b"\n")[0], type=_Ready)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _readable(descriptor: int, timeout_s: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(timeout_s))


def _tail(path: Path, start: int) -> str:
    """The last line a server that failed has left in its log, from byte ``start`` on."""
    with path.open("rb") as file:
        file.seek(max(start, os.fstat(file.fileno()).st_size - 8192))
        lines = file.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class _Ended:
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._descriptor = os.pidfd_open(pid)

    def wait(self, timeout_s: float) -> bool:
        if self._descriptor >= 0:
            return _readable(self._descriptor, timeout_s)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:  # systems without pidfd have nothing to wait on
            try:
                os.kill(self._pid, 0)
            except OSError:
                return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[_Ended]:
    """Watches a process from before it is asked to end, so that its id cannot come to mean another one."""
    ended = _Ended(pid)
    try:
        yield ended
    finally:
        ended.close()
