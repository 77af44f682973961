"""A file on its way in: written piece by piece where nobody sees it, then put into its place whole.

It has no name until it is complete, so that a killed server leaves nothing behind; where the system knows no
such files (``O_TMPFILE``), it has one that nobody else uses. What it is put into may belong to hostile code
(``inside.place_inside``); where it is written must not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

from gradient_jupyter.workspace.inside import place_inside

#: A file system or a system that knows no files without a name.
_UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


class Incoming:
    """Blocks. ``directory`` is made where it is absent. It is ours alone, on the file system of where
    the file is to go. Ends with ``place`` or ``discard``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = f"incoming-{secrets.token_hex(8)}"
        self._named = False
        self.size = 0
        try:
            self._file = self._open()
        except BaseException:
            os.close(self._directory)
            raise

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CLOEXEC
        if hasattr(os, "O_TMPFILE"):
            try:
                return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self._directory)
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise
        self._named = True
        return os.open(self._name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.write(self._file, rest)
            self.size += written
            rest = rest[written:]

    def place(self, dirfd: int, name: str, *, durable: bool) -> None:
        """Under ``name`` below ``dirfd``; with ``durable`` it survives a power loss from then on. Raises as
        ``place_inside`` does."""
        try:
            if durable:
                os.fsync(self._file)
            if not self._named:
                os.link(f"/proc/self/fd/{self._file}", self._name, dst_dir_fd=self._directory)
                self._named = True
            place_inside(dirfd, name, self._directory, self._name)
            self._named = False
            if durable:
                _sync_directories(dirfd, name)
        finally:
            self.discard()

    def discard(self) -> None:
        """It never was; after ``place`` this changes nothing."""
        if self._file < 0:
            return
        os.close(self._file)
        self._file = -1
        if self._named:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._directory)
        os.close(self._directory)


def _sync_directories(dirfd: int, name: str) -> None:
    """Those between ``dirfd`` and the file: each may be new."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        for part in (*name.split("/")[:-1], None):
            os.fsync(fd)
            if part is None:
                return
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
    finally:
        os.close(fd)
