"""Who hears of what: every stored change to the queue, durable events to their subscribers, and wake-ups to
those who follow a log.

Nobody polls. A follower sleeps until the log grew, the job changed, or the queue in front of it moved.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from gradient_jupyter.control.queue import Queue
from gradient_jupyter.resources.job import Job, State
from gradient_jupyter.store.database import Change

#: How long moves of the queue are gathered before those who watch their position are told.
_MOVES_S = 0.2


class Subscription:
    """One listener. ``wait`` returns as soon as something happened since the last ``wait``."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.job_changed = False
        self.log_grew = False
        self.queue_moved = False

    def wake(self, *, job: bool = False, log: bool = False, queue: bool = False) -> None:
        self.job_changed |= job
        self.log_grew |= log
        self.queue_moved |= queue
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Until woken, or for ``timeout_s`` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()


class Changes:
    """Lives on the server's loop; ``published`` may be called from the writer's thread."""

    def __init__(self, queue: Queue) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._moving: asyncio.TimerHandle | None = None
        self.placed: dict[str, Job] = {}
        """The jobs on machines that changed since the start, as they are on disk: read without asking it."""
        self._of_job: dict[str, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()

    def published(self, changes: list[Change]) -> None:
        """Called after each commit, on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._publish, changes)

    def log_grew(self, job_id: str) -> None:
        for subscription in self._of_job.get(job_id, ()):
            subscription.wake(log=True)

    def queue_moved(self) -> None:
        """Positions may have changed: whoever follows a waiting job looks again, once for all the moves of a
        moment."""
        if self._moving is None:
            self._moving = self._loop.call_later(_MOVES_S, self._moved)

    def _moved(self) -> None:
        self._moving = None
        for job_id, followers in self._of_job.items():
            if job_id in self._queue:
                for subscription in followers:
                    subscription.wake(queue=True)

    @contextlib.contextmanager
    def follow_job(self, job_id: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._of_job.setdefault(job_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            followers = self._of_job[job_id]
            followers.discard(subscription)
            if not followers:
                del self._of_job[job_id]

    @contextlib.contextmanager
    def follow_events(self) -> Iterator[Subscription]:
        subscription = Subscription()
        self._of_all.add(subscription)
        try:
            yield subscription
        finally:
            self._of_all.discard(subscription)

    def _publish(self, changes: list[Change]) -> None:
        for change in changes:
            event = change.event
            if event.noun == "job":
                self._keep(event.id, change)
                for subscription in self._of_job.get(event.id, ()):
                    subscription.wake(job=True, log=True)
        for subscription in self._of_all:
            subscription.wake()

    def _keep(self, job_id: str, change: Change) -> None:
        job = change.resource
        if not isinstance(job, Job):
            self._queue.gone(job_id)
            self.placed.pop(job_id, None)
            return
        self._queue.changed(job, change.place)
        if job.final or job.state is State.PENDING:
            self.placed.pop(job_id, None)
        else:
            self.placed[job_id] = job
