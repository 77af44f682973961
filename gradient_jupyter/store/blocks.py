"""What ``SIZE`` neighbouring points come to. Kept beside each chunk, so that a series is made small without
its values being read."""

from __future__ import annotations

import sqlite3
from array import array
from typing import Any

from gradient_jupyter.store.pointfile import Columns, add_little, little, values_of

SIZE = 16
"""Points in a block; the last one of a chunk may have fewer."""


class Blocks:
    """Blocks in order, as columns: the first point's step and time, how many points there are, their least
    and greatest value and their sum, and the bits of the last one. A block with a NaN has NaN for its sum,
    and nothing is said then of its least and greatest."""

    __slots__ = ("greatest", "lasts", "least", "points", "steps", "times", "totals")

    def __init__(self) -> None:
        self.steps, self.times, self.lasts = array("q"), array("q"), array("q")
        self.least, self.greatest, self.totals = array("d"), array("d"), array("d")
        self.points: list[int] = []

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, columns: Columns) -> None:
        values = values_of(columns.bits).tolist()
        for start in range(0, len(values), SIZE):
            some = values[start : start + SIZE]
            self.least.append(min(some))
            self.greatest.append(max(some))
            self.totals.append(sum(some))
            self.points.append(len(some))
        self.steps.extend(columns.steps[::SIZE])
        self.times.extend(columns.times[::SIZE])
        self.lasts.extend(columns.bits[SIZE - 1 :: SIZE])
        if len(values) % SIZE:
            self.lasts.append(columns.bits[-1])

    def pack(self) -> bytes:
        """Without the numbers of points: those of a chunk say themselves."""
        return b"".join(little(column).tobytes() for column in self._columns())

    def add_packed(self, data: bytes, points: int) -> None:
        """Appends what ``pack`` made of a chunk of so many points. ``sqlite3.DatabaseError`` when it is
        nothing of the kind."""
        whole, rest = divmod(points, SIZE)
        length = 8 * (whole + bool(rest))
        if len(data) != 6 * length:
            raise sqlite3.DatabaseError("the blocks of a chunk have an impossible length")
        view = memoryview(data)
        for number, column in enumerate(self._columns()):
            add_little(column, view[number * length : (number + 1) * length])
        self.points.extend([SIZE] * whole)
        if rest:
            self.points.append(rest)

    def _columns(self) -> tuple[array[Any], ...]:
        return self.steps, self.times, self.lasts, self.least, self.greatest, self.totals
