"""The dispatcher: the one way every request goes.

It is let in (``admission``), its body is small enough and of its type (``values``), and the route's function
is called. What that raises becomes the one error shape; what nobody foresaw is logged under an id and
answered as a 500 that names it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import msgspec
from tornado import httputil
from tornado.iostream import StreamClosedError

from gradient_jupyter.api import values
from gradient_jupyter.api.admission import Addresses, Asked, admit, check_still
from gradient_jupyter.api.routes import ROOT, Answer, Right, Sink
from gradient_jupyter.control import context
from gradient_jupyter.control.context import Asking
from gradient_jupyter.resources.base import new_id
from gradient_jupyter.resources.errors import (
    GradientError,
    NoSpace,
    ServerError,
    ServerUnavailable,
)  # fmt: skip

log = logging.getLogger(__name__)
requests = logging.getLogger("gradient_jupyter.requests")

#: A caller's own id of a request is taken when it is harmless wherever it is shown.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
#: Of a body that nobody wants, what is read so that the connection can stay.
_DRAIN = 1 << 20
#: Of a body whose sender is not known yet, what is kept; the rest has to wait.
_UNKNOWN = 64 * 1024
#: Of every answer.
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Exchange(Protocol):
    """One request and its answer, on a connection."""

    context: Any
    """Its ``remote_ip`` is where the request comes from."""

    @property
    def closed(self) -> bool: ...
    @property
    def writing(self) -> bool: ...
    def answer(self, status: int, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None: ...
    def write_headers(
        self, start_line: httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None]: ...
    def write(self, chunk: bytes) -> Awaitable[None]: ...
    def finish(self) -> None: ...
    def set_close_callback(self, callback: Callable[[], None] | None) -> None: ...
    def cut(self) -> None: ...


class Endpoint(httputil.HTTPMessageDelegate):
    """One request. What the connection tells comes first; one task then does everything in its order."""

    def __init__(self, api: Addresses, exchange: Exchange) -> None:
        self.plane = api.plane
        self.host = api.host
        self._api = api
        self._exchange = exchange
        self._began_s = time.monotonic()
        self._chunks: list[bytes] = []
        self._size = 0
        self._whole = False
        self._more: asyncio.Future[None] | None = None
        """The task waits here for the end of the body."""
        self._admitted: asyncio.Future[None] | None = None
        """And the connection here until it is known whether the body is wanted."""
        self._admission_over = False
        self._sink: Sink | None = None
        self._refused: Exception | None = None
        self._running: asyncio.Task[None] | None = None
        """What is of no use once the caller has gone."""
        self._status = 0
        self._streamed = False
        self._over = False

    # What the connection tells: the head, each piece of the body, its end; or that the caller has gone.

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, httputil.RequestStartLine)
        path, _, parameters = start_line.path.partition("?")
        found, placeholders = self._api.find(path)
        given = headers.get("X-Request-Id")
        self.request_id = given if given and _REQUEST_ID.fullmatch(given) else new_id("rq")
        asking = Asking(request_id=self.request_id, address=self._exchange.context.remote_ip or "")
        self._asked = Asked(start_line.method, path, parameters, headers, found, placeholders, asking)
        self._found = found
        self._exchange.set_close_callback(self.on_connection_close)
        if found.face is not ROOT:
            self.host.touch()  # whoever only looks whether the server is there does not need it
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._serve())
        self._api.running.add(self._task)
        self._task.add_done_callback(self._api.running.discard)
        if "Expect" in headers:
            self._admitted = loop.create_future()
        return self._admitted

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self.host.touch()
        self._size += len(chunk)
        if self._sink is None and self._admission_over:
            self._collect(chunk)
            return None
        route = self._found.routes.get(self._asked.method)
        if route is not None and route.sink is None and self._size <= min(route.limit, _UNKNOWN):
            self._chunks.append(chunk)
            return None
        return self._take(chunk)

    def finish(self) -> None:
        self._whole = True
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def on_connection_close(self) -> None:
        self._end(self._status or 499)  # as nginx says that the caller went
        if self._sink is not None:
            sink, self._sink = self._sink, None
            self._ending = asyncio.ensure_future(self._cut(sink))
        if not self._whole:
            self._task.cancel()
        elif self._running is not None:
            self._running.cancel()

    def _collect(self, chunk: bytes) -> None:
        """A piece of a body that is kept until it is whole, or of one that nobody wants."""
        if self._refused is None:
            try:
                values.check_size(self._route, self._size)
                self._chunks.append(chunk)
                return
            except GradientError as error:
                self._refused = error
        self._chunks.clear()
        if self._size > _DRAIN and not self._status:
            self._refuse_early(self._refused)

    async def _take(self, chunk: bytes) -> None:
        """A piece whose sender has to wait."""
        context.enter(self._asked.asking)
        if not self._admission_over:
            if self._admitted is None:
                self._admitted = asyncio.get_running_loop().create_future()
            await self._admitted
            context.enter(self._asked.asking)
        if self._sink is None:
            self._collect(chunk)
            return
        try:
            await self._sink.feed(chunk)
        except Exception as error:
            self._refused = error
            self._size = 0  # so much of the rest is still read
            if self._sink is not None:
                sink, self._sink = self._sink, None
                await sink.abort()

    async def _cut(self, sink: Sink) -> None:
        try:
            await sink.cut()
        except Exception:
            # Nobody is left to tell. The sender will find that it has to send again.
            log.warning("%s: what had come of a cut upload is not kept", self._found.address, exc_info=True)

    # The task.

    async def _serve(self) -> None:
        try:
            await self._in_order()
        except Exception:
            log.exception("%s: %s %s", self.request_id, self._asked.method, self._found.address)
            self._exchange.cut()

    async def _in_order(self) -> None:
        context.enter(self._asked.asking)
        try:
            self._route, self._call = await admit(self._api, self._asked)
            if self._route.right is not Right.PUBLIC:
                self.host.watch.begin(self, self._check_still, self._exchange.cut)
            values.check_size(self._route, values.declared(self._asked.headers))
            if self._route.sink is not None:
                self._sink = self._route.sink(self._call)
        except Exception as error:
            self._refused = error
        self._admission_over = True
        if self._refused is not None and values.declared(self._asked.headers) > _DRAIN:
            self._refuse_early(self._refused)
        if self._admitted is not None and not self._admitted.done():
            self._admitted.set_result(None)
        if not self._whole and not self._status:
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        if self._status:
            return  # it was refused before its end
        if self._refused is not None:
            self._refuse(self._refused)
        else:
            await self._dispatch()

    async def _check_still(self) -> None:
        await check_still(self._api, self._asked, self._route, self._call)

    async def _dispatch(self) -> None:
        try:
            if self._sink is not None:
                sink, self._sink = self._sink, None
                try:
                    result = await sink.finish()
                except BaseException:
                    await sink.abort()
                    raise
            else:
                self._call.body = values.of_body(self._route, b"".join(self._chunks))
                if self._route.ends_with_caller:
                    self._running = self._task
                result = await self._route.handle(self._call)
            await self._answer(result)
        except StreamClosedError:
            pass  # the reader went away; there is nobody left to tell
        except asyncio.CancelledError:
            if not self._exchange.closed:
                raise
        except Exception as error:
            self._refuse(error)

    def _end(self, status: int) -> None:
        """The request is over: it is counted and, by its template, told."""
        if self._over:
            return
        self._over = True
        self.host.watch.end(self)
        took_s = time.monotonic() - self._began_s
        method = self._asked.method if self._asked.method in _METHODS else "(other)"
        self.host.meter.request(method, self._found.address, status, took_s, streamed=self._streamed)
        route = self._found.routes.get(method)
        if route is not None and not route.told and status < 400:
            return
        requests.info(
            "%s %s %d %.1f ms", method, self._found.address, status, took_s * 1000,
            extra={
                "method": method, "route": self._found.address, "status": status,
                "duration_ms": round(took_s * 1000, 3), "asking": self._asked.asking,
            },
        )  # fmt: skip

    # The answer.

    async def _answer(self, result: object) -> None:
        if hasattr(result, "write"):
            answer: Answer = result
            # Only what is written to a reader ends with the reader; what changes something is finished.
            self._streamed = self._route.media == "text/event-stream"
            self._running = self._task
            await answer.write(self)
            self._exchange.finish()
            self._end(self._status)
        elif self._route.status == 204:
            self._send(204, b"")
        else:
            self._send(self._route.status, msgspec.json.encode(result))

    def _send(
        self, status: int, body: bytes, media: str = "application/json", *more: tuple[str, str]
    ) -> None:
        """A whole answer."""
        self._status = status
        kind = (("Content-Type", media),) if body else ()
        self._exchange.answer(status, (*_HEADERS, ("X-Request-Id", self.request_id), *kind, *more), body)
        self._end(status)

    def _refuse_early(self, error: Exception) -> None:
        """Answers before the whole request is read. That costs the connection, so a small body is read to its
        end instead."""
        self._refuse(error)
        self.finish()  # the task does not wait for the rest

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, OSError):
            error = _of_the_system(error)
        if not isinstance(error, GradientError):
            log.error("%s: %s %s", self.request_id, self._asked.method, self._found.address, exc_info=error)
            error = ServerError(
                f"Something went wrong in the server; it is logged as {self.request_id}.",
                next="Report it with the lines of the server's log that bear this id.",
            )
        elif error.status >= 500:
            log.warning("%s: %s %s: %s", self.request_id, self._asked.method, self._found.address, error)
        if self._status:
            # Half an answer is out: cutting the connection is the only honest way to say so.
            self._exchange.cut()
            return
        more = []
        if error.status == 401:
            more.append(("WWW-Authenticate", "Bearer"))
        if error.status == 405:
            more.append(("Allow", ", ".join(sorted(self._found.routes)) or "GET"))
        body = self._found.face.refusal(error)
        encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self._send(error.status, encoded, self._found.face.media, *more)

    # ``routes.Connection``, for answers that write themselves: each ``send`` waits until the reader has taken
    # it. Whoever takes something in needs the server, however long the answer takes.

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        lines = httputil.HTTPHeaders({**dict(_HEADERS), "X-Request-Id": self.request_id, **headers})
        await self._exchange.write_headers(httputil.ResponseStartLine("", status, ""), lines)

    async def send(self, data: bytes) -> None:
        await self._exchange.write(data)
        self.host.touch()

    def remind(self, data: bytes) -> None:
        if not self._exchange.writing:
            self._exchange.write(data)


def _of_the_system(error: OSError) -> Exception:
    """What the machine is short of, in our words; everything else as it is."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace(
                "The server's disk is full, so this was not done.",
                next="Free some space: gradient jobs delete removes old runs.",
            )
        case errno.EMFILE | errno.ENFILE:
            return ServerUnavailable(
                "The server has too many files and connections open to do this now.",
                next="Try again soon; raise its limit (ulimit -n) if that repeats.",
                code="too-many-files",
            )
        case errno.EIO | errno.EROFS:
            return ServerError(
                f"The server's disk refuses to work: {error}.",
                next="The system's log says more. Nothing was stored.",
                code="disk-error",
            )
    return error
