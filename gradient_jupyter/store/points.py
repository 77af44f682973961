"""Writing a run's metrics: what arrives is stored once, however often it is sent.

One object per file, of one thread. What it knows of the file is kept in memory, a bounded part of it; when
a write fails that may no longer be true, and the object is thrown away.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import lt
from pathlib import Path

from gradient_jupyter.resources.errors import TooLarge
from gradient_jupyter.resources.metric import NAN, Kind, Sample
from gradient_jupyter.store.blocks import Blocks
from gradient_jupyter.store.pointfile import (
    CHUNK,
    NAME,
    Columns,
    Point,
    bits_of,
    numbers_of,
    open_to_write,
    told,
    transaction,
)

#: Recent points of one series, from which on they become chunks.
_RECENT = 2 * CHUNK
#: Recent points of all series together: what is kept in memory of one file.
_RECENT_IN_ALL = 65_536


class _Series:
    """What is kept in memory: where its chunks end, and the points after that, in order."""

    __slots__ = ("custom", "id", "recent", "sealed")

    def __init__(self, identity: int, kind: str, sealed: Point | None) -> None:
        self.id = identity
        self.custom = kind == Kind.CUSTOM
        self.sealed = sealed
        self.recent: list[Point] = []


class PointFile:
    """``most_points`` and ``most_series`` bound what the run itself may write."""

    def __init__(self, directory: Path, most_points: int, most_series: int) -> None:
        self.path = directory / NAME
        self._most_points = most_points
        self._most_series = most_series
        with told(self.path):
            self._connection = open_to_write(self.path)
            try:
                self._load()
            except BaseException:
                self._connection.close()
                raise

    def _load(self) -> None:
        query = self._connection.execute
        self._series: dict[tuple[str, str], _Series] = {}
        by_id: dict[int, _Series] = {}
        for identity, kind, key in query("SELECT id, kind, key FROM series"):
            by_id[identity] = self._series[kind, key] = _Series(identity, kind, None)
        ends = (
            "SELECT last_step, last_time, last_bits FROM chunks WHERE series = ? ORDER BY first_step DESC, "
        )
        for identity, one in by_id.items():
            one.sealed = query(ends + "first_time DESC, first_bits DESC LIMIT 1", (identity,)).fetchone()
        own = "SELECT id FROM series WHERE kind = ?"
        self._count = query(
            f"SELECT coalesce(sum(count), 0) FROM chunks WHERE series IN ({own})",  # noqa: S608  # our own words
            (Kind.CUSTOM.value,),
        ).fetchone()[0]
        self._recent = 0
        self._unwritten: dict[_Series, list[Point]] = {}
        for identity, data in query("SELECT series, data FROM recent"):
            by_id[identity].recent.extend(Columns.unpacked([data]).points())
        for one in by_id.values():
            one.recent.sort()
            self._recent += len(one.recent)
            self._count += len(one.recent) if one.custom else 0

    def append(self, kind: Kind, batches: Iterable[Sequence[Sample]]) -> list[TooLarge | None]:
        """Stores what is not there yet, in one transaction; for each batch, why none of it was stored."""
        with told(self.path), transaction(self._connection):
            refusals = [self._append(kind, batch) for batch in batches]
            for one, points in self._unwritten.items():
                self._write_recent(one, points)
            self._unwritten.clear()
            while self._recent > _RECENT_IN_ALL:
                self._seal(max(self._series.values(), key=lambda one: len(one.recent)))
        return refusals

    def _append(self, kind: Kind, samples: Sequence[Sample]) -> TooLarge | None:
        wanted = self._missing(kind, samples)
        if kind is Kind.CUSTOM and (refusal := self._refusal(wanted)) is not None:
            return refusal
        for key, points in wanted.items():
            one = self._series.get((kind, key)) or self._begin(kind, key)
            late = 0 if one.sealed is None else bisect_right(points, one.sealed)
            if late:
                self._insert_late(one, points[:late])
            if late < len(points):
                self._add_recent(one, points[late:])
        return None

    def _missing(self, kind: Kind, samples: Sequence[Sample]) -> dict[str, list[Point]]:
        """By key and in order, the points that are not there, and perhaps some that stand in chunks."""
        by_key: dict[str, list[Sample]] = {}
        for sample in samples:
            by_key.setdefault(sample.key, []).append(sample)
        wanted = {}
        for key, some in by_key.items():
            values = [NAN if sample.value != sample.value else sample.value for sample in some]
            steps, times_us = [sample.step for sample in some], [sample.time_us for sample in some]
            points = list(zip(steps, times_us, bits_of(values), strict=True))
            if not all(map(lt, points, islice(points, 1, None))):
                points = sorted(set(points))
            one = self._series.get((kind, key))
            # What a run writes is nearly always newer than all it has written.
            if one is not None and one.recent and points[0] <= one.recent[-1]:
                points = [point for point in points if not _in(one.recent, point)]
            if points:
                wanted[key] = points
        return wanted

    def _refusal(self, wanted: dict[str, list[Point]]) -> TooLarge | None:
        """Why a run may not store these."""
        fresh = sum(map(len, wanted.values()))
        if self._count + fresh > self._most_points:
            # Who sends again what is there already is not refused for it.
            for key, points in wanted.items():
                one = self._series.get((Kind.CUSTOM, key))
                fresh -= self._stored(one, points) if one is not None else 0
        if self._count + fresh > self._most_points:
            return TooLarge(
                f"This run has written {self._count:,} points, and {self._most_points:,} are the most it "
                "may.",
                next="Log less often. An administrator raises it: GradientServer.max_metric_points.",
                code="too-many-points",
            )
        there = sum(one.custom for one in self._series.values())
        fresh = sum((Kind.CUSTOM, key) not in self._series for key in wanted)
        if fresh and there + fresh > self._most_series:
            return TooLarge(
                f"This run has {there:,} metrics, and {self._most_series:,} are the most it may have.",
                next="Give fewer names. An administrator raises it: GradientServer.max_metrics.",
                code="too-many-metrics",
            )
        return None

    def _stored(self, one: _Series, points: list[Point]) -> int:
        """How many of these, which are in order, stand in its chunks."""
        late = [] if one.sealed is None else points[: bisect_right(points, one.sealed)]
        return sum(len(there & set(some)) for _, there, some in self._by_chunk(one, late))

    def _begin(self, kind: Kind, key: str) -> _Series:
        made = self._connection.execute("INSERT INTO series (kind, key) VALUES (?, ?)", (kind, key))
        assert made.lastrowid is not None
        one = self._series[kind, key] = _Series(made.lastrowid, kind, None)
        return one

    def _add_recent(self, one: _Series, points: list[Point]) -> None:
        """Takes points that are not there and lie after the chunks. Rows are made of them at the end of the
        transaction, one for each series, however many batches it holds."""
        in_order = not one.recent or one.recent[-1] < points[0]
        one.recent += points
        if not in_order:
            one.recent.sort()
        self._recent += len(points)
        self._count += len(points) if one.custom else 0
        if len(one.recent) >= _RECENT:
            self._seal(one, CHUNK)
        else:
            self._unwritten.setdefault(one, []).extend(points)

    def _write_recent(self, one: _Series, points: list[Point]) -> None:
        insert = "INSERT INTO recent (series, data) VALUES (?, ?)"
        self._connection.execute(insert, (one.id, Columns(points).pack()))

    def _seal(self, one: _Series, keep: int = 0) -> None:
        """Makes chunks of its recent points, but of the last ``keep``: points that come a little late then
        change no chunk."""
        end = len(one.recent) - keep
        sealed, kept = one.recent[:end], one.recent[end:]
        for start in range(0, end, CHUNK):
            self._store(None, one.id, sealed[start : start + CHUNK])
        self._connection.execute("DELETE FROM recent WHERE series = ?", (one.id,))
        self._unwritten.pop(one, None)
        if kept:
            self._write_recent(one, kept)
        one.sealed = sealed[-1]
        one.recent = kept
        self._recent -= len(sealed)

    def _insert_late(self, one: _Series, points: list[Point]) -> None:
        """Points that belong before the end of the chunks, in order."""
        for identity, there, some in self._by_chunk(one, points):
            count = len(there)
            there.update(some)
            if len(there) == count:
                continue
            self._count += len(there) - count if one.custom else 0
            whole = sorted(there)
            self._connection.execute("DELETE FROM chunks WHERE id = ?", (identity,))
            parts = max(1, math.ceil(len(whole) / (2 * CHUNK)))
            size = math.ceil(len(whole) / parts)
            for start in range(0, len(whole), size):
                self._store(identity if start == 0 else None, one.id, whole[start : start + size])

    def _by_chunk(self, one: _Series, points: list[Point]) -> Iterator[tuple[int, set[Point], list[Point]]]:
        """The chunks that these points belong to, in order: each with what it holds, and what goes there."""
        at = 0
        while at < len(points):
            identity, data, following = self._chunk_of(one, points[at])
            end = at + 1
            while end < len(points) and (following is None or points[end] < following):
                end += 1
            yield identity, set(Columns.unpacked([data]).points()), points[at:end]
            at = end

    def _chunk_of(self, one: _Series, point: Point) -> tuple[int, bytes, Point | None]:
        """The chunk a point before the end belongs to, and the first point of the one after it."""
        query = self._connection.execute
        key, order = "(first_step, first_time, first_bits)", "first_step {0}, first_time {0}, first_bits {0}"
        found = query(
            f"SELECT id, data FROM chunks WHERE series = ? AND {key} <= (?, ?, ?) "  # noqa: S608  # our own words
            f"ORDER BY {order.format('DESC')} LIMIT 1",
            (one.id, *point),
        ).fetchone()
        if found is None:
            found = query(
                f"SELECT id, data FROM chunks WHERE series = ? ORDER BY {order.format('ASC')} LIMIT 1",  # noqa: S608
                (one.id,),
            ).fetchone()
        after = query(
            f"SELECT first_step, first_time, first_bits FROM chunks WHERE series = ? AND {key} > (?, ?, ?) "  # noqa: S608
            f"AND id <> ? ORDER BY {order.format('ASC')} LIMIT 1",
            (one.id, *point, found[0]),
        ).fetchone()
        return found[0], found[1], after

    def _store(self, identity: int | None, series: int, points: list[Point]) -> None:
        columns, blocks = Columns(points), Blocks()
        blocks.add(columns)
        numbers = numbers_of(columns.bits)
        self._connection.execute(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                identity, series, *points[0], *points[-1], len(points), len(points) - len(numbers),
                min(numbers, default=None), max(numbers, default=None), sum(numbers), columns.pack(),
                blocks.pack(),
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Leaves one whole file, where nothing hinders it, that can be read without another beside it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA busy_timeout=200")  # a reader that is just reading
            self._connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        self._connection.close()


def _in(points: list[Point], point: Point) -> bool:
    """``points`` are in order."""
    at = bisect_left(points, point)
    return at < len(points) and points[at] == point
