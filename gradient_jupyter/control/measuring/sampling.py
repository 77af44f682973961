"""What running jobs use, measured now and then and written down as their system metrics.

Often at first, so that a short job has its numbers too, then every ``every_s``. Nothing is done while nothing
runs. The step of a point is the whole second since the attempt was first looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gradient_jupyter.control.running import tasks
from gradient_jupyter.engines.base import EngineError, GpuUsage, Usage
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.metric import Kind, Sample, System
from gradient_jupyter.store.ledger import Claim

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_FIRST_S = 1.0


class _Watched:
    """One attempt that has a machine."""

    def __init__(self, claim: Claim, now: float) -> None:
        self.claim = claim
        self.began = now
        self.pause_s = _FIRST_S
        self.due = now + _FIRST_S
        self.before: tuple[float, Usage] | None = None
        """When it was looked at last, and what it had used by then."""


class Sampler:
    """``every_s``: 0 for never."""

    def __init__(self, plane: Plane, every_s: float) -> None:
        self._plane = plane
        self._every_s = every_s
        self._watched: dict[tuple[str, int], _Watched] = {}
        self._stirred = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._every_s:
            self._task = asyncio.create_task(self._run(), name="sampler")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def events_stored(self) -> None:
        """A job may have been given a machine."""
        self._stirred.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with self._plane.changes.of_all(self):
            while not self._plane.read_only:
                self._stirred.clear()
                now = loop.time()
                self._look_who_runs(now)
                due = min((each.due for each in self._watched.values()), default=None)
                if due is not None and due <= now:
                    # Those that are nearly due go along: one look at the processes serves all.
                    await self._sample(
                        now, [each for each in self._watched.values() if each.due <= now + 0.5]
                    )
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stirred.wait(), None if due is None else due - now)

    def _look_who_runs(self, now: float) -> None:
        claims = {(claim.job_id, claim.attempt): claim for claim in self._plane.queue.claims.values()}
        for key in self._watched.keys() - claims.keys():
            del self._watched[key]
        for key in claims.keys() - self._watched.keys():
            self._watched[key] = _Watched(claims[key], now)

    async def _sample(self, now: float, due: Sequence[_Watched]) -> None:
        for each in due:
            each.due = now + each.pause_s
            each.pause_s = min(2 * each.pause_s, self._every_s)
        keys = {self._key(each.claim): each.claim.gpus for each in due}
        try:
            usage = await self._plane.engine.usage(keys)
        except EngineError as error:
            log.debug("what jobs use cannot be seen now: %s", error)
            return
        at = asyncio.get_running_loop().time()
        for each in due:
            seen = usage.get(self._key(each.claim))
            if seen is None or not _goes_on(each, self._plane.queue.claims):
                continue
            samples = list(_samples(each, at, seen))
            each.before = at, seen
            directory = self._plane.layout.attempt(each.claim.job_id, each.claim.attempt)
            try:
                await self._plane.points.append(directory, samples, Kind.SYSTEM)
            except (GradientError, OSError) as error:
                log.debug("%s: what it uses is not written down: %s", each.claim.job_id, error)

    def _key(self, claim: Claim) -> str:
        return tasks.key(self._plane.install, claim.job_id, claim.attempt)


def _goes_on(each: _Watched, claims: Mapping[str, Claim]) -> bool:
    """Whether it still had its machine after it was looked at. The metrics of one that ended meanwhile have
    been closed."""
    return claims.get(each.claim.job_id) == each.claim


def _samples(each: _Watched, at: float, seen: Usage) -> Iterator[Sample]:
    step, time_us = round(at - each.began), now_us()
    values: dict[str, float] = {System.MEMORY_USAGE: float(seen.memory_bytes)}
    if each.before is not None:
        before, then = each.before
        # Processes that ended between two looks may be missing from the second for a moment.
        spent = max(0.0, seen.cpu_s - then.cpu_s)
        values[System.CPU_PERCENTAGE] = 100 * spent / ((at - before) * (each.claim.cpus or 1))
    values |= _gpus(seen.gpus)
    for key, value in values.items():
        yield Sample(key, value, step, time_us)


_GPU = (
    (System.GPU_UTILIZATION, "utilization", False),
    (System.GPU_MEMORY_UTILIZATION, "memory_utilization", False),
    (System.GPU_MEMORY_USED, "memory_used", True),
    (System.GPU_MEMORY_FREE, "memory_free", True),
    (System.GPU_POWER_DRAW, "power_w", True),
    (System.GPU_TEMP, "temperature_c", False),
)


def _gpus(gpus: Sequence[GpuUsage]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, field, summed in _GPU:
        told = [(number, getattr(gpu, field)) for number, gpu in enumerate(gpus)]
        values = [float(value) for _, value in told if value is not None]
        if not values:
            continue
        found[key] = sum(values) if summed else sum(values) / len(values)
        if len(gpus) > 1:
            found |= {f"{key}/{number}": float(value) for number, value in told if value is not None}
    return found
