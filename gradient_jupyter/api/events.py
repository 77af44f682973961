"""The stream of changes over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.api.streams import EventStream, message
from gradient_jupyter.control.following import events
from gradient_jupyter.control.following.events import Reset
from gradient_jupyter.resources.event import Event


async def follow(call: Call) -> EventStream[bytes | Reset]:
    install = call.plane.install
    source = events.follow(
        call.plane, call.principal, call.headers.get("Last-Event-ID"), partial(_changes, install)
    )
    return EventStream(call.host, source, partial(_encode, install))


def _changes(install: str, found: Sequence[Event]) -> bytes:
    return b"".join(
        message("change", msgspec.json.encode(event), f"{install}-{event.seq}") for event in found
    )


def _encode(install: str, item: bytes | Reset) -> bytes:
    match item:
        case bytes():
            return item
        case Reset(seq):
            return message("reset", msgspec.json.encode({"seq": seq}), f"{install}-{seq}")


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/events", Right.READ, follow, returns=str, media="text/event-stream",
            summary="Every change you may see, as it happens: change (an Event), reset",
            headers={"Last-Event-ID": "The id of the last event that was received: goes on after it."},
        )
    ]  # fmt: skip
