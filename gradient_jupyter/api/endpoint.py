"""The dispatcher: the one tornado handler every request goes through.

In this order, and before anything else is looked at: the Host names us, the Origin is ours, the token
is known, the route exists, the token allows it, the body is small enough. Then values are decoded by type
and the route's function is called. What it raises becomes the one error shape; what nobody foresaw is
logged under an id and answered as a 500 that names it.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tornado import httputil, iostream, web

from gradient_jupyter.api.routes import Answer, Call, Face, Host, Inside, Right, Route, Sink
from gradient_jupyter.control import attempts, tokens
from gradient_jupyter.control.access import Principal
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
from gradient_jupyter.store.database import refusal

log = logging.getLogger(__name__)

_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
_DRAIN = 1 << 20


class Door:
    """Who may come in: solo's one user, by the token in their runtime file."""

    def __init__(self, token: str, principal: Principal, hosts: frozenset[str]) -> None:
        self._token = token.encode()
        self._principal = principal
        self._hosts = hosts

    def check_host(self, headers: httputil.HTTPHeaders) -> None:
        """Loopback is no boundary: a page that rebinds its name to 127.0.0.1 still sends that name."""
        hosts = headers.get_list("Host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Forbidden(
                "This server does not answer to that Host.",
                next="Use the address it printed: gradient server status",
                code="wrong-host",
            )
        for origin in headers.get_list("Origin"):
            try:
                parts = urlsplit(origin)
                ours = parts.scheme == "http" and parts.netloc.lower() in self._hosts
            except ValueError:  # an address that is none, such as http://[
                ours = False
            if not ours:
                raise Forbidden(
                    "Requests from other sites are refused.",
                    next="Use the client or curl.",
                    code="foreign-origin",
                )

    def principal(self, token: str) -> Principal:
        """Whose token this is."""
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            raise Unauthenticated(
                "A token is needed: none was sent, or not this server's.",
                next="Send Authorization: Bearer <token>; the client finds it by itself.",
                code="no-token" if not token else "wrong-token",
            )
        return self._principal


def bearer(headers: httputil.HTTPHeaders) -> str:
    """The token. Tokens travel in this header only; empty when there is none."""
    kind, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() in ("bearer", "token") else ""


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

    # What tornado calls, in its order: prepare, data_received for each piece of the body, the method.

    async def prepare(self) -> None:
        self.host.touch()
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

    async def data_received(self, chunk: bytes) -> None:
        self.host.touch()
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

    def on_connection_close(self) -> None:
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
            log.warning("%s: what had come of a cut upload is not kept", self.request.path, exc_info=True)

    def compute_etag(self) -> None:
        """Hashing every answer to save none of them is not worth it; artifacts have their own."""
        return

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    def log_exception(self, *args: Any) -> None:
        """What concerns us was logged by ``_refuse``; the rest is a caller's malformed HTTP."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """tornado's own refusals (undecodable paths, unknown methods) in our shape."""
        error: GradientError = InvalidRequest("The request is not valid HTTP.", code="bad-http")
        if status_code == 405:
            error = NotAllowed("This method does not exist here.")
        elif status_code >= 500:
            error = ServerError("Something went wrong in the server.", next="Its log says more.")
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
        elif (token := bearer(headers)).startswith(tokens.PREFIX):
            principal = await attempts.principal(self.plane, token)
        else:
            principal = self.door.principal(token)
        if not self.routes:
            raise self.face.unknown(self.request.path)
        if route is None:
            raise NotAllowed(
                f"{self.request.method} does not exist here.",
                next=f"Here are: {', '.join(sorted(self.routes))}.",
            )
        if route.right is Right.WRITE and self.plane.read_only:
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
        return route, call

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
            values: dict[str, object] = {
                name: [each.decode() for each in found] if lenient and len(found) > 1 else found[-1].decode()
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
            incident = new_id("x")
            log.error("%s: %s %s", incident, self.request.method, self.request.path, exc_info=error)
            error = ServerError(
                f"Something went wrong in the server; it is logged as {incident}.",
                next="Report it with the lines of the server's log that bear this id.",
            )
        elif error.status >= 500:
            log.warning("%s %s: %s", self.request.method, self.request.path, error)
        if self._headers_written:
            # Half an answer is out: cutting the connection is the only honest way to say so.
            self.request.connection.stream.close()  # type: ignore[union-attr]
            return
        if not self._finished:
            self._write_refusal(error, error.status)

    def _write_refusal(self, error: GradientError, status: int) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        if status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if status == 405:
            self.set_header("Allow", ", ".join(sorted(self.routes)) or "GET")
        self.finish(msgspec.json.encode(self.face.refusal(error)))


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
