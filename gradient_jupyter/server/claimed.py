"""One server per data root, and the file by which a user's clients find it.

The lock is the truth: the kernel lets go of it when its holder dies, however it dies. The runtime file
is what the holder says of itself; its readers check that it can prove it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.server import Runtime, config_root
from gradient_jupyter.workspace.space import NETWORK, file_system


class DataRootTaken(Exception):
    """Another server works on this data root. The text names it."""


class DataRootUnsafe(Exception):
    """The data root cannot be trusted with anything. The text says why and what to do."""


def claim(root: Path, lock: Path) -> tuple[int, bool]:
    """Makes the data root if need be and takes its lock. The descriptor holds it for this process's life;
    beside it: whether the disk takes writes."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (kind := file_system(root)) in NETWORK:
        raise DataRootUnsafe(
            f"{root} lies on {kind}, over the network, where SQLite's write-ahead log does not work. "
            "Choose a local disk with --data, or GRADIENT_DATA_DIR."
        )
    status = root.stat()
    if status.st_uid != os.getuid():
        raise DataRootUnsafe(
            f"{root} belongs to another user (uid {status.st_uid}). "
            "Choose another with --data, or GRADIENT_DATA_DIR."
        )
    writable = True
    try:
        if status.st_mode & 0o077:
            root.chmod(0o700)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        writable = False
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 100, 0).decode(errors="replace").strip()
        os.close(fd)
        raise DataRootTaken(
            f"Another server (pid {holder or 'unknown'}) already works on {root}. Use that one, stop it with "
            "`gradient server stop`, or give this one other data with --data."
        ) from None
    if writable:
        with contextlib.suppress(OSError):  # it only says who; a full disk keeps nobody from starting
            os.pwrite(fd, f"{os.getpid():<10}".encode(), 0)
            os.ftruncate(fd, 10)
    return fd, writable


def key(path: Path) -> bytes:
    """32 secret bytes of this installation's, made once. Outside the data root, so that a copy of the data is
    no key to what runs. One that was lost is made anew: tokens made from the old one are refused."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if len(found := file.read(33)) == 32:
                return found
    made = secrets.token_bytes(32)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return made


def keyring(install: str) -> Path:
    """Where the keys are under which this installation's secrets are encrypted."""
    return config_root() / "keys" / f"{install}.secrets"


def publish(path: Path, runtime: Runtime) -> None:
    """Writes the runtime file, 0600, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One name for whoever holds the data root, so that what a killed one left of it is not left for ever.
    draft = path.with_name(f".{path.name}.draft")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(runtime))
    draft.replace(path)


def withdraw(path: Path, runtime: Runtime) -> None:
    """Removes the runtime file if it still is this server's."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if decode(path.read_bytes(), type=Runtime) == runtime:
            path.unlink()
