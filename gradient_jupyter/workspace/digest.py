"""The digest of a file that may be edited while we read it.

Read with ``read``, not through a memory map: a file that is truncated under a map kills the process
(SIGBUS), and the process may be somebody's notebook kernel.

A change while we read shows in size or times and the file is read once more. One that shows in neither (the
second of two edits in one tick of the file system's clock, a write through a memory map) yields the digest of
bytes that never stood there together; ``packs`` reads again before it sends, and refuses.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import sys
from typing import NamedTuple

import blake3

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import CHUNK_BYTES, WHOLE_BYTES
from gradient_jupyter.workspace.descent import Descent
from gradient_jupyter.workspace.wording import shown

_PIECE = 1 << 20
#: From here on more than one core pays.
_LARGE = 4 << 20


class Hashed(NamedTuple):
    """What was read: the state of the file it belongs to, and raw digests."""

    stat: os.stat_result
    digest: bytes
    chunks: tuple[bytes, ...]
    """Of each chunk, if the file is so large that it has some."""
    written: bool | None
    """Whether somebody had it open for writing when we had read it; None where the system does not tell."""


def identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """What changes when a file's content does: size, mtime, ctime, inode, device."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def hash_file(below: Descent, path: bytes) -> Hashed | None:
    """Read ``path``. None when it is no longer there.

    Raises ``WorkspaceError`` when it cannot be read, or changed twice while it was being read.
    """
    for _ in range(2):
        try:
            fd = below.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:  # it, or a directory above it, has become a link
                continue
            raise unreadable(path, error) from None
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                continue
            read, digest, chunks = _read(fd, before.st_size)
            written = _is_written(fd)
            if read == before.st_size and identity(os.fstat(fd)) == identity(before):
                return Hashed(before, digest, chunks, written)
        except OSError as error:
            raise unreadable(path, error) from None
        finally:
            os.close(fd)
    raise WorkspaceError(
        f"'{shown(path)}' changes while it is being read.",
        next="Wait until nothing writes to it, or name it in .gradientignore.",
    )


def unreadable(path: bytes, error: OSError, what: str = "file") -> WorkspaceError:
    """The error for a file or directory that the system does not let us read."""
    mode = "u+r" if what == "file" else "u+rx"
    reason = error.strerror or type(error).__name__
    return WorkspaceError(
        f"The {what} '{shown(path)}' cannot be read ({reason}).",
        next=f"Make it readable (chmod {mode}), or name it in .gradientignore.",
    )


def _read(fd: int, size: int) -> tuple[int, bytes, tuple[bytes, ...]]:
    if size <= _PIECE:
        data = os.read(fd, size + 1)
        # A short read of a regular file is its end, except on some network file systems.
        while len(data) < size:
            more = os.read(fd, size + 1 - len(data))
            if not more:
                break
            data += more
        return len(data), blake3.blake3(data).digest(), ()
    chunked = size > WHOLE_BYTES
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO if size >= _LARGE else 1)
    buffer = memoryview(bytearray(CHUNK_BYTES if chunked else _PIECE))
    chunks = []
    total = 0
    # One byte more than there should be: what grows is noticed, and not followed for ever.
    while count := _fill(fd, buffer[: size + 1 - total]):
        hasher.update(buffer[:count])
        if chunked:
            chunks.append(blake3.blake3(buffer[:count], max_threads=blake3.blake3.AUTO).digest())
        total += count
    return total, hasher.digest(), tuple(chunks)


def _fill(fd: int, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer) and (count := os.readv(fd, [buffer[filled:]])):
        filled += count
    return filled


def _is_written(fd: int) -> bool | None:
    """Whether anybody has the file open for writing. Only then can it change without its times showing
    it: through a memory map whose page was written before.

    Linux grants a read lease only on a file that nobody writes; it is given back at once. Whoever opens
    the file in that moment makes the kernel send us a signal, so one is chosen that is ignored by default.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # not our file, or not that kind of file system
        return None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
