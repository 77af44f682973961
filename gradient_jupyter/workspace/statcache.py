"""What was hashed before, so that the second scan of a directory reads no unchanged file.

One file per directory, under a cache directory. It is a cache and nothing more: a file that is missing,
damaged, foreign, of another version or not writable costs time, never correctness. Writers replace it as a
whole, so nobody reads half a file; of two at the same time one writes.

A digest is believed while size, mtime, ctime, inode and device of its file are what they were. Tools that
set mtime back (``touch -d``, ``cp -p``, rsync) move ctime, which nobody sets. Where an edit might leave all
five as they were, the digest is not kept and the file is read each time:

- An edit in the same tick of the file system's clock (git calls such files *racily clean*): a file counts
  only once it had not been touched for two seconds, FAT's tick, when the hashing began.
- A write through a memory map moves the times only where the page was clean, so a file that anybody had open
  for writing does not count. Where the system does not tell (``digest``), the file has to have rested for
  longer than the kernel leaves a page dirty.
- After the clock was set back a second could come again: what was kept in the future is forgotten.
- A read-only file system is often an image whose times and inodes were made up by its builder, and the next
  image may have the same. Nothing on one is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import blake3
import msgspec

from gradient_jupyter.resources.decoding import unpack
from gradient_jupyter.resources.snapshot import chunk_count
from gradient_jupyter.workspace.digest import Hashed

_MAGIC = b"GRSTAT2\n"
_SETTLED_NS = 2_000_000_000
#: Linux writes a dirty page after 30 seconds, and looks every 5.
_CLEAN_NS = 60_000_000_000
_DIGEST_BYTES = 32
#: Far more than the largest directory that can be sent needs.
_MAX_BYTES = 256 << 20


class Remembered(msgspec.Struct, frozen=True, array_like=True):
    """One file as it was when it was hashed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    digest: bytes
    chunks: bytes = b""
    """The digests of its chunks, one after the other."""


class _Body(msgspec.Struct, frozen=True, array_like=True):
    root: str
    saved_ns: int
    files: dict[bytes, Remembered]


class StatCache:
    """Digests by directory. ``directory`` is where they are kept, by default the user's cache directory;
    ``clock`` is the wall clock in nanoseconds."""

    def __init__(self, directory: Path | None = None, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._directory = directory or default_directory()
        self.clock = clock

    def load(self, root: Path) -> dict[bytes, Remembered]:
        """What is known of the files in ``root`` (absolute), by path; nothing when that cannot be read."""
        try:
            data = _read(self._file(root))
            if not data.startswith(_MAGIC):
                return {}
            checksum, body = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
            # A flipped bit must not become somebody's wrong digest.
            if blake3.blake3(body).digest() != checksum:
                return {}
            known = unpack(body, type=_Body)
        except (OSError, msgspec.MsgspecError):
            return {}
        return known.files if known.root == _name(root) and known.saved_ns <= self.clock() else {}

    def save(self, root: Path, files: Mapping[bytes, Remembered]) -> None:
        """Replace what is known of ``root``. A cache that cannot be written is not worth an error."""
        body = msgspec.msgpack.encode(_Body(_name(root), self.clock(), dict(files)))
        target = self._file(root)
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # One name for every writer, so that those who are killed leave one file and not one each.
            draft = target.with_name(f".{target.name}.writing")
            fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of two at a time one writes
                if not os.path.samestat(os.fstat(fd), os.stat(draft)):
                    return  # it has just become the cache of another writer
                file.truncate(0)
                file.write(_MAGIC + blake3.blake3(body).digest() + body)
                file.flush()
                os.replace(draft, target)

    def _file(self, root: Path) -> Path:
        return self._directory / "hashed" / blake3.blake3(os.fsencode(root)).hexdigest(length=16)


def default_directory() -> Path:
    """``$XDG_CACHE_HOME/gradient_jupyter``, or ``~/.cache/gradient_jupyter``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "gradient_jupyter"


def recall(known: Remembered | None, status: os.stat_result) -> Remembered | None:
    """What is known of a file in state ``status``, if it is the file we knew, untouched."""
    if known is None or (known.size, known.mtime_ns, known.ctime_ns, known.inode, known.device) != (
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
    ):
        return None
    # The checksum says that the file is as it was written, not that we wrote it.
    if len(known.digest) != _DIGEST_BYTES or len(known.chunks) != _DIGEST_BYTES * chunk_count(known.size):
        return None
    return known


def remember(hashed: Hashed, *, started_ns: int) -> Remembered | None:
    """The entry for a file that was hashed after ``started_ns`` (wall clock); None when an edit of it might
    not show."""
    status = hashed.stat
    rest = _CLEAN_NS if hashed.written is None else _SETTLED_NS
    if hashed.written or max(status.st_mtime_ns, status.st_ctime_ns) > started_ns - rest:
        return None
    return Remembered(
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        status.st_dev,
        hashed.digest,
        b"".join(hashed.chunks),
    )


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_uid != os.geteuid()
            or status.st_mode & 0o022
            or status.st_size > _MAX_BYTES
        ):
            return b""
        return file.read()


def _name(root: Path) -> str:
    return os.fsencode(root).decode("utf-8", "backslashreplace")
