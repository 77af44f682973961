"""What people follow, each thing once: jobs, their logs, and everyone's own events.

A job that 200 people follow is read once for each of its changes; what they get is the same object.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from gradient_jupyter.control.changes import Changes
from gradient_jupyter.control.following.feeds import Batch, Bell, Bells, Feed, Kept
from gradient_jupyter.control.following.tails import Tails
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.event import Event
from gradient_jupyter.resources.job import Job
from gradient_jupyter.store import events as rows
from gradient_jupyter.store.database import Database

#: Events that are read at once.
_BATCH = 100

EncodeEvents = Callable[[Sequence[Event]], bytes]


class FollowedJob:
    """One job as one principal may see it."""

    def __init__(self, load: Callable[[], Awaitable[Job]]) -> None:
        self.followers = Bells()
        self.listening = contextlib.ExitStack()
        self._load = load
        self._version = 1
        self._known: tuple[int, Job] | None = None
        self._loading: asyncio.Task[None] | None = None

    async def job(self) -> Job:
        """As it is after every change told before this call. Raises what ``control.jobs.get`` does."""
        wanted = self._version
        while self._known is None or self._known[0] < wanted:
            if self._loading is None:
                self._loading = asyncio.create_task(self._reload())
                self._loading.add_done_callback(self._loaded)
            await asyncio.shield(self._loading)
        return self._known[1]

    async def _reload(self) -> None:
        version = self._version
        job = await self._load()
        same = self._known is not None and self._known[1] == job
        self._known = version, self._known[1] if same and self._known is not None else job

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        self._loading = None
        if not loading.cancelled():
            loading.exception()  # told to whoever waited for it

    def job_changed(self) -> None:
        self._version += 1
        self.followers.ring()

    def log_grew(self) -> None:
        """That concerns the log's own followers."""

    def queue_moved(self) -> None:
        self.job_changed()


class FollowedEvents(Feed):
    """The events that one principal may see; positions are their sequence numbers."""

    def __init__(
        self, kept: Kept, database: Database, principals: tuple[str, ...], encode: EncodeEvents
    ) -> None:
        super().__init__(kept, self._next)
        self.listening = contextlib.ExitStack()
        self._database = database
        self._principals = principals
        self._encode = encode

    def events_stored(self) -> None:
        self.stir()
        self.followers.ring()

    async def _next(self, seq: int) -> Batch | None:
        found = await self._database.read(
            partial(rows.after, principals=self._principals, seq=seq, limit=_BATCH)
        )
        return Batch(found[-1].seq, self._encode(found), len(found) == _BATCH) if found else None


class Followed:
    """Each of them is there for as long as somebody follows it."""

    def __init__(self, changes: Changes, database: Database) -> None:
        self._changes = changes
        self._database = database
        self._kept = Kept()
        self._jobs: dict[tuple[str, Principal], FollowedJob] = {}
        self._events: dict[tuple[str, ...], FollowedEvents] = {}
        self.tails = Tails(changes, self._kept)

    @contextlib.contextmanager
    def job(
        self, principal: Principal, job_id: str, load: Callable[[], Awaitable[Job]], bell: Bell
    ) -> Iterator[FollowedJob]:
        key = job_id, principal
        if (job := self._jobs.get(key)) is None:
            job = self._jobs[key] = FollowedJob(load)
            job.listening.enter_context(self._changes.of_job(job_id, job))
        try:
            with job.followers.with_(bell):
                yield job
        finally:
            if not job.followers:
                job.listening.close()
                del self._jobs[key]

    @contextlib.contextmanager
    def events(self, principal: Principal, encode: EncodeEvents, bell: Bell) -> Iterator[FollowedEvents]:
        """``encode`` is the same for everyone."""
        key = principal.all
        if (feed := self._events.get(key)) is None:
            feed = self._events[key] = FollowedEvents(self._kept, self._database, key, encode)
            feed.listening.enter_context(self._changes.of_all(feed))
        try:
            with feed.followers.with_(bell):
                yield feed
        finally:
            if not feed.followers:
                feed.listening.close()
                feed.close()
                del self._events[key]

    async def close(self) -> None:
        await self.tails.close()
