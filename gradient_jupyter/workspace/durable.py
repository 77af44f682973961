"""What it takes until bytes survive a power cut: syncing files, directories and whole file systems.

One ``syncfs`` after many small files costs as much as one ``fsync`` of one of them. Only Linux has it;
elsewhere the callers fall back to ``fsync`` per file.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

#: A full disk and a full quota: for the person whose files do not fit it is the same.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@cache
def _libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return libc if hasattr(libc, "syncfs") else None


def sync_file_system(fd: int) -> bool:
    """Write out the file system that ``fd`` lies on. False where the system cannot do that.

    Raises ``OSError`` when what was written before could not be brought to the disk.
    """
    libc = _libc()
    if libc is None:
        return False
    if libc.syncfs(fd) != 0:
        import ctypes

        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return False
        raise OSError(number, os.strerror(number))
    return True


def can_sync_file_system() -> bool:
    return _libc() is not None


def sync_path(path: str | os.PathLike[str]) -> None:
    """``fsync`` of a file or a directory by its path."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of ``data``: one ``write`` may take less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
