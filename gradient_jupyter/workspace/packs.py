"""Many blobs in one request: the client's side. The wire form stands in ``wire``.

A blob is a whole file, or a chunk of a large one. What is sent is verified against what was read before: a
file that has changed since is an error that names it, never a different snapshot. What was appended since
does not matter: the bytes that were there are sent. A large blob is read, hashed and compressed a piece at a
time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import blake3

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import File, Piece
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
#: Of zstd. On one machine the network is no narrower than a core, and 1 takes two thirds of the time of 3
#: for files a sixth larger.
FAR_LEVEL, NEAR_LEVEL = 3, 1

__all__ = ["OpenFile", "Pack", "StoredBlob", "Unpacker", "pack"]

#: A file's bytes from an offset on: ``Contents.open_file``.
OpenFile = Callable[[File, int], BinaryIO]


class _Blob(NamedTuple):
    file: File
    piece: Piece


@dataclass(frozen=True, slots=True)
class Pack:
    """The body of one upload. Iterating it reads the files, each time anew, so a request can be repeated."""

    blobs: tuple[_Blob, ...]
    open_file: OpenFile
    level: int = FAR_LEVEL

    def __iter__(self) -> Iterator[bytes]:
        """The body in chunks. ``WorkspaceError`` when a file is no longer the one that was scanned."""
        import zstandard

        compressor = zstandard.ZstdCompressor(level=self.level)
        buffer = bytearray(MAGIC)
        for blob in self.blobs:
            for part in (
                _small(blob, self.open_file, compressor)
                if blob.piece.size <= PACK_BYTES
                else _large(blob, self.open_file, self.level)
            ):
                if len(part) >= _CHUNK:
                    yield bytes(buffer)
                    buffer.clear()
                    yield part
                    continue
                buffer += part
                if len(buffer) >= _CHUNK:
                    yield bytes(buffer)
                    buffer.clear()
        buffer += HEADER.pack(bytes(32), END, self.count, self.bytes)
        yield bytes(buffer)

    @property
    def count(self) -> int:
        """How many blobs it carries."""
        return len(self.blobs)

    @property
    def files(self) -> frozenset[str]:
        """The files it carries, or a part of: their digests."""
        return frozenset(blob.file.digest for blob in self.blobs)

    @property
    def size_hint(self) -> int:
        """How long the body will be at most."""
        pieces = self.bytes // _PIECE + 2
        return len(MAGIC) + HEADER.size * (self.count + 1) + self.bytes + LENGTH.size * pieces + 1024

    # Last, because from here on the name hides the type.
    @property
    def bytes(self) -> int:
        """How much content it carries, before compression."""
        return sum(blob.piece.size for blob in self.blobs)


def pack(
    files: Iterable[File],
    open_file: OpenFile,
    *,
    wanted: Collection[str] | None = None,
    level: int = FAR_LEVEL,
    pack_bytes: int = PACK_BYTES,
    pack_blobs: int = PACK_BLOBS,
) -> Iterator[Pack]:
    """The files' contents, each blob once, in packs: all of them, or those whose digests are ``wanted``."""
    seen: set[str] = set()
    batch: list[_Blob] = []
    size = 0
    for file in files:
        for piece in file.blobs():
            if piece.digest in seen or (wanted is not None and piece.digest not in wanted):
                continue
            seen.add(piece.digest)
            if batch and (size + piece.size > pack_bytes or len(batch) >= pack_blobs):
                yield Pack(tuple(batch), open_file, level)
                batch, size = [], 0
            batch.append(_Blob(file, piece))
            size += piece.size
    if batch:
        yield Pack(tuple(batch), open_file, level)


def _small(blob: _Blob, open_file: OpenFile, compressor: zstandard.ZstdCompressor) -> Iterator[bytes]:
    """Verified before the first byte of it is sent."""
    with open_file(blob.file, blob.piece.offset) as source:
        data = _read_at_most(source, blob.piece.size)
    digest = blake3.blake3(data)
    if len(data) != blob.piece.size or digest.hexdigest() != blob.piece.digest:
        raise _changed(blob.file)
    encoded = data
    encoding = RAW
    if len(data) > _WORTH_TRYING:
        smaller = compressor.compress(data)
        if len(smaller) < _PAYS * len(data):
            encoding, encoded = ZSTD, smaller
    yield HEADER.pack(digest.digest(), encoding, len(data), len(encoded))
    yield encoded


def _large(blob: _Blob, open_file: OpenFile, level: int) -> Iterator[bytes]:
    """A piece at a time. A change shows only at the end; then the pack stays unfinished and counts for
    nothing."""
    import zstandard

    size = blob.piece.size
    digest = bytes.fromhex(blob.piece.digest)
    hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
    left = size
    compress: zstandard.ZstdCompressionObj | None = None
    with open_file(blob.file, blob.piece.offset) as source:
        piece = _read_at_most(source, min(_PIECE, left))
        if len(zstandard.ZstdCompressor(level=1).compress(piece)) < _PAYS * len(piece):
            compress = zstandard.ZstdCompressor(level=level).compressobj(size=size)
            yield HEADER.pack(digest, ZSTD_PIECES, size, 0)
        else:
            yield HEADER.pack(digest, RAW, size, size)
        while piece:
            left -= len(piece)
            hasher.update(piece)
            if compress is None:
                yield piece
            else:
                yield from _piece(compress.compress(piece))
            piece = _read_at_most(source, min(_PIECE, left)) if left else b""
    if left or hasher.digest() != digest:
        raise _changed(blob.file)
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
