"""Content-addressed files on the server's disk: a blob is its digest, and a damaged blob is never passed
off as one.

``<root>/ab/abcd…`` holds a header (magic, encoding, decoded size) and the bytes, as they came over the wire:
raw, or as zstd frames. What a name stands for never changes, so putting a blob twice is harmless, and putting
it again replaces a copy that has been damaged.

Who may see which blob is not known here.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import stat
import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import blake3

from gradient_jupyter.resources.errors import InvalidRequest, NoSpace, ServerError
from gradient_jupyter.workspace import durable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RAW, ZSTD = 0, 1
#: More window than any level up to 19 wants for our sizes; what needs more is made to cost memory.
MAX_WINDOW = 8 << 20

_HEADER = struct.Struct("<7sBQ")
_MAGIC = b"GRBLOB1"
_PIECE = 1 << 20
#: Up to here (as stored, and decoded) a blob is read, decoded and verified in one go.
SMALL_STORED, SMALL_DECODED = 1 << 20, 4 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEFTOVER_SECONDS = 24 * 3600
#: From here on one ``syncfs`` is cheaper than an ``fsync`` for each.
_FEW = 4


class Damaged(ServerError):
    """A blob's bytes on our disk are not the ones its name stands for, or are gone."""

    default_code = "blob-damaged"

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(
            f"The stored file {digest} is damaged ({reason}).",
            next="Tell the server's administrator: its disk may be failing. Deleting this blob and submitting"
            " the directory again stores it anew.",
        )
        self.digest = digest
        self.reason = reason


class Stored(NamedTuple):
    """A blob that has been written: its digest and how many bytes it decodes to."""

    digest: str
    size: int


