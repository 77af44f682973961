"""HTTP/1.1 on one connection: bytes in, requests out to whatever speaks tornado's ``HTTPMessageDelegate``.

llhttp reads (httptools; the parser of Node), strictly: what two readers could understand in two ways is
refused, and the connection ends. Requests that come in a row are answered in their order. Reading stops while
a body is not taken, and a write is over when the reader has taken it, so neither side fills our memory.

tornado's own connection does the same and takes 0.2 ms of each request for it, more than most requests need
for all the rest.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools
import msgspec
from tornado import httputil
from tornado.iostream import StreamClosedError

from gradient_jupyter.resources.errors import ErrorAnswer, GradientError, InvalidRequest
from gradient_jupyter.server.exchange import Exchange
from gradient_jupyter.server.patience import Waiting

log = logging.getLogger(__name__)

MOST_HEAD = 64 * 1024
"""Bytes of a head: the request line and all headers together. A body in chunks may bring as many beside its
content before any of that."""
_FRAMING = 16
"""And then so many for each byte of it."""
_LINGER_S = 2.0
_LINGER = 16 << 20
"""After an answer that came before its request was read, so much of the rest is taken from the sender, for so
long: otherwise they would meet a broken connection in place of the answer."""


class Context:
    """Where a connection comes from, in tornado's words."""

    protocol = "http"

    def __init__(self, remote_ip: str) -> None:
        self.remote_ip = remote_ip


