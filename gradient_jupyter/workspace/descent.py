"""Opens files below one directory by their paths, part by part from its descriptor, and follows no link.

A directory that is scanned may be shared with people who swap a subdirectory for a link while we read; what
is opened here lies in the tree all the same. The directories of the last path stay open, so a walk in order
opens each directory once. ``inside`` is the door for names that come out of a request.
"""

from __future__ import annotations

import os
from types import TracebackType

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: ``O_NONBLOCK``: to open a named pipe would wait for its other end.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Descent:
    """The files below ``root``, which is opened now and may itself be reached through links. Ends with
    ``close``. Not for several threads: give each its own (``again``)."""

    def __init__(self, root: bytes) -> None:
        self.top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._path = b""
        self._parts: list[bytes] = []
        self._fds: list[int] = []

    @classmethod
    def at(cls, fd: int) -> Descent:
        """One below the directory that ``fd`` has open; ``fd`` stays the caller's."""
        other = cls.__new__(cls)
        other.top = os.open(b".", DIRECTORY, dir_fd=fd)
        other._path, other._parts, other._fds = b"", [], []
        return other

    def again(self) -> Descent:
        """Another one below the very same directory, wherever it has been moved since."""
        return Descent.at(self.top)

    def __enter__(self) -> Descent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every descriptor. A second time it does nothing."""
        self._leave(0)
        if self.top >= 0:
            os.close(self.top)
            self.top = -1

    def directory(self, path: bytes) -> int:
        """A descriptor of the directory ``path`` (empty: the top). It is ours and good until the next call.

        Raises ``OSError`` when one of its parts is no directory (``ENOTDIR``, ``ELOOP`` for a link).
        """
        if path == self._path:
            return self._fds[-1] if self._fds else self.top
        parts = path.split(b"/") if path else []
        common = 0
        for ours, theirs in zip(self._parts, parts, strict=False):
            if ours != theirs:
                break
            common += 1
        self._leave(common)
        for part in parts[common:]:
            fd = os.open(part, DIRECTORY, dir_fd=self._fds[-1] if self._fds else self.top)
            self._fds.append(fd)
            self._parts.append(part)
        self._path = path
        return self._fds[-1] if self._fds else self.top

    def open(self, path: bytes, flags: int = FILE) -> int:
        """Open the file ``path``; the caller closes it. ``ELOOP`` when it is a link."""
        directory, _, name = path.rpartition(b"/")
        return os.open(name, flags, dir_fd=self.directory(directory))

    def _leave(self, depth: int) -> None:
        while len(self._fds) > depth:
            os.close(self._fds.pop())
        del self._parts[depth:]
        self._path = b"/".join(self._parts)
