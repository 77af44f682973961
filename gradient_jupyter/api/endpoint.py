"""The dispatcher: the one way every request goes.

In this order, and before anything else is looked at: the Host names us, the Origin is ours, the token is
known (``door``), the route exists, the token allows it, the body is small enough. Then values are decoded by
type and the route's function is called. What it raises becomes the one error shape; what nobody foresaw is
logged under an id and answered as a 500 that names it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Protocol
from urllib.parse import unquote, unquote_to_bytes

import msgspec
from sqlalchemy import Connection
from tornado import httputil
from tornado.escape import parse_qs_bytes
from tornado.iostream import StreamClosedError

from gradient_jupyter.api.door import Door, bearer, check_right
from gradient_jupyter.api.meter import NO_ROUTE
from gradient_jupyter.api.routes import ROOT, Answer, Call, Face, Host, Inside, Right, Route, Sink
from gradient_jupyter.control import access, attempts, context, tokens
from gradient_jupyter.control.access import Principal
from gradient_jupyter.control.context import Asking
from gradient_jupyter.control.granted import TokenEnded
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.base import new_id
from gradient_jupyter.resources.decoding import convert, decode, decode_lax
from gradient_jupyter.resources.errors import (
    Forbidden,
    GradientError,
    InvalidRequest,
    NoSpace,
    NotAllowed,
    ServerError,
    ServerUnavailable,
    TooLarge,
    Unauthenticated,
)  # fmt: skip
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store.database import refusal

log = logging.getLogger(__name__)
requests = logging.getLogger("gradient_jupyter.requests")

#: A caller's own id of a request is taken when it is harmless wherever it is shown.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
_DRAIN = 1 << 20
#: Of every answer.
_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
#: What these open changes rows, so it is refused while nothing may be changed.
_CHANGING = frozenset({Right.WRITE, Right.ACCESS})


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
        self,
        start_line: httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Awaitable[None]: ...
    def write(self, chunk: bytes) -> Awaitable[None]: ...
    def finish(self) -> None: ...
    def set_close_callback(self, callback: Callable[[], None] | None) -> None: ...
    def cut(self) -> None: ...


@dataclass(frozen=True)
class Resource:
    """What is at an address: its routes by their methods; none: nothing is."""

    face: Face
    routes: dict[str, Route]

    @cached_property
    def address(self) -> str:
        """As the document shows it: a real one may hold what is not for a log."""
        return next((route.address for route in self.routes.values()), NO_ROUTE)


class Addresses(Protocol):
    """What all requests have in common."""

    plane: Plane
    host: Host
    door: Door
    running: set[asyncio.Task[None]]

    def find(self, path: str) -> tuple[Resource, dict[str, str]]: ...


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
        self.method = start_line.method
        self.path, _, self._parameters = start_line.path.partition("?")
        self.headers = headers
        given = headers.get("X-Request-Id")
        self.request_id = given if given and _REQUEST_ID.fullmatch(given) else new_id("rq")
        # Until somebody is known: where it comes from.
        self._asking = Asking(request_id=self.request_id, address=self._exchange.context.remote_ip or "")
        self._found, self._placeholders = self._api.find(self.path)
        self.face = self._found.face
        self._exchange.set_close_callback(self.on_connection_close)
        if self.face is not ROOT:
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
        route = self._found.routes.get(self.method)
        if route is not None and route.sink is None and self._size <= route.limit:
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
                self._refuse_large(self._size)
                self._chunks.append(chunk)
                return
            except GradientError as error:
                self._refused = error
        self._chunks.clear()
        if self._size > _DRAIN and not self._status:
            self._refuse_early(self._refused)

    async def _take(self, chunk: bytes) -> None:
        """A piece whose sender has to wait."""
        context.enter(self._asking)
        if not self._admission_over:
            if self._admitted is None:
                self._admitted = asyncio.get_running_loop().create_future()
            await self._admitted
            context.enter(self._asking)
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
            log.exception("%s: %s %s", self.request_id, self.method, self._found.address)
            self._exchange.cut()

    async def _in_order(self) -> None:
        context.enter(self._asking)
        try:
            self._route, self._call = await self._admit()
            self._refuse_large(_declared(self.headers))
            if self._route.sink is not None:
                self._sink = self._route.sink(self._call)
        except Exception as error:
            self._refused = error
        self._admission_over = True
        if self._refused is not None and _declared(self.headers) > _DRAIN:
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
                self._call.body = self._decode(b"".join(self._chunks))
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
        method = self.method if self.method in _METHODS else "(other)"
        self.host.meter.request(method, self._found.address, status, took_s, streamed=self._streamed)
        route = self._found.routes.get(method)
        if route is not None and not route.told and status < 400:
            return
        requests.info(
            "%s %s %d %.1f ms", method, self._found.address, status, took_s * 1000,
            extra={
                "method": method, "route": self._found.address, "status": status,
                "duration_ms": round(took_s * 1000, 3), "asking": self._asking,
            },
        )  # fmt: skip

    # The steps.

    async def _admit(self) -> tuple[Route, Call]:
        headers, routes = self.headers, self._found.routes
        self._api.door.check_host(headers)
        route = routes.get(self.method)
        if route is not None and route.right is Right.PUBLIC:
            principal = Principal(user_id="", name="anonymous")
        else:
            principal = await self._recognise()
        if not routes:
            raise self.face.unknown(self.path)
        if route is None:
            raise NotAllowed(
                f"{self.method} does not exist here.", next=f"Here are: {', '.join(sorted(routes))}."
            )
        if principal.attempt is None and route.right is not Right.PUBLIC:
            check_right(principal, route.right)
        if route.method != "GET" and route.right in _CHANGING and self.plane.read_only:
            raise refusal(self.plane.read_only)
        path = self._values()
        if principal.attempt is not None and not (
            route.inside is Inside.HANDLER
            or (route.inside is Inside.ITS_JOB and path.get("job_id") == principal.attempt[0])
        ):
            raise Forbidden(
                "A running job's own token does not open this.",
                next=f"It opens $GRADIENT_JOB_URL, the job {principal.attempt[0]} itself.",
                code="attempt-token",
            )
        call = Call(
            plane=self.plane,
            host=self.host,
            principal=principal,
            path=path,
            headers=headers,
            query=self._query(route),
        )
        if route.right is not Right.PUBLIC:
            self.host.watch.begin(self, lambda: self._check_still(route, call), self._cut_off)
        return route, call

    async def _recognise(self) -> Principal:
        """Whose request it is. From now on whatever is logged and recorded says so."""
        try:
            principal = await self._whose()
        except Unauthenticated as error:
            known = self._asking
            if isinstance(error, TokenEnded):
                self._ask_as(user_id=error.user_id, token_id=error.token_id)
                known = self._asking
            if error.code != "no-token":
                self.plane.refusals.count(known, error.code)
            raise
        job_id, attempt = principal.attempt or ("", 0)
        self._ask_as(
            user_id=principal.user_id,
            token_id=principal.token_id or "",
            attempt=f"{job_id}-{attempt}" if job_id else "",
        )
        return principal

    async def _whose(self) -> Principal:
        """Whom the token stands for. It comes in a header, but for the one face whose callers know addresses
        only."""
        if self.face.token_in:
            token = self._values().get(self.face.token_in, "")
            return await attempts.principal(self.plane, token, tokens.PUSH_PREFIX)
        return await self._api.door.principal(self.plane, bearer(self.headers))

    def _values(self) -> dict[str, str]:
        """What stands for the placeholders."""
        if not self._placeholders:
            return {}
        try:
            return {name: unquote_to_bytes(text).decode() for name, text in self._placeholders.items()}
        except UnicodeDecodeError:
            raise InvalidRequest("The address is not valid UTF-8.", code="bad-http") from None

    def _ask_as(self, *, user_id: str, token_id: str, attempt: str = "") -> None:
        self._asking = Asking(
            request_id=self.request_id, address=self._asking.address, user_id=user_id, token_id=token_id,
            attempt=attempt, job_id=unquote(self._placeholders.get("job_id", "")),
        )  # fmt: skip
        context.enter(self._asking)

    async def _check_still(self, route: Route, call: Call) -> None:
        """Raises when whoever asked would not be let in any more."""
        principal = await self._whose()
        if principal.attempt is not None:
            return
        check_right(principal, route.right)
        if route.still is not None:
            await route.still(replace(call, principal=principal))
        path = call.path

        def look(connection: Connection) -> None:
            # What was deleted meanwhile ends in its own way.
            if (job_id := path.get("job_id")) and job_rows.find(connection, job_id) is not None:
                access.job(connection, principal, job_id, Role.VIEWER)
            if (project_id := path.get("project_id")) and project_rows.exists(connection, project_id):
                access.project(connection, principal, project_id, Role.VIEWER)

        await self.plane.database.read(look)

    def _cut_off(self) -> None:
        self._exchange.cut()

    def _query(self, route: Route) -> Any:
        given = parse_qs_bytes(self._parameters, keep_blank_values=True) if self._parameters else {}
        lenient = route.face.lenient
        if route.query is None:
            if given and not lenient:
                raise InvalidRequest(
                    f"Unknown parameter {next(iter(given))[:80]!r}.",
                    next="This address takes none.",
                    code="bad-query",
                )
            return None
        try:
            several = _repeated(route.query)
            values: dict[str, object] = {
                name: [each.decode() for each in found]
                if name in several or (lenient and len(found) > 1)
                else found[-1].decode()
                for name, found in given.items()
            }
            return convert(values, route.query, strict=False)
        except (msgspec.ValidationError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"A parameter is wrong: {error}.", code="bad-query") from error

    def _decode(self, body: bytes) -> Any:
        if self._route.body is None:
            if body:
                raise InvalidRequest("This address takes no body.", code="bad-body")
            return None
        try:
            if self.face.lenient:
                return decode_lax(body or b"{}", self._route.body)
            return decode(body, type=self._route.body)
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"The body does not fit: {error}.",
                next="" if self.face.lenient else "GET /api/v1/openapi.json has its schema.",
                code="bad-body",
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"The body is no JSON: {error}.", code="bad-json") from error

    def _refuse_large(self, size: int) -> None:
        limit = self._route.limit
        if self._sink is None and self._route.sink is None and size > limit:
            if limit == 0:
                raise InvalidRequest("This address takes no body.", code="bad-body")
            raise TooLarge(
                f"The body is larger than the {limit / 2**20:.0f} MiB that this address takes.",
                next="Send less at once.",
                code="body-too-large",
            )

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
        own = (("X-Request-Id", self.request_id), ("Content-Type", media))
        self._exchange.answer(status, (*_HEADERS, *own, *more), body)
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
            log.error("%s: %s %s", self.request_id, self.method, self._found.address, exc_info=error)
            error = ServerError(
                f"Something went wrong in the server; it is logged as {self.request_id}.",
                next="Report it with the lines of the server's log that bear this id.",
            )
        elif error.status >= 500:
            log.warning("%s: %s %s: %s", self.request_id, self.method, self._found.address, error)
        if self._status:
            # Half an answer is out: cutting the connection is the only honest way to say so.
            self._exchange.cut()
            return
        more = []
        if error.status == 401:
            more.append(("WWW-Authenticate", "Bearer"))
        if error.status == 405:
            more.append(("Allow", ", ".join(sorted(self._found.routes)) or "GET"))
        body = self.face.refusal(error)
        encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
        self._send(error.status, encoded, self.face.media, *more)

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


@cache
def _repeated(query: type) -> frozenset[str]:
    """The parameters that may be given more than once: those whose default is an empty tuple."""
    return frozenset(field.name for field in msgspec.structs.fields(query) if field.default == ())


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


def _declared(headers: httputil.HTTPHeaders) -> int:
    """How long the body is said to be. Of what is no length, tornado says so when it comes to the body."""
    text = headers.get("Content-Length", "")
    if not (text.isascii() and text.isdecimal()):
        return 0
    return int(text) if len(text) < 19 else 1 << 62
