"""Logs over HTTP: Server-Sent Events that can be resumed at any piece, or the whole as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.api.streams import Bytes, EventStream, message
from gradient_jupyter.control.following import logs
from gradient_jupyter.control.following.tails import Piece
from gradient_jupyter.resources.base import Request
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.log import Ended, Truncated

Attempt = Annotated[int, msgspec.Meta(ge=1)]


class FollowQuery(Request, frozen=True, kw_only=True):
    follow: bool = False
    attempt: Attempt | None = None
    """Only this attempt's log. Without it: the newest one's, and those of the attempts that come after it."""


class LogQuery(Request, frozen=True, kw_only=True):
    attempt: Attempt | None = None
    """Default: the newest."""


async def follow(call: Call) -> EventStream[bytes | Truncated | Job | Ended]:
    start = logs.parse_position(call.headers.get("Last-Event-ID"))
    source = logs.follow(
        call.plane, call.principal, call.path["job_id"], start, call.query.follow, _pieces, call.query.attempt
    )
    return EventStream(call.host, source, _encode)


async def whole(call: Call) -> Bytes:
    pieces = await logs.whole(call.plane, call.principal, call.path["job_id"], call.query.attempt)
    return Bytes(pieces, "text/plain; charset=utf-8", f"{call.path['job_id']}.log")


def _pieces(pieces: Sequence[Piece]) -> bytes:
    return b"".join(message("log", msgspec.json.encode(each.piece), str(each.after)) for each in pieces)


def _encode(item: bytes | Truncated | Job | Ended) -> bytes:
    match item:
        case bytes():
            return item
        case Truncated():
            return message("log-truncated", msgspec.json.encode(item))
        case Ended():
            return message("end", msgspec.json.encode(item))
        case Job():
            return message("job", msgspec.json.encode(item))


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/jobs/{job_id}/logs", Right.READ, follow, query=FollowQuery, returns=str,
            media="text/event-stream",
            summary="The log as events: job, log (its id is <epoch>-<offset>), log-truncated, end",
            headers={"Last-Event-ID": "The id of the last piece that was received: goes on after it."},
        ),
        Route(
            "GET", "/jobs/{job_id}/log", Right.READ, whole, query=LogQuery, returns=str, media="text/plain",
            summary="The whole log as it is now, every stream in the order of arrival",
        ),
    ]  # fmt: skip
