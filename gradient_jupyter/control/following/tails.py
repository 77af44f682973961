"""The logs that somebody reads: one reader for each, however many follow it, and no descriptor in between.

The file is the truth and is only ever read here: the task's supervisor (or, for engines elsewhere, their
pump) writes it. It is opened for each read and closed again, so that what is followed is limited by memory,
not by descriptors. That a log grew is told by the engine's hints; as these may be lost, all the logs that are
followed are looked at now and then, together and at a bounded cost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from gradient_jupyter.control.changes import Changes
from gradient_jupyter.control.following.feeds import Batch, Feed, Kept
from gradient_jupyter.engines.framedlog import DamagedLog, Reader, whole_characters
from gradient_jupyter.resources.errors import ServerError
from gradient_jupyter.resources.log import LogPiece

P = ParamSpec("P")
T = TypeVar("T")

#: Decoded bytes that are read at once: no less while there are more, and less than twice as many.
READ = 128 * 1024
LOOK_S = 1.0
#: How many logs one look looks at; with more of them each has its turn less often.
_LOOKED_AT = 256

NAMES = {1: "stdout", 2: "stderr", 3: "platform"}


class Position(msgspec.Struct, frozen=True):
    """Where in which log. ``epoch`` 0: at the beginning of whichever."""

    epoch: int = 0
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"


class Piece(msgspec.Struct, frozen=True):
    """A part of one stream, and the position after it."""

    after: Position
    piece: LogPiece


Encode = Callable[[Sequence[Piece]], bytes]


class LogFile:
    """Reads one log at any place. Its methods block, and are called one at a time; it holds no descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: Reader | None = None

    def epoch(self) -> int:
        """0 while there is no log."""
        with self._opened() as reader:
            if not reader.epoch:
                reader.refresh()
            return reader.epoch

    def size(self) -> int:
        """Decoded bytes that are there now."""
        with self._opened() as reader:
            return reader.refresh()

    def read(self, offset: int) -> tuple[list[Piece], bool]:
        """What follows, neighbours of one stream joined, each piece ending between characters; and whether
        there may be more behind it."""
        with self._opened() as reader:
            chunks = reader.read(offset, READ, whole=True)
            epoch, damaged = reader.epoch, reader.damage is not None
        cut = sum(len(chunk.data) for chunk in chunks) >= READ
        pieces: list[Piece] = []
        for first in range(len(chunks)):
            stream = chunks[first].stream
            if first and chunks[first - 1].stream == stream:
                continue
            end = first + 1
            while end < len(chunks) and chunks[end].stream == stream:
                end += 1
            data = b"".join(chunk.data for chunk in chunks[first:end])
            if cut and end == len(chunks):
                # Frames end between characters; where our own limit cut one, the rest comes next time.
                data = data[: whole_characters(data)]
            offset += len(data)
            text = data.decode("utf-8", "replace")
            piece = LogPiece(time_us=chunks[end - 1].time_us, stream=NAMES.get(stream, "platform"), text=text)
            pieces.append(Piece(Position(epoch, offset), piece))
        # Behind what stands before a damage there is more to be told, if not to be shown.
        return pieces, cut or damaged

    def read_bytes(self, offset: int) -> bytes:
        with self._opened() as reader:
            return b"".join(chunk.data for chunk in reader.read(offset, READ, whole=True))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Reader]:
        """Damage at rest is named, and nothing is shown in its place."""
        try:
            if self._reader is None:
                self._reader = Reader(self._path)
            yield self._reader
        except DamagedLog as damage:
            raise ServerError(
                f"The log is damaged: {damage}.",
                next="What stands before the damage was shown; the file itself is left as it is.",
                code="log-damaged",
            ) from damage
        except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise ServerError(
                f"The log is damaged: it cannot be read ({error}).",
                next="The file itself is left as it is.",
                code="log-damaged",
            ) from error
        finally:
            if self._reader is not None:
                self._reader.park()


class Tail(Feed):
    """One attempt's log as its followers share it."""

    def __init__(self, tails: Tails, path: Path, encode: Encode) -> None:
        super().__init__(tails.kept, self._next)
        self.path = path
        self.users = 0
        self.file_size: int | None = None
        """When it was last looked at."""
        self._tails = tails
        self._file = LogFile(path)
        self._encode = encode
        self._turn = asyncio.Lock()
        self._epoch = 0
        self._whole: int | None = None

    def log_grew(self) -> None:
        self.stir()
        self.followers.ring()

    def job_changed(self) -> None:
        """Whoever hears of the change reads first what was written before it, hints or no hints."""
        self.stir()

    def queue_moved(self) -> None:
        """That concerns no log."""

    async def epoch(self) -> int:
        """0 while there is no log. Raises ``ServerError`` when there is something else."""
        if not self._epoch:
            self._epoch = await self._blocking(self._file.epoch)
        return self._epoch

    async def size(self) -> int:
        return await self._blocking(self._file.size)

    async def whole(self, load: Callable[[], Awaitable[int]]) -> int:
        """Decoded bytes it had when its attempt ended, as far as is known. ``load`` is asked once."""
        async with self._turn:
            if self._whole is None:
                self._whole = await load()
            return self._whole

    async def _next(self, offset: int) -> Batch | None:
        return await self._blocking(self._read, offset)

    def _read(self, offset: int) -> Batch | None:
        pieces, more = self._file.read(offset)
        if not pieces:
            return None
        return Batch(pieces[-1].after.offset, self._encode(pieces), more)

    async def _blocking(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turn:
            return await self._tails.run(work, *args, **kwargs)


class Tails:
    """All of them. ``open`` one for as long as it is followed."""

    def __init__(self, changes: Changes, kept: Kept) -> None:
        self.kept = kept
        self._changes = changes
        self._open: dict[Path, tuple[Tail, contextlib.ExitStack]] = {}
        self._to_look_at: deque[Tail] = deque()
        self._looking: asyncio.Task[None] | None = None
        # Not the pool for file trees: a log is not to wait until artifacts are hashed.
        self._threads = ThreadPoolExecutor(2, "logs")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **kwargs))

    @contextlib.contextmanager
    def open(self, job_id: str, path: Path, encode: Encode) -> Iterator[Tail]:
        """``encode`` is the same for everyone who reads the same log."""
        if path not in self._open:
            tail, listening = Tail(self, path, encode), contextlib.ExitStack()
            listening.enter_context(self._changes.of_job(job_id, tail))
            self._open[path] = tail, listening
            self._to_look_at.append(tail)
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_forever(), name="look at logs")
        tail, listening = self._open[path]
        tail.users += 1
        try:
            yield tail
        finally:
            tail.users -= 1
            if not tail.users:
                listening.close()
                tail.close()
                del self._open[path]
                self._to_look_at.remove(tail)
                if self._looking is not None and not self._open:
                    self._looking.cancel()
                    self._looking = None

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """At those logs whose turn it is: whoever follows one that grew unnoticed is woken."""
        some = [self._to_look_at[n] for n in range(min(_LOOKED_AT, len(self._to_look_at)))]
        self._to_look_at.rotate(-len(some))
        for tail, size in zip(some, await self.run(_sizes, [tail.path for tail in some]), strict=True):
            if tail.file_size != size:
                tail.file_size = size
                tail.log_grew()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        await asyncio.to_thread(self._threads.shutdown)


def _sizes(paths: list[Path]) -> list[int]:
    """Of files; -1 where there is none."""
    return [_size(path) for path in paths]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
