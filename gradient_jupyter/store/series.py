"""Reading a run's metrics: what there is, and a series point by point. Made small it is ``buckets``'.

Each function has one consistent view of the file, beside whoever writes it. Blocks.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from gradient_jupyter.resources.metric import Kind, Series, Stored, Summary, shown
from gradient_jupyter.store.pointfile import NAME, Columns, Point, numbers_of, reading, values_of

Cursor = tuple[int, int, int]
"""Step, time, and how many points of just those have been read."""


def summaries(directory: Path) -> list[Summary]:
    """Every series, by kind and key."""
    with reading(directory / NAME) as connection:
        if connection is None:
            return []
        query = connection.execute
        latest: dict[int, list[bytes]] = {}
        for identity, data in query("SELECT series, data FROM recent"):
            latest.setdefault(identity, []).append(data)
        sealed = {
            row[0]: row[1:]
            for row in query(
                "SELECT series, sum(count), min(min), max(max), min(first_step) FROM chunks GROUP BY series"
            )
        }
        found = []
        for identity, kind, key in query("SELECT id, kind, key FROM series ORDER BY kind, key"):
            count, least, most, first_step = sealed.get(identity, (0, None, None, None))
            last: Point | None = None
            if count:
                last = query(
                    "SELECT last_step, last_time, last_bits FROM chunks WHERE series = ? "
                    "ORDER BY first_step DESC, first_time DESC, first_bits DESC LIMIT 1",
                    (identity,),
                ).fetchone()
            if identity in latest:
                columns = Columns.unpacked(latest[identity])
                numbers = numbers_of(columns.bits)
                least = min((each for each in (least, *numbers) if each is not None), default=None)
                most = max((each for each in (most, *numbers) if each is not None), default=None)
                count += len(columns)
                newest = max(columns.points())
                last = newest if last is None else max(last, newest)
                earliest = min(columns.steps)
                first_step = earliest if first_step is None else min(first_step, earliest)
            if last is None:
                continue  # begun by a write that stored nothing
            found.append(
                Summary(
                    key=key, kind=Kind(kind), count=count, min=None if least is None else shown(least),
                    max=None if most is None else shown(most), last=shown(value(last[2])),
                    last_step=last[0], first_step=first_step, last_time_us=last[1],
                )
            )  # fmt: skip
        return found


def points(directory: Path, kind: Kind, key: str, after: Cursor | None, limit: int) -> Series | None:
    """The points behind ``after``, at most ``limit``; None when there is no such series."""
    with reading(directory / NAME) as connection:
        identity = find(connection, kind, key)
        if connection is None or identity is None:
            return None
        columns = Columns.unpacked(_packed(connection, identity, after and after[:2], limit))
    start = 0
    if after is not None:
        step, time_us, seen = after
        start = bisect_left(columns.steps, step)
        while start < len(columns) and (columns.steps[start], columns.times[start]) < (step, time_us):
            start += 1
        start += seen
    end = min(start + limit, len(columns))
    values = values_of(columns.bits[start:end])
    found = tuple(
        Stored(step, time_us, shown(each))
        for step, time_us, each in zip(
            columns.steps[start:end], columns.times[start:end], values, strict=True
        )
    )
    following = None
    if end < len(columns):
        step, time_us = columns.steps[end - 1], columns.times[end - 1]
        seen, at = 0, end - 1
        while at >= 0 and (columns.steps[at], columns.times[at]) == (step, time_us):
            seen, at = seen + 1, at - 1
        following = f"{step},{time_us},{seen}"
    return Series(key=key, points=found, next=following)


def find(connection: sqlite3.Connection | None, kind: Kind, key: str) -> int | None:
    if connection is None:
        return None
    row = connection.execute("SELECT id FROM series WHERE kind = ? AND key = ?", (kind, key)).fetchone()
    return row[0] if row else None


def _packed(
    connection: sqlite3.Connection,
    identity: int,
    begin: tuple[int, int] | None,
    limit: int,
) -> Iterator[bytes]:
    """Points in order: from ``begin`` (step and time) on, and perhaps some before; at least one more than
    ``limit`` from behind ``begin``, where there are so many."""
    begin = begin or (-(2**63), 0)
    behind = 0
    for data, count, first_step, first_time in connection.execute(
        "SELECT data, count, first_step, first_time FROM chunks "
        "WHERE series = ? AND (last_step, last_time) >= (?, ?) "
        "ORDER BY first_step, first_time, first_bits",
        (identity, *begin),
    ):
        yield data
        if (first_step, first_time) > begin:
            behind += count
            if behind > limit:
                return
    yield recent(connection, identity).pack()


def recent(connection: sqlite3.Connection, identity: int) -> Columns:
    """The points behind the chunks, in order."""
    rows = connection.execute("SELECT data FROM recent WHERE series = ?", (identity,))
    return Columns(sorted(Columns.unpacked(data for (data,) in rows).points()))


def value(bits: int) -> float:
    columns = Columns([(0, 0, bits)])
    return values_of(columns.bits)[0]
