"""The server's side of a pack: bytes in, verified blobs out, with bounded memory whatever is sent.

Nothing of a pack that is refused becomes visible. Of one that is cut off, what had arrived whole is kept, so
that an upload goes on where it stopped. Payloads are stored as they came; they
are decoded only to be counted and hashed, a buffer at a time, so a decompression bomb is noticed at the
first byte over its declared size and never written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING, cast

import blake3

from gradient_jupyter.resources.errors import InvalidRequest, TooLarge
from gradient_jupyter.workspace import wire
from gradient_jupyter.workspace.blobs import (
    MAX_WINDOW,
    RAW,
    SMALL_DECODED,
    SMALL_STORED,
    ZSTD,
    Batch,
    BlobStore,
    Stored,
    Writer,
)
from gradient_jupyter.workspace.wording import size_text

if TYPE_CHECKING:
    import zstandard

_MAX_PIECE = 16 << 20

StoredBlob = Stored


class Unpacker:
    """Decodes one pack into ``blobs``. Feed it chunks of any size; each call blocks. Not for several threads.

    ``max_blob_bytes`` bounds one blob's decoded size; ``max_pack_bytes`` the length of the pack, and the
    decoded sizes of all its blobs together unless it holds one large blob. After an error everything has
    been aborted.
    """

    def __init__(
        self,
        blobs: BlobStore,
        *,
        max_blob_bytes: int,
        max_pack_bytes: int,
        max_blobs: int = 4 * wire.PACK_BLOBS,
    ) -> None:
        self._batch: Batch = blobs.batch()
        # One for all small blobs: to make one costs as much as to decode a few kilobytes.
        self._decompressor: zstandard.ZstdDecompressor | None = None
        self._max_blob = max_blob_bytes
        self._max_pack = max_pack_bytes
        self._max_blobs = max_blobs
        self._fed = 0
        self._buffer = bytearray()
        self._need = len(wire.MAGIC)
        self._step: Callable[[bytes], None] = self._magic
        self._blob: _Incoming | None = None
        self._left = 0  # of the payload, or of the piece, that goes straight to the blob
        self._count = 0
        self._decoded = 0
        self._ended = False
        self._failed = False

    def feed(self, chunk: bytes) -> None:
        """The pack's next bytes. Raises ``InvalidRequest``, ``TooLarge`` or ``NoSpace``."""
        if self._failed:
            raise _bad("It has been refused before")
        try:
            self._feed(memoryview(chunk))
        except BaseException:
            self.abort()
            raise

    def close(self) -> tuple[StoredBlob, ...]:
        """The pack is complete: its blobs, durable and visible. Raises ``InvalidRequest`` when it is not."""
        try:
            if self._failed or not self._ended:
                raise _bad("It is cut off")
            return self._batch.commit()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._batch.abort()

    def cut(self) -> tuple[StoredBlob, ...]:
        """No more will come: the blobs that came whole, durable and visible. Nothing is kept of what has been
        refused."""
        if self._failed:
            return ()
        try:
            self._batch.drop_open()
            return self._batch.commit()
        finally:
            self.abort()

    @property
    def digests(self) -> tuple[str, ...]:
        """What has arrived whole so far, and becomes visible with ``close``."""
        return self._batch.digests

    def abort(self) -> None:
        """Forget everything; no file remains. Always allowed."""
        self._failed = True
        self._buffer.clear()
        self._blob = None
        self._batch.abort()

    def _feed(self, view: memoryview) -> None:
        self._fed += len(view)
        if self._fed > self._max_pack:
            raise TooLarge(
                f"The pack is larger than the limit of {size_text(self._max_pack)}.",
                next="Send fewer files in one request.",
            )
        while view:
            if self._left:
                assert self._blob is not None
                part = view[: self._left]
                self._blob.write(part)
                self._left -= len(part)
                view = view[len(part) :]
                if not self._left:
                    self._payload_read()
                continue
            if self._ended:
                raise _bad("Something follows its end")
            part = view[: self._need - len(self._buffer)]
            self._buffer += part
            view = view[len(part) :]
            if len(self._buffer) == self._need:
                data = bytes(self._buffer)
                self._buffer.clear()
                self._step(data)

    def _expect(self, size: int, step: Callable[[bytes], None]) -> None:
        self._need, self._step = size, step

    def _magic(self, data: bytes) -> None:
        if data != wire.MAGIC:
            raise _bad("It does not begin like a pack")
        self._expect(wire.HEADER.size, self._header)

    def _header(self, data: bytes) -> None:
        digest, encoding, decoded, encoded = wire.HEADER.unpack(data)
        if encoding == wire.END:
            if any(digest) or decoded != self._count or encoded != self._decoded:
                raise _bad("Its end does not agree with its content")
            self._ended = True
            return
        self._check(digest, encoding, decoded, encoded)
        self._count += 1
        self._decoded += decoded
        small = encoding != wire.ZSTD_PIECES and encoded <= SMALL_STORED and decoded <= SMALL_DECODED
        kind = RAW if encoding == wire.RAW else ZSTD
        if small and kind == ZSTD and self._decompressor is None:
            self._decompressor = _decompressor()
        self._blob = _Incoming(
            self._batch, digest, kind, decoded, self._decompressor if small else None, small
        )
        if encoding == wire.ZSTD_PIECES:
            self._expect(wire.LENGTH.size, self._piece)
        else:
            self._left = encoded
            self._expect(wire.HEADER.size, self._header)
            if not encoded:
                self._payload_read()

    def _check(self, digest: bytes, encoding: int, decoded: int, encoded: int) -> None:
        if encoding not in (wire.RAW, wire.ZSTD, wire.ZSTD_PIECES):
            raise _bad(f"It has a blob of the unknown encoding {encoding}")
        if decoded > self._max_blob:
            raise TooLarge(
                f"A file of {size_text(decoded)} is larger than the limit of {size_text(self._max_blob)}.",
                next="Keep large data on /storage, or name the file in .gradientignore.",
            )
        if self._decoded + decoded > max(self._max_pack, self._max_blob):
            raise TooLarge(
                f"The pack holds more than the limit of {size_text(self._max_pack)}.",
                next="Send fewer files in one request.",
            )
        if self._count >= self._max_blobs:
            raise TooLarge(
                f"The pack holds more than {self._max_blobs} files.", next="Send fewer files in one request."
            )
        if encoding == wire.RAW and encoded != decoded:
            raise _bad("A raw blob has two sizes")
        if encoding == wire.ZSTD_PIECES and encoded:
            raise _bad("A blob in pieces has a size of its own")
        if digest.hex() in self._batch:
            raise _bad("It holds a blob twice")

    def _piece(self, data: bytes) -> None:
        (size,) = wire.LENGTH.unpack(data)
        if size > _MAX_PIECE:
            raise _bad("A piece is too long")
        self._left = size
        if not size:
            self._finish_blob()
            self._expect(wire.HEADER.size, self._header)

    def _payload_read(self) -> None:
        if self._step != self._piece:
            self._finish_blob()

    def _finish_blob(self) -> None:
        assert self._blob is not None
        self._blob.finish()
        self._blob = None


