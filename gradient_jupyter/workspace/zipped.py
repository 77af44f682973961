"""A zip file as a snapshot: what it holds is what is sent, and nothing is unpacked on this side's disk.

No ignore rule is asked, because somebody chose what to put in; a single folder around everything stays, and
executable bits do. What may be wrong with an archive is found by ``zipindex`` before anything is
decompressed; what is decompressed never grows beyond what it was said to be.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import unicodedata
import weakref
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import blake3

from gradient_jupyter.resources.snapshot import CHUNK_BYTES, Directory, Entry, File, Manifest, chunk_count
from gradient_jupyter.workspace.contents import Progress
from gradient_jupyter.workspace.leftout import LeftOut
from gradient_jupyter.workspace.limit import DEFAULT_LIMIT
from gradient_jupyter.workspace.scan import make_file
from gradient_jupyter.workspace.tree import check_manifest
from gradient_jupyter.workspace.wording import listed, shown
from gradient_jupyter.workspace.zipindex import DEFLATED, Index, Member, refused

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE = 1 << 18


class Zipped:
    """A zip file at one moment: ``contents.Contents``."""

    def __init__(self, root: Path, fd: int, manifest: Manifest, members: dict[str, Member], notes: list[str]):
        self.root = root
        self.manifest = manifest
        self.read_bytes = manifest.size
        self.left_out: tuple[LeftOut, ...] = ()
        self.warnings = tuple(notes)
        self._fd = fd
        self._members = members
        self._parked: dict[str, _Inflating] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, fd)

    def open_file(self, file: File, offset: int = 0) -> BinaryIO:
        member = self._members[file.path]
        with self._lock:
            # The chunks of a large file are asked for in order; what was decompressed for one leads to the
            # next.
            stream = self._parked.pop(file.path, None)
        if stream is None or stream.position > offset:
            stream = _Inflating(self._fd, member)
        return cast("BinaryIO", _Reader(self, stream, offset))

    def park(self, stream: _Inflating) -> None:
        """Called by a reader that is done."""
        if 0 < stream.position < stream.member.size:
            with self._lock:
                self._parked[stream.member.path] = stream


def zipped(
    path: Path, *, progress: Progress | None = None, limit_bytes: int | None = DEFAULT_LIMIT
) -> Zipped:
    """The snapshot of what the zip file at ``path`` holds. Raises ``WorkspaceError`` when it holds anything
    that cannot be sent, or more than ``limit_bytes``."""
    try:
        real = path.resolve(strict=True)
        fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a circle of links"
        raise refused(path, f"cannot be read ({reason})", next="Check its permissions.") from None
    try:
        return _read(real, fd, progress, limit_bytes)
    except BaseException:
        os.close(fd)
        raise


def _read(path: Path, fd: int, progress: Progress | None, limit_bytes: int | None) -> Zipped:
    files, directories = Index(path, fd).read(limit_bytes)
    total = sum(member.size for member in files)
    entries: list[Entry] = []
    done = 0
    for member in files:
        try:
            entries.append(_file(fd, member))
        except _DamagedError as error:
            raise refused(path, f"holds '{shown(member.path)}', which {error}") from None
        done += member.size
        if progress is not None:
            progress(done, total)
    entries.extend(_lone_directories(files, directories))
    manifest = Manifest(entries=tuple(sorted(entries, key=lambda entry: entry.path)))
    check_manifest(manifest, canonical=True)
    notes = _collisions([*files, *directories])
    return Zipped(path, fd, manifest, {member.path: member for member in files}, notes)


def _file(fd: int, member: Member) -> File:
    whole = blake3.blake3()
    chunks = []
    crc = 0
    stream = _Inflating(fd, member)
    for piece in _chunks_of(stream):
        whole.update(piece)
        crc = zlib.crc32(piece, crc)
        if chunk_count(member.size):
            chunks.append(blake3.blake3(piece).digest())
    stream.finish()
    if crc != member.crc:
        raise _DamagedError("is damaged (its checksum differs)")
    executable = bool(member.mode & stat.S_IXUSR)
    return make_file(member.path, member.size, whole.digest(), b"".join(chunks), executable)


class _DamagedError(Exception):
    """Continues a sentence about the entry."""


class _Inflating:
    """The bytes of one entry from its beginning. Raises ``_DamagedError``, and never yields more than the
    entry was said to have."""

    def __init__(self, fd: int, member: Member) -> None:
        self.member = member
        self.position = 0
        self._fd = fd
        self._at = member.start
        self._end = member.start + member.stored
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == DEFLATED else None
        self._rest = b""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        size = min(size, self.member.size - self.position)
        while size > 0:
            if self._inflate is None:
                data = self._next(size)
            else:
                data = self._decompress(self._rest or self._next(_PIECE), size)
            if data:
                self.position += len(data)
                return data
            if not self._rest and self._at >= self._end:
                raise _DamagedError("is shorter than the archive says")
        return b""

    def skip_to(self, position: int) -> None:
        if self._inflate is None:
            self._at = self.member.start + position
            self.position = position
        while self.position < position:
            self.read(min(_PIECE, position - self.position))

    def finish(self) -> None:
        """Everything has been read: nothing may follow."""
        if self._inflate is None:
            return
        while not self._inflate.eof:
            data = self._rest or self._next(_PIECE)
            if not data:
                raise _DamagedError("is cut off")
            if self._decompress(data, 1):
                raise _DamagedError("is longer than the archive says")
        if self._inflate.unused_data or self._at < self._end:
            raise _DamagedError("is followed by bytes that belong to nothing")

    def _decompress(self, data: bytes, size: int) -> bytes:
        assert self._inflate is not None
        try:
            out = self._inflate.decompress(data, size)
        except zlib.error:
            raise _DamagedError("cannot be decompressed") from None
        self._rest = self._inflate.unconsumed_tail
        if not out and not self._rest and self._inflate.eof and self.position < self.member.size:
            raise _DamagedError("is shorter than the archive says")
        return out

    def _next(self, size: int) -> bytes:
        data = os.pread(self._fd, min(size, self._end - self._at), self._at)
        self._at += len(data)
        if not data and self._at < self._end:
            raise _DamagedError("is cut off")
        return data


class _Reader(io.RawIOBase):
    """An entry from an offset on, as a file."""

    def __init__(self, archive: Zipped, stream: _Inflating, offset: int) -> None:
        self._archive = archive
        self._stream: _Inflating | None = stream
        try:
            stream.skip_to(offset)
        except _DamagedError as error:
            raise OSError(f"'{stream.member.path}' {error}") from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        assert self._stream is not None
        target = memoryview(buffer).cast("B")
        try:
            data = self._stream.read(len(target))
        except _DamagedError:
            data = b""  # it was whole before: whoever verifies says that it has changed
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            self._archive.park(stream)
        super().close()


def _chunks_of(stream: _Inflating) -> Iterator[bytes]:
    """What is left of it, in pieces of ``CHUNK_BYTES``."""
    while True:
        parts = []
        left = CHUNK_BYTES
        while left and (data := stream.read(min(left, _PIECE))):
            parts.append(data)
            left -= len(data)
        if not parts:
            return
        yield b"".join(parts)


def _lone_directories(files: Sequence[Member], directories: Sequence[Member]) -> Iterator[Directory]:
    filled: set[str] = set()
    for member in (*files, *directories):
        parent = member.path.rpartition("/")[0]
        while parent and parent not in filled:
            filled.add(parent)
            parent = parent.rpartition("/")[0]
    return (Directory(path=member.path) for member in directories if member.path not in filled)


def _collisions(members: list[Member]) -> list[str]:
    """Names that are one and the same on some systems: where the zip was made, only one of them may have
    been meant."""
    seen: dict[str, str] = {}
    pairs = []
    for member in members:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", member.path).casefold())
        before = seen.setdefault(folded, member.path)
        if before != member.path:
            pairs.append(f"{before} and {member.path}")
    if not pairs:
        return []
    return [f"Names that differ only in case or in how they are encoded: {listed(pairs)}."]
