"""Logs as their readers get them: from any position, followed without polling, with an explicit end.

A position is ``<epoch>-<offset>``; the offset counts decoded bytes. When the file is shorter than a reader's
position, or another one, the reader is told so. How a log is read and shared stands in ``tails``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import partial

from gradient_jupyter.control import jobs
from gradient_jupyter.control.following.feeds import Bell
from gradient_jupyter.control.following.tails import NAMES, Encode, LogFile, Piece, Position, Tail
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import InvalidRequest, NotFound, ServerError
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.log import Ended, LogPiece, Truncated
from gradient_jupyter.store import attempts as attempt_rows

_PLATFORM = NAMES[3]


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


async def follow(
    plane: Plane,
    principal: Principal,
    job_id: str,
    start: Position,
    follow: bool,
    encode: Encode,
    attempt: int | None = None,
) -> AsyncGenerator[bytes | Truncated | Job | Ended]:
    """The job, then its log from ``start`` as ``encode`` writes it; the job again whenever it changes;
    ``Ended`` at the end.

    What was written before a change comes before it. Without ``follow`` it ends with what is there now. When
    the job is tried again, the new attempt's log follows the old one's; with ``attempt`` only that one's is
    told, and its end is the end.
    """
    bell = Bell()
    load = partial(jobs.get, plane, principal, job_id)
    with (
        plane.followed.job(principal, job_id, load, bell) as followed,
        _Cursor(plane, job_id, start, encode, bell) as cursor,
    ):
        job = await followed.job()
        _check_attempt(job, attempt)
        yield job
        cursor.begin(job, attempt)
        while True:
            bell.mute()
            fresh = await followed.job()
            while (item := await cursor.next()) is not None:
                yield item
            if fresh is not job:
                job = fresh
                yield job
            if job.final or job.attempt > cursor.attempt:
                while (item := await cursor.missing()) is not None:
                    yield item
            if attempt is None and job.attempt > cursor.attempt:
                cursor.move(cursor.attempt + 1 if cursor.attempt else job.attempt)
                continue
            if job.final or not follow or job.attempt > cursor.attempt:
                if cursor.gone:
                    # What the reader has seen is gone as a whole.
                    yield Truncated(offset=start.offset, size=0)
                yield Ended(final=job.final, job=job)
                return
            await bell.wait()


async def whole(
    plane: Plane, principal: Principal, job_id: str, attempt: int | None = None
) -> AsyncIterator[bytes]:
    """The decoded log as bytes, as far as it is written now."""
    job = await jobs.get(plane, principal, job_id)
    _check_attempt(job, attempt)
    number = attempt or job.attempt
    file = LogFile(plane.layout.attempt(job_id, number) / "log")
    size = await _length(plane, job_id, number)
    if not number or not await plane.followed.tails.run(file.epoch):
        if size:
            raise _cut(size)
        if job.final:
            what = f"Attempt {number} of the job {job_id} has left no log."
            raise NotFound(
                what if number else f"The job {job_id} never started, so it has no log.", code="no-log"
            )
        raise NotFound(
            f"The job {job_id} has not started, so it has no log yet.",
            next=f"Follow it: gradient jobs logs {job_id} --follow",
            code="no-log-yet",
        )
    return _bytes(plane, file, size)


async def _bytes(plane: Plane, file: LogFile, size: int) -> AsyncIterator[bytes]:
    """``size``: what it had when its attempt ended, or 0. Raises ``ServerError`` where it is shorter now."""
    offset = 0
    while data := await plane.followed.tails.run(file.read_bytes, offset):
        offset += len(data)
        yield data
    if offset < size:
        raise _cut(size - offset)


async def _length(plane: Plane, job_id: str, attempt: int) -> int:
    """Decoded bytes its log had when the attempt ended; 0 where that is not known. A log can be read whatever
    has become of what else is known of its attempt."""
    with contextlib.suppress(ServerError):
        read = partial(attempt_rows.log_bytes, job_id=job_id, attempt=attempt)
        return await plane.database.read(read) or 0
    return 0


def _cut(missing: int) -> ServerError:
    return ServerError(
        f"The log is damaged: {_missing(missing)}.",
        next="The file itself is left as it is.",
        code="log-damaged",
    )


def _missing(count: int) -> str:
    return f"{count:,} bytes that were there when the attempt ended are missing at its end"


def _check_attempt(job: Job, attempt: int | None) -> None:
    if attempt is not None and not 1 <= attempt <= job.attempt:
        raise NotFound(
            f"The job {job.id} has no attempt {attempt}.",
            next=f"It has {job.attempt} so far; leave the number out for the newest.",
            code="no-such-attempt",
        )


class _Cursor:
    """One follower's place in a job's logs. A damaged log is told once, then it yields nothing more."""

    def __init__(self, plane: Plane, job_id: str, start: Position, encode: Encode, bell: Bell) -> None:
        self._plane = plane
        self._job_id = job_id
        self._start = start
        self._encode = encode
        self._bell = bell
        self._held = contextlib.ExitStack()
        self._tail: Tail | None = None
        self._epoch = 0
        self._offset = 0
        self._damaged = False
        self._moved = False
        self._may_look_back = False
        self.attempt = 0

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def begin(self, job: Job, attempt: int | None) -> None:
        self._may_look_back = attempt is None
        self._open(attempt or job.attempt)

    def move(self, attempt: int) -> None:
        """To the beginning of a later attempt's log."""
        self._moved = self.attempt > 0
        if self._moved:
            self._start = Position()
        self._epoch, self._offset, self._damaged = 0, 0, False
        self._open(attempt)

    @property
    def gone(self) -> bool:
        """The reader has been in a log, and now there is none at all."""
        return bool(self._start.epoch) and not (self._epoch or self._damaged)

    async def next(self) -> bytes | Truncated | None:
        """What comes next; None when nothing does as yet."""
        if self._tail is None or self._damaged:
            return None
        try:
            if not self._epoch:
                found = await self._find(self._tail)
                if found is not None or not self._epoch:
                    return found
            batch = await self._tail.read(self._offset)
        except ServerError as damage:
            # Said once, in the log's own place; the job's end is told as ever. A cut stream would only be
            # opened again.
            self._damaged = True
            at = Position(self._epoch, self._offset) if self._epoch else self._start
            return self._said(at, str(damage))
        if batch is None:
            return None
        self._offset = batch.after
        return batch.wire

    async def missing(self) -> bytes | Truncated | None:
        """What is still to be told of an attempt that is over, when all has been read: that its log has lost
        its end since."""
        if self._tail is None or self._damaged:
            return None
        count = await self._tail.whole(partial(_length, self._plane, self._job_id, self.attempt))
        if self._offset >= count:
            return None
        self._tail.stir()  # the hints of its last bytes may be on their way, or lost
        if (more := await self.next()) is not None:
            return more
        count -= self._offset
        self._damaged = True
        return self._said(Position(self._epoch, self._offset), f"the log is damaged: {_missing(count)}.")

    def _open(self, attempt: int) -> None:
        self._held.close()
        self.attempt, self._tail = attempt, None
        if attempt:
            self._tail = self._held.enter_context(self._tail_of(attempt))
            self._held.enter_context(self._tail.followers.with_(self._bell))

    @contextlib.contextmanager
    def _tail_of(self, attempt: int) -> Iterator[Tail]:
        path = self._plane.layout.attempt(self._job_id, attempt) / "log"
        with self._plane.followed.tails.open(self._job_id, path, self._encode) as tail:
            yield tail

    async def _find(self, tail: Tail) -> bytes | Truncated | None:
        """Where ``start`` is, once there is a log; and what is to be said about that."""
        epoch = await tail.epoch()
        if self._start.epoch not in (0, epoch) and (earlier := await self._looked_back()) is not None:
            tail, epoch = earlier, self._start.epoch
        if not epoch:
            return None
        self._epoch = epoch
        if self._moved:
            return self._said(
                Position(epoch, 0), f"this is attempt {self.attempt}; the one before has ended."
            )
        if not self._start.epoch:
            return None
        size = await tail.size()
        if self._start.epoch == epoch and self._start.offset <= size:
            self._offset = self._start.offset
            return None
        # Another log, or one that lost its end in a power failure: never other bytes in silence.
        return Truncated(offset=self._start.offset, size=size)

    async def _looked_back(self) -> Tail | None:
        """The earlier attempt's log that ``start`` is in, which then is the one to go on in."""
        if not self._may_look_back:
            return None
        self._may_look_back = False
        for attempt in range(self.attempt - 1, 0, -1):
            with contextlib.suppress(ServerError), self._tail_of(attempt) as tail:
                if await tail.epoch() == self._start.epoch:
                    self._open(attempt)
                    return self._tail
        return None

    def _said(self, at: Position, text: str) -> bytes:
        return self._encode(
            [Piece(at, LogPiece(time_us=now_us(), stream=_PLATFORM, text=f"gradient: {text}\n"))]
        )