class BlobStore:
    """The blobs under ``root``, which is made when it is absent, and tidied, unless whoever asks only wants
    to read (``tidy=False``). Every method blocks; threads may share it."""

    def __init__(self, root: Path, *, alone: bool = False, tidy: bool = True) -> None:
        """``alone``: no other process writes here, so whatever is unfinished now will never be finished."""
        self.root = root
        self._root = str(root)  # joining strings is ten times faster than joining paths
        self._temporary = str(root / "tmp")
        if tidy:
            os.makedirs(self._temporary, mode=0o700, exist_ok=True)
            self.remove_leftovers(age_s=0 if alone else _LEFTOVER_SECONDS)

    def has(self, digest: str) -> bool:
        return os.path.isfile(self._path(digest))

    def has_all(self, digests: Iterable[str]) -> bool:
        return all(map(self.has, digests))

    def size(self, digest: str) -> int:
        """How many bytes the blob decodes to, without reading it. ``Damaged`` when it is absent."""
        with self._file(digest) as file:
            return _read_header(digest, file, os.fstat(file.fileno()).st_size).size

    def open(self, digest: str) -> BinaryIO:
        """A reader of the decoded bytes. It raises ``Damaged`` before it would reach a false end: who has
        read to the end has read the right bytes."""
        return io.BufferedReader(_Reader(self._pieces(digest)), _PIECE)

    def copy_to(self, digest: str, fd: int, hasher: blake3.blake3 | None = None) -> int:
        """Write the decoded bytes to ``fd``, and to ``hasher``; how many they were. ``Damaged`` as in
        ``open``."""
        total = 0
        for piece in self._pieces(digest):
            durable.write_all(fd, piece)
            if hasher is not None:
                hasher.update(piece)
            total += len(piece)
        return total

    def put_bytes(self, data: bytes) -> str:
        """Store ``data``, durably; its digest."""
        import zstandard

        digest = blake3.blake3(data).hexdigest()
        smaller = zstandard.ZstdCompressor(level=3).compress(data)
        with self.batch() as batch:
            if len(smaller) < len(data):
                batch.put(digest, ZSTD, len(data), smaller)
            else:
                batch.put(digest, RAW, len(data), data)
            batch.commit()
        return digest

    def space(self, digest: str) -> int:
        """The bytes it takes on the disk; 0 when it is absent."""
        try:
            return _space(os.stat(self._path(digest)))
        except FileNotFoundError:
            return 0

    def delete(self, digest: str) -> int:
        """Remove the blob; the bytes that this freed on the disk, 0 when it was absent."""
        path = self._path(digest)
        try:
            freed = _space(os.stat(path))
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return freed

    def batch(self) -> Batch:
        """Several blobs that become durable, and visible, together. Ended by its ``abort``, also after
        ``commit``: it is a context manager."""
        return Batch(self._root, self._temporary, self._path)

    def _path(self, digest: str) -> str:
        # A digest comes from a request and becomes a path: nothing else may.
        if not _DIGEST.fullmatch(digest):
            raise InvalidRequest("That is not a digest: 64 hexadecimal digits are.", code="bad-digest")
        return f"{self._root}/{digest[:2]}/{digest}"

    def _file(self, digest: str) -> BinaryIO:
        try:
            return open(self._path(digest), "rb", buffering=0)
        except FileNotFoundError:
            raise Damaged(digest, "it is missing") from None
        except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise Damaged(digest, f"it cannot be read: {error.strerror}") from None

    def _pieces(self, digest: str) -> Generator[bytes, None, None]:
        """The decoded bytes. The last piece comes only after everything has been verified, so that a blob of
        one piece is never seen unverified."""
        import zstandard

        with self._file(digest) as opened:
            try:
                stored = os.fstat(opened.fileno()).st_size
                # Most blobs are small, and then a system call less counts for more than a copy.
                file = io.BytesIO(opened.read(stored + 1)) if stored <= SMALL_STORED else opened
                header = _read_header(digest, file, stored)
                large = header.size > SMALL_DECODED
                hasher = blake3.blake3(max_threads=blake3.blake3.AUTO if large else 1)
                total = 0
                held = b""
                for piece in _decoded(header, file):
                    total += len(piece)
                    if total > header.size:
                        break
                    hasher.update(piece)
                    if held:
                        yield held
                    held = piece
            except zstandard.ZstdError:
                raise Damaged(digest, "it does not decode") from None
            except OSError as error:
                raise Damaged(digest, f"it cannot be read: {error.strerror}") from None
            if total != header.size:
                raise Damaged(digest, f"it decodes to another size than {header.size} bytes")
            if hasher.hexdigest() != digest:
                raise Damaged(digest, "its content has another digest")
            if held:
                yield held

    def names(self) -> Iterator[tuple[str, os.stat_result]]:
        """The digest of every stored blob, and its file. Nothing is opened; names that are none of ours are
        passed over."""
        with os.scandir(self.root) as tops:
            places = sorted(top.path for top in tops if len(top.name) == 2)
        for place in places:
            with contextlib.suppress(NotADirectoryError), os.scandir(place) as listing:
                for entry in listing:
                    if _DIGEST.fullmatch(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            yield entry.name, entry.stat(follow_symlinks=False)

    def remove_leftovers(self, *, dry_run: bool = False, age_s: float = _LEFTOVER_SECONDS) -> tuple[int, int]:
        """Removes what a crash left in ``tmp``; how many files and bytes that were. Younger files may belong
        to another process that is still writing."""
        oldest = time.time() - age_s if age_s else float("inf")
        count = freed = 0
        with os.scandir(self._temporary) as listing:
            for entry in listing:
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode) and found.st_mtime < oldest:
                        if not dry_run:
                            os.unlink(entry.path)
                        count, freed = count + 1, freed + found.st_blocks * 512
        return count, freed


