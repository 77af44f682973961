"""Whoever was let in is looked at again while their request lasts: a stream ends with its right to be open.

A log that is followed, events, a download and an upload may take hours. Their tokens may be revoked or expire
meanwhile, their bearers may leave the project, their attempt may be over. Each of them is asked about again
every ``EVERY_S``, and at once when something is taken back here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gradient_jupyter.resources.errors import GradientError

log = logging.getLogger(__name__)

EVERY_S = 15.0
#: What says that a request must not go on. Everything else (a disk that has no answer) says nothing of it.
_ENDS = frozenset({401, 403, 404, 409})


class Watch:
    """Open requests, each with the question whether it still may be. Of one event loop."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._open: dict[object, tuple[Callable[[], Awaitable[None]], Callable[[], None]]] = {}
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="watch")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def begin(self, key: object, check: Callable[[], Awaitable[None]], cut: Callable[[], None]) -> None:
        """Until ``end(key)`` ``check`` is asked now and then, and ``cut`` called when it raises."""
        self._open[key] = check, cut

    def end(self, key: object) -> None:
        """It may never have begun."""
        self._open.pop(key, None)

    def look_now(self) -> None:
        """Something was taken from somebody."""
        self._soon.set()

    def __len__(self) -> int:
        return len(self._open)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            for key, (check, cut) in list(self._open.items()):
                if key not in self._open:
                    continue  # it ended by itself meanwhile
                try:
                    await check()
                except GradientError as error:
                    if error.status in _ENDS and self._open.pop(key, None) is not None:
                        log.info("an open request is cut: %s", error.message)
                        cut()
                except Exception as error:
                    log.warning("whether a request may go on cannot be told now: %s", error)
