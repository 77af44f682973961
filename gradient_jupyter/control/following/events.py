"""The stream of changes: durable, resumable, and honest about what it no longer has."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from gradient_jupyter.control.following.feeds import Bell
from gradient_jupyter.control.following.followed import EncodeEvents
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.store import events as rows


class Reset(msgspec.Struct, frozen=True):
    """What was missed is not kept any more: read the lists anew, then go on after ``seq``."""

    seq: int


async def follow(
    plane: Plane, principal: Principal, last_id: str | None, encode: EncodeEvents
) -> AsyncGenerator[bytes | Reset]:
    """Events after ``last_id`` (``<install>-<seq>``) as ``encode`` writes them; without one, those that
    happen from now on. The first item may be empty: it says that the stream is open.
    """
    bell = Bell()
    with plane.followed.events(principal, encode, bell) as feed:
        low, high = await plane.database.read(rows.bounds)
        seq = high
        if last_id is not None:
            install, _, number = last_id.rpartition("-")
            seen = int(number) if number.isdecimal() and len(number) < 19 else -1
            if install != plane.install or not low - 1 <= seen <= high:
                yield Reset(high)
            else:
                seq = seen
        yield b""
        while True:
            bell.mute()
            while (batch := await feed.read(seq)) is not None:
                yield batch.wire
                seq = batch.after
            await bell.wait()
