"""One request and its answer, as an application sees them: tornado's ``HTTPConnection``, and whole answers.

It knows how an answer is framed; how bytes travel is the ``connection``'s.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import cache, lru_cache
from http.client import responses
from typing import TYPE_CHECKING

from tornado import httputil

if TYPE_CHECKING:
    from gradient_jupyter.server.connection import Connection

_BREAK = re.compile(r"[\r\n]")


class Exchange(httputil.HTTPConnection):
    """The answer goes out when those of the requests before it have."""

    def __init__(
        self,
        connection: Connection,
        start_line: httputil.RequestStartLine,
        headers: httputil.HTTPHeaders,
        *,
        stays: bool,
        chunked: bool,
    ) -> None:
        self.context = connection.context
        self.start_line = start_line
        self.headers = headers
        self.stays = stays
        """The connection serves further requests after this one."""
        self.chunked = chunked
        """So its body comes."""
        self.whole = False
        """It has been read to its end."""
        self.pieces: list[bytes] = []
        """Of its body, what was not handed on yet."""
        self.received = 0
        self.delegate: httputil.HTTPMessageDelegate | None = None
        self.handed_on = False
        """The delegate knows that it is whole."""
        self.answered = False
        """Something of the answer is out."""
        self.over = False
        """The answer is whole, or nobody is there to read it."""
        self.gone: Callable[[], None] | None = None
        self._connection = connection
        self._chunks = False
        self._left: int | None = None
        """Bytes that the answer's body still has to have."""

    @property
    def closed(self) -> bool:
        """Nobody is there to read an answer."""
        return self.over or self._connection.closed

    @property
    def writing(self) -> bool:
        """Not everything that was written has been taken."""
        return self._connection.writing

    def cut(self) -> None:
        """Ends the connection now, in the middle of whatever is under way."""
        self._connection.cut()

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Called when the sender goes away after the whole request and before the whole answer."""
        self.gone = callback

    def proceed(self) -> None:
        """Has the sender go on, who waits to hear that the body is wanted."""
        if not self.answered and not self.whole and self.headers.get("Expect", "").lower() == "100-continue":
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        """All of it at once."""
        self._begin(status, headers, len(body), body)
        self.finish()

    def write_headers(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        assert isinstance(start_line, httputil.ResponseStartLine)
        length = headers.pop("Content-Length", None)
        return self._begin(
            start_line.code, headers.get_all(), None if length is None else int(length), chunk or b""
        )

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Over when the reader has taken it. ``StreamClosedError``: the reader has gone."""
        return self._send(self._framed(chunk))

    def finish(self) -> None:
        if self._left:
            self._connection.cut()
            raise httputil.HTTPOutputError(f"the answer is {self._left} bytes shorter than it says")
        if self._chunks:
            self._send(b"0\r\n\r\n")
        self._connection.finished(self)

    def _begin(
        self, status: int, headers: Iterable[tuple[str, str]], length: int | None, body: bytes
    ) -> asyncio.Future[None]:
        method, _, version = self.start_line
        bodiless = status in (204, 304)
        lines = [_status_line(status)]
        for name, value in headers:
            if name == "Connection":
                self.stays = self.stays and value.lower() != "close"
                continue  # what is so is said below
            if _BREAK.search(value):
                raise ValueError(f"the header {name} holds a line break")
            lines.append(f"{name}: {value}")
        if bodiless or method == "HEAD":
            self._left = 0
            body = b""
        else:
            self._left = length
        if length is not None and not bodiless:
            lines.append(f"Content-Length: {length}")
        elif self._left is None:
            self._chunks = version == "HTTP/1.1"
            if self._chunks:
                lines.append("Transfer-Encoding: chunked")
            else:
                self.stays = False  # the end of the connection is the end of the answer
        if not self.whole:
            self.stays = False  # nobody reads the rest
        if not self.stays:
            lines.append("Connection: close")
        elif version == "HTTP/1.0":
            lines.append("Connection: keep-alive")
        lines.append(f"Date: {_date(int(time.time()))}\r\n\r\n")
        self.answered = True
        head = "\r\n".join(lines).encode("latin-1")
        return self._send(head + self._framed(body) if body else head)

    def _send(self, data: bytes) -> asyncio.Future[None]:
        return self._connection.nobody() if self.over else self._connection.write(data)

    def _framed(self, chunk: bytes) -> bytes:
        if self._left is not None:
            if self.start_line.method == "HEAD":
                return b""
            if len(chunk) > self._left:
                self._connection.cut()
                raise httputil.HTTPOutputError("the answer is longer than it says")
            self._left -= len(chunk)
        # An empty chunk would be the end.
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunks and chunk else chunk


@cache
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {responses.get(status, 'Unknown')}"


@lru_cache(maxsize=1)
def _date(now_s: int) -> str:
    return formatdate(now_s, usegmt=True)
