"""Answers that write themselves: Server-Sent Events, a file with ranges, an archive made on the way."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar
from urllib.parse import quote

import blake3

from gradient_jupyter.api.routes import Connection, Host
from gradient_jupyter.control.data.artifacts import ArtifactDamaged, open_known
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import NotFound, RangeInvalid

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

T = TypeVar("T")
log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
_PIECE = 256 * 1024

#: A zip knows the times from 1980 to 2107 only.
_ZIP_FIRST, _ZIP_LAST = 315532800, 4354819198

#: What users made leaves as an attachment that no browser runs or shows as ours.
_ATTACHMENT = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def message(event: str, data: bytes, identity: str = "") -> bytes:
    """One Server-Sent Event. ``data`` is JSON, so it holds no line ends."""
    head = f"id: {identity}\nevent: {event}\ndata: " if identity else f"event: {event}\ndata: "
    return b"".join((head.encode(), data, b"\n\n"))


class Heart:
    """Beats for every open stream that has been silent for ``every_s``. One timer, however many they are."""

    def __init__(self, every_s: float = HEARTBEAT_S) -> None:
        self._every_s = every_s
        self._silent_since: OrderedDict[Connection, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def heard(self, stream: Connection) -> None:
        """Something was sent over it just now."""
        self._silent_since[stream] = time.monotonic()
        self._silent_since.move_to_end(stream)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._beat)

    def forget(self, stream: Connection) -> None:
        self._silent_since.pop(stream, None)

    def _beat(self) -> None:
        now = time.monotonic()
        while self._silent_since:
            stream, since = next(iter(self._silent_since.items()))
            if now - since < self._every_s:
                # Not for each of them alone: those that are due within a second beat together.
                wait_s = max(1.0, self._every_s - (now - since))
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._beat)
                return
            self.heard(stream)
            stream.remind(b": still here\n\n")
        self._timer = None


class EventStream(Generic[T]):
    """Sends what ``source`` yields as it comes, written by ``encode``, and a comment when nothing does."""

    def __init__(self, host: Host, source: AsyncGenerator[T], encode: Callable[[T], bytes]) -> None:
        self._host = host
        self._source = source
        self._encode = encode

    async def write(self, to: Connection) -> None:
        host = self._host
        host.streams += 1
        try:
            # The first message is awaited before the headers go out: a refusal can still be one.
            first = await anext(self._source)
            await to.begin(
                200,
                {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Cache-Control": "no-store"},
            )
            if data := self._encode(first):
                await to.send(data)
            del first, data
            host.heart.heard(to)
            async for item in self._source:
                await to.send(self._encode(item))
                host.heart.heard(to)
        finally:
            host.streams -= 1
            host.heart.forget(to)
            await self._source.aclose()


class Bytes:
    """A stream of bytes whose length is not known beforehand."""

    def __init__(self, pieces: AsyncIterator[bytes], media: str, name: str) -> None:
        self._pieces = pieces
        self._media = media
        self._name = name

    async def write(self, to: Connection) -> None:
        pieces = aiter(self._pieces)
        first = await anext(pieces, b"")  # what is wrong from the beginning has a status of its own
        attached = f"attachment; filename*=UTF-8''{quote(self._name, safe='')}"
        await to.begin(200, {**_ATTACHMENT, "Content-Type": self._media, "Content-Disposition": attached})
        await to.send(first)
        async for piece in pieces:
            await to.send(piece)


class FileAnswer:
    """One artifact, whole or the range that was asked for. Closes the file.

    Whoever has read a collected artifact to its end has read what was collected: its last piece is sent only
    after its digest was right. Of a range only size and time are known to be right.
    """

    def __init__(self, plane: Plane, file: BinaryIO, artifact: Artifact, wanted: str | None) -> None:
        self._plane = plane
        self._file = file
        self._artifact = artifact
        self._wanted = wanted

    async def write(self, to: Connection) -> None:
        with self._file as file:
            size = os.fstat(file.fileno()).st_size
            span = byte_range(self._wanted, size)
            start, end = span or (0, size)
            name = quote(self._artifact.path.rpartition("/")[2], safe="")
            headers = {
                **_ATTACHMENT,
                "Content-Type": "application/octet-stream",
                "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
                "Content-Length": str(end - start),
                "Accept-Ranges": "bytes",
            }
            if self._artifact.digest:
                headers["ETag"] = f'"{self._artifact.digest}"'
            if span:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            hasher = None
            if self._artifact.digest and end - start == size:
                hasher = blake3.blake3()
            left, begun = end - start, False
            await self._plane.on_files(file.seek, start)
            while left > 0 or not begun:
                piece = await self._plane.on_files(_next, file, min(_PIECE, left), hasher)
                left -= len(piece)
                if left > 0 and not piece:
                    raise ArtifactDamaged(self._artifact.path, "became shorter")
                if left == 0 and hasher is not None and hasher.hexdigest() != self._artifact.digest:
                    log.error("artifact %r has other bytes than were collected", self._artifact.path)
                    raise ArtifactDamaged(self._artifact.path, "has changed")
                if not begun:  # a small one has been verified by now: a refusal can still be one
                    begun = True
                    await to.begin(206 if span else 200, headers)
                if piece:
                    await to.send(piece)


def _next(file: BinaryIO, size: int, hasher: blake3.blake3 | None) -> bytes:
    piece = file.read(size)
    if hasher is not None:
        hasher.update(piece)
    return piece


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open range of a ``Range`` header (RFC 9110 §14); None: all of it. One range only."""
    if not header:
        return None
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match[0].endswith("=-"):
        return None  # another unit, or several ranges: RFC 9110 lets us answer with everything
    first, last = match[1], match[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    if start >= end:
        raise RangeInvalid(
            f"The range {header[:60]} lies outside the {size} bytes of the file.",
            next="Ask for less, or for all.",
        )
    return start, end


class Archive:
    """All artifacts as a zip that is made while it is sent: nothing is kept in memory or on disk.

    A piece is made when the one before it was taken, so a slow reader holds no thread. Closes ``directory``.
    """

    def __init__(self, plane: Plane, directory: int, artifacts: list[Artifact], name: str) -> None:
        self._plane = plane
        self._directory = directory
        self._artifacts = artifacts
        self._name = name

    async def write(self, to: Connection) -> None:
        zipped = _Zip(self._directory, self._artifacts)
        try:
            await to.begin(
                200,
                {
                    **_ATTACHMENT,
                    "Content-Type": "application/zip",
                    "Content-Disposition": f"attachment; filename*=UTF-8''{quote(self._name, safe='')}.zip",
                },
            )
            while piece := await self._plane.on_files(zipped.next):
                await to.send(piece)
        finally:
            # Behind a piece that is just being made for a reader who went away.
            await self._plane.on_files(zipped.close)


class _Zip:
    """The archive, a piece at a time. Its methods block, and may be called from several threads."""

    def __init__(self, directory: int, artifacts: list[Artifact]) -> None:
        self._directory = directory
        self._turn = threading.Lock()
        self._pieces = self._make(artifacts)

    def next(self) -> bytes:
        """The next piece; empty at the end."""
        with self._turn:
            return next(self._pieces, b"")

    def close(self) -> None:
        with self._turn:
            self._pieces.close()
            directory, self._directory = self._directory, -1
            if directory >= 0:
                os.close(directory)

    def _make(self, artifacts: list[Artifact]) -> Generator[bytes, None, None]:
        out = _Out()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for artifact in artifacts:
                for info, data in _entry(self._directory, artifact):
                    with archive.open(info, "w", force_zip64=True) as entry:
                        for piece in data:
                            entry.write(piece)
                            if out.size >= _PIECE:
                                yield out.take()
                if out.size >= _PIECE:
                    yield out.take()
        if out.size:
            yield out.take()


def _entry(directory: int, artifact: Artifact) -> Iterator[tuple[zipfile.ZipInfo, Iterator[bytes]]]:
    """The artifact as an archive's entry. Of a running job: nothing when it has gone since it was listed."""
    try:
        fd = open_known(directory, artifact.path, artifact)
    except NotFound:
        return
    with os.fdopen(fd, "rb") as file:
        moment = time.gmtime(max(_ZIP_FIRST, min(artifact.modified_us // 1_000_000, _ZIP_LAST)))
        info = zipfile.ZipInfo(artifact.path, moment[:6])
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o644 << 16
        yield info, _content(file, artifact)


def _content(file: BinaryIO, artifact: Artifact) -> Iterator[bytes]:
    """As many bytes as were listed. What was collected is verified at its end: an archive with other bytes is
    cut off, never completed."""
    hasher = blake3.blake3() if artifact.digest else None
    left = artifact.size
    while left and (piece := _next(file, min(_PIECE, left), hasher)):
        left -= len(piece)
        yield piece
    if hasher is not None and hasher.hexdigest() != artifact.digest:
        log.error("artifact %r has other bytes than were collected", artifact.path)
        raise ArtifactDamaged(artifact.path, "has changed")


class _Out(io.RawIOBase):
    """A file that only goes forward, for ``zipfile``: holds what was written until it is taken."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        piece = bytes(memoryview(data))
        self._held.append(piece)
        self.size += len(piece)
        return len(piece)

    def take(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        self.size = 0
        return data
