"""A series made small: neighbouring points as one bucket.

A short series is cut exactly, into buckets of as many points each. A long one is not even read: what each
chunk says of itself is added up, and a bucket ends where a chunk does. Blocks.
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gradient_jupyter.resources.metric import Bucket, Buckets, Kind, shown
from gradient_jupyter.store.pointfile import CHUNK, NAME, Columns, numbers_of, reading, values_of
from gradient_jupyter.store.series import find, recent, value

Span = tuple[int | None, int | None]
"""From and to, both included. None: open."""

_COARSE = 4 * CHUNK
"""Points in a bucket, from which on chunks are added up."""
_FIRST, _LAST = -(2**63), 2**63 - 1


class _Piece(NamedTuple):
    """Some neighbouring points."""

    step: int
    time_us: int
    points: int
    numbers: int
    """Those that are not NaN."""
    least: float | None
    greatest: float | None
    total: float | None
    last: float


def buckets(
    directory: Path,
    kind: Kind,
    key: str,
    most: int,
    steps: Span = (None, None),
    times_us: Span = (None, None),
) -> Buckets | None:
    """The series, or its part between two steps or times, as at most ``most`` buckets; None when there is no
    such series."""
    with reading(directory / NAME) as connection:
        identity = find(connection, kind, key)
        if connection is None or identity is None:
            return None
        low, high = _closed(steps, _FIRST)
        (count,) = connection.execute(
            "SELECT coalesce(sum(count), 0) FROM chunks "
            "WHERE series = ? AND last_step >= ? AND first_step <= ?",
            (identity, low, high),
        ).fetchone()
        if times_us == (None, None) and count >= _COARSE * most:
            found = _added_up(list(_pieces(connection, identity, low, high)), most)
        else:
            found = _cut(connection, identity, (low, high), times_us, most)
    return Buckets(key=key, count=sum(each.count for each in found), buckets=tuple(found))


def _cut(
    connection: sqlite3.Connection, identity: int, steps: tuple[int, int], times_us: Span, most: int
) -> list[Bucket]:
    columns, odd = Columns(), False
    for data, nans in connection.execute(
        "SELECT data, nans FROM chunks WHERE series = ? AND last_step >= ? AND first_step <= ? "
        "ORDER BY first_step, first_time, first_bits",
        (identity, *steps),
    ):
        if times_us == (None, None):
            columns.extend(data)
        else:
            part = Columns()
            part.extend(data)
            columns.extend(_between(part, times_us).pack())
        odd = odd or bool(nans)
    last = _between(recent(connection, identity), times_us)
    odd = odd or len(numbers_of(last.bits)) < len(last)
    columns.extend(last.pack())
    start, end = bisect_left(columns.steps, steps[0]), bisect_right(columns.steps, steps[1])
    values = values_of(columns.bits[start:end])
    count = end - start
    parts = min(most, count)
    found = []
    for number in range(parts):
        low, high = count * number // parts, count * (number + 1) // parts
        some: Sequence[float] = values[low:high]
        final = some[-1]
        if odd:
            some = [each for each in some if not math.isnan(each)]
        found.append(
            Bucket(
                columns.steps[start + low],
                columns.times[start + low],
                high - low,
                shown(min(some)) if some else None,
                shown(max(some)) if some else None,
                shown(sum(some) / len(some)) if some else None,
                shown(final),
            )
        )
    return found


def _between(columns: Columns, times_us: Span) -> Columns:
    if times_us == (None, None):
        return columns
    low, high = _closed(times_us, 0)
    return Columns([point for point in columns.points() if low <= point[1] <= high])


def _pieces(connection: sqlite3.Connection, identity: int, low: int, high: int) -> Iterator[_Piece]:
    """What lies between the steps, chunk by chunk. Only those at the two ends are read."""
    for chunk, step, time_us, last_step, bits, count, nans, least, greatest, total in connection.execute(
        "SELECT id, first_step, first_time, last_step, last_bits, count, nans, min, max, total FROM chunks "
        "WHERE series = ? AND last_step >= ? AND first_step <= ? ORDER BY first_step, first_time, first_bits",
        (identity, low, high),
    ):
        if low <= step and last_step <= high:
            yield _Piece(step, time_us, count, count - nans, least, greatest, total, value(bits))
            continue
        columns = Columns()
        (data,) = connection.execute("SELECT data FROM chunks WHERE id = ?", (chunk,)).fetchone()
        columns.extend(data)
        yield from _piece(columns, low, high)
    yield from _piece(recent(connection, identity), low, high)


def _piece(columns: Columns, low: int, high: int) -> Iterator[_Piece]:
    start, end = bisect_left(columns.steps, low), bisect_right(columns.steps, high)
    if start == end:
        return
    values = values_of(columns.bits[start:end])
    numbers = numbers_of(columns.bits[start:end])
    yield _Piece(
        columns.steps[start], columns.times[start], end - start, len(numbers), min(numbers, default=None),
        max(numbers, default=None), sum(numbers), values[-1],
    )  # fmt: skip


def _added_up(pieces: list[_Piece], most: int) -> list[Bucket]:
    whole = sum(piece.points for piece in pieces)
    found: list[Bucket] = []
    some: list[_Piece] = []
    seen = 0
    for piece in pieces:
        some.append(piece)
        seen += piece.points
        if seen * most >= whole * (len(found) + 1):
            found.append(_bucket(some))
            some = []
    if some:
        found.append(_bucket(some))
    return found


def _bucket(pieces: list[_Piece]) -> Bucket:
    numbers = sum(piece.numbers for piece in pieces)
    least = min((piece.least for piece in pieces if piece.least is not None), default=None)
    greatest = max((piece.greatest for piece in pieces if piece.greatest is not None), default=None)
    # Of inf and -inf together there is no sum, and SQLite keeps none.
    totals = [piece.total for piece in pieces if piece.numbers]
    total = sum(each for each in totals if each is not None) if None not in totals else float("nan")
    return Bucket(
        pieces[0].step,
        pieces[0].time_us,
        sum(piece.points for piece in pieces),
        None if least is None else shown(least),
        None if greatest is None else shown(greatest),
        shown(total / numbers) if numbers else None,
        shown(pieces[-1].last),
    )


def _closed(span: Span, first: int) -> tuple[int, int]:
    low, high = span
    return first if low is None else low, _LAST if high is None else high
