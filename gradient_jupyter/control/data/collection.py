"""One attempt's artifacts, collected once: every file hashed and on disk, what is left out named. Blocks.

The directory belongs to job code: names are walked from its descriptor, links are never followed, and
only the job's own regular files count. A want of our own (descriptors, memory) leaves nothing out but is an
error. What is collected can no longer be written to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import blake3
import msgspec

from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import GradientError, NotFound
from gradient_jupyter.workspace import durable
from gradient_jupyter.workspace.inside import SHORTAGE, open_found, open_inside, walk_inside
from gradient_jupyter.workspace.wording import decimal, shown

BATCH = 2000
_PIECE = 1 << 20
_TURN_S = 0.25
"""How long one piece of the work takes at most: then others are heard."""
_TRIES = 3
_SHOWN = 5
_CHANGE_SHOWS_S = 0.05
"""Longer than the tick by which file systems count their times."""
_FEW = 4
"""Up to here an ``fsync`` for each is cheaper than one of the whole file system."""
#: What job code can do to its own directory: remove it, put something else in its place, lock it. Asking
#: again does not change the answer.
_THEIR_DOING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM})
#: As much as the database holds: a file may bear any time.
_LATEST = (1 << 63) - 1


class Limits(msgspec.Struct, frozen=True):
    """How much one job may leave."""

    files: int
    bytes: int
    """Of all of them together, each by its size or by what it takes on the disk, whichever is more."""


def modified_us(status: os.stat_result) -> int:
    """A file's time as it is stored."""
    return max(-_LATEST, min(status.st_mtime_ns // 1000, _LATEST))


@dataclass
class Collection:
    """The artifacts of one attempt, collected once. ``pieces`` is the work; the rest is what became of it."""

    directory: Path
    limits: Limits
    owner: int = field(default_factory=os.geteuid)
    """Whose files count."""
    files: int = 0
    bytes: int = 0
    reading: int = 0
    """Bytes of the file that is being read."""
    stopped: bool = False
    """Set by whoever does not want the rest."""

    def __post_init__(self) -> None:
        self._skipped = _Told()
        self._unreadable = _Told()
        self._over = 0
        self._taken = 0
        self._synced = 0
        self._sync_error: OSError | None = None

    def pieces(self) -> Generator[list[Artifact], None, None]:
        """What was found, in batches; an empty one now and then while there is nothing new. Blocks for
        ``_TURN_S`` at most. Raises ``OSError`` for a want of our own."""
        with opened(self.directory, self._skipped.add) as fd:
            if fd is None:
                return
            batch: list[Artifact] = []
            turn = time.monotonic()
            for artifact in self._all(fd):
                if artifact is not None:
                    batch.append(artifact)
                if len(batch) >= BATCH or time.monotonic() - turn >= _TURN_S:
                    yield batch
                    batch, turn = [], time.monotonic()
                if self.stopped:
                    break
            if not self.stopped:
                self._sync_all(fd)
            yield batch

    def warnings(self) -> list[str]:
        """What was left out and why, for the person who left it."""
        said = []
        if self.stopped:
            said.append(
                f"Collecting the artifacts was stopped by a person after {self.files:,} files; the rest was "
                "left out."
            )
        if self._unreadable.count:
            said.append(f"Not collected, because the disk could not read or write them: {self._unreadable}")
        if self._over:
            said.append(
                f"Left out of the artifacts: {self._over:,} files beyond the limit of {self.limits.files:,} "
                f"files and {decimal(self.limits.bytes)} for one job. /storage takes what is larger."
            )
        if self._sync_error is not None:
            said.append(
                "The disk reported an error when the artifacts were written to it "
                f"({(self._sync_error.strerror or 'unknown').lower()}); they may not survive a power loss."
            )
        if self._skipped.count:
            said.append(f"Left out of the artifacts: {self._skipped}")
        return said

    def _all(self, fd: int) -> Iterator[Artifact | None]:
        linked: dict[tuple[int, int], list[str]] = {}
        for file in walk_inside(fd, self._skipped.add, owner=self.owner, leaving=self._seal):
            if file.names > 1:
                linked.setdefault(file.identity, []).append(file.path)
            elif self._fits(file.size, file.space):
                yield from self._one(file.path, partial(open_found, file, self.owner))
            else:
                self._over += 1
        if linked:
            yield from self._linked(fd, linked)

    def _linked(self, fd: int, linked: dict[tuple[int, int], list[str]]) -> Iterator[Artifact | None]:
        """Files with several names, if all of their names are in here.

        One name that moves can be seen twice, and then hide one that is elsewhere. To give a file a name, or
        another one, changes its time of change; so that is looked at, then long enough waited for any
        change to show in it, then every name is looked at, and the time must still be the same.
        """
        times: dict[tuple[int, int], int] = {}
        for identity, paths in linked.items():
            with contextlib.suppress(GradientError), self._open(fd, paths[0], None) as file:
                times[identity] = os.fstat(file).st_ctime_ns
        time.sleep(_CHANGE_SHOWS_S)
        for identity, paths in linked.items():
            try:
                with self._open(fd, paths[0], len(paths)) as file:
                    for path in paths[1:]:
                        with self._open(fd, path, len(paths)) as other:
                            if not os.path.samestat(os.fstat(file), os.fstat(other)):
                                raise NotFound(f"There is no file {shown(path)} (was replaced).")
                    status = os.fstat(file)
                    if (status.st_ctime_ns, status.st_nlink) != (times.get(identity), len(paths)):
                        raise NotFound(f"There is no file {shown(paths[0])} (its names still change).")
                    if not self._fits(status.st_size, status.st_blocks * 512):
                        self._over += len(paths)
                        continue
                    for artifact in self._one(paths[0], partial(_again, file)):
                        yield artifact
                        if artifact is not None:
                            for path in paths[1:]:
                                self.files += 1
                                self.bytes += artifact.size
                                yield msgspec.structs.replace(artifact, path=path)
            except GradientError as error:
                self._skipped.add(_why(error))

    @contextmanager
    def _open(self, fd: int, path: str, names: int | None) -> Iterator[int]:
        file = open_inside(fd, path, owner=self.owner, names=names)
        try:
            yield file
        finally:
            os.close(file)

    def _one(self, path: str, open_it: Callable[[], int]) -> Iterator[Artifact | None]:
        """One file with the digest of what it holds. None stands for time that passes."""
        try:
            for _ in range(_TRIES):
                fd = open_it()
                with os.fdopen(fd, "rb", buffering=0) as content:
                    before = os.fstat(fd)
                    with contextlib.suppress(OSError):  # some file systems know no modes
                        os.fchmod(fd, before.st_mode & 0o500 | 0o400)
                    hasher = blake3.blake3()
                    size, turn = 0, time.monotonic()
                    while piece := content.read(_PIECE):
                        hasher.update(piece)
                        size += len(piece)
                        self.reading = size
                        if size > before.st_size or self.stopped:
                            break
                        if time.monotonic() - turn >= _TURN_S:
                            yield None
                            turn = time.monotonic()
                    self.reading = 0
                    if self.stopped:
                        return
                    after = os.fstat(fd)
                    if (size, after.st_size, after.st_mtime_ns) == (
                        before.st_size, before.st_size, before.st_mtime_ns,
                    ):  # fmt: skip
                        self._sync(fd)
                        self.files += 1
                        self.bytes += size
                        yield Artifact(
                            path=path, size=size, modified_us=modified_us(after), digest=hasher.hexdigest()
                        )
                        return
            self._skipped.add(f"{shown(path)}: it still changes while it is read")
        except GradientError as error:
            self._skipped.add(_why(error))
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            self._unreadable.add(f"{shown(path)} ({(error.strerror or 'unreadable').lower()})")

    def _fits(self, size: int, space: int) -> bool:
        """Takes the room for one more file, if there is any."""
        more = max(size, space)
        if self.files >= self.limits.files or self._taken + more > self.limits.bytes:
            return False
        self._taken += more
        return True

    def _seal(self, fd: int) -> None:
        """A directory whose files have been collected: its names are final."""
        with contextlib.suppress(OSError):
            os.fchmod(fd, 0o500)
        try:
            self._sync(fd)
        except OSError as error:
            self._sync_error = error

    def _sync(self, fd: int) -> None:
        self._synced += 1
        if self._synced <= _FEW or not durable.can_sync_file_system():
            os.fsync(fd)

    def _sync_all(self, fd: int) -> None:
        if self._synced > _FEW and durable.can_sync_file_system():
            try:
                durable.sync_file_system(fd)
            except OSError as error:
                self._sync_error = error


class _Told:
    """Reasons, of which the first are kept and all are counted."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, why: str) -> None:
        self.count += 1
        if len(self._first) < _SHOWN:
            self._first.append(why)

    def __str__(self) -> str:
        more = f"; and {self.count - _SHOWN:,} more" if self.count > _SHOWN else ""
        return "; ".join(self._first) + more


def _again(file: int) -> int:
    """Another descriptor of an open file, at its beginning."""
    os.lseek(file, 0, os.SEEK_SET)
    return os.dup(file)


def _why(error: GradientError) -> str:
    """A refusal of ``workspace.inside`` as it stands in a list of what was left out."""
    return error.message.removeprefix("There is no file ").removesuffix(".")


def open_directory(directory: Path) -> int:
    """A descriptor that names can be walked from. Raises ``OSError``; a link in its place is not followed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.stat(".", dir_fd=fd)  # to list a directory is one right, to go through it another
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def opened(directory: Path, told: Callable[[str], None] = lambda why: None) -> Iterator[int | None]:
    """A descriptor of the directory; None when there is none that can be walked: then ``told`` hears why,
    unless it just is not there."""
    try:
        fd = open_directory(directory)
    except OSError as error:
        if error.errno not in _THEIR_DOING:
            raise
        if error.errno != errno.ENOENT:
            told(f"everything: {(error.strerror or 'unreadable').lower()}")
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
