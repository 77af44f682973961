"""The stream of changes over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.api.streams import EventStream, Message
from gradient_jupyter.control import events
from gradient_jupyter.control.events import Reset
from gradient_jupyter.resources.event import Event


async def follow(call: Call) -> EventStream:
    source = events.follow(call.plane, call.principal, call.headers.get("Last-Event-ID"))
    return EventStream(call.host, _messages(call.plane.install, source))


async def _messages(
    install: str, source: AsyncIterator[Event | Reset | None]
) -> AsyncIterator[Message | None]:
    async for item in source:
        match item:
            case None:
                yield None
            case Reset(seq):
                yield Message("reset", msgspec.json.encode({"seq": seq}), f"{install}-{seq}")
            case Event():
                yield Message("change", msgspec.json.encode(item), f"{install}-{item.seq}")


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/events", Right.READ, follow, returns=str, media="text/event-stream",
            summary="Every change you may see, as it happens: change (an Event), reset",
            headers={"Last-Event-ID": "The id of the last event that was received: goes on after it."},
        )
    ]  # fmt: skip
