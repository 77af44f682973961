"""Writing a run's metrics: what arrives is stored once, however often it is sent.

One object per file, of one thread. What it knows of the file is kept in memory, a bounded part of it; when
a write fails that may no longer be true, and the object is thrown away.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gradient_jupyter.resources.errors import TooLarge
from gradient_jupyter.resources.metric import NAN, Kind, Sample
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
    """What is kept in memory: where its chunks end, and the points after that."""

    __slots__ = ("custom", "id", "recent", "sealed")

    def __init__(self, identity: int, kind: str, sealed: Point | None) -> None:
        self.id = identity
        self.custom = kind == Kind.CUSTOM
        self.sealed = sealed
        self.recent: set[Point] = set()


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
        for identity, data in query("SELECT series, data FROM recent"):
            columns = Columns()
            columns.extend(data)
            by_id[identity].recent.update(columns.points())
        for one in by_id.values():
            self._recent += len(one.recent)
            self._count += len(one.recent) if one.custom else 0

    def append(self, kind: Kind, batches: Iterable[Sequence[Sample]]) -> list[TooLarge | None]:
        """Stores what is not there yet, in one transaction; for each batch, why none of it was stored."""
        with told(self.path), transaction(self._connection):
            return [self._append(kind, batch) for batch in batches]

    def _append(self, kind: Kind, samples: Sequence[Sample]) -> TooLarge | None:
        wanted = self._missing(kind, samples)
        if kind is Kind.CUSTOM and (refusal := self._refusal(wanted)) is not None:
            return refusal
        for key, found in wanted.items():
            one = self._series.get((kind, key)) or self._begin(kind, key)
            if one.sealed is not None and min(found) <= one.sealed:
                late = sorted(point for point in found if point <= one.sealed)
                found.difference_update(late)
                self._insert_late(one, late)
            if found:
                self._add_recent(one, found)
        while self._recent > _RECENT_IN_ALL:
            self._seal(max(self._series.values(), key=lambda one: len(one.recent)))
        return None

    def _missing(self, kind: Kind, samples: Sequence[Sample]) -> dict[str, set[Point]]:
        """By key, the points that are not there, and perhaps some that stand in chunks."""
        by_key: dict[str, list[Sample]] = {}
        for sample in samples:
            by_key.setdefault(sample.key, []).append(sample)
        wanted = {}
        for key, some in by_key.items():
            values = (NAN if sample.value != sample.value else sample.value for sample in some)
            found = {
                (sample.step, sample.time_us, bits)
                for sample, bits in zip(some, bits_of(values), strict=True)
            }
            one = self._series.get((kind, key))
            if one is not None:
                found -= one.recent
            if found:
                wanted[key] = found
        return wanted

    def _refusal(self, wanted: dict[str, set[Point]]) -> TooLarge | None:
        """Why a run may not store these."""
        fresh = sum(map(len, wanted.values()))
        if self._count + fresh > self._most_points:
            # Who sends again what is there already is not refused for it.
            for key, found in wanted.items():
                one = self._series.get((Kind.CUSTOM, key))
                fresh -= self._stored(one, found) if one is not None else 0
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

    def _stored(self, one: _Series, points: set[Point]) -> int:
        """How many of these stand in its chunks."""
        late = sorted(point for point in points if one.sealed is not None and point <= one.sealed)
        return sum(len(there & set(some)) for _, there, some in self._by_chunk(one, late))

    def _begin(self, kind: Kind, key: str) -> _Series:
        made = self._connection.execute("INSERT INTO series (kind, key) VALUES (?, ?)", (kind, key))
        assert made.lastrowid is not None
        one = self._series[kind, key] = _Series(made.lastrowid, kind, None)
        return one

    def _add_recent(self, one: _Series, points: set[Point]) -> None:
        data = Columns(points).pack()
        self._connection.execute("INSERT INTO recent (series, data) VALUES (?, ?)", (one.id, data))
        one.recent |= points
        self._recent += len(points)
        self._count += len(points) if one.custom else 0
        if len(one.recent) >= _RECENT:
            self._seal(one, CHUNK)

    def _seal(self, one: _Series, keep: int = 0) -> None:
        """Makes chunks of its recent points, but of the last ``keep``: points that come a little late then
        change no chunk."""
        points = sorted(one.recent)
        sealed, kept = points[: len(points) - keep], points[len(points) - keep :]
        for start in range(0, len(sealed), CHUNK):
            self._store(None, one.id, sealed[start : start + CHUNK])
        self._connection.execute("DELETE FROM recent WHERE series = ?", (one.id,))
        if kept:
            insert = "INSERT INTO recent (series, data) VALUES (?, ?)"
            self._connection.execute(insert, (one.id, Columns(kept).pack()))
        one.sealed = sealed[-1]
        one.recent = set(kept)
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
            columns = Columns()
            columns.extend(data)
            yield identity, set(columns.points()), points[at:end]
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
        columns = Columns(points)
        numbers = numbers_of(columns.bits)
        self._connection.execute(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                identity, series, *points[0], *points[-1], len(points), len(points) - len(numbers),
                min(numbers, default=None), max(numbers, default=None), sum(numbers), columns.pack(),
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Leaves one whole file, where nothing hinders it, that can be read without another beside it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA busy_timeout=200")  # a reader that is just reading
            self._connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        self._connection.close()
