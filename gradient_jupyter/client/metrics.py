"""Metrics: the numbers of a job, read whole, made small, or followed as they come."""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar
from urllib.parse import quote

from gradient_jupyter.client.stream import follow
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources import metric as wire
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.metric import Bucket, Kind, Summary

T = TypeVar("T")

_PAGE = 100_000


class Metrics:
    """The metrics of one job. ``job.metrics``. With ``attempt`` those of an earlier one."""

    def __init__(self, transport: Transport, job_id: str, attempt: int | None = None) -> None:
        self._transport = transport
        self._path = f"/jobs/{quote(job_id, safe='')}/metrics"
        self._job_id = job_id
        self._attempt = attempt

    def of_attempt(self, attempt: int) -> Metrics:
        return Metrics(self._transport, self._job_id, attempt)

    def list(self, kind: Kind | str | None = None) -> tuple[Summary, ...]:
        """Each metric's count, least, greatest and last value. ``kind``: ``custom`` are the run's own,
        ``system`` what was measured about it."""
        answer = self._ask("", wire.Metrics)
        return tuple(each for each in answer.items if kind is None or each.kind == kind)

    def read(self, key: str, kind: Kind | str | None = None) -> builtins.list[tuple[int, int, float]]:
        """All points of a metric as (step, time in µs, value), by step and then by time."""
        found: builtins.list[tuple[int, int, float]] = []
        cursor = None
        while True:
            page = self._ask("/points", wire.Series, key=key, kind=kind, limit=_PAGE, cursor=cursor)
            found += [(each.step, each.time_us, wire.number(each.value)) for each in page.points]
            if (cursor := page.next) is None:
                return found

    def buckets(
        self,
        key: str,
        buckets: int = 1000,
        kind: Kind | str | None = None,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        from_us: int | None = None,
        to_us: int | None = None,
    ) -> tuple[Bucket, ...]:
        """A metric, or the part of it between two steps or times, as at most so many buckets of neighbouring
        points, each with its least, greatest, mean and last value."""
        return self._ask(
            "/buckets", wire.Buckets, key=key, kind=kind, buckets=buckets, from_step=from_step,
            to_step=to_step, from_us=from_us, to_us=to_us,
        ).buckets  # fmt: skip

    def follow(self) -> Iterator[tuple[Summary, ...]]:
        """First every metric there is, then those that have changed, until the job is over; over
        interruptions too. Of several attempts the newest one's."""
        for message in follow(self._transport, f"{self._path}/stream"):
            if message.event == "metrics":
                yield decode(message.data, type=wire.Metrics).items

    def log(self, values: Mapping[str, float], step: int, time_us: int | None = None) -> None:
        """Writes points from outside of the job, while it runs. Inside it ``log_metrics`` is quicker."""
        now = time.time_ns() // 1000 if time_us is None else time_us
        points = tuple(wire.Point(key, wire.shown(float(value)), step, now) for key, value in values.items())
        self._transport.request(
            "POST", self._path, wire.Accepted, body=wire.LogMetrics(points=points), repeatable=True
        )

    def _ask(self, path: str, answer: type[T], **query: object) -> T:
        asked = {"attempt": self._attempt, **query}
        return self._transport.request("GET", self._path + path, answer, query=asked)