class _Incoming:
    """One blob on its way from the pack into the batch: stored as it comes, decoded to be verified."""

    def __init__(
        self,
        batch: Batch,
        digest: bytes,
        encoding: int,
        size: int,
        decompressor: zstandard.ZstdDecompressor | None,
        small: bool,
    ) -> None:
        self._batch = batch
        self._digest = digest
        self._encoding = encoding
        self._size = size
        self._collected: bytearray | None = bytearray() if small else None
        self._decompressor = decompressor
        self._hasher = blake3.blake3()
        self._seen = 0
        self._writer: Writer | None = None
        self._decoder: zstandard.ZstdDecompressionWriter | None = None
        if not small:
            self._writer = batch.writer(encoding, size)
            if encoding == ZSTD:
                # It hands each full buffer to ``_Counting``, which ends it at the first byte too many.
                self._decoder = _decompressor().stream_writer(
                    cast("IO[bytes]", _Counting(self._decoded)), closefd=False
                )

    def write(self, encoded: memoryview) -> None:
        if self._collected is not None:
            self._collected += encoded
            return
        assert self._writer is not None
        if self._decoder is None:
            self._decoded(encoded)
        else:
            import zstandard

            try:
                self._decoder.write(encoded)
            except zstandard.ZstdError:
                raise _bad("A blob does not decode") from None
        self._writer.write(encoded)

    def finish(self) -> None:
        if self._collected is None:
            assert self._writer is not None
            self._verify()
            self._writer.finish(self._digest.hex())
            return
        encoded = bytes(self._collected)
        self._decoded(encoded if self._encoding == RAW else self._decode(encoded))
        self._verify()
        self._batch.put(self._digest.hex(), self._encoding, self._size, encoded)

    def _decode(self, encoded: bytes) -> bytes:
        import zstandard

        try:
            # The frame's own header decides how much memory is taken, so it has to agree with the pack's.
            if zstandard.frame_content_size(encoded) not in (-1, self._size):
                raise _bad("A blob declares two sizes")
            assert self._decompressor is not None
            return self._decompressor.decompress(encoded, max_output_size=max(self._size, 1))
        except zstandard.ZstdError:
            raise _bad("A blob does not decode") from None

    def _decoded(self, data: bytes | memoryview) -> None:
        self._seen += len(data)
        if self._seen > self._size:
            raise _bad("A blob decodes to more than it declares")
        self._hasher.update(data)

    def _verify(self) -> None:
        if self._seen != self._size:
            raise _bad("A blob decodes to less than it declares")
        if self._hasher.digest() != self._digest:
            raise InvalidRequest(
                f"What was sent as {self._digest.hex()} has another digest.",
                next="Submit again; a file may have changed on the way.",
                code="digest-mismatch",
            )


class _Counting:
    """What the decompressor writes to."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def write(self, data: bytes) -> int:
        self._take(data)
        return len(data)


def _decompressor() -> zstandard.ZstdDecompressor:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)


def _bad(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"The pack cannot be read. {reason}.", next="Submit again with a current client.", code="bad-pack"
    )
