"""A queue of keys for level-triggered work, after the one of Kubernetes' controllers.

A key is worked on by one worker at a time; added while it waits it waits once; added while it is worked
on it is worked on once more. After a failure it comes back later and later.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque


class WorkQueue:
    def __init__(self, first_delay_s: float = 0.05, longest_delay_s: float = 30) -> None:
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._active: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._first = first_delay_s
        self._longest = longest_delay_s
        self._arrived = asyncio.Event()

    def add(self, key: str) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._arrived.set()

    def add_later(self, key: str, delay_s: float) -> None:
        if key not in self._queued and key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self._due, key)

    async def get(self) -> str:
        """The next key; it is the caller's until ``done`` or ``failed``."""
        while not self._ready:
            self._arrived.clear()
            await self._arrived.wait()
        key = self._ready.popleft()
        self._queued.discard(key)
        self._active.add(key)
        return key

    def done(self, key: str) -> None:
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: str) -> float:
        """Puts the key back for later. Returns the delay in seconds."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        jitter = random.uniform(0.8, 1.2)  # noqa: S311  # so that many failures do not come back as one
        delay: float = min(self._longest, self._first * 2 ** min(count - 1, 20)) * jitter
        self._release(key)
        self.add_later(key, delay)
        return delay

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _release(self, key: str) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
