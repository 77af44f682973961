"""Metric: a named series of numbers that a run, or the platform about a run, has written down.

A point is (key, step, time, value) and nothing else: the same point sent twice is one point, so whoever is
not sure that it arrived sends it again. A series is ordered by step, then by time. Values are IEEE 754
doubles; what JSON has no number for travels as ``"nan"``, ``"inf"`` and ``"-inf"``.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.errors import InvalidRequest

#: Characters of a name.
MOST_KEY = 250
MetricKey = Annotated[
    str, msgspec.Meta(min_length=1, max_length=MOST_KEY, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]+\Z")
]
#: What SQLite and every client's integers can hold.
_MOST = 2**63 - 1
Step = Annotated[int, msgspec.Meta(ge=-_MOST, le=_MOST)]
TimeUs = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
"""Microseconds since the epoch, UTC."""
Value = float | Literal["nan", "inf", "-inf"]

#: What one request may bring.
MOST_AT_ONCE = 10_000
#: One of each kind, so that what is equal is one point: NaN is not equal to itself.
NAN = math.nan


class Kind(enum.StrEnum):
    CUSTOM = "custom"
    """The run's own."""
    SYSTEM = "system"
    """What the platform measured about it."""


class System(enum.StrEnum):
    """What the platform measures of a run, under Gradient's names. With several GPUs each has a series of
    its own beside, ``gpuUtilization/0`` and so on; the plain one is their mean, for memory and power their
    sum."""

    CPU_PERCENTAGE = "cpuPercentage"
    """Of what the run was given: 100 is all of its cores."""
    MEMORY_USAGE = "memoryUsage"
    """Bytes, resident, of all its processes."""
    GPU_MEMORY_FREE = "gpuMemoryFree"
    """Bytes."""
    GPU_MEMORY_USED = "gpuMemoryUsed"
    """Bytes."""
    GPU_POWER_DRAW = "gpuPowerDraw"
    """Watts."""
    GPU_TEMP = "gpuTemp"
    """Degrees Celsius."""
    GPU_UTILIZATION = "gpuUtilization"
    """Per cent of the time in which a kernel ran."""
    GPU_MEMORY_UTILIZATION = "gpuMemoryUtilization"
    """Per cent of the time in which its memory was read or written."""


class Sample(msgspec.Struct, gc=False):
    """A point on its way into the store. A thousand of them come with one request, so they are made cheaply:
    not frozen, and nothing for the collector of cycles."""

    key: str
    value: float
    step: int
    time_us: int


class Point(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``[key, value, step, time_us]`` as a run sends it."""

    key: MetricKey
    value: Value
    step: Step
    time_us: TimeUs


class LogMetrics(Request, frozen=True, kw_only=True):
    points: Annotated[tuple[Point, ...], msgspec.Meta(min_length=1, max_length=MOST_AT_ONCE)]


class Accepted(Resource, frozen=True, kw_only=True):
    """Points that are stored now, or were before."""

    accepted: int


class Summary(Resource, frozen=True, kw_only=True):
    """What is known of one series without reading it. ``min`` and ``max`` leave NaN out and are null when
    there is nothing else; ``last`` is the point of the highest step (of the newest among those)."""

    key: str
    kind: Kind
    count: int
    min: Value | None
    max: Value | None
    last: Value
    last_step: int
    first_step: int
    last_time_us: int


class Metrics(Resource, frozen=True, kw_only=True):
    items: tuple[Summary, ...]
    attempt: int
    """Whose they are: of a job that was tried several times each attempt has its own."""
    final: bool
    """No further points will come."""


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``[step, time_us, value]`` as a series is read."""

    step: int
    time_us: int
    value: Value


class Series(Resource, frozen=True, kw_only=True):
    """Points in order. ``next`` is the cursor of those that follow, or null."""

    key: str
    points: tuple[Stored, ...]
    next: str | None = None


class Bucket(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``[step, time_us, count, min, max, mean, last]`` of neighbouring points; ``step`` and ``time_us`` are
    the first one's. ``min``, ``max`` and ``mean`` leave NaN out and are null when there is nothing else."""

    step: int
    time_us: int
    count: int
    min: Value | None
    max: Value | None
    mean: Value | None
    last: Value


class Buckets(Resource, frozen=True, kw_only=True):
    """A series made small: at most as many buckets as were asked for, each of about as many points. A series
    that has no more points than that has one in each."""

    key: str
    count: int
    """Points in all."""
    buckets: tuple[Bucket, ...]


def number(value: Value) -> float:
    """From the wire."""
    if isinstance(value, str):
        return NAN if value == "nan" else float(value)
    return value


def shown(value: float) -> Value:
    """For the wire."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "nan"
    return "inf" if value > 0 else "-inf"


def samples(points: Iterable[Point]) -> list[Sample]:
    return [Sample(point.key, number(point.value), point.step, point.time_us) for point in points]


def parse_cursor(text: str | None) -> tuple[int, int, int] | None:
    """A position in a series, as ``Series.next`` gave it: step, time, and how many points of just those have
    been read."""
    if text is None:
        return None
    parts = text.split(",")
    try:
        if len(parts) != 3 or len(text) > 64:
            raise ValueError
        step, time_us, seen = (int(part) for part in parts)
        if abs(step) > _MOST or not 0 <= time_us <= _MOST or not 0 <= seen <= _MOST:
            raise ValueError
    except ValueError:
        raise InvalidRequest(
            f"{text[:40]!r} is no cursor.",
            next="Use the `next` of the page before, or leave it out.",
            code="bad-cursor",
        ) from None
    return step, time_us, seen


_KEY = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,250}")


def is_sample(sample: Sample) -> bool:
    """Whether a point that came in another way than as a ``Point`` may be stored."""
    return (
        _KEY.fullmatch(sample.key) is not None and abs(sample.step) <= _MOST and 0 <= sample.time_us <= _MOST
    )
