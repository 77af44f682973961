"""Points that no run sends: scalars in TensorBoard's files while it runs and at its end, and what it had
written down and not sent when it ended.

While nothing runs, nothing is looked at. While something does, its files are looked at every few seconds,
less often where that takes long, and a bounded part of them each time. At the end of an attempt everything
that is left is read before its end is written down, so a person who reads the metrics of a job that is over
has all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from gradient_jupyter.control.measuring.eventfiles import EventFiles
from gradient_jupyter.control.measuring.spool import Spool
from gradient_jupyter.resources.errors import GradientError, NoSpace, TooLarge
from gradient_jupyter.resources.job import Job, Target
from gradient_jupyter.resources.metric import Sample

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_EVERY_S = 5.0
_REST = 10
"""For each second of reading so many without."""
_BYTES = 2 * 2**20
"""Of one run at a time, while it runs."""
_INLINE_S = 0.5
_TOLD = 3
"""Files that are named."""

Key = tuple[str, int]


class _Files:
    """One attempt's event files, and whose turn it is with them."""

    def __init__(self, files: EventFiles) -> None:
        self.files = files
        self.turn = asyncio.Lock()
        self.full = False
        """The store takes no more of this run."""


class _Ending:
    def __init__(self, task: asyncio.Task[list[str]], target: Target) -> None:
        self.task = task
        self.target = target
        self.stopped = asyncio.Event()


class Gathering:
    """Of one event loop."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._watched: dict[Key, _Files] = {}
        self._watching: asyncio.Task[None] | None = None
        self._endings: dict[Key, _Ending] = {}
        self._closing = False

    def watch(self, job: Job) -> None:
        """The job's attempt runs. Said as often as anybody likes."""
        key = (job.id, job.attempt)
        if self._closing or key in self._watched or key in self._endings:
            return
        self._watched[key] = self._of(key)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="event-files")

    async def finish(self, job: Job) -> list[str] | None:
        """Reads everything that is left of the job's attempt, which is over. What a person should know of it;
        None: it takes longer, and the reconciler looks at the job again when it is done. Raises ``NoSpace``
        and ``OSError``: then it is tried again, unless somebody does not want to wait for it any more."""
        key = (job.id, job.attempt)
        ending = self._endings.get(key)
        if ending is None:
            if job.target is Target.DELETED:
                return []
            task = asyncio.create_task(self._finish(key, job.target), name=f"gather-{job.id}")
            ending = self._endings[key] = _Ending(task, job.target)
            await asyncio.wait({task}, timeout=_INLINE_S)
            if not task.done():
                task.add_done_callback(lambda _: self._plane.reconciler.look_at(job.id))
        elif job.target is not ending.target:
            ending.stopped.set()  # asked for since it began
        if not ending.task.done():
            return None
        if ending.task.exception() is not None:
            del self._endings[key]
        return ending.task.result()

    async def forget(self, job: Job) -> None:
        """The attempt's end is written down."""
        key = (job.id, job.attempt)
        self._endings.pop(key, None)
        await self._plane.points.release(self._plane.layout.attempt(*key))

    async def close(self) -> None:
        self._closing = True
        tasks = [ending.task for ending in self._endings.values()]
        if self._watching is not None:
            tasks.append(self._watching)  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _of(self, key: Key) -> _Files:
        return _Files(EventFiles(self._plane.layout.attempt(*key) / "artifacts"))

    async def _watch(self) -> None:
        try:
            while self._watched and not self._closing:
                began = time.monotonic()
                for key, one in list(self._watched.items()):
                    claim = self._plane.queue.claims.get(key[0])
                    if claim is None or claim.attempt != key[1]:
                        self._watched.pop(key, None)
                        continue
                    try:
                        async with one.turn:
                            if self._watched.get(key) is one and not one.full:
                                await self._store(key, one.files.pieces(_BYTES))
                    except TooLarge as error:
                        one.full = True
                        log.info("%s: its event files are not read any more: %s", key[0], error.message)
                    except Exception as error:  # of one run; all go on, it too at the next look
                        log.warning("%s: its event files cannot be read now: %s", key[0], error)
                await asyncio.sleep(max(_EVERY_S, _REST * (time.monotonic() - began)))
        finally:
            self._watching = None

    async def _finish(self, key: Key, target: Target) -> list[str]:
        one = self._watched.pop(key, None) or self._of(key)
        spool = Spool(self._plane.layout.attempt(*key) / "spool")
        said = []
        try:
            await self._store(key, spool.pieces(), stopped=True)
            async with one.turn:  # whoever just tails it comes to an end soon
                await self._store(key, one.files.pieces(), stopped=True)
        except (NoSpace, OSError) as error:
            if target is Target.RUN and not self._endings[key].stopped.is_set():
                raise  # it is tried again
            said.append(f"Not all metrics were stored: {why(error)}.")
        except GradientError as error:
            log.warning("%s: not all of its metrics were stored: %s", key[0], error)
            said.append(f"Not all metrics were stored: {error.message}")
        if spool.unreadable:
            said.append(f"{_lines(spool.unreadable)} of what gradient_job had not sent cannot be read.")
        failed = spool.failed + one.files.failed
        if failed:
            said.append(f"Not all metrics were stored. What cannot be read: {_some(failed)}.")
        if spool.left_out or one.files.left_out:
            said.append("There were more metrics in its files than are read; the rest was left out.")
        if one.files.skipped:
            said.append(
                f"{one.files.skipped:,} scalars of TensorBoard files were left out, because of their names "
                "or their times. A name, with its directory, has 1 to 250 characters."
            )
        return said

    async def _store(
        self, key: Key, pieces: Generator[list[Sample], None, None], stopped: bool = False
    ) -> None:
        """Piece by piece: the next is read when the one before is stored."""
        plane = self._plane
        directory = plane.layout.attempt(*key)
        ending = self._endings.get(key) if stopped else None
        try:
            while (piece := await plane.on_files(next, pieces, None)) is not None:
                if piece:
                    await plane.points.append(directory, piece)
                if ending is not None and ending.stopped.is_set():
                    return
        finally:
            with contextlib.suppress(ValueError):  # a thread is still in it, and ends soon
                pieces.close()


def why(error: Exception) -> str:
    """What went wrong with the disk, as the end of a sentence."""
    if isinstance(error, NoSpace):
        return "there is no space left on the server's disk"
    words = error.strerror if isinstance(error, OSError) else None
    return (words or str(error)).rstrip(".").lower()


def _some(names: list[str]) -> str:
    return ", ".join(names[:_TOLD]) + (f" and {len(names) - _TOLD:,} more" if len(names) > _TOLD else "")


def _lines(count: int) -> str:
    return f"{count:,} {'line' if count == 1 else 'lines'}"
