"""Who hears of what: durable events to their subscribers, and wake-ups to those who follow a log.

Nobody polls. A follower sleeps until the log grew, the job changed, or the queue in front of it moved.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from gradient_jupyter.resources.event import Event


class Subscription:
    """One listener. ``wait`` returns as soon as something happened since the last ``wait``."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.job_changed = False
        self.log_grew = False

    def wake(self, *, job: bool = False, log: bool = False) -> None:
        self.job_changed |= job
        self.log_grew |= log
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Until woken, or for ``timeout_s`` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()


class Changes:
    """Lives on the server's loop; ``published`` may be called from the writer's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._of_job: dict[str, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()

    def published(self, events: list[Event]) -> None:
        """Called after each commit, on any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._publish, events)

    def log_grew(self, job_id: str) -> None:
        for subscription in self._of_job.get(job_id, ()):
            subscription.wake(log=True)

    def queue_moved(self) -> None:
        """Positions may have changed: whoever follows a waiting job looks again."""
        for followers in self._of_job.values():
            for subscription in followers:
                subscription.wake(job=True)

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

    def _publish(self, events: list[Event]) -> None:
        for event in events:
            if event.noun == "job":
                for subscription in self._of_job.get(event.id, ()):
                    subscription.wake(job=True, log=True)
        for subscription in self._of_all:
            subscription.wake()
