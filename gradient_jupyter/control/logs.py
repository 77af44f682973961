"""Logs as their readers get them: from any offset, followed without polling, with an explicit end.

The file is the truth and is only ever read here: the task's supervisor (or, for engines elsewhere, their
pump) writes it. A position is ``<epoch>-<offset>``; the offset counts decoded bytes. When the file is
shorter than a reader's position, or another one, the reader is told so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from gradient_jupyter.control import jobs
from gradient_jupyter.control.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.engines.framedlog import DamagedLog, Reader, whole_characters
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import InvalidRequest, NotFound, ServerError
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.log import Ended, LogPiece, Truncated

#: How much is read at once, and the most that one piece carries.
_READ = 256 * 1024
#: Hints may be lost, so a follower looks by itself now and then.
_LOOK_S = 1.0


class Position(msgspec.Struct, frozen=True):
    """Where in which log. ``epoch`` 0: at the beginning of whichever."""

    epoch: int = 0
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"


def parse_position(text: str | None) -> Position:
    if not text:
        return Position()
    epoch, dash, offset = text.partition("-")
    if not (dash and epoch.isdecimal() and offset.isdecimal() and len(text) <= 40):
        raise InvalidRequest(
            f"{text[:40]!r} is no position in a log.",
            next="Send the id of the last piece as Last-Event-ID, or nothing.",
            code="bad-position",
        )
    return Position(int(epoch), int(offset))


class Piece(msgspec.Struct, frozen=True):
    """A part of one stream, and the position after it."""

    after: Position
    piece: LogPiece


async def follow(
    plane: Plane, principal: Principal, job_id: str, start: Position, follow: bool
) -> AsyncIterator[Piece | Truncated | Job | Ended | None]:
    """The job, then its log from ``start``; the job again whenever it changes; ``Ended`` at the end.

    Without ``follow`` it ends with what is there now. ``None`` is yielded about once a second while
    nothing happens, so that the caller can keep its connection alive.
    """
    with plane.changes.follow_job(job_id) as subscription, ExitStack() as opened:
        job = await jobs.get(plane, principal, job_id)
        yield job
        cursor: _Cursor | None = None
        damaged = False
        while True:
            subscription.log_grew = False
            grew = False
            try:
                if cursor is None and job.attempt and not damaged:
                    path = plane.layout.attempt(job_id, job.attempt) / "log"
                    cursor = await plane.on_files(_Cursor.open, path, start)
                    if cursor is not None:
                        opened.callback(cursor.close)
                        if cursor.truncated is not None:
                            yield cursor.truncated
                if cursor is not None and not damaged:
                    while pieces := await plane.on_files(cursor.read):
                        grew = True
                        for piece in pieces:
                            yield piece
            except ServerError as damage:
                # Said once, in the log's own place; the job's end is told as ever. A cut stream would only be
                # opened again.
                damaged = True
                at = start if cursor is None else cursor.position
                yield Piece(at, LogPiece(time_us=now_us(), stream=_NAMES[3], text=f"{damage}\n"))
            if subscription.job_changed:
                subscription.job_changed = False
                fresh = await jobs.get(plane, principal, job_id)
                if fresh != job:
                    job = fresh
                    yield job
                continue  # what was written before the change comes before the end
            if job.final or not follow:
                if cursor is None and start.epoch and not damaged:
                    # What the reader has seen is gone as a whole.
                    yield Truncated(offset=start.offset, size=0)
                yield Ended(final=job.final, job=job)
                return
            if not grew:
                yield None
            if not (subscription.log_grew or subscription.job_changed):
                await subscription.wait(_LOOK_S)


async def whole(plane: Plane, principal: Principal, job_id: str) -> AsyncIterator[bytes]:
    """The decoded log as bytes, as far as it is written now."""
    job = await jobs.get(plane, principal, job_id)
    path = plane.layout.attempt(job_id, job.attempt) / "log"
    cursor = await plane.on_files(_Cursor.open, path, Position()) if job.attempt else None
    if cursor is None:
        raise NotFound(
            f"The job {job_id} has not started, so it has no log yet.",
            next=f"Follow it: gradient jobs logs {job_id} --follow",
            code="no-log-yet",
        )
    return _bytes(plane, cursor)


async def _bytes(plane: Plane, cursor: _Cursor) -> AsyncIterator[bytes]:
    try:
        while data := await plane.on_files(cursor.read_bytes):
            yield data
    finally:
        cursor.close()


class _Cursor:
    """A place in one log file. Its methods block."""

    def __init__(self, reader: Reader, offset: int, truncated: Truncated | None) -> None:
        self._reader = reader
        self._offset = offset
        self.truncated = truncated

    @classmethod
    def open(cls, path: Path, start: Position) -> _Cursor | None:
        """None while there is no log."""
        with _told():
            reader = Reader(path)
            if not reader.epoch:
                reader.close()
                return None
        if start.epoch and (start.epoch != reader.epoch or start.offset > reader.size):
            # Another log, or one that lost its end in a power failure: never other bytes in silence.
            return cls(reader, 0, Truncated(offset=start.offset, size=reader.size))
        return cls(reader, start.offset, None)

    def read(self) -> list[Piece]:
        """What follows, neighbours of one stream joined, each piece ending between characters."""
        pieces: list[Piece] = []
        for stream, time_us, data in self._joined():
            self._offset += len(data)
            pieces.append(
                Piece(
                    Position(self._reader.epoch, self._offset),
                    LogPiece(time_us=time_us, stream=stream, text=data.decode("utf-8", "replace")),
                )
            )
        return pieces

    def read_bytes(self) -> bytes:
        with _told():
            data = b"".join(chunk.data for chunk in self._reader.read(self._offset, _READ))
        self._offset += len(data)
        return data

    @property
    def position(self) -> Position:
        return Position(self._reader.epoch, self._offset)

    def close(self) -> None:
        self._reader.close()

    def __del__(self) -> None:
        # Of one that was opened for a reader who had gone meanwhile nobody else knows.
        self.close()

    def _joined(self) -> Iterator[tuple[str, int, bytes]]:
        with _told():
            chunks = self._reader.read(self._offset, _READ)
        more = sum(len(chunk.data) for chunk in chunks) >= _READ
        parts: list[bytes] = []
        stream, time_us = 0, 0
        for chunk in chunks:
            if parts and chunk.stream != stream:
                yield _NAMES.get(stream, "platform"), time_us, b"".join(parts)
                parts = []
            stream, time_us = chunk.stream, chunk.time_us
            parts.append(chunk.data)
        if parts:
            data = b"".join(parts)
            # Frames end between characters; where our own limit cut one, the rest of it comes next time.
            yield _NAMES.get(stream, "platform"), time_us, data[: whole_characters(data)] if more else data


_NAMES = {1: "stdout", 2: "stderr", 3: "platform"}


@contextmanager
def _told() -> Iterator[None]:
    """Damage at rest is named, and nothing is shown in its place."""
    try:
        yield
    except DamagedLog as damage:
        raise ServerError(
            f"The log is damaged: {damage}.",
            next="What stands before the damage was shown; the file itself is left as it is.",
            code="log-damaged",
        ) from damage
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise ServerError(
            f"The log is damaged: it cannot be read ({error}).",
            next="The file itself is left as it is.",
            code="log-damaged",
        ) from error
