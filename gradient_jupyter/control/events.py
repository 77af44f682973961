"""The stream of changes: durable, resumable, and honest about what it no longer has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import msgspec

from gradient_jupyter.control.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.event import Event
from gradient_jupyter.store import events as rows

_BATCH = 500
_LOOK_S = 1.0


class Reset(msgspec.Struct, frozen=True):
    """What was missed is not kept any more: read the lists anew, then go on after ``seq``."""

    seq: int


async def follow(
    plane: Plane, principal: Principal, last_id: str | None
) -> AsyncIterator[Event | Reset | None]:
    """Events after ``last_id`` (``<install>-<seq>``); without one, those that happen from now on.

    ``None`` is yielded about once a second while nothing happens.
    """
    with plane.changes.follow_events() as subscription:
        low, high = await plane.database.read(rows.bounds)
        seq = high
        if last_id is not None:
            install, _, number = last_id.rpartition("-")
            seen = int(number) if number.isdecimal() and len(number) < 19 else -1
            if install != plane.install or not low - 1 <= seen <= high:
                yield Reset(high)
            else:
                seq = seen
        while True:
            batch = await plane.database.read(
                partial(rows.after, principals=principal.all, seq=seq, limit=_BATCH)
            )
            for event in batch:
                yield event
                seq = event.seq
            if len(batch) < _BATCH:
                if not batch:
                    yield None
                await subscription.wait(_LOOK_S)
