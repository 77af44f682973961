"""Steps of what is pushed without one: for each attempt and key the next.

In memory: the stored points say where a new server goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

_MOST = 1000
"""Attempts that are remembered."""
_AT_ONCE = 2


class Counts:
    def __init__(self) -> None:
        self._next: OrderedDict[tuple[str, int], dict[str, int]] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[str, int], asyncio.Lock] = WeakValueDictionary()
        self._rooms = asyncio.Semaphore(_AT_ONCE)

    @contextlib.asynccontextmanager
    async def turn(self, attempt: tuple[str, int]) -> AsyncIterator[None]:
        """One push of each attempt after the other, and few at once: reading them takes a thread."""
        lock = self._turns.setdefault(attempt, asyncio.Lock())
        async with lock, self._rooms:
            yield

    def known(self, attempt: tuple[str, int]) -> bool:
        return attempt in self._next

    def begin(self, attempt: tuple[str, int], next_steps: dict[str, int]) -> None:
        """With what is stored of it already."""
        self._next.setdefault(attempt, next_steps)
        while len(self._next) > _MOST:
            self._next.popitem(last=False)

    def take(self, attempt: tuple[str, int], key: str, step: int | None = None) -> int:
        """The step given, or the next one."""
        steps = self._next.setdefault(attempt, {})
        taken = steps.get(key, 0) if step is None else step
        steps[key] = taken + 1
        return taken

    def forget(self, attempt: tuple[str, int]) -> None:
        """What was taken was not stored."""
        self._next.pop(attempt, None)
