"""What this server has promised to keep for a while, although no row refers to it yet.

Whoever is told that a file need not be sent, or has just sent it, counts on it until the snapshot and the
job that name it are stored. That is counted by the clock that nobody sets and that goes on while the machine
sleeps, never by the wall clock. Kept in memory: what a restart forgets, the client is told to send again.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LONGEST_S = 24 * 3600.0
"""However long somebody keeps sending."""
_MOST = 1_000_000
"""Digests remembered one by one. Beyond it nothing at all is cleared away until the oldest are over."""


def boot_s() -> float:
    """Seconds by a clock that nobody sets."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def short(digest: str) -> int:
    """A quarter of a digest, to be remembered by the million. Two that agree in it are both kept."""
    return int(digest[:16], 16)


@dataclass
class _Owner:
    since_s: float
    """When the sending that may still go on began."""
    last_s: float
    held: list[tuple[float, array[int]]] = field(default_factory=list)


class Leases:
    """Threads may share it. ``hold_s`` is how long a lease lasts, longer while its owner goes on sending."""

    def __init__(self, hold_s: float, clock: Callable[[], float] = boot_s) -> None:
        self._hold_s = hold_s
        self._clock = clock
        self._lock = threading.Lock()
        self._owners: dict[str, _Owner] = {}
        self._pinned: Counter[str] = Counter()
        self._count = 0
        self._all_until = float("-inf")
        self._watched: set[int] | None = None

    def take(self, owner: str, digests: Iterable[str]) -> None:
        values = array("Q", map(short, digests))
        now = self._clock()
        with self._lock:
            self._forget(now)
            if self._count + len(values) > _MOST:
                self._all_until = now + self._hold_s
                return
            if self._watched is not None and self._hold_s:
                self._watched.update(values)
            found = self._owners.setdefault(owner, _Owner(now, now))
            found.held.append((now, values))
            self._count += len(values)

    def sending(self, owner: str) -> None:
        """This owner is just sending something: an upload may take longer than a lease."""
        now = self._clock()
        with self._lock:
            found = self._owners.get(owner)
            if found is None:
                return
            if now - found.last_s > self._hold_s:
                found.since_s = now - self._hold_s  # what still lasts now goes on lasting
            found.last_s = now

    @contextmanager
    def pinned(self, digests: Iterable[str]) -> Iterator[None]:
        """For as long as this lasts they stay, whatever the leases say."""
        kept = list(digests)
        with self._lock:
            self._pinned.update(kept)
        try:
            yield
        finally:
            with self._lock:
                for digest in kept:
                    self._pinned[digest] -= 1
                    if self._pinned[digest] <= 0:
                        del self._pinned[digest]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this lasts ``holds`` may be asked, and knows what is taken meanwhile."""
        now = self._clock()
        with self._lock:
            self._forget(now)
            self._watched = {
                value for owner in self._owners.values() for _, values in owner.held for value in values
            }
        try:
            yield
        finally:
            with self._lock:
                self._watched = None

    def holds(self, digest: str) -> bool:
        """Whether it is leased or pinned."""
        with self._lock:
            assert self._watched is not None
            return digest in self._pinned or short(digest) in self._watched or self._clock() < self._all_until

    def _forget(self, now: float) -> None:
        for name, owner in list(self._owners.items()):
            goes_on = now - owner.last_s <= self._hold_s
            kept = []
            for taken_s, values in owner.held:
                lasting = now - taken_s <= self._hold_s
                if lasting or (goes_on and taken_s >= owner.since_s and now - taken_s <= LONGEST_S):
                    kept.append((taken_s, values))
                else:
                    self._count -= len(values)
            owner.held = kept
            if not kept:
                del self._owners[name]