class Connection(asyncio.BufferedProtocol):
    """``buffer`` is where bytes arrive, and may be that of all connections of the loop: nothing stays in it.
    ``connections`` holds those that are open, or about to be; it leaves them by itself."""

    def __init__(
        self,
        application: httputil.HTTPServerConnectionDelegate,
        connections: set[Connection],
        buffer: memoryview,
    ) -> None:
        self._application = application
        self._connections = connections
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()
        """Those whose answers are to come. The first is being answered."""
        self._reading: Exchange | None = None
        """The last of them, while its body comes."""
        self._url = b""
        self._headers = httputil.HTTPHeaders()
        self._head = 0
        self._fed = 0
        """Bytes that were read since a head or a body ended."""
        self._last_words: bytes | None = None
        """Nothing that is read from now on is looked at: with this the connection ends, after the answers to
        what was asked before."""
        self._ending = False
        self._unread = 0
        self._busy = False
        """A delegate is taking what it was given."""
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._taken: asyncio.Future[None] = self._loop.create_future()
        self._taken.set_result(None)
        self.waiting = Waiting()
        self.context = Context("")
        self.closed = True
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def writing(self) -> bool:
        return self._drained is not None

    @property
    def idle(self) -> bool:
        """Nothing is asked."""
        return not self._exchanges

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Over when the reader has taken it. ``StreamClosedError``: the reader has gone."""
        if self.closed or self._transport.is_closing():
            return self.nobody()
        self._transport.write(data)
        if self._drained is not None and self._drained.cancelled():
            self._drained = self._loop.create_future()  # it was that of somebody who waited no longer
        return self._drained or self._taken

    def nobody(self) -> asyncio.Future[None]:
        """A write whose reader has gone."""
        return _broken(self._loop.create_future())

    def finished(self, exchange: Exchange) -> None:
        """Its answer is whole; the next one's turn."""
        if exchange.over:
            return  # the reader has gone meanwhile
        exchange.over = True
        exchange.delegate = exchange.gone = None  # they know it, too
        self._exchanges.popleft()
        if not exchange.stays:
            self._exchanges.clear()
            self._end(linger=not exchange.whole or self._last_words is not None)
        elif self._exchanges or self._last_words is not None:
            self._loop.call_soon(self._hand_on)

    def cut(self) -> None:
        """Ends it now."""
        if not self.closed:
            self._transport.abort()

    def close(self) -> None:
        """Ends it when what was written is out."""
        if not self.closed:
            self._transport.close()

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        internet = transport.get_extra_info("socket").family in (socket.AF_INET, socket.AF_INET6)
        self.context = Context(peer[0] if internet and peer else "0.0.0.0")  # noqa: S104  # as tornado says it
        self.closed = False

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        self.waiting.heard()
        if self._ending or self._last_words is not None:
            self._unread += size
            if self._unread > _LINGER:
                self.cut()
            return
        self._fed += size
        try:
            self._parser.feed_data(self._buffer[:size])
            self._bound()
        except httptools.HttpParserUpgrade:
            # Nothing else is spoken here: the request is answered, and what comes behind it is not looked at.
            self._exchanges[-1].stays = False
            self._last_words = b""
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, _Refused) else _Refused(400))
        except _Refused as refused:
            self._refuse(refused)
        self._hand_on()

    def eof_received(self) -> bool:
        return False  # who only stops to send has hung up, as far as anybody can tell

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._connections.discard(self)
        if self._drained is not None:
            if not self._drained.done():
                _broken(self._drained)
            self._drained = None
        while self._exchanges:
            _lose(self._exchanges.popleft())
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # What llhttp tells while it is fed. What is raised here comes out of ``feed_data``.

    def on_message_begin(self) -> None:
        self._url, self._headers, self._head = b"", httputil.HTTPHeaders(), 0
        self.waiting.head_begins()

    def on_url(self, part: bytes) -> None:
        self._url += part
        self._count(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            return  # behind the body: nobody here knows any
        self._count(len(name) + len(value) + len(": \r\n"))
        try:
            self._headers.add(name.decode("latin-1"), value.strip(b" \t").decode("latin-1"))
        except httputil.HTTPInputError:
            raise _Refused(400) from None

    def on_headers_complete(self) -> None:
        headers, version = self._headers, f"HTTP/{self._parser.get_http_version()}"
        encodings = headers.get_list("Transfer-Encoding")
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise _Refused(400)
        if encodings and (encodings != ["chunked"] or version != "HTTP/1.1" or "Content-Length" in headers):
            raise _Refused(400)
        method = self._parser.get_method().decode("latin-1")
        self._reading = Exchange(
            self,
            httputil.RequestStartLine(method, self._url.decode("latin-1"), version),
            headers,
            stays=self._parser.should_keep_alive(),
            chunked=bool(encodings),
        )
        self._exchanges.append(self._reading)
        self._fed = 0
        self.waiting.body_begins()

    def on_body(self, piece: bytes) -> None:
        assert self._reading is not None
        self._reading.pieces.append(piece)
        self._reading.received += len(piece)
        self.waiting.body_moves(len(piece))

    def on_message_complete(self) -> None:
        assert self._reading is not None
        self._reading.whole = True
        self._reading = None
        self._fed = 0
        self.waiting.body_ends()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MOST_HEAD:
            raise _Refused(431)

    def _bound(self) -> None:
        """Refuses what comes and comes and makes neither a head nor a body."""
        reading = self._reading
        if reading is None:
            if self._fed > MOST_HEAD:
                raise _Refused(431)
        elif reading.chunked and self._fed > MOST_HEAD + (1 + _FRAMING) * reading.received:
            raise _Refused(400)

    def _refuse(self, refused: _Refused) -> None:
        """It is no HTTP, or too much of it. Where one message ends and the next begins is not known any
        more."""
        broken, self._reading = self._reading, None
        self.waiting.body_ends()
        self._last_words = refused.answer()
        if broken is not None:
            self._drop(broken)
        elif self._exchanges and not self._exchanges[-1].stays:
            self._last_words = b""  # it was said that nothing would come behind that one

    def _drop(self, exchange: Exchange) -> None:
        """Nobody answers it but we, by our last words."""
        self._exchanges.remove(exchange)
        if exchange.answered:
            self._last_words = b""
        _lose(exchange)

    # Handing on.

    def _hand_on(self) -> None:
        """Gives the first delegate what is there of its request. The others' turn comes when it has
        answered."""
        while self._exchanges and not self._busy and not self.closed:
            exchange = self._exchanges[0]
            try:
                if not self._step(exchange):
                    break
            except httputil.HTTPInputError:
                self._last_words = _Refused(400).answer()
                self._drop(exchange)
                self._exchanges.clear()
            except Exception:
                log.exception("a request is cut")
                self.cut()
                return
        if not self._exchanges and self._last_words is not None and not self._ending:
            self._end(self._last_words, linger=True)
        self._pause(self._busy or len(self._exchanges) > 1)

    def _step(self, exchange: Exchange) -> bool:
        """Whether there may be another one."""
        delegate = exchange.delegate
        if delegate is None:
            delegate = exchange.delegate = self._application.start_request(self, exchange)
            self._when(delegate.headers_received(exchange.start_line, exchange.headers), exchange.proceed)
        elif exchange.pieces:
            piece = exchange.pieces[0] if len(exchange.pieces) == 1 else b"".join(exchange.pieces)
            exchange.pieces.clear()
            self._when(delegate.data_received(piece), None)
        else:
            if exchange.whole and not exchange.handed_on:
                exchange.handed_on = True
                delegate.finish()
            return False
        return True

    def _when(self, taking: Any, then: Callable[[], None] | None) -> None:
        """``then`` when the delegate has taken what it was given."""
        if taking is None:
            if then is not None:
                then()
            return
        self._busy = True

        def taken(future: asyncio.Future[None]) -> None:
            self._busy = False
            if future.cancelled() or (error := future.exception()) is not None:
                if not future.cancelled():
                    log.error("a request is cut", exc_info=error)
                self.cut()
                return
            if then is not None:
                then()
            self._hand_on()

        asyncio.ensure_future(taking).add_done_callback(taken)

    def _pause(self, wanted: bool) -> None:
        if wanted == self._paused or self.closed or self._transport.is_closing():
            return
        self._paused = wanted
        if wanted:
            self._transport.pause_reading()
            self.waiting.pauses()
        else:
            self.waiting.resumes()
            self._transport.resume_reading()

    def _end(self, last_words: bytes = b"", *, linger: bool) -> None:
        self._ending = True
        self._busy = False
        if last_words:
            self.write(last_words)
        if self.closed or not linger:
            self.close()
            return
        self._pause(False)
        self._transport.write_eof()
        self._loop.call_later(_LINGER_S, self.cut)


class _Refused(Exception):
    """What came is not answered by any application."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self._status = status

    def answer(self) -> bytes:
        if self._status == 431:
            error = InvalidRequest(
                f"The head of the request is longer than {MOST_HEAD // 1024} KiB.",
                next="Send fewer or shorter headers and parameters.",
                code="head-too-large",
            )
            return closing(431, "Request Header Fields Too Large", error)
        return closing(400, "Bad Request", InvalidRequest("The request is not valid HTTP.", code="bad-http"))


def closing(status: int, phrase: str, error: GradientError, *headers: str) -> bytes:
    """A whole answer, after which the connection ends."""
    body = msgspec.json.encode(ErrorAnswer(error=error.body()))
    lines = (
        f"HTTP/1.1 {status} {phrase}", "Content-Type: application/json", f"Content-Length: {len(body)}",
        *headers, "Connection: close", "\r\n",
    )  # fmt: skip
    return "\r\n".join(lines).encode() + body


def _broken(future: asyncio.Future[None]) -> asyncio.Future[None]:
    future.set_exception(StreamClosedError())
    future.exception()  # who wrote may not have waited
    return future


def _lose(exchange: Exchange) -> None:
    """Tells the application that the sender has gone."""
    delegate, gone = exchange.delegate, exchange.gone
    exchange.over = True
    exchange.delegate = exchange.gone = None
    if delegate is not None and not exchange.handed_on:
        delegate.on_connection_close()
    elif gone is not None:
        gone()
