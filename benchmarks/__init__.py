"""How fast we are, always beside a yardstick that was measured in the same run.

A module here is a set of rows: it defines ``rows() -> Iterable[Row]`` and measures when that is
called. ``scripts/bench`` prints them. They are no tests: nothing here has a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measurement. ``value`` and ``yardstick`` share a unit; ``against`` says what the yardstick is."""

    name: str
    value: float
    unit: str
    yardstick: float
    against: str = ""

    @property
    def ratio(self) -> float:
        """How many yardsticks the value is."""
        return self.value / self.yardstick
