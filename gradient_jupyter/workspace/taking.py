"""A stream of known length, as the blobs that a file of a snapshot consists of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import blake3
import msgspec

from gradient_jupyter.resources.snapshot import CHUNK_BYTES, WHOLE_BYTES
from gradient_jupyter.workspace.blobs import RAW, ZSTD, Batch

#: Up to this many bytes are held in memory.
SMALL = 4 << 20
_PIECE = 1 << 20


class Content(NamedTuple):
    """How a file's content is named in a manifest."""

    digest: str
    size: int
    chunks: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


def put(batch: Batch, stream: BinaryIO, size: int) -> Content:
    """Stores the next ``size`` bytes of ``stream``. ``EOFError`` when there are fewer. Blocks."""
    if size <= SMALL:
        return put_data(batch, exactly(stream, size))
    return _put_large(batch, stream, size) if size <= WHOLE_BYTES else _put_chunks(batch, stream, size)


def put_data(batch: Batch, data: bytes) -> Content:
    import zstandard

    digest = blake3.blake3(data).hexdigest()
    smaller = zstandard.ZstdCompressor(level=3).compress(data)
    if len(smaller) < len(data):
        batch.put(digest, ZSTD, len(data), smaller)
    else:
        batch.put(digest, RAW, len(data), data)
    return Content(digest, len(data))


def exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the objects are cut off")
    return data


def _put_large(batch: Batch, stream: BinaryIO, size: int) -> Content:
    """A piece at a time."""
    import zstandard

    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    compress = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    writer = batch.writer(ZSTD, size)
    for piece in _pieces(stream, size):
        hasher.update(piece)
        writer.write(compress.compress(piece))
    writer.write(compress.flush())
    digest = hasher.hexdigest()
    writer.finish(digest)
    return Content(digest, size)


def _put_chunks(batch: Batch, stream: BinaryIO, size: int) -> Content:
    """As ``resources.snapshot`` wants it of what is larger than one blob may be."""
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    chunks: list[str] = []
    left = size
    while left:
        data = exactly(stream, min(left, CHUNK_BYTES))
        left -= len(data)
        hasher.update(data)
        chunks.append(put_data(batch, data).digest)
    return Content(hasher.hexdigest(), size, tuple(chunks))


def _pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = exactly(stream, min(size, _PIECE))
        size -= len(piece)
        yield piece
