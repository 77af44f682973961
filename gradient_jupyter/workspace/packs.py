"""Many blobs in one request: the client's side. The wire form stands in ``wire``.

What is sent is verified against the scan: a file that has changed since is an error that names it, never a
different snapshot. A large file is read, hashed and compressed a piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import blake3

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import File
from gradient_jupyter.workspace.unpack import StoredBlob, Unpacker
from gradient_jupyter.workspace.wire import (
    END,
    HEADER,
    LENGTH,
    MAGIC,
    PACK_BLOBS,
    PACK_BYTES,
    RAW,
    ZSTD,
    ZSTD_PIECES,
)
from gradient_jupyter.workspace.wording import shown

if TYPE_CHECKING:
    import zstandard

_PIECE = 1 << 20
_CHUNK = 256 << 10
#: Below this there is nothing to win; and what does not shrink by a twentieth is sent as it is.
_WORTH_TRYING = 128
_PAYS = 0.95

__all__ = ["OpenFile", "Pack", "StoredBlob", "Unpacker", "pack"]

OpenFile = Callable[[File], BinaryIO]


@dataclass(frozen=True, slots=True)
class Pack:
    """The body of one upload. Iterating it reads the files, each time anew, so a request can be repeated."""

    files: tuple[File, ...]
    open_file: OpenFile

    def __iter__(self) -> Iterator[bytes]:
        """The body in chunks. ``WorkspaceError`` when a file is no longer the one that was scanned."""
        import zstandard

        compressor = zstandard.ZstdCompressor(level=3)
        buffer = bytearray(MAGIC)
        for file in self.files:
            for part in (
                _small(file, self.open_file, compressor)
                if file.size <= PACK_BYTES
                else _large(file, self.open_file)
            ):
                buffer += part
                if len(buffer) >= _CHUNK:
                    yield bytes(buffer)
                    buffer.clear()
        buffer += HEADER.pack(bytes(32), END, self.count, self.bytes)
        yield bytes(buffer)

    @property
    def count(self) -> int:
        """How many blobs it carries."""
        return len(self.files)

    @property
    def size_hint(self) -> int:
        """How long the body will be at most."""
        pieces = self.bytes // _PIECE + 2
        return len(MAGIC) + HEADER.size * (self.count + 1) + self.bytes + LENGTH.size * pieces + 1024

    # Last, because from here on the name hides the type.
    @property
    def bytes(self) -> int:
        """How much content it carries, before compression."""
        return sum(file.size for file in self.files)


def pack(
    files: Iterable[File], open_file: OpenFile, *, pack_bytes: int = PACK_BYTES, pack_blobs: int = PACK_BLOBS
) -> Iterator[Pack]:
    """The files' contents, each digest once, in packs. ``open_file`` is ``Scan.open_file``."""
    seen: set[str] = set()
    batch: list[File] = []
    size = 0
    for file in files:
        if file.digest in seen:
            continue
        seen.add(file.digest)
        if batch and (size + file.size > pack_bytes or len(batch) >= pack_blobs):
            yield Pack(tuple(batch), open_file)
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield Pack(tuple(batch), open_file)


def _small(file: File, open_file: OpenFile, compressor: zstandard.ZstdCompressor) -> Iterator[bytes]:
    """Verified before the first byte of it is sent."""
    with open_file(file) as source:
        data = _read_at_most(source, file.size + 1)
    digest = blake3.blake3(data)
    if len(data) != file.size or digest.hexdigest() != file.digest:
        raise _changed(file)
    encoded = data
    encoding = RAW
    if len(data) > _WORTH_TRYING:
        smaller = compressor.compress(data)
        if len(smaller) < _PAYS * len(data):
            encoding, encoded = ZSTD, smaller
    yield HEADER.pack(digest.digest(), encoding, len(data), len(encoded))
    yield encoded


def _large(file: File, open_file: OpenFile) -> Iterator[bytes]:
    """A piece at a time. A change shows only at the end; then the pack stays unfinished and counts for
    nothing."""
    import zstandard

    digest = bytes.fromhex(file.digest)
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    left = file.size
    compress: zstandard.ZstdCompressionObj | None = None
    with open_file(file) as source:
        piece = _read_at_most(source, _PIECE)
        if len(zstandard.ZstdCompressor(level=1).compress(piece)) < _PAYS * len(piece):
            compress = zstandard.ZstdCompressor(level=3).compressobj(size=file.size)
            yield HEADER.pack(digest, ZSTD_PIECES, file.size, 0)
        else:
            yield HEADER.pack(digest, RAW, file.size, file.size)
        while piece:
            left -= len(piece)
            if left < 0:
                raise _changed(file)
            hasher.update(piece)
            if compress is None:
                yield piece
            else:
                yield from _piece(compress.compress(piece))
            piece = _read_at_most(source, _PIECE)
    if left or hasher.digest() != digest:
        raise _changed(file)
    if compress is not None:
        yield from _piece(compress.flush())
        yield LENGTH.pack(0)


def _piece(data: bytes) -> Iterator[bytes]:
    if data:
        yield LENGTH.pack(len(data))
        yield data


def _read_at_most(source: BinaryIO, size: int) -> bytes:
    data = source.read(size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (more := source.read(missing)):
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


def _changed(file: File) -> WorkspaceError:
    return WorkspaceError(
        f"'{shown(file.path)}' changed while the directory was being sent.",
        next="Submit again when nothing writes to it, or name it in .gradientignore.",
    )
