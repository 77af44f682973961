"""A series made small: neighbouring points as one bucket.

A short series is cut exactly, into buckets of as many points each. Of a longer one no value is read: what its
blocks say is added up, or, where there are very many, what its chunks say; a bucket ends where one of them
does. Its functions wait for the disk.
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from gradient_jupyter.resources.metric import Bucket, Buckets, Kind, shown
from gradient_jupyter.store.blocks import SIZE, Blocks
from gradient_jupyter.store.pointfile import CHUNK, NAME, Columns, numbers_of, reading, values_of
from gradient_jupyter.store.series import find, recent, value

Span = tuple[int | None, int | None]
"""From and to, both included. None: open."""

_FINE = 4 * SIZE
"""Points in a bucket, from which on blocks are added up."""
_COARSE = 4 * CHUNK
"""The same of chunks."""
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
        found: list[Bucket] | None = None
        if times_us == (None, None) and count >= _COARSE * most:
            found = _added_up(list(_pieces(connection, identity, low, high)), most)
        elif times_us == (None, None) and count >= _FINE * most:
            found = _by_blocks(_blocks(connection, identity, (low, high)), most)
        if found is None:
            found = _cut(connection, identity, (low, high), times_us, most)
    return Buckets(key=key, count=sum(each.count for each in found), buckets=tuple(found))


def _cut(
    connection: sqlite3.Connection, identity: int, steps: tuple[int, int], times_us: Span, most: int
) -> list[Bucket]:
    pieces = list(_between(connection, identity, steps, times_us))
    count = sum(map(len, pieces))
    parts = min(most, count)
    found: list[Bucket] = []
    values: list[float] = []
    step = time_us = seen = 0
    for piece in pieces:
        fresh = values_of(piece.bits).tolist()
        at = 0
        while at < len(fresh):
            if not values:
                step, time_us = piece.steps[at], piece.times[at]
            end = count * (len(found) + 1) // parts
            taken = fresh[at : at + end - seen]
            values = values + taken if values else taken
            at, seen = at + len(taken), seen + len(taken)
            if seen == end:
                found.append(_of(step, time_us, values))
                values = []
    return found


def _between(
    connection: sqlite3.Connection, identity: int, steps: tuple[int, int], times_us: Span
) -> Iterator[Columns]:
    """The points that lie there, in order, some at a time."""
    for data, count in connection.execute(
        "SELECT data, count FROM chunks WHERE series = ? AND last_step >= ? AND first_step <= ? "
        "ORDER BY first_step, first_time, first_bits",
        (identity, *steps),
    ):
        columns = Columns.unpacked([data])
        if len(columns) != count:
            raise sqlite3.DatabaseError("a chunk has another number of points than it says")
        yield _trimmed(columns, steps, times_us)
    yield _trimmed(recent(connection, identity), steps, times_us)


def _trimmed(columns: Columns, steps: tuple[int, int], times_us: Span) -> Columns:
    if times_us != (None, None):
        first, last = _closed(times_us, 0)
        columns = Columns([point for point in columns.points() if first <= point[1] <= last])
    start, end = bisect_left(columns.steps, steps[0]), bisect_right(columns.steps, steps[1])
    return columns if end - start == len(columns) else Columns([*columns.points()][start:end])


def _of(step: int, time_us: int, values: list[float]) -> Bucket:
    """The values of neighbouring points; the first one's step and time."""
    count, total = len(values), sum(values)
    if math.isfinite(total):  # and so is each of them
        ordered = sorted(values)  # for floats half the price of a min and a max
        return Bucket(step, time_us, count, ordered[0], ordered[-1], total / count, values[-1])
    numbers = [each for each in values if not math.isnan(each)]
    if not numbers:
        return Bucket(step, time_us, count, None, None, None, shown(values[-1]))
    return Bucket(
        step, time_us, count, shown(min(numbers)), shown(max(numbers)), shown(sum(numbers) / len(numbers)),
        shown(values[-1]),
    )  # fmt: skip


def _blocks(connection: sqlite3.Connection, identity: int, steps: tuple[int, int]) -> Blocks:
    """What lies between the steps. Of chunks only those at the two ends are read."""
    blocks = Blocks()
    for chunk, first_step, last_step, count, data in connection.execute(
        "SELECT id, first_step, last_step, count, blocks FROM chunks "
        "WHERE series = ? AND last_step >= ? AND first_step <= ? ORDER BY first_step, first_time, first_bits",
        (identity, *steps),
    ):
        if steps[0] <= first_step and last_step <= steps[1]:
            blocks.add_packed(data, count)
        else:
            (points,) = connection.execute("SELECT data FROM chunks WHERE id = ?", (chunk,)).fetchone()
            blocks.add(_trimmed(Columns.unpacked([points]), steps, (None, None)))
    blocks.add(_trimmed(recent(connection, identity), steps, (None, None)))
    return blocks


def _by_blocks(blocks: Blocks, most: int) -> list[Bucket] | None:
    """None when some values are no finite numbers, of which blocks do not say enough; or when there are too
    few blocks after all."""
    totals, ends = blocks.totals.tolist(), list(accumulate(blocks.points))
    if not math.isfinite(sum(totals)) or not ends or ends[-1] < _FINE // 2 * most:
        return None
    least, greatest, lasts = blocks.least.tolist(), blocks.greatest.tolist(), values_of(blocks.lasts)
    found = []
    start = seen = 0
    for number in range(most):
        end = 1 + bisect_left(ends, ends[-1] * (number + 1) // most, start)
        points, seen = ends[end - 1] - seen, ends[end - 1]
        found.append(
            Bucket(
                blocks.steps[start], blocks.times[start], points, min(least[start:end]),
                max(greatest[start:end]), sum(totals[start:end]) / points, lasts[end - 1],
            )
        )  # fmt: skip
        start = end
    return found


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
        (data,) = connection.execute("SELECT data FROM chunks WHERE id = ?", (chunk,)).fetchone()
        yield from _piece(Columns.unpacked([data]), low, high)
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
