"""TensorBoard's event files among one attempt's artifacts, tailed: every scalar in them becomes a point.

They may be written to while they are read, be replaced, end in the middle, or be made to harm us. Files are
found and opened as ``workspace.inside`` does it; what is read at once, and in all, is bounded. How far each
was read is kept in memory only: a point that is read twice is one point, so a new server begins anew.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gradient_jupyter.control.data.collection import opened
from gradient_jupyter.control.measuring.records import Damaged, records
from gradient_jupyter.control.measuring.scalars import MOST_TAGS, Scalar, scalars
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.metric import MOST_AT_ONCE, Sample, is_sample
from gradient_jupyter.workspace.inside import SHORTAGE, open_inside, walk_inside
from gradient_jupyter.workspace.wording import shown

_NAME = "events.out.tfevents."
_PIECE_POINTS = 5000
_PIECE_BYTES = 2 * 2**20
_MOST_POINTS = 50_000
"""Of one look while it is written, but for the rest of one record: a record is read whole or not at all."""
_MOST_FILES = 2000
_MOST_BYTES = 4 * 2**30
"""Of all files of one attempt; what is beyond is not read."""
_WALK_S = 0.5
_WALK_REST = 20
"""For each second that looking for files took so many without."""


@dataclass
class _File:
    identity: tuple[int, int]
    position: int = 0
    damaged: bool = False
    known: set[str] = field(default_factory=set)
    """Tags that were said to be scalars."""


class EventFiles:
    """Those below ``directory``, of one attempt. Of one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._owner = os.geteuid()
        self._files: dict[str, _File | None] = {}
        self._walk_at = 0.0
        self._bytes = 0
        self._tags = 0
        """That are remembered, of all files."""
        self.skipped = 0
        """Scalars whose name or time cannot be stored."""
        self.damaged = 0
        """Places where a file cannot be believed."""
        self.left_out = False
        """There was more than is read."""
        self._failed: dict[str, str] = {}

    @property
    def failed(self) -> list[str]:
        """The files that could not be read when that was last tried, each with the reason."""
        return [f"{shown(path)} ({reason})" for path, reason in sorted(self._failed.items())]

    def pieces(self, most: int | None = None) -> Generator[list[Sample], None, None]:
        """Points that are new since the last time, in pieces; some may be empty. Where a piece came from is
        remembered when the next one is asked for. ``most`` bytes at the most, and a bounded number of points;
        None: to the end of each file, which then is not written any more. Blocks. Raises ``OSError`` for a
        want of our own."""
        with contextlib.ExitStack() as stack:
            fd = None
            with self._noting("/artifacts"):
                fd = stack.enter_context(opened(self._directory))
                if fd is not None:
                    self._find(fd, whole=most is None)
            if fd is None:
                return
            left, points = most, 0
            for path in list(self._files):
                with self._noting(path), contextlib.suppress(GradientError):
                    for piece, read in self._tail(fd, path, left, points):
                        yield piece
                        self._bytes += read
                        points += len(piece)
                        if left is not None:
                            left -= read
                if left is not None and (left <= 0 or points >= _MOST_POINTS):
                    # The others' turn comes first next time.
                    self._files[path] = self._files.pop(path)
                    return

    @contextlib.contextmanager
    def _noting(self, path: str) -> Iterator[None]:
        """A file that cannot be read keeps nobody from the others."""
        try:
            yield
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            self._failed[path] = (error.strerror or "unreadable").lower()
        else:
            self._failed.pop(path, None)

    def _find(self, fd: int, whole: bool) -> None:
        began = time.monotonic()
        if began < self._walk_at and not whole:
            return
        for found in walk_inside(fd, lambda why: None, owner=self._owner):
            if found.path.rpartition("/")[2].startswith(_NAME) and found.path not in self._files:
                if len(self._files) >= _MOST_FILES:
                    self.left_out = True
                    break
                self._files[found.path] = None
            if not whole and time.monotonic() - began > _WALK_S:
                break
        now = time.monotonic()
        self._walk_at = now + _WALK_REST * (now - began)

    def _tail(
        self, dirfd: int, path: str, most: int | None, points: int
    ) -> Iterator[tuple[list[Sample], int]]:
        """Pieces, each with the bytes it took; ``points`` were read before it. Raises
        ``NotFound`` for what is no plain file of ours."""
        fd = open_inside(dirfd, path, owner=self._owner)
        try:
            status = os.fstat(fd)
            identity = (status.st_dev, status.st_ino)
            file = self._files[path]
            if file is None or file.identity != identity or status.st_size < file.position:
                self._tags -= len(file.known) if file is not None else 0
                file = self._files[path] = _File(identity)
            if file.damaged or status.st_size == file.position:
                return
            if self._bytes >= _MOST_BYTES:
                self.left_out = True
                return
            prefix = path.rpartition("/")[0]
            yield from self._read(fd, file, f"{prefix}/" if prefix else "", most, points)
        finally:
            os.close(fd)

    def _read(
        self, fd: int, file: _File, prefix: str, most: int | None, points: int
    ) -> Iterator[tuple[list[Sample], int]]:
        piece: list[Sample] = []
        end, read = file.position, 0
        limit = _MOST_BYTES - self._bytes if most is None else most
        try:
            for record in records(fd, file.position):
                end = record.end
                read += 16
                if record.data is None:
                    self.damaged += 1
                else:
                    read += len(record.data)
                    for sample in self._samples(record.data, file, prefix):
                        piece.append(sample)
                        points += 1
                        if len(piece) >= MOST_AT_ONCE:
                            # In the middle of a record, so nothing of it counts as read yet.
                            yield piece, 0
                            piece = []
                enough = most is not None and points >= _MOST_POINTS
                if enough or len(piece) >= _PIECE_POINTS or read >= min(_PIECE_BYTES, limit):
                    yield piece, read
                    file.position = end
                    limit -= read
                    piece, read = [], 0
                    if enough or limit <= 0:
                        return
        except Damaged:
            file.damaged = True
            self.damaged += 1
        yield piece, read
        file.position = end

    def _samples(self, event: bytes, file: _File, prefix: str) -> Iterator[Sample]:
        before = len(file.known)
        try:
            for found in scalars(event, file.known, before + MOST_TAGS - self._tags):
                if found is not None and is_sample(sample := _sample(prefix, found)):
                    yield sample
                else:
                    self.skipped += 1
        except ValueError:
            self.damaged += 1
        finally:
            self._tags += len(file.known) - before


def _sample(prefix: str, found: Scalar) -> Sample:
    time_us = round(found.wall_time * 1e6) if 0 <= found.wall_time < 9e12 else -1
    return Sample(prefix + found.tag, found.value, found.step, time_us)
