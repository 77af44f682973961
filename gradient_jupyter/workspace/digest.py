"""The digest of a file that may be edited while we read it.

Read with ``read``, not through a memory map: a file that is truncated under a map kills the process
(SIGBUS), and the process may be somebody's notebook kernel.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

import blake3

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.workspace.wording import shown

_PIECE = 1 << 20
#: From here on more than one core pays.
_LARGE = 4 << 20


class Hashed(NamedTuple):
    """What was read: the state of the file it belongs to, and the raw digest."""

    stat: os.stat_result
    digest: bytes


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file's content does: size, mtime, ctime, inode."""
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def hash_file(root: bytes, path: bytes) -> Hashed | None:
    """Read ``path`` below ``root``. None when it is no longer there.

    Raises ``WorkspaceError`` when it cannot be read, or changed twice while it was being read.
    """
    full = os.path.join(root, path)
    for _ in range(2):
        try:
            fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from None
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                continue
            read, digest = _read(fd, before.st_size)
            if read == before.st_size and identity(os.fstat(fd)) == identity(before):
                return Hashed(before, digest)
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


def _read(fd: int, size: int) -> tuple[int, bytes]:
    if size <= _PIECE:
        data = os.read(fd, size + 1)
        # A short read of a regular file is its end, except on some network file systems.
        while len(data) < size:
            more = os.read(fd, size + 1 - len(data))
            if not more:
                break
            data += more
        return len(data), blake3.blake3(data).digest()
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO if size >= _LARGE else 1)
    buffer = memoryview(bytearray(_PIECE))
    total = 0
    while count := os.readv(fd, [buffer]):
        hasher.update(buffer[:count])
        total += count
        if total > size:
            break
    return total, hasher.digest()
