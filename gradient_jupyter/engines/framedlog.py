"""A task's log: one append-only file of frames, each with its time and its stream, and an index beside it.

A log's *offset* counts the decoded bytes (the payloads only) before a place. It never changes meaning, so a
reader can leave at any byte and come back; the *epoch*, drawn when the file is made, tells two logs apart.

Layout, little-endian throughout::

    header   magic 8 bytes · epoch u32 (never 0)
    frame    payload length u32 · stream u8 (never 0) · time u64 (µs UTC) · CRC-32 u32 of these · payload
             (the sum goes on over the payload)
    index    decoded offset u64 · file offset u64 · CRC-32 u32, about every 64 KiB; written after its frame

Only a frame that is whole counts: the last one may be torn, by a crash or because its writer is not done yet.
The index only saves time; what is missing, old or damaged in it is found by reading the log instead. The
checksums are there because a damaged log must say so rather than show other bytes (promise P13).

Standard library only, and no import of this package: the local engine's supervisor is made of such modules.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

MAGIC = b"gradlog\x01"
MAX_PAYLOAD = 1 << 20
"""Bytes. Longer data are cut into several frames; a longer frame in a file is damage."""
EVERY = 1 << 16
"""Decoded bytes between two marks of the index."""

_HEADER = struct.Struct("<8sI")
_HEAD = struct.Struct("<IBQ")
_CRC = struct.Struct("<I")
_MARK = struct.Struct("<QQ")
_FRAME_OVERHEAD = _HEAD.size + _CRC.size
_MARK_SIZE = _MARK.size + _CRC.size
_BLOCK = 1 << 18
_PLACES = 64
"""Readers at so many places of one log go on without looking for theirs."""


class DamagedLog(Exception):
    """The file is no log of ours, or was one. What stands before the damage can still be read."""

    def __init__(self, path: str, position: int, why: str) -> None:
        super().__init__(f"The log {path} is damaged at byte {position} of the file: {why}.")
        self.path = path
        self.position = position


class Chunk(NamedTuple):
    """A piece of one stream; ``offset`` counts the decoded bytes before it."""

    offset: int
    time_us: int
    stream: int
    data: bytes


class _Frame(NamedTuple):
    offset: int
    position: int
    time_us: int
    stream: int
    data: bytes

    @property
    def after(self) -> tuple[int, int]:
        """Decoded offset and place in the file where the next frame stands."""
        return self.offset + len(self.data), self.position + _FRAME_OVERHEAD + len(self.data)


def _mark(epoch: int, offset: int, position: int) -> bytes:
    body = _MARK.pack(offset, position)
    # The epoch is in the sum, so that the index of another log is not taken for this one's.
    return body + _CRC.pack(zlib.crc32(body, epoch))


class Writer:
    """Appends to the log at ``path``, making it if need be. One writer at a time.

    An existing log is continued after its last whole frame. Raises ``OSError``, and ``DamagedLog`` if what is
    there is no log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._index = -1
        try:
            self._index = os.open(self._path + ".index", flags, 0o600)
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with Reader(self._path) as reader:
            if reader.damage is not None:
                raise reader.damage
            self.epoch = reader.epoch
            self._offset, self._position = reader._end
            marks = reader._known_marks()[1:]
        if not self.epoch:  # new, or its header never reached the disk
            while not self.epoch:
                self.epoch = int.from_bytes(os.urandom(4), "little")
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._index, 0)
            _write_whole(self._fd, _HEADER.pack(MAGIC, self.epoch), 0)
        os.ftruncate(self._fd, self._position)
        os.ftruncate(self._index, 0)
        self._marked = marks[-1][0] if marks else 0
        self._index_size = 0
        for offset, position in marks:
            self._append_mark(offset, position)

    @property
    def size(self) -> int:
        """Decoded bytes so far."""
        return self._offset

    def append(self, stream: int, data: bytes | memoryview, time_us: int) -> int:
        """Writes ``data``, one ``write`` per frame, and returns the decoded offset after it.

        ``OSError`` means that the frame is not in the log: nothing half-written is left before what comes
        next, so the caller may simply go on.
        """
        view = memoryview(data)
        for start in range(0, len(view), MAX_PAYLOAD):
            self._append_frame(stream, view[start : start + MAX_PAYLOAD], time_us)
        return self._offset

    def _append_frame(self, stream: int, payload: memoryview, time_us: int) -> None:
        head = _HEAD.pack(len(payload), stream, time_us)
        frame = b"".join((head, _CRC.pack(zlib.crc32(payload, zlib.crc32(head))), payload))
        _write_whole(self._fd, frame, self._position)
        if self._offset - self._marked >= EVERY:
            self._marked = self._offset
            self._append_mark(self._offset, self._position)
        self._offset += len(payload)
        self._position += len(frame)

    def _append_mark(self, offset: int, position: int) -> None:
        # An index that cannot be written only costs its readers a scan.
        with contextlib.suppress(OSError):
            _write_whole(self._index, _mark(self.epoch, offset, position), self._index_size)
            self._index_size += _MARK_SIZE

    def sync(self) -> None:
        """Returns when all that was appended would survive a power loss. Any thread may call it."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(self._fd)
        else:
            os.fsync(self._fd)

    def close(self) -> None:
        for name in ("_fd", "_index"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write_whole(fd: int, data: bytes, position: int) -> None:
    """Appends ``data`` at ``position``, the end of the file, or leaves the file as it was.

    A full disk takes part of a write and refuses the rest; what it took is given back, or the next frame
    would stand after half a frame.
    """
    written = 0
    try:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, data[written:])
    except OSError:
        # Making a file shorter needs no space. Also done when nothing is known to be written: an earlier
        # attempt to give back may itself have failed.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, position)
        raise


class Reader:
    """Reads the log at ``path`` from any decoded offset, also while it grows. For one thread at a time.

    A file that does not exist yet, or whose header is not yet written, is an empty log with epoch 0.
    Raises ``DamagedLog`` when the file does not begin as a log does.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._fd = -1
        self._index = -1
        self._index_read = 0
        self.epoch = 0
        self.damage: DamagedLog | None = None
        """Where the log cannot be read further, as far as is known."""
        self._offsets = array("Q", [0])
        self._positions = array("Q", [_HEADER.size])
        self._at = self._end = (0, _HEADER.size)
        self._ends: dict[int, int] = {}
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Decoded bytes in whole frames, when last looked at."""
        return self._end[0]

    def refresh(self) -> int:
        """Looks at what was appended since, and returns ``size``. Reads only what is new."""
        if not self._ready():
            return 0
        self._load_index()
        last = (self._offsets[-1], self._positions[-1])
        self._end = max(self._end, last)
        try:
            for frame in self._walk(*self._end):
                self._end = frame.after
        except DamagedLog as damage:
            self.damage = damage
        return self.size

    def read(self, offset: int, limit: int = _BLOCK, *, whole: bool = False) -> list[Chunk]:
        """At most ``limit`` bytes from ``offset`` on; empty when there is nothing (yet) behind it.

        With ``whole`` a frame that is not longer than ``limit`` is not cut at it, so up to twice as much is
        returned: whoever reads on reads no frame twice. Going on where one of the last calls ended costs
        nothing extra; going elsewhere costs a binary search and at most about 64 KiB of reading. Raises
        ``DamagedLog`` when it cannot get there.
        """
        if offset < 0 or limit < 1:
            raise ValueError("offset must not be negative, limit must be positive")
        if not self._ready():
            return []
        chunks: list[Chunk] = []
        taken = 0
        try:
            # Not much more than will be taken: the rest would only be read again.
            for frame in self._walk(*self._nearest(offset), block=min(_BLOCK, limit + EVERY)):
                self._at = frame.after
                skip = offset + taken - frame.offset
                if skip >= len(frame.data):
                    continue
                room = limit if whole and len(frame.data) - skip <= limit else limit - taken
                data = frame.data[skip : skip + room] if skip or room < len(frame.data) else frame.data
                chunks.append(Chunk(frame.offset + skip, frame.time_us, frame.stream, data))
                taken += len(data)
                if skip + len(data) < len(frame.data):
                    self._at = (frame.offset, frame.position)
                if taken >= limit:
                    break
        except DamagedLog as damage:
            self.damage = damage
            if not chunks:
                raise
        self._end = max(self._end, self._at)
        self._ends[self._at[0]] = self._at[1]
        if len(self._ends) > _PLACES:
            del self._ends[next(iter(self._ends))]
        return chunks

    def park(self) -> None:
        """Closes the files and keeps what is known of them; the next call opens them again.

        A reader that is parked holds no descriptor. Should another log stand there when it comes back, that
        is damage.
        """
        self.close()

    def close(self) -> None:
        for name in ("_fd", "_index"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ready(self) -> bool:
        """Whether there is a header, opening the file if need be."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            if self.epoch and os.pread(self._fd, _HEADER.size, 0) != _HEADER.pack(MAGIC, self.epoch):
                raise DamagedLog(self._path, 0, "another log has taken its place")
        if not self.epoch:
            head = os.pread(self._fd, _HEADER.size, 0)
            if not _whole_header(head):
                if MAGIC.startswith(head.rstrip(b"\0")[: len(MAGIC)]) and self._torn(0, len(head)):
                    return False  # a header that never was whole; zeros are what a power loss may leave of it
                # The writer may have written it, and more behind it, while we looked: look once more.
                head = os.pread(self._fd, _HEADER.size, 0)
                if not _whole_header(head):
                    raise DamagedLog(self._path, 0, "it does not begin as a log does")
            self.epoch = _HEADER.unpack(head)[1]
        return True

    def _nearest(self, offset: int) -> tuple[int, int]:
        """The last known frame that begins at or before ``offset``."""
        if self._at[0] <= offset <= self._at[0] + EVERY:
            return self._at
        if (position := self._ends.get(offset)) is not None:
            return offset, position
        self._load_index()
        i = bisect.bisect_right(self._offsets, offset) - 1
        known = [(self._offsets[i], self._positions[i])]
        known += [place for place in (self._at, self._end) if place[0] <= offset]
        return max(known)

    def _known_marks(self) -> list[tuple[int, int]]:
        return list(zip(self._offsets, self._positions, strict=True))

    def _note(self, offset: int, position: int) -> None:
        if offset - self._offsets[-1] >= EVERY:
            self._offsets.append(offset)
            self._positions.append(position)

    def _load_index(self) -> None:
        """Takes what is new in the index, up to the first record that does not hold."""
        if self._index < 0:
            try:
                self._index = os.open(self._path + ".index", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return
        size = os.fstat(self._fd).st_size
        while block := os.pread(self._index, _MARK_SIZE * 4096, self._index_read):
            whole = len(block) // _MARK_SIZE
            for i in range(whole):
                record = block[i * _MARK_SIZE : (i + 1) * _MARK_SIZE]
                offset, position = _MARK.unpack_from(record)
                if record != _mark(self.epoch, offset, position) or position > size:
                    return
                if position > self._positions[-1] and offset > self._offsets[-1]:
                    self._offsets.append(offset)
                    self._positions.append(position)
                self._index_read += _MARK_SIZE
            if whole < 4096:
                return

    def _walk(self, offset: int, position: int, block: int = _BLOCK) -> Iterator[_Frame]:
        """The whole frames from one frame's beginning on; ends at the end of the file or a torn frame."""
        read, base = b"", position
        while True:
            start = position - base
            need = _extent(read, start)
            if not need or start + need > len(read):
                read, base, start = os.pread(self._fd, block, position), position, 0
                need = _extent(read, 0)
                if need > len(read):
                    read = os.pread(self._fd, need, position)
                if not need or need > len(read):
                    return
            frame = _frame(read, start, offset, position)
            if frame is None:
                # The writer may have given back a half-written frame while we looked: look once more.
                frame = _frame(os.pread(self._fd, need, position), 0, offset, position)
            if frame is None:
                if self._torn(position, need):
                    return
                raise DamagedLog(self._path, position, "no whole frame begins there")
            self._note(offset, position)
            yield frame
            offset, position = frame.after

    def _torn(self, position: int, need: int) -> bool:
        """Whether a bad frame is only the unfinished end: nothing but zeros stands behind it.

        After a power loss a file may have its size but not yet its last blocks; these read as zeros.
        """
        position += need
        while block := os.pread(self._fd, _BLOCK, position):
            if any(block):
                return False
            position += len(block)
        return True


def _whole_header(head: bytes) -> bool:
    return len(head) == _HEADER.size and head.startswith(MAGIC) and any(head[len(MAGIC) :])


def _extent(block: bytes, start: int) -> int:
    """Bytes of the frame that begins at ``start``: 0 when its head is not in the block, its bare head's size
    when that is no head of ours."""
    if len(block) - start < _FRAME_OVERHEAD:
        return 0
    length, stream, _ = _HEAD.unpack_from(block, start)
    return _FRAME_OVERHEAD + (length if 0 < length <= MAX_PAYLOAD and stream else 0)


def _frame(block: bytes, start: int, offset: int, position: int) -> _Frame | None:
    need = _extent(block, start)
    if need <= _FRAME_OVERHEAD or start + need > len(block):
        return None
    _, stream, time_us = _HEAD.unpack_from(block, start)
    data = block[start + _FRAME_OVERHEAD : start + need]
    (crc,) = _CRC.unpack_from(block, start + _HEAD.size)
    if crc != zlib.crc32(data, zlib.crc32(block[start : start + _HEAD.size])):
        return None
    return _Frame(offset, position, time_us, stream, data)


def whole_characters(data: bytes) -> int:
    """How many bytes of ``data`` end with a whole UTF-8 character; all of them when its end is no text.

    Writers end their frames there, so that each can be shown by itself.
    """
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
        return len(data) - back if wanted > back and len(data) > back else len(data)
    return len(data)
