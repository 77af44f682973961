"""Who hears of what: durable events, changes of one job, and the growth of its log.

Nobody polls. Those who listen here are few and shared (see ``feeds``): one for each log, for each job and
for each person's events, however many people follow them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Protocol

from gradient_jupyter.resources.event import Event


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

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._of_job: dict[str, set[JobListener]] = {}
        self._of_all: set[EventListener] = set()

    def published(self, events: list[Event]) -> None:
        """Called after each commit, on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._publish, events)

    def log_grew(self, job_id: str) -> None:
        for listener in self._of_job.get(job_id, ()):
            listener.log_grew()

    def queue_moved(self) -> None:
        """Positions may have changed: whoever follows a waiting job looks again."""
        for listeners in self._of_job.values():
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

    def _publish(self, events: list[Event]) -> None:
        # Once each, however many changes one commit holds.
        for job_id in dict.fromkeys(event.id for event in events if event.noun == "job"):
            for listener in self._of_job.get(job_id, ()):
                listener.job_changed()
        for everything in self._of_all:
            everything.events_stored()
