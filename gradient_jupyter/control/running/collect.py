"""Collecting what attempts left, beside everything else: a few at a time, each for as long as it takes.

Tells on the job how far it is, and listens to a person who does not want to wait for it. Nothing is stored as
an artifact of the job before the job is final; a collection that was cut off begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.data.collection import BATCH, Collection, Limits
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.job import Job, Phase, Reason, Target
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.workspace.wording import decimal

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

_TOLD_S = 2.0
_THREADS = 4
_INLINE_S = 0.5


class Collected(msgspec.Struct, frozen=True):
    """``artifacts`` have yet to be stored; if ``fresh``, in place of any that a try before has stored."""

    artifacts: list[Artifact]
    warnings: list[str]
    fresh: bool = True


class _Running(NamedTuple):
    work: Collection
    task: asyncio.Task[Collected]
    target: Target
    """What was wanted of the job when it began."""


class Collector:
    """Runs collections, a few at a time, each for as long as it takes."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._threads = ThreadPoolExecutor(_THREADS, "collect")
        self._running: dict[tuple[str, int], _Running] = {}

    async def collect(self, job: Job) -> Collected | None:
        """What the job's attempt left. None: it takes longer; the reconciler looks at the job again when it
        is done, and asks again."""
        if job.target is Target.DELETED and (job.id, job.attempt) not in self._running:
            return Collected([], [])
        key = (job.id, job.attempt)
        running = self._running.get(key)
        if running is None:
            settings = self._plane.settings
            directory = self._plane.layout.attempt(job.id, job.attempt) / "artifacts"
            work = Collection(directory, Limits(settings.max_artifacts, settings.max_artifact_bytes))
            task = asyncio.create_task(self._run(job, work), name=f"collect-{job.id}")
            running = self._running[key] = _Running(work, task, job.target)
            await asyncio.wait({task}, timeout=_INLINE_S)
            if not task.done():
                task.add_done_callback(lambda _: self._plane.reconciler.look_at(job.id))
        elif job.target is not running.target:
            running.work.stopped = True  # asked for since it began
        if not running.task.done():
            return None
        del self._running[key]
        return running.task.result()

    async def close(self) -> None:
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, job: Job, work: Collection) -> Collected:
        plane = self._plane
        pieces = work.pieces()
        loop = asyncio.get_running_loop()
        told = time.monotonic()
        held: list[Artifact] = []
        stored = False
        try:
            while (piece := await loop.run_in_executor(self._threads, next, pieces, None)) is not None:
                held += piece
                if len(held) >= BATCH:
                    await plane.database.write(_store(job.id, held, first=not stored))
                    held, stored = [], True
                if time.monotonic() - told >= _TOLD_S:
                    told = time.monotonic()
                    await plane.database.write(_note(job, _progress(job, work)))
        except OSError as error:
            reason = Reason(
                code="collecting",
                message=f"Collecting the artifacts is held up: {(error.strerror or str(error)).lower()}. "
                "It is tried again by itself.",
            )
            with contextlib.suppress(GradientError):
                await plane.database.write(_note(job, reason))
            raise
        finally:
            with contextlib.suppress(ValueError):  # a thread is still in it, and ends soon
                pieces.close()
        return Collected(held, work.warnings(), fresh=not stored)


def _store(job_id: str, found: list[Artifact], *, first: bool) -> Callable[[Connection], None]:
    return lambda connection: rows.add_artifacts(connection, job_id, found, replace=first)


def _note(job: Job, reason: Reason) -> Callable[[Connection], None]:
    """Says on the job how far it is."""

    def work(connection: Connection) -> None:
        fresh = rows.find(connection, job.id)
        if (
            fresh is not None
            and not fresh.final
            and fresh.attempt == job.attempt
            and fresh.phase is Phase.COLLECTING
        ):
            rows.change(connection, fresh, reason=reason)

    return work


def _progress(job: Job, work: Collection) -> Reason:
    skip = f"To do without the rest: gradient jobs stop {job.id}" if job.target is Target.RUN else ""
    return Reason(
        code="collecting",
        message=f"Collecting the artifacts: {work.files:,} {'file' if work.files == 1 else 'files'}, "
        f"{decimal(work.bytes + work.reading)} so far.",
        next=skip,
    )
