"""Who hears of what: every stored change to the queue, durable events to their subscribers, and what happens
to one job to those who follow it.

Nobody polls. Those who listen here are few and shared (see ``feeds``): one for each log, for each job and
for each person's events, however many people follow them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from gradient_jupyter.control.scheduling.queue import Queue
from gradient_jupyter.resources.job import Job, State
from gradient_jupyter.store.database import Change

#: How long moves of the queue are gathered before those who watch their position are told.
_MOVES_S = 0.2


class JobListener(Protocol):
    """Is called on the loop, must not block, and may be called once too often."""

    def job_changed(self) -> None: ...
    def log_grew(self) -> None: ...
    def queue_moved(self) -> None:
        """The answer to why the job waits may be another one."""


class EventListener(Protocol):
    def events_stored(self) -> None: ...


class Changes:
    """Lives on the server's loop; ``published`` may be called from the writer's thread."""

    def __init__(self, queue: Queue) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._moving: asyncio.TimerHandle | None = None
        self.placed: dict[str, Job] = {}
        """Jobs on machines as they are on disk, read without asking it: those that changed since the start,
        and those that were ``found``."""
        self.of_jobs: Callable[[str, Job | None], None] = lambda job_id, job: None
        """Is told of every job that changed, as it is on disk; None: it is gone. Must not block."""
        self.told = 0
        """How often something was told. Whoever reads a job looks before, for ``found``."""
        self._of_job: dict[str, set[JobListener]] = {}
        self._of_all: set[EventListener] = set()

    def published(self, changes: list[Change]) -> None:
        """Called after each commit, on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._publish, changes)

    def found(self, job: Job, told: int) -> None:
        """A job on a machine was read from disk: it is kept, too, unless something was told since (it may
        have been this job's end)."""
        if told == self.told:
            self.placed.setdefault(job.id, job)

    def log_grew(self, job_id: str) -> None:
        for listener in self._of_job.get(job_id, ()):
            listener.log_grew()

    def queue_moved(self) -> None:
        """Positions may have changed: whoever follows a waiting job looks again, once for all the moves of a
        moment."""
        if self._moving is None:
            self._moving = self._loop.call_later(_MOVES_S, self._moved)

    def _moved(self) -> None:
        self._moving = None
        for job_id, listeners in self._of_job.items():
            if job_id in self._queue:
                for listener in listeners:
                    listener.queue_moved()

    @contextlib.contextmanager
    def of_job(self, job_id: str, listener: JobListener) -> Iterator[None]:
        self._of_job.setdefault(job_id, set()).add(listener)
        try:
            yield
        finally:
            listeners = self._of_job[job_id]
            listeners.discard(listener)
            if not listeners:
                del self._of_job[job_id]

    @contextlib.contextmanager
    def of_all(self, listener: EventListener) -> Iterator[None]:
        self._of_all.add(listener)
        try:
            yield
        finally:
            self._of_all.discard(listener)

    def _publish(self, changes: list[Change]) -> None:
        self.told += 1
        for change in changes:
            if change.event.noun == "job":
                self._keep(change.event.id, change)
        # Once each, however many changes one commit holds.
        for job_id in dict.fromkeys(change.event.id for change in changes if change.event.noun == "job"):
            for listener in self._of_job.get(job_id, ()):
                listener.job_changed()
        for everything in self._of_all:
            everything.events_stored()

    def _keep(self, job_id: str, change: Change) -> None:
        job = change.resource
        if not isinstance(job, Job):
            self._queue.gone(job_id)
            self.placed.pop(job_id, None)
            self.of_jobs(job_id, None)
            return
        self._queue.changed(job, change.place)
        if job.final or job.state is State.PENDING:
            self.placed.pop(job_id, None)
        else:
            self.placed[job_id] = job
        self.of_jobs(job_id, job)
