"""The dispatcher: the one tornado handler every request goes through.

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
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Connection
from tornado import httputil, iostream, web

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


@web.stream_request_body
class Endpoint(web.RequestHandler):
    """One request to one path. ``routes`` are that path's, one per method; none: the path is unknown."""

    SUPPORTED_METHODS = _METHODS

    def initialize(self, plane: Plane, host: Host, door: Door, routes: Sequence[Route], face: Face) -> None:
        self.plane = plane
        self.host = host
        self.door = door
        self.face = face
        self.routes = {route.method: route for route in routes}
        self._chunks: list[bytes] = []
        self._size = 0
        self._drained = 0
        self._sink: Sink | None = None
        self._running: asyncio.Task[None] | None = None
        self._refused: Exception | None = None
        self._began_s = time.monotonic()
        self._streamed = False
        self._over = False
        # Until somebody is known: where it comes from. (tornado asks for the id before it calls us.)
        self._asking = Asking(request_id=self.request_id, address=self.request.remote_ip or "")

    @property
    def request_id(self) -> str:
        """Ours, or the caller's own."""
        known: str | None = getattr(self, "_request_id", None)
        if known is None:
            given = self.request.headers.get("X-Request-Id", "")
            known = given if _REQUEST_ID.fullmatch(given) else new_id("rq")
            self._request_id = known
        return known

    @property
    def template(self) -> str:
        """The address as the document shows it: a real one may hold what is not for a log."""
        return next((route.address for route in self.routes.values()), NO_ROUTE)

    # What tornado calls, in its order: prepare, data_received for each piece of the body, the method.

    async def prepare(self) -> None:
        if self.face is not ROOT:
            self.host.touch()  # whoever only looks whether the server is there does not need it
        context.enter(self._asking)
        try:
            self._route, self._call = await self._admit()
            self._refuse_large(_declared(self.request.headers))
            if self._route.sink is not None:
                # The sink sets its own, larger limits while it reads.
                self.request.connection.set_max_body_size(1 << 60)  # type: ignore[union-attr]
                self._sink = self._route.sink(self._call)
        except Exception as error:
            self._refused = error
            if _declared(self.request.headers) > _DRAIN:
                self._refuse_early(error)
        finally:
            self._tell("head_read")

    async def data_received(self, chunk: bytes) -> None:
        began_s = time.monotonic()
        try:
            await self._take(chunk)
        finally:
            self._tell("piece_read", len(chunk), time.monotonic() - began_s)

    async def _take(self, chunk: bytes) -> None:
        self.host.touch()
        context.enter(self._asking)
        if self._finished:
            return  # refused already; tornado closes the connection after the answer
        if self._refused is not None:
            self._drained += len(chunk)
            if self._drained > _DRAIN:
                self._refuse_early(self._refused)
            return
        try:
            if self._sink is not None:
                await self._sink.feed(chunk)
                return
            self._size += len(chunk)
            self._refuse_large(self._size)
            self._chunks.append(chunk)
        except Exception as error:
            self._refused = error
            if self._sink is not None:
                sink, self._sink = self._sink, None
                await sink.abort()

    async def _dispatch(self, **_: str) -> None:
        self._tell("body_read")
        if self._finished:
            return
        if self._refused is not None:
            self._refuse(self._refused)
            return
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
                    self._running = asyncio.current_task()
                result = await self._route.handle(self._call)
            await self._answer(result)
        except iostream.StreamClosedError:
            pass  # the reader went away; there is nobody left to tell
        except asyncio.CancelledError:
            if not self.request.connection.stream.closed():  # type: ignore[union-attr]
                raise
        except Exception as error:
            self._refuse(error)

    get = head = post = delete = patch = put = options = _dispatch

    def on_finish(self) -> None:
        self._end(self.get_status())

    def on_connection_close(self) -> None:
        self._end(self.get_status() if self._headers_written else 499)  # as nginx says that the caller went
        if self._sink is not None:
            sink, self._sink = self._sink, None
            self._ending = asyncio.ensure_future(self._cut(sink))
        if self._running is not None:
            self._running.cancel()

    async def _cut(self, sink: Sink) -> None:
        try:
            await sink.cut()
        except Exception:
            # Nobody is left to tell. The sender will find that it has to send again.
            log.warning("%s: what had come of a cut upload is not kept", self.template, exc_info=True)

    def _tell(self, what: str, *values: float) -> None:
        """Tells the connection's stream how far the request is, where it wants to know."""
        stream = getattr(self.request.connection, "stream", None)
        if (told := getattr(stream, what, None)) is not None:
            told(*values)

    def _end(self, status: int) -> None:
        """The request is over: it is counted and, by its template, told."""
        if self._over:
            return
        self._over = True
        self.host.watch.end(self)
        self._tell("request_over")
        took_s = time.monotonic() - self._began_s
        method = self.request.method if self.request.method in _METHODS else "(other)"
        self.host.meter.request(method, self.template, status, took_s, streamed=self._streamed)
        route = self.routes.get(method)
        if route is not None and not route.told and status < 400:
            return
        requests.info(
            "%s %s %d %.1f ms", method, self.template, status, took_s * 1000,
            extra={
                "method": method, "route": self.template, "status": status,
                "duration_ms": round(took_s * 1000, 3), "asking": self._asking,
            },
        )  # fmt: skip

    def compute_etag(self) -> None:
        """Hashing every answer to save none of them is not worth it; artifacts have their own."""
        return

    def set_default_headers(self) -> None:
        # Not by ``set_header``, which looks through each value for what no header may hold.
        del self._headers["Server"]
        for name, value in _HEADERS:
            self._headers[name] = value
        self._headers["X-Request-Id"] = self.request_id

    def log_exception(self, *args: Any) -> None:
        """What concerns us was logged by ``_refuse``; the rest is a caller's malformed HTTP."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """tornado's own refusals (undecodable paths, unknown methods) in our shape."""
        error: GradientError = InvalidRequest("The request is not valid HTTP.", code="bad-http")
        if status_code == 405:
            error = NotAllowed("This method does not exist here.")
        elif status_code >= 500:
            error = ServerError(f"Something went wrong in the server; it is logged as {self.request_id}.")
        # tornado refuses before it reads the request, and then closes the connection.
        self.set_header("Connection", "close")
        self._write_refusal(error, status_code)

    # The steps.

    async def _admit(self) -> tuple[Route, Call]:
        headers = self.request.headers
        self.door.check_host(headers)
        route = self.routes.get(self.request.method or "")
        if route is not None and route.right is Right.PUBLIC:
            principal = Principal(user_id="", name="anonymous")
        else:
            principal = await self._recognise()
        if not self.routes:
            raise self.face.unknown(self.request.path)
        if route is None:
            raise NotAllowed(
                f"{self.request.method} does not exist here.",
                next=f"Here are: {', '.join(sorted(self.routes))}.",
            )
        if principal.attempt is None and route.right is not Right.PUBLIC:
            check_right(principal, route.right)
        if route.method != "GET" and route.right in _CHANGING and self.plane.read_only:
            raise refusal(self.plane.read_only)
        path = {name: self.path_kwargs[name] for name in route.names}
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
            token = self.path_kwargs.get(self.face.token_in) or ""
            return await attempts.principal(self.plane, token, tokens.PUSH_PREFIX)
        return await self.door.principal(self.plane, bearer(self.request.headers))

    def _ask_as(self, *, user_id: str, token_id: str, attempt: str = "") -> None:
        self._asking = Asking(
            request_id=self.request_id, address=self._asking.address, user_id=user_id, token_id=token_id,
            attempt=attempt, job_id=self.path_kwargs.get("job_id") or "",
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
        self.request.connection.stream.close()  # type: ignore[union-attr]

    def _query(self, route: Route) -> Any:
        given = dict(self.request.query_arguments)
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
            self._running = asyncio.current_task()
            await answer.write(_Wire(self))
            await self.finish()
            return
        self.set_status(self._route.status)
        if self._route.status == 204:
            await self.finish()
            return
        self.set_header("Content-Type", "application/json")
        await self.finish(msgspec.json.encode(result))

    def _refuse_early(self, error: Exception) -> None:
        """Answers before the whole request is read. That costs the connection, so it is said, and a small
        body is read to its end instead."""
        self.set_header("Connection", "close")
        self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        if isinstance(error, OSError):
            error = _of_the_system(error)
        if not isinstance(error, GradientError):
            log.error("%s: %s %s", self.request_id, self.request.method, self.template, exc_info=error)
            error = ServerError(
                f"Something went wrong in the server; it is logged as {self.request_id}.",
                next="Report it with the lines of the server's log that bear this id.",
            )
        elif error.status >= 500:
            log.warning("%s: %s %s: %s", self.request_id, self.request.method, self.template, error)
        if self._headers_written:
            # Half an answer is out: cutting the connection is the only honest way to say so.
            self.request.connection.stream.close()  # type: ignore[union-attr]
            return
        if not self._finished:
            self._write_refusal(error, error.status)

    def _write_refusal(self, error: GradientError, status: int) -> None:
        self.set_status(status)
        self.set_header("Content-Type", self.face.media)
        if status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if status == 405:
            self.set_header("Allow", ", ".join(sorted(self.routes)) or "GET")
        body = self.face.refusal(error)
        self.finish(body if isinstance(body, bytes) else msgspec.json.encode(body))


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


class _Wire:
    """``routes.Connection`` over a handler: each ``send`` waits until the reader has taken it.

    Whoever takes something in needs the server, however long the answer takes.
    """

    def __init__(self, handler: Endpoint) -> None:
        self._handler = handler

    async def begin(self, status: int, headers: dict[str, str]) -> None:
        self._handler.set_status(status)
        for name, value in headers.items():
            self._handler.set_header(name, value)
        await self._handler.flush()

    async def send(self, data: bytes) -> None:
        self._handler.write(data)
        await self._handler.flush()
        self._handler.host.touch()

    def remind(self, data: bytes) -> None:
        if not self._handler.request.connection.stream.writing():  # type: ignore[union-attr]
            self._handler.write(data)
            self._handler.flush()