class Batch:
    """Blobs on their way into the store. Nothing is visible before ``commit``; ``abort`` leaves nothing
    behind.

    The caller vouches for the digests: what is written here has been verified. Raises ``NoSpace``
    when the disk is full. Not for several threads.
    """

    def __init__(self, root: str, temporary: str, path: Callable[[str], str]) -> None:
        self._root = root
        self._temporary = temporary
        self._path = path
        self._written: dict[str, tuple[str, int]] = {}
        self._open: Writer | None = None
        # Open from the beginning: ``syncfs`` reports the write errors since its descriptor was opened.
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __contains__(self, digest: str) -> bool:
        return digest in self._written

    @property
    def digests(self) -> tuple[str, ...]:
        """What has been written so far."""
        return tuple(self._written)

    def put(self, digest: str, encoding: int, size: int, encoded: bytes) -> None:
        """One blob whose bytes are at hand. ``size`` is of the decoded bytes."""
        writer = self.writer(encoding, size, encoded)
        writer.finish(digest)

    def writer(self, encoding: int, size: int, first: bytes = b"") -> Writer:
        """One blob whose bytes come in pieces. One at a time: finish it before the next."""
        assert self._open is None and self._fd >= 0
        with no_space():
            path = f"{self._temporary}/{secrets.token_hex(16)}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._open = Writer(self, path, fd, size)
        self._open.write(_HEADER.pack(_MAGIC, encoding, size) + first)
        return self._open

    def finished(self, digest: str, path: str, size: int) -> None:
        """Called by the writer."""
        self._open = None
        replaced = self._written.get(digest)
        self._written[digest] = (path, size)
        if replaced is not None:
            os.unlink(replaced[0])

    def commit(self) -> tuple[Stored, ...]:
        """Make everything durable, then visible, then make that durable too."""
        assert self._open is None
        with no_space():
            paths = [path for path, _ in self._written.values()]
            self._sync(paths)
            directories = {self._root}
            done = []
            for digest, (path, size) in list(self._written.items()):
                target = self._path(digest)
                try:
                    os.rename(path, target)
                except FileNotFoundError:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(os.path.dirname(target), 0o700)
                    os.rename(path, target)
                del self._written[digest]
                directories.add(os.path.dirname(target))
                done.append(Stored(digest, size))
            self._sync(sorted(directories))
        return tuple(done)

    def drop_open(self) -> None:
        """Forget the blob that is not finished, if there is one."""
        if self._open is not None:
            self._open.discard()
            self._open = None

    def abort(self) -> None:
        """Remove what was not committed. After ``commit``, or a second time, it does nothing."""
        self.drop_open()
        for path, _ in self._written.values():
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._written.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _sync(self, paths: list[str]) -> None:
        if len(paths) > _FEW and durable.sync_file_system(self._fd):
            return
        for path in paths:
            durable.sync_path(path)


class Writer:
    """One blob of a batch."""

    def __init__(self, batch: Batch, path: str, fd: int, size: int) -> None:
        self._batch = batch
        self._path = path
        self._fd = fd
        self._size = size

    def write(self, data: bytes | memoryview) -> None:
        with no_space():
            durable.write_all(self._fd, data)

    def finish(self, digest: str) -> None:
        with no_space():
            fd, self._fd = self._fd, -1
            os.close(fd)
        self._batch.finished(digest, self._path, self._size)

    def discard(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(self._path)


@contextlib.contextmanager
def no_space() -> Iterator[None]:
    """Turns the system's word for a full disk into ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in durable.NO_SPACE:
            raise
        raise NoSpace(
            "The server's disk is full, so this was not stored.",
            next="Delete jobs or artifacts that are no longer needed, or ask the administrator for space.",
        ) from error


class _Header(NamedTuple):
    encoding: int
    size: int
    stored: int


class _Reader(io.RawIOBase):
    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        self._pieces.close()
        super().close()


def _space(status: os.stat_result) -> int:
    return status.st_blocks * 512 or status.st_size


def _read_header(digest: str, file: BinaryIO, stored: int) -> _Header:
    raw = file.read(_HEADER.size)
    if len(raw) != _HEADER.size:
        raise Damaged(digest, "its header is cut off")
    magic, encoding, size = _HEADER.unpack(raw)
    if magic != _MAGIC or encoding not in (RAW, ZSTD):
        raise Damaged(digest, "its header is not one of ours")
    return _Header(encoding, size, stored - _HEADER.size)


def _decoded(header: _Header, file: BinaryIO) -> Iterator[bytes]:
    """The content in pieces, not verified. Never holds more than a piece, or a small blob."""
    if header.encoding == RAW:
        while piece := file.read(_PIECE):
            yield piece
        return
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    source = file
    if header.stored <= SMALL_STORED and header.size <= SMALL_DECODED:
        encoded = file.read(header.stored)
        with contextlib.suppress(zstandard.ZstdError):
            # The size in a frame's own header decides how much memory is taken; it has to agree with ours.
            if zstandard.frame_content_size(encoded) in (-1, header.size):
                content = decompressor.decompress(encoded, max_output_size=max(header.size, 1))
                if len(content) == header.size:
                    yield content
                    return
        # Several frames, perhaps: whatever was accepted when it came can be read.
        source = io.BytesIO(encoded)
    with decompressor.stream_reader(source, closefd=False, read_across_frames=True) as reader:
        while piece := reader.read(_PIECE):
            yield piece
