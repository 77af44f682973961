"""Server-Sent Events: bytes in, messages out.

After the WHATWG's "Interpreting an event stream". Knows nothing of HTTP and of what the messages mean;
bytes may be cut anywhere, also inside a character or between a line's ``\\r`` and ``\\n``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Message(NamedTuple):
    """One dispatched event. ``id`` is the last id the stream has named, this message's or an older one."""

    event: str
    data: str
    id: str = ""


_BOM = b"\xef\xbb\xbf"


class Parser:
    """Feed it what arrives, in order; it yields each message as soon as its last byte is there."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._at_start = True
        self._skip_newline = False
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self.retry_ms: int | None = None

    def feed(self, chunk: bytes) -> Iterator[Message]:
        for line in self._lines(chunk):
            if line:
                self._field(line)
            elif message := self._dispatch():
                yield message

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        start, size = 0, len(chunk)
        if self._skip_newline and size:
            self._skip_newline = False
            start = 1 if chunk[0] == 0x0A else 0
        newline = carriage = -1
        while start < size:
            # Each is searched for again only once it has been passed: a chunk is read through once.
            if newline < start:
                newline = _position(chunk, b"\n", start)
            if carriage < start:
                carriage = _position(chunk, b"\r", start)
            end = min(newline, carriage)
            if end == size:
                self._rest.append(chunk[start:])
                return
            line = b"".join((*self._rest, chunk[start:end]))
            self._rest.clear()
            start = end + 1
            if chunk[end] == 0x0D:
                if start == size:
                    self._skip_newline = True
                elif chunk[start] == 0x0A:
                    start += 1
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(_BOM)
            yield line

    def _field(self, line: bytes) -> None:
        end = line.find(b":")
        if end < 0:
            end = len(line)
        # Decoded once and copied no further: most of what comes is one long line of data.
        value = str(memoryview(line)[end + 1 + line.startswith(b" ", end + 1) :], "utf-8", "replace")
        match line[:end]:
            case b"event":
                self._event = value
            case b"data":
                self._data.append(value)
            case b"id" if "\0" not in value:
                self._id = value
            case b"retry" if value.isascii() and value.isdigit():
                self.retry_ms = int(value)

    def _dispatch(self) -> Message | None:
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Message(event, data[0] if len(data) == 1 else "\n".join(data), self._id) if data else None


def _position(chunk: bytes, of: bytes, start: int) -> int:
    """Where it stands next, or the chunk's end."""
    at = chunk.find(of, start)
    return len(chunk) if at < 0 else at
