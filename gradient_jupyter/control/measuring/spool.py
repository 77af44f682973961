"""Points that a run has written down and not sent (``gradient_job``), read when it is over.

The directory is the run's to write to, so what stands there is believed no more than what it sends: plain
files of our own user under the names that ``gradient_job`` gives, lines of the form that is sent, bounded in
number and length. Points that were sent already may be among them, and are the same points. Blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec

from gradient_jupyter.control.data.collection import opened
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.metric import MOST_AT_ONCE, Point, Sample, samples
from gradient_jupyter.workspace.inside import SHORTAGE, open_found, walk_inside

_NAME = re.compile(r"[0-9]{1,20}-[0-9a-f]{8}-[0-9]{1,9}\.points")
_PIECE = 1 << 20
_MOST_LINE = 8192
_MOST_BYTES = 2**30


class Spool:
    """One attempt's ``directory``, read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bytes = 0
        self.unreadable = 0
        """Lines that are no points."""
        self.left_out = False
        """There was more than is read."""
        self.failed: list[str] = []
        """Files that could not be read to their end, each with the reason."""

    def pieces(self) -> Generator[list[Sample], None, None]:
        """Everything that is there, in pieces that may be stored at once. Raises ``OSError`` for a want of
        our own."""
        owner = os.geteuid()
        with self._noting("what gradient_job had not sent"), opened(self._directory) as fd:
            if fd is None:
                return
            for found in walk_inside(fd, lambda why: None, owner=owner):
                if not _NAME.fullmatch(found.path) or found.size == 0:
                    continue
                with self._noting(found.path), contextlib.ExitStack() as stack:
                    try:
                        file = open_found(found, owner)
                    except GradientError:
                        continue
                    stack.callback(os.close, file)
                    for points in self._points(file):
                        for start in range(0, len(points), MOST_AT_ONCE):
                            yield samples(points[start : start + MOST_AT_ONCE])

    @contextlib.contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """A file that cannot be read keeps nobody from the others."""
        try:
            yield
        except OSError as error:
            if error.errno in SHORTAGE:
                raise
            self.failed.append(f"{name} ({(error.strerror or 'unreadable').lower()})")

    def _points(self, fd: int) -> Iterator[tuple[Point, ...]]:
        rest = b""
        while piece := os.read(fd, _PIECE):
            self._bytes += len(piece)
            if self._bytes > _MOST_BYTES:
                self.left_out = True
                return
            *lines, rest = (rest + piece).split(b"\n")
            if lines:
                yield self._decoded(lines)
            if len(rest) > _MOST_LINE:
                self.unreadable += 1
                return  # gradient_job has not written this
        # A last line without its end was cut in the middle: of that point nobody was told that it is kept.

    def _decoded(self, lines: list[bytes]) -> tuple[Point, ...]:
        try:
            return decode(b"[" + b",".join(lines) + b"]", type=tuple[Point, ...])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        found = []
        for line in lines:
            try:
                found.append(decode(line, type=Point))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.unreadable += 1
        return tuple(found)
