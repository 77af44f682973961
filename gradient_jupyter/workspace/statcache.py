"""What was hashed before, so that the second scan of a directory reads no unchanged file.

One file per directory, under a cache directory. It is a cache and nothing more: a file that is missing,
damaged, of another version or not writable costs time, never correctness. Writers replace it as a whole,
so nobody reads half a file; of two at the same time one writes.

A digest is kept only if the file had not been touched for a while when the hashing began (git calls the
others *racily clean*). An edit in the same tick of the file system's clock would leave size and times as they
were, and the old digest would pass for the new content.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import blake3
import msgspec

_MAGIC = b"GRSTAT1\n"
#: The coarsest clock among file systems in use is FAT's, two seconds.
_SETTLED_NS = 2_000_000_000


class Remembered(msgspec.Struct, frozen=True, array_like=True):
    """One file as it was when it was hashed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: bytes


class _Body(msgspec.Struct, frozen=True, array_like=True):
    root: str
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
            data = self._file(root).read_bytes()
            if not data.startswith(_MAGIC):
                return {}
            checksum, body = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
            # A flipped bit must not become somebody's wrong digest.
            if blake3.blake3(body).digest() != checksum:
                return {}
            known = msgspec.msgpack.decode(body, type=_Body)
        except (OSError, msgspec.MsgspecError):
            return {}
        return known.files if known.root == _name(root) else {}

    def save(self, root: Path, files: Mapping[bytes, Remembered]) -> None:
        """Replace what is known of ``root``. A cache that cannot be written is not worth an error."""
        body = msgspec.msgpack.encode(_Body(_name(root), dict(files)))
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


def recall(known: Remembered | None, status: os.stat_result) -> bytes | None:
    """The digest of a file in state ``status``, if it is the file we knew, untouched."""
    if known is None or (known.size, known.mtime_ns, known.ctime_ns, known.inode) != (
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    ):
        return None
    return known.digest


def remember(status: os.stat_result, digest: bytes, *, started_ns: int) -> Remembered | None:
    """The entry for a file that was hashed after ``started_ns`` (wall clock); None when it is racily
    clean."""
    if max(status.st_mtime_ns, status.st_ctime_ns) > started_ns - _SETTLED_NS:
        return None
    return Remembered(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest)


def _name(root: Path) -> str:
    return os.fsencode(root).decode("utf-8", "backslashreplace")
