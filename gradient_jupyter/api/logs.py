"""Logs over HTTP: Server-Sent Events that can be resumed at any piece, or the whole as text."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.api.streams import Bytes, EventStream, Message
from gradient_jupyter.control import logs
from gradient_jupyter.control.logs import Piece
from gradient_jupyter.resources.base import Request
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.log import Ended, Truncated


class LogQuery(Request, frozen=True, kw_only=True):
    follow: bool = False


async def follow(call: Call) -> EventStream:
    start = logs.parse_position(call.headers.get("Last-Event-ID"))
    source = logs.follow(call.plane, call.principal, call.path["job_id"], start, call.query.follow)
    return EventStream(call.host, _messages(source))


async def whole(call: Call) -> Bytes:
    pieces = await logs.whole(call.plane, call.principal, call.path["job_id"])
    return Bytes(pieces, "text/plain; charset=utf-8")


async def _messages(
    source: AsyncIterator[Piece | Truncated | Job | Ended | None],
) -> AsyncIterator[Message | None]:
    async for item in source:
        match item:
            case None:
                yield None
            case Piece(after, piece):
                yield Message("log", msgspec.json.encode(piece), str(after))
            case Truncated():
                yield Message("log-truncated", msgspec.json.encode(item))
            case Ended():
                yield Message("end", msgspec.json.encode(item))
            case Job():
                yield Message("job", msgspec.json.encode(item))


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/jobs/{job_id}/logs", Right.READ, follow, query=LogQuery, returns=str,
            media="text/event-stream",
            summary="The log as events: job, log (its id is <epoch>-<offset>), log-truncated, end",
            headers={"Last-Event-ID": "The id of the last piece that was received: goes on after it."},
        ),
        Route(
            "GET", "/jobs/{job_id}/log", Right.READ, whole, returns=str, media="text/plain",
            summary="The whole log as it is now, every stream in the order of arrival",
        ),
    ]  # fmt: skip
