"""The ends of attempts: what one leaves is collected and its end written down; then the job is final, or
another attempt follows.

How a job ends is ``plan``'s to say. Here it is stored, together with its machine's being free, so that
neither is ever true without the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.following.tails import LogFile
from gradient_jupyter.control.measuring.gathering import why
from gradient_jupyter.control.running.collect import Collected
from gradient_jupyter.control.running.plan import Conclude, Note
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import GradientError, NoSpace, ServerError
from gradient_jupyter.resources.job import Job, Phase, Reason, State, Target
from gradient_jupyter.store import attempts as attempt_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger
from gradient_jupyter.workspace import durable
from gradient_jupyter.workspace.inside import remove_tree

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

#: Before an attempt that follows many others.
_LONGEST_PAUSE_S = 300.0


class Endings:
    """Each method returns the row as it is then; None when there is none any more."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._again_at: dict[str, float] = {}
        """By the loop's clock, when the next attempt may be queued. A new server need not wait."""

    async def note(self, job: Job, note: Note) -> Job | None:
        return await self._plane.database.write(
            lambda connection: _noted(connection, job, [(note, now_us())])
        )

    async def conclude(self, job: Job, end: Conclude, notes: list[Note] | None = None) -> Job | None:
        """Collects first, then makes the job final and frees its machine in one transaction.

        ``notes`` are steps that are not written yet. They are written with the end, or before it where
        collecting takes long enough for a person to see it. Returns the row as it is then; None while what
        it left is still being collected, after which the job is looked at again.
        """
        began: list[tuple[Note, int]] = [(note, now_us()) for note in notes or ()]
        collected = Collected([], [])
        gathered: list[str] = []
        log_bytes = None
        if job.attempt and job.state is not State.PENDING:
            if job.state is State.RUNNING and job.phase is not Phase.COLLECTING:
                began.append((Note(State.RUNNING, Phase.COLLECTING, job.started_us), now_us()))
            told = await self._gathered(job, began)
            done = None if told is None else await self._plane.collector.collect(job)
            if told is None or done is None:
                await self._plane.database.write(lambda connection: _noted(connection, job, began))
                return None
            collected, gathered = done, told
            log_bytes = await self._log_bytes(job, end)

        def work(connection: Connection) -> Job | None:
            fresh = _noted(connection, job, began)
            if fresh is None or fresh.final or fresh.attempt != job.attempt:
                return fresh
            values = {"started_us": end.started_us} if end.started_us is not None else {}
            fresh = rows.change(
                connection,
                fresh,
                state=end.state,
                phase=Phase.DONE,
                reason=end.reason,
                exit_code=end.exit_code,
                ended_us=end.ended_us or now_us(),
                warnings=(*fresh.warnings, *gathered, *collected.warnings),
                **values,
            )
            rows.add_artifacts(connection, job.id, collected.artifacts, replace=collected.fresh)
            if job.attempt and job.state is not State.PENDING:
                _end_attempt(connection, fresh, end, log_bytes)
            return fresh

        concluded = await self._plane.database.write(work)
        await self._plane.gathering.forget(job)
        self._again_at.pop(job.id, None)
        self._plane.reconciler.look_at_queue()
        return concluded

    async def retry(self, job: Job, end: Conclude, notes: list[Note]) -> Job | None:
        """The attempt is over and counts for nothing. Its machine is free; the next waits until the engine
        has forgotten it, so that never two of one job can run. Returns the row as it is then."""
        assert end.reason is not None
        began = [(note, now_us()) for note in notes]
        pause_s = min(self._plane.settings.retry_delay_s * 2 ** (job.attempt - 1), _LONGEST_PAUSE_S)
        pause = f" after a pause of {pause_s:g} s," if pause_s else ""
        reason = Reason(
            code="retry",
            message=f"Attempt {job.attempt} of at most {job.retries + 1}: {end.reason.message}",
            next=f"The next attempt starts{pause} as soon as a machine is free.",
        )
        if (gathered := await self._gathered(job, began)) is None:
            return None  # the job is looked at again
        log_bytes = await self._log_bytes(job, end)

        def work(connection: Connection) -> Job | None:
            fresh = rows.find(connection, job.id)
            if fresh is None or fresh.final or fresh.attempt != job.attempt or fresh.state is State.PENDING:
                return fresh
            if fresh.target is not Target.RUN:
                return fresh  # a person was quicker: the next look concludes it
            fresh = _noted(connection, job, began)
            assert fresh is not None, "it was there a line ago, in the same transaction"
            _end_attempt(connection, fresh, end, log_bytes)
            return rows.change(
                connection, fresh, state=State.PENDING, phase=Phase.RETRYING, reason=reason, started_us=None,
                progress=None, warnings=(*fresh.warnings, *gathered),
            )  # fmt: skip

        retried = await self._plane.database.write(work)
        await self._plane.gathering.forget(job)
        if retried is not None and retried.phase is Phase.RETRYING:
            self._again_at[job.id] = asyncio.get_running_loop().time() + pause_s
        self._plane.reconciler.look_at_queue()
        return retried

    async def requeue(self, job: Job) -> Job | None:
        """Nothing of the attempt before is left. Returns the row as it is then."""
        artifacts = self._plane.layout.attempt(job.id, job.attempt) / "artifacts"
        await self._plane.on_files(remove_tree, artifacts)

        def work(connection: Connection) -> Job | None:
            fresh = rows.find(connection, job.id)
            if fresh is not None and fresh.phase is Phase.RETRYING and fresh.attempt == job.attempt:
                return rows.change(connection, fresh, phase=Phase.QUEUED)
            return fresh

        requeued = await self._plane.database.write(work)
        self._again_at.pop(job.id, None)
        self._plane.reconciler.look_at_queue()
        return requeued

    def pause_s(self, job_id: str) -> float:
        """What is left of the pause before the next attempt: what failed may need a moment to be well."""
        return self._again_at.get(job_id, 0.0) - asyncio.get_running_loop().time()

    async def _gathered(self, job: Job, began: list[tuple[Note, int]]) -> list[str] | None:
        """What there is to say of its last metrics; None while they are read. Where the disk is what keeps
        them, the job says so until it is tried again."""
        try:
            return await self._plane.gathering.finish(job)
        except (NoSpace, OSError) as error:
            reason = Reason(
                code="collecting",
                message=f"Storing its last metrics is held up: {why(error)}. It is tried again by itself.",
                next=f"To do without them: gradient jobs stop {job.id}",
            )

            def work(connection: Connection) -> None:
                fresh = _noted(connection, job, began)
                if fresh is not None and not fresh.final and fresh.attempt == job.attempt:
                    phase = Phase.COLLECTING if fresh.state is State.RUNNING else None
                    if (fresh.phase, fresh.reason) != (phase or fresh.phase, reason):
                        rows.change(connection, fresh, phase=phase, reason=reason)

            with contextlib.suppress(GradientError):  # the disk may not take that either
                await self._plane.database.write(work)
            raise

    async def _log_bytes(self, job: Job, end: Conclude) -> int | None:
        """How long the attempt's log is, now that nobody writes it; what is missing later was lost."""
        path = self._plane.layout.attempt(job.id, job.attempt) / "log"
        file = LogFile(path)
        try:
            if end.kill and path.exists():  # its supervisor may have died before it could do this
                await self._plane.on_files(durable.sync_path, path)
            return await self._plane.followed.tails.run(file.size)
        except (ServerError, OSError) as error:
            log.warning("%s: its log cannot be measured: %s", job.id, error)
            return None


def _end_attempt(connection: Connection, job: Job, end: Conclude, log_bytes: int | None) -> None:
    """Its end, and its machine given back: the engine has been seen to be done with it."""
    started_us = end.started_us if end.started_us is not None else job.started_us
    attempt_rows.end(
        connection, job, end.state, end.reason, end.exit_code, started_us, end.ended_us or now_us(), log_bytes
    )
    ledger.release(connection, job.id, job.attempt)


def noted(job: Job, note: Note) -> Job:
    """The row as it will be once the note is written."""
    return msgspec.structs.replace(
        job, state=note.state, phase=note.phase, started_us=note.started_us, reason=None
    )


def _noted(connection: Connection, job: Job, notes: Iterable[tuple[Note, int]]) -> Job | None:
    """Writes steps with the times at which they were seen. Returns the row as it is then."""
    fresh = rows.find(connection, job.id)
    for note, time_us in notes:
        if fresh is None or fresh.final or fresh.attempt != job.attempt:
            break
        fresh = rows.change(
            connection, fresh, state=note.state, phase=note.phase, started_us=note.started_us, reason=None,
            time_us=time_us,
        )  # fmt: skip
    return fresh
