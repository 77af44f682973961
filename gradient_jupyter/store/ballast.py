"""A file that is there to be thrown off: the space it takes is what a full disk leaves to the database.

Deleting frees space, but to note that something is to be deleted takes a little first. When the database
finds the disk full, the ballast goes and the write is tried again; once there is room, it is made anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


class Ballast:
    """``size`` bytes at ``path``; 0: none is to be made. Its methods block."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self._path = path
        self._size = size

    def load(self, keep_free: int) -> bool:
        """Makes sure that it is there, if ``keep_free`` bytes stay free beside it. Whether it is. Blocks."""
        if not self._size:
            return False
        with contextlib.suppress(OSError):
            if self._path.stat().st_blocks * 512 >= self._size:
                return True
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            if shutil.disk_usage(self._path.parent).free - self._size < keep_free:
                return False
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                # Allocated, not written: on most file systems that costs nothing but the space.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, self._size)
                else:
                    os.write(fd, bytes(self._size))
            finally:
                os.close(fd)
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)
            return False
        return True

    def drop(self) -> bool:
        """Gives its space back. False: there was none to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
