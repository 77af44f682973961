"""What many follow is read once: a feed is a growing sequence that its followers share.

A position is a number; ``Feed.read`` says what stands behind one, as bytes that are ready to be sent.
Followers who ask at the same position share one read and one encoding, also when it is under way. Each goes
at its own pace: a slow one holds what it is sending and nothing else, and what is not kept any more is
simply read again. What is kept of all feeds together has one budget.

A follower sleeps until its feed is stirred. Nothing here wakes by itself, so what nobody writes to costs
nothing, however many wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator

import msgspec

#: Bytes of batches that are kept for followers who come to the same place a moment later.
KEPT = 4 * 2**20
#: What a batch costs beside its bytes.
_OVERHEAD = 400


class Batch(msgspec.Struct, frozen=True):
    """What stands behind a position."""

    after: int
    """The position behind it."""
    wire: bytes
    full: bool
    """It is as long as one gets. One that is not may be longer when it is read again."""


class Bell:
    """One follower's: rung while it works, it does not sleep next time."""

    __slots__ = ("_rung", "_sleeping")

    def __init__(self) -> None:
        self._rung = False
        self._sleeping: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    def mute(self) -> None:
        """Before looking at what it may have rung for."""
        self._rung = False

    async def wait(self) -> None:
        if self._rung:
            return
        self._sleeping = asyncio.get_running_loop().create_future()
        try:
            await self._sleeping
        finally:
            self._sleeping = None


class Bells:
    """Everyone who follows one thing."""

    def __init__(self) -> None:
        self._bells: set[Bell] = set()

    def __len__(self) -> int:
        return len(self._bells)

    def ring(self) -> None:
        for bell in self._bells:
            bell.ring()

    @contextlib.contextmanager
    def with_(self, bell: Bell) -> Iterator[None]:
        self._bells.add(bell)
        try:
            yield
        finally:
            self._bells.discard(bell)


class Kept:
    """The batches of all feeds that are kept, within one budget; the longest unused goes first."""

    def __init__(self, budget: int = KEPT) -> None:
        self._budget = budget
        self._batches: OrderedDict[tuple[int, int], Batch] = OrderedDict()
        self._places: dict[int, set[int]] = {}
        self.size = 0

    def get(self, feed: Feed, position: int) -> Batch | None:
        key = (id(feed), position)
        batch = self._batches.get(key)
        if batch is not None:
            self._batches.move_to_end(key)
        return batch

    def put(self, feed: Feed, position: int, batch: Batch) -> None:
        self._drop((id(feed), position))
        self._batches[id(feed), position] = batch
        self._places.setdefault(id(feed), set()).add(position)
        self.size += len(batch.wire) + _OVERHEAD
        while self.size > self._budget:
            self._drop(next(iter(self._batches)))

    def forget(self, feed: Feed) -> None:
        for position in tuple(self._places.get(id(feed), ())):
            self._drop((id(feed), position))

    def _drop(self, key: tuple[int, int]) -> None:
        if (batch := self._batches.pop(key, None)) is None:
            return
        self.size -= len(batch.wire) + _OVERHEAD
        places = self._places[key[0]]
        places.discard(key[1])
        if not places:
            del self._places[key[0]]


class Feed:
    """``fetch`` reads what stands behind a position, or None where nothing does (yet)."""

    def __init__(self, kept: Kept, fetch: Callable[[int], Awaitable[Batch | None]]) -> None:
        self.followers = Bells()
        self._kept = kept
        self._fetch = fetch
        self._flights: dict[int, asyncio.Task[Batch | None]] = {}
        self._stirs = 0
        self._end: tuple[int, int] | None = None
        """Where nothing stood behind, and how often it had been stirred before that was looked at."""
        self._head = 0

    def stir(self) -> None:
        """There may be more than was there before."""
        self._stirs += 1

    async def read(self, position: int) -> Batch | None:
        """What stands behind ``position``; None when nothing did after the last ``stir`` before this call."""
        wanted = self._stirs
        while True:
            if self._end is not None and self._end[0] == position and self._end[1] >= wanted:
                return None
            batch = self._kept.get(self, position)
            if batch is not None and (batch.full or batch.after == self._head):
                return batch
            flight = self._flights.get(position)
            if flight is None:
                flight = asyncio.get_running_loop().create_task(self._fly(position))
                self._flights[position] = flight
                flight.add_done_callback(_seen)
            # Whoever leaves does not take the answer from the others.
            batch = await asyncio.shield(flight)
            if batch is not None:
                return batch

    async def _fly(self, position: int) -> Batch | None:
        try:
            stirs = self._stirs
            batch = await self._fetch(position)
            if batch is None:
                self._end = (position, stirs)
                return None
            self._head = max(self._head, batch.after)
            if not batch.full:
                self._end = (batch.after, stirs)
            if len(self.followers) > 1:
                self._kept.put(self, position, batch)
            return batch
        finally:
            del self._flights[position]

    def close(self) -> None:
        """Nobody follows it any more."""
        self._kept.forget(self)


def _seen(flight: asyncio.Task[Batch | None]) -> None:
    """Of a failure nobody waits for any more, nobody needs to be told."""
    if not flight.cancelled():
        flight.exception()
