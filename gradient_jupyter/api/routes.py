"""What a route is, and what the function behind it is given and may answer.

A route is data: method, path, the right it takes, the types it reads and answers. ``{name}`` in a path
stands for one part of it, ``{name...}`` for the rest.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from tornado.httputil import HTTPHeaders

from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.errors import ErrorAnswer, GradientError, InvalidRequest, NotFound
from gradient_jupyter.resources.server import API

#: Enough for a manifest of 200,000 entries; every other body is far smaller.
MANIFEST_BODY = 64 * 2**20
JSON_BODY = 1 * 2**20
#: What stands in figures and logs for an address that is none.
NO_ROUTE = "(none)"


class Right(enum.StrEnum):
    """What a token must allow. ``PUBLIC`` is the only one that needs no token."""

    PUBLIC = "public"
    READ = "read"
    WRITE = "write"
    OPERATE = "operate"
    """Stop the server itself, and look after it. In solo that is its one user's."""
    ACCESS = "access"
    """Say who may do what: tokens, and members of projects."""
    OBSERVE = "observe"
    """The server's own figures, which tell of everybody's jobs together."""


class Inside(enum.StrEnum):
    """What of a route a running job's own token opens."""

    CLOSED = "closed"
    ITS_JOB = "its-job"
    """The route's ``{job_id}`` must be its own; the dispatcher sees to that."""
    HANDLER = "handler"
    """What it names stands elsewhere (a body, a run's id): the function compares it with
    ``principal.attempt`` before it does anything."""


def _nothing_here(path: str) -> GradientError:
    return NotFound(
        "There is nothing at this address.",
        next="GET /api/v1/openapi.json lists what there is.",
        code="no-such-route",
    )


@dataclass(frozen=True)
class Face:
    """One dialect under one prefix: how it says that something went wrong."""

    prefix: str
    refusal: Callable[[GradientError], object]
    """The body of a refusal: bytes as they are, everything else as JSON."""
    media: str = "application/json"
    """The media type of a refusal."""
    token_in: str = ""
    """The placeholder of its paths in which a run's push token stands, where callers cannot send a header.
    Nothing else opens them, and their paths are shown to nobody."""
    unknown: Callable[[str], GradientError] = _nothing_here
    """What is said of a path below the prefix that is no route."""
    lenient: bool = False
    """Its callers are not ours: unknown parameters are ignored, one may come several times, and numbers may
    come as strings."""


#: Our own.
NATIVE = Face(f"/api/{API}", lambda error: ErrorAnswer(error=error.body()))
#: The same words, for the few addresses that others look for at the root.
ROOT = Face("", NATIVE.refusal)


class Sink(Protocol):
    """Where a streamed body goes, piece by piece."""

    async def feed(self, chunk: bytes) -> None: ...
    async def finish(self) -> object: ...
    async def cut(self) -> None:
        """The sender went away before the end."""

    async def abort(self) -> None: ...


class Connection(Protocol):
    """What a streamed answer is written to."""

    async def begin(self, status: int, headers: dict[str, str]) -> None: ...
    async def send(self, data: bytes) -> None: ...
    def remind(self, data: bytes) -> None:
        """Sends if the reader has taken everything before, and does not wait."""


class Answer(Protocol):
    """An answer that writes itself: a file, an archive, an event stream."""

    async def write(self, to: Connection) -> None: ...


class Heart(Protocol):
    """Keeps silent streams alive."""

    def heard(self, stream: Connection) -> None: ...
    def forget(self, stream: Connection) -> None: ...


class Watch(Protocol):
    """Looks again at open requests."""

    def begin(self, key: object, check: Callable[[], Awaitable[None]], cut: Callable[[], None]) -> None: ...
    def end(self, key: object) -> None: ...
    def look_now(self) -> None:
        """Something was taken from somebody: what they have open ends."""

    def __len__(self) -> int: ...


class Meter(Protocol):
    """Counts what is answered."""

    def request(self, method: str, route: str, status: int, took_s: float, *, streamed: bool) -> None: ...
    def exposition(self, now: Any) -> tuple[bytes, str]: ...


class Readiness(Protocol):
    async def ready(self) -> bool: ...


class Host(Protocol):
    """The program around the API, as far as a route may speak to it."""

    token: str
    mode: str
    url: str
    streams: int
    heart: Heart
    watch: Watch
    meter: Meter
    readiness: Readiness
    started_us: int

    def stop(self) -> None: ...

    def touch(self) -> None:
        """Somebody needs the server right now."""


@dataclass
class Call:
    """One request, understood: who, what, with which values."""

    plane: Plane
    host: Host
    principal: Principal
    path: dict[str, str]
    headers: HTTPHeaders
    query: Any = None
    body: Any = None


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    right: Right
    handle: Callable[[Call], Awaitable[Any]]
    summary: str
    query: type | None = None
    body: type | None = None
    returns: Any = None
    status: int = 200
    body_limit: int = 0
    """Bytes. 0: ``JSON_BODY`` when there is a ``body``, none otherwise."""
    sink: Callable[[Call], Sink] | None = None
    """Takes the body as it arrives; its ``finish`` is the answer and ``handle`` is ``by_its_sink``."""
    ends_with_caller: bool = False
    """What it does is of no use to anybody once the caller has hung up: it is cancelled then."""
    media: str = "application/json"
    """The media type of the answer."""
    inside: Inside = Inside.CLOSED
    still: Callable[[Call], Awaitable[object]] | None = None
    """Raises when what was asked for exists no more for whoever asks. Called again while a long answer lasts,
    where neither ``{job_id}`` nor ``{project_id}`` of the path says it."""
    face: Face = NATIVE
    headers: dict[str, str] = field(default_factory=dict)
    """Request headers it understands, with what they mean: for the document."""
    told: bool = True
    """Each request has its line in the log. False: runs call this for every number, and a request that
    succeeds is only counted."""

    @cached_property
    def limit(self) -> int:
        return self.body_limit or (JSON_BODY if self.body else 0)

    @cached_property
    def address(self) -> str:
        """The whole path, as a document shows it."""
        return self.face.prefix + self.path.replace("...}", "}")

    @cached_property
    def pattern(self) -> str:
        """The whole path as a regular expression with one named group per placeholder."""
        rest = re.sub(r"\{(\w+)\.\.\.\}", r"(?P<\1>.+)", self.face.prefix + self.path)
        return re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", rest)

    @cached_property
    def names(self) -> list[str]:
        return re.findall(r"\{(\w+)(?:\.\.\.)?\}", self.path)


@dataclass(frozen=True)
class Resource:
    """What is at an address: its routes by their methods; none: nothing is."""

    face: Face
    routes: dict[str, Route]

    @cached_property
    def address(self) -> str:
        """As the document shows it: a real one may hold what is not for a log."""
        return next((route.address for route in self.routes.values()), NO_ROUTE)


async def by_its_sink(call: Call) -> Any:
    """The ``handle`` of a route whose ``sink`` takes the body and answers: it is never called."""
    raise AssertionError(call)


def cursor(text: str | None) -> int | None:
    """A list's cursor as we gave it out."""
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidRequest(
            f"{text[:40]!r} is no cursor.",
            next="Use the `next` of the page before, or leave it out.",
            code="bad-cursor",
        )
    return int(text)
