"""Blocking work that may never come back: on threads that nobody has to wait for.

A pool's threads are waited for when the process ends, and one that hangs is missing from then on. Here work
that takes too long is given up with an error; its thread stays behind, and another takes its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gradient_jupyter.resources.errors import ServerError

log = logging.getLogger(__name__)
T = TypeVar("T")

_MOST_LOST = 32
"""Threads left behind. With so many no further work is begun until one of them is back."""


class Apart:
    """Of one event loop. ``turns`` pieces of work at a time, each for ``longest_s`` at the most."""

    def __init__(self, name: str, turns: int, longest_s: float) -> None:
        self._name = name
        self._turns = asyncio.Semaphore(turns)
        self._longest_s = longest_s
        self._lost = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Raises what ``work`` raises, and ``ServerError`` when it does not come back. Who is cancelled does
        not wait; the work keeps its turn until its end."""
        task = asyncio.ensure_future(self._run(work))
        return await asyncio.shield(task)

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._turns:
            if self._lost >= _MOST_LOST:
                raise self._given_up()
            done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            threading.Thread(target=_do, args=(work, done), name=self._name, daemon=True).start()
            await asyncio.wait({done}, timeout=self._longest_s)
            if done.done():
                return done.result()
        self._lost += 1
        done.add_done_callback(self._back)
        log.error("%s: a thread does not come back after %g s", self._name, self._longest_s)
        raise self._given_up()

    def _back(self, done: asyncio.Future[Any]) -> None:
        self._lost -= 1
        if not done.cancelled():
            done.exception()  # nobody is interested any more

    def _given_up(self) -> ServerError:
        return ServerError(
            f"What this needs could not be read within {self._longest_s:g} seconds.",
            next="Look at the disk, and at the server's log.",
            code="read-hangs",
        )


def _do(work: Callable[[], T], done: asyncio.Future[T]) -> None:
    try:
        result = work()
    except BaseException as error:
        _tell(done, done.set_exception, error)
    else:
        _tell(done, done.set_result, result)


def _tell(done: asyncio.Future[T], settle: Callable[[Any], None], outcome: object) -> None:
    def settled() -> None:
        if not done.done():
            settle(outcome)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        done.get_loop().call_soon_threadsafe(settled)
