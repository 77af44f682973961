"""Metrics on their way into the files of their runs.

One thread writes: what waits when it becomes free goes into one transaction for each file, and whoever sent
it is told after that commit, when the server's death can no longer lose it. Once a second what was written is
synced, so that a power loss takes at most the last second. Files are opened when they are written to, and
closed when nothing came for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from gradient_jupyter.control.apart import Apart
from gradient_jupyter.resources.errors import GradientError, NotFound
from gradient_jupyter.resources.metric import Buckets, Kind, Sample, Series, Summary
from gradient_jupyter.store import buckets, guarded, pointfile, series
from gradient_jupyter.store.points import PointFile

log = logging.getLogger(__name__)
T = TypeVar("T")

_SYNC_S = 1.0
_IDLE_S = 30.0
_OPEN = (64, 512)
"""Files that are kept open: at least, and where descriptors are plenty."""
_DESCRIPTORS = 16
"""Of so many that this process may have, one file: SQLite takes three for each."""
_GROUP = 512
_READERS = 2
_READ_S = 3 * pointfile.WITHIN_S
"""A reader that takes longer does not come back: what it reads sees to that itself."""
_CLOSE_S = 30.0


class _Write(NamedTuple):
    directory: Path
    kind: Kind
    samples: Sequence[Sample]
    done: asyncio.Future[None]


class _Close(NamedTuple):
    directory: Path
    done: asyncio.Future[None]


class Points:
    """Of one event loop. ``directory`` is an attempt's, or another run's, and exists."""

    def __init__(self, most_points: int, most_series: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._most_points = most_points
        self._most_series = most_series
        self._waiting: queue.SimpleQueue[_Write | _Close | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="points-writer", daemon=True)
        self._readers = Apart("points-reader", _READERS, _READ_S)
        self._files: OrderedDict[Path, PointFile] = OrderedDict()
        least, most = _OPEN
        self._most_open = max(least, min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _DESCRIPTORS))
        self._used: dict[Path, float] = {}
        self._dirty: set[Path] = set()
        self._syncing: threading.Thread | None = None
        self._watchers: dict[Path, set[Callable[[], None]]] = {}

    def start(self) -> None:
        self._writer.start()

    async def close(self) -> None:
        """Stores what waits, and leaves whole files. What hangs is left behind."""
        if self._writer.is_alive():
            self._waiting.put(None)
        for thread in (self._writer, self._syncing):
            if thread is not None and thread.is_alive():
                await asyncio.to_thread(thread.join, _CLOSE_S)
                if thread.is_alive():
                    log.error("%s does not end: metrics of the last moment may be lost", thread.name)

    async def append(self, directory: Path, samples: Sequence[Sample], kind: Kind = Kind.CUSTOM) -> None:
        """Returns when they are stored, those that were stored before included. Raises ``TooLarge`` beyond
        what one run may write, ``NoSpace`` and ``ServerError`` for what the disk does; nothing of them is
        stored then."""
        done = self._loop.create_future()
        self._waiting.put(_Write(directory, kind, samples, done))
        await done  # a caller that is cancelled leaves it; what was handed over is written all the same
        for watcher in self._watchers.get(directory, ()):
            watcher()

    async def release(self, directory: Path) -> None:
        """Lets go of a run's file, and leaves it whole: nothing is to come, or it is to be deleted."""
        if not self._writer.is_alive():
            return
        done = self._loop.create_future()
        self._waiting.put(_Close(directory, done))
        await asyncio.shield(done)

    @contextlib.contextmanager
    def watched(self, directory: Path, watcher: Callable[[], None]) -> Iterator[None]:
        """``watcher`` is called, on the loop, whenever points were stored."""
        self._watchers.setdefault(directory, set()).add(watcher)
        try:
            yield
        finally:
            watchers = self._watchers[directory]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[directory]

    async def summaries(self, directory: Path) -> list[Summary]:
        return await self._read(lambda: series.summaries(directory))

    async def read(
        self,
        directory: Path,
        key: str,
        after: series.Cursor | None = None,
        limit: int = 10_000,
        kind: Kind | None = None,
    ) -> Series:
        """Raises ``NotFound``."""
        return await self._of(key, kind, lambda kind: series.points(directory, kind, key, after, limit))

    async def buckets(
        self,
        directory: Path,
        key: str,
        most: int,
        kind: Kind | None = None,
        steps: tuple[int | None, int | None] = (None, None),
        times_us: tuple[int | None, int | None] = (None, None),
    ) -> Buckets:
        """Raises ``NotFound``."""
        return await self._of(
            key, kind, lambda kind: buckets.buckets(directory, kind, key, most, steps, times_us)
        )

    async def _of(self, key: str, kind: Kind | None, work: Callable[[Kind], T | None]) -> T:
        """Without a kind it is the run's own series, and the platform's where it has none of that name."""

        def look() -> T | None:
            for each in (kind,) if kind is not None else (Kind.CUSTOM, Kind.SYSTEM):
                if (found := work(each)) is not None:
                    return found
            return None

        found = await self._read(look)
        if found is None:
            raise NotFound(
                f"There is no metric {key!r} here.",
                next="`gradient jobs metrics JOB` shows those there are.",
                code="no-such-metric",
            )
        return found

    async def _read(self, work: Callable[[], T]) -> T:
        return await self._readers.run(work)

    # The writer's thread.

    def _write_loop(self) -> None:
        kept = time.monotonic()
        while True:
            group: list[_Write] = []
            closing: list[_Close] = []
            last = False
            timeout = _IDLE_S if not self._dirty else max(0.0, kept + _SYNC_S - time.monotonic())
            try:
                item = self._waiting.get(timeout=timeout) if self._files else self._waiting.get()
                while True:
                    if item is None:
                        last = True
                    elif isinstance(item, _Close):
                        closing.append(item)
                    else:
                        group.append(item)
                    # What comes behind a request to close is not written before it.
                    if last or closing or len(group) >= _GROUP:
                        break
                    item = self._waiting.get_nowait()
            except queue.Empty:
                pass
            self._write(group)
            for each in closing:
                self._make_whole(each.directory)
                self._tell([(each.done, None)])
            now = time.monotonic()
            if last or now >= kept + _SYNC_S:  # not with each point: whoever sent it waits for this thread
                kept = now
                if self._dirty:
                    self._sync()
                self._close_idle(now, everything=last)
            if last:
                return

    def _write(self, group: list[_Write]) -> None:
        by_file: dict[tuple[Path, Kind], list[_Write]] = {}
        for write in group:
            by_file.setdefault((write.directory, write.kind), []).append(write)
        for (directory, kind), writes in by_file.items():
            errors: Sequence[Exception | None]
            try:
                errors = self._file(directory).append(kind, [write.samples for write in writes])
                self._dirty.add(directory)
            except Exception as error:
                # What is remembered of the file may not be so.
                self._release(directory)
                if not isinstance(error, GradientError | OSError):
                    log.exception("%s: its metrics were not stored", directory)
                errors = [error] * len(writes)
            self._tell([(write.done, error) for write, error in zip(writes, errors, strict=True)])

    def _file(self, directory: Path) -> PointFile:
        file = self._files.get(directory)
        if file is None:
            if len(self._files) >= self._most_open:
                self._release(next(iter(self._files)))
            file = self._files[directory] = PointFile(directory, self._most_points, self._most_series)
        self._files.move_to_end(directory)
        self._used[directory] = time.monotonic()
        return file

    def _release(self, directory: Path) -> None:
        self._used.pop(directory, None)
        self._dirty.discard(directory)
        if (file := self._files.pop(directory, None)) is not None:
            file.close()

    def _make_whole(self, directory: Path) -> None:
        """One file, which needs no other beside it: also where a server that was killed left several, and
        nothing has come since."""
        if directory not in self._files and pointfile.in_pieces(directory / pointfile.NAME):
            try:
                self._file(directory)
            except (GradientError, OSError) as error:
                log.warning("%s: its metrics stay in several files: %s", directory, error)
        self._release(directory)

    def _sync(self) -> None:
        """On a thread of its own: a slow disk must keep neither this one from its points nor a reader."""
        if self._syncing is None or not self._syncing.is_alive():
            self._syncing = threading.Thread(
                target=_sync, args=(tuple(self._dirty),), name="points-sync", daemon=True
            )
            self._syncing.start()
            self._dirty.clear()

    def _close_idle(self, now: float, everything: bool) -> None:
        for directory, used in tuple(self._used.items()):
            if everything or now - used > _IDLE_S:
                self._release(directory)

    def _tell(self, outcomes: Sequence[tuple[asyncio.Future[None], Exception | None]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, outcomes)


def _sync(directories: Sequence[Path]) -> None:
    for directory in directories:
        try:
            guarded.sync(directory / pointfile.NAME)
        except OSError as error:
            log.warning("%s: its metrics may not be on the disk: %s", directory, error)


def _settle(outcomes: Sequence[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for done, error in outcomes:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
            done.exception()  # who asked may have gone
