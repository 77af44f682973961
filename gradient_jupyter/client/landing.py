"""Where downloads land: files under one directory, written so that no name and no link leads out of it.

Names come from a job, so they are checked part by part and then walked with directory descriptors that
follow no link. A file grows under a name of our own and gets its real name when it is complete and right.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

import blake3

from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import check_path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 20


class Landing:
    """The directory ``dest``, made if it is absent. To be used in a ``with``."""

    def __init__(self, dest: Path) -> None:
        self._dest = dest
        self._root = -1

    def __enter__(self) -> Self:
        try:
            self._dest.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self._dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidRequest(f"Nothing can be written to {self._dest}: {error.strerror}.") from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    def complete(self, artifact: Artifact) -> Path | None:
        """Where it already is with the content it should have, or None."""
        if not artifact.digest or check_path(artifact.path):
            return None
        directory, name = os.path.split(artifact.path)
        with contextlib.suppress(OSError), self._directory(directory, make=False) as parent:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
            )
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if stat.S_ISREG(found.st_mode) and found.st_size == artifact.size:
                    digest = blake3.blake3()
                    while block := file.read(_BLOCK):
                        digest.update(block)
                    if digest.hexdigest() == artifact.digest:
                        return self._dest / artifact.path
        return None

    @contextlib.contextmanager
    def begin(self, artifact: Artifact) -> Iterator[Part]:
        """A place for it to grow. What an earlier try left of the same content is taken up."""
        if why := check_path(artifact.path):
            raise InvalidRequest(f"The artifact {artifact.path!r} is not brought here: its name {why}.")
        directory, name = os.path.split(artifact.path)
        try:
            with (
                self._directory(directory, make=True) as parent,
                Part(parent, name, artifact, self._dest / artifact.path) as part,
            ):
                yield part
        except OSError as error:
            raise InvalidRequest(
                f"{self._dest / artifact.path} cannot be written: {error.strerror or error}.",
                next="Choose another directory to download to.",
            ) from error

    @contextlib.contextmanager
    def _directory(self, path: str, *, make: bool) -> Iterator[int]:
        current = os.dup(self._root)
        try:
            for part in path.split("/") if path else ():
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=current)
                inner = os.open(part, _DIRECTORY, dir_fd=current)
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)


class Part:
    """A file that is not whole yet."""

    def __init__(self, parent: int, name: str, artifact: Artifact, path: Path) -> None:
        self._parent = parent
        self._name = name
        self._artifact = artifact
        self._path = path
        self._digest = blake3.blake3()
        self.size = 0
        # Named by its content, so that only a piece of the same content is ever taken up again.
        identity = f"{artifact.path}\0{artifact.digest or os.urandom(16).hex()}".encode()
        self._own_name = f".gradient-{hashlib.sha256(identity).hexdigest()[:24]}.part"

    def __enter__(self) -> Self:
        self._file = self._opened()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another download is at it: this one keeps to itself
            self._file.close()
            self._own_name = f".gradient-{os.urandom(12).hex()}.part"
            self._file = self._opened()
        while block := self._file.read(_BLOCK):
            self._digest.update(block)
            self.size += len(block)
        if self.size > self._artifact.size or not self._artifact.digest:
            self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.size == 0 or not self._artifact.digest:  # nothing that a later try could take up
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._own_name, dir_fd=self._parent)

    def _opened(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.fdopen(os.open(self._own_name, flags, 0o666, dir_fd=self._parent), "r+b")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(f"{self._own_name} is in the way")
        return file

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = blake3.blake3()
        self.size = 0

    def matches(self) -> bool:
        """Whether this is the artifact. One of a running job has no digest yet: what came is what it is."""
        return not self._artifact.digest or self._digest.hexdigest() == self._artifact.digest

    def land(self) -> Path:
        """Gives it its name."""
        self._file.flush()
        modified_ns = self._artifact.modified_us * 1000
        os.utime(self._file.fileno(), ns=(modified_ns, modified_ns))
        os.replace(self._own_name, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        return self._path
