"""The private directory of one task: the files through which the engine and the supervisor understand each
other, and what may be concluded from them.

========== =========== ===============================================================================
file       written by  says
========== =========== ===============================================================================
spec       engine      whose task this is and what was asked for (a hash; never the environment)
unpacked   engine      the workspace is whole, as of the boot named in it
lock       both        an ``flock``: a supervisor holds it for life, an engine to end an unborn task
pid        supervisor  who holds the lock (``process.Identity``)
stop       engine      a request to end, with its grace; the newest counts
started    supervisor  the command is about to be started. On disk *before* it is: never a second start
exit.json  both        how it ended. The last thing written
trouble    supervisor  a traceback, when the supervisor itself failed
========== =========== ===============================================================================

Each bears a checksum, so that a flipped bit does not become another exit code; what does not fit it counts as
not there.

Standard library only: part of the supervisor.
"""
# ruff: noqa: PTH104, PTH108, PTH123  # part of the supervisor, which starts in milliseconds: no pathlib

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from typing import Any

SPEC = "spec"
UNPACKED = "unpacked"
LOCK = "lock"
PID = "pid"
STOP = "stop"
STARTED = "started"
EXIT = "exit.json"
TROUBLE = "trouble"

SOCKET = ".hints"
"""Beside the private directories: where the engine hears hints."""

STATUS_FD = 3
"""The descriptor on which bubblewrap reports, in the supervisor's child."""

_RESERVED = ".exit"
_EXIT_BYTES = 4096
_SUM = "crc32"


def read(directory: str, name: str) -> dict[str, Any] | None:
    """What a file says; None when it is not there or is not whole."""
    try:
        with open(os.path.join(directory, name), "rb") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict):
        return None
    total = value.pop(_SUM, None)  # supervisors of before 0.2 wrote none
    return value if total is None or total == _sum(value) else None


def exists(directory: str, name: str) -> bool:
    return os.path.lexists(os.path.join(directory, name))


def write(directory: str, name: str, value: dict[str, Any], *, durable: bool = True) -> None:
    """Puts a file there whole or not at all; if ``durable``, it is on disk before this returns."""
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        _fill(fd, value, durable)
        os.rename(temporary, os.path.join(directory, name))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_directory(directory)


def mark_started(directory: str, time_us: int) -> None:
    """Returns when the mark is on disk, and the way to it: from here on nothing may be started again. Raises
    ``FileExistsError`` when the command has been started before."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(os.path.join(directory, STARTED), flags, 0o600)
    _fill(fd, {"started_us": time_us})
    sync_directory(directory)
    sync_directory(os.path.dirname(directory))


def reserve_exit(directory: str) -> None:
    """Takes the space for ``exit.json`` now, so that a disk filled by the job cannot hide how it ended."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    fd = os.open(os.path.join(directory, _RESERVED), flags, 0o600)
    try:
        # A file system that puts off where to write still counts what it has promised. Elsewhere, e.g. over a
        # network, blocks are only taken when they are written.
        if os.fstat(fd).st_size < _EXIT_BYTES:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, _EXIT_BYTES)
            else:
                os.write(fd, b" " * _EXIT_BYTES)
                os.fsync(fd)
    finally:
        os.close(fd)


def write_exit(directory: str, value: dict[str, Any]) -> None:
    """Writes ``exit.json`` into its reserved space, if there is such a thing."""
    temporary = os.path.join(directory, _RESERVED)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _fill(fd, value)
    os.rename(temporary, os.path.join(directory, EXIT))
    sync_directory(directory)


def _fill(fd: int, value: dict[str, Any], durable: bool = True) -> None:
    try:
        data = json.dumps({**value, _SUM: _sum(value)}).encode()
        written = 0
        while written < len(data):
            written += os.write(fd, data[written:])
        os.ftruncate(fd, len(data))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _sum(value: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(value).encode())


def sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def take_lock(directory: str, patience_s: float = 0.5) -> int | None:
    """The lock, as a descriptor to keep open; None when someone else has it for longer than a glance.

    A probe (``held``) holds it shared for microseconds: hence the patience.
    """
    fd = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                return None
            time.sleep(0.005)
        except BaseException:
            os.close(fd)
            raise


def held(directory: str) -> bool:
    """Whether somebody holds the lock. Probes do not hinder each other, and a supervisor outwaits them."""
    try:
        fd = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
