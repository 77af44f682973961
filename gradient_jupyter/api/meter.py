"""What the server counts of its own doing, for ``/metrics``: cheap while it counts, shown by
prometheus_client.

Labels are route templates, methods and statuses that exist: nobody outside can make a new one.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: Upper bounds of the histogram of latencies, seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_LAG_EVERY_S = 5.0


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for when somebody looks."""

    version: str
    jobs: dict[str, int]
    queue: int
    engine_up: bool
    streams: int
    open_requests: int
    disk_free: int
    disk_total: int
    writes_waiting: int
    refused_tokens: int
    read_only: bool


class Meter:
    """Of one event loop."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._latencies: dict[tuple[str, str], list[int]] = {}
        self._sums: Counter[tuple[str, str]] = Counter()
        self._lag_s = self._worst_lag_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LAG_EVERY_S, self._tick, loop.time() + _LAG_EVERY_S)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def request(self, method: str, route: str, status: int, took_s: float, *, streamed: bool) -> None:
        """One that is over. How long a stream was followed says nothing of the server's speed: it only
        counts."""
        self._requests[method, route, status] += 1
        if streamed:
            return
        found = self._latencies.get((method, route))
        if found is None:
            found = self._latencies[method, route] = [0] * (len(BUCKETS) + 1)
        found[bisect_left(BUCKETS, took_s)] += 1
        self._sums[method, route] += took_s  # type: ignore[assignment]

    def exposition(self, now: Now) -> tuple[bytes, str]:
        """The text for Prometheus, and its media type."""
        from prometheus_client import (
            CONTENT_TYPE_LATEST,
            CollectorRegistry,
            ProcessCollector,
            generate_latest,
        )

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(list(self._families(now))))
        ProcessCollector(registry=registry)
        self._worst_lag_s = self._lag_s
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _families(self, now: Now) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        info = GaugeMetricFamily("gradient_build_info", "The version that runs.", labels=["version"])
        info.add_metric([now.version], 1)
        yield info
        requests = CounterMetricFamily(
            "gradient_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in sorted(self._requests.items()):
            requests.add_metric([method, route, str(status)], count)
        yield requests
        latency = HistogramMetricFamily(
            "gradient_http_request_duration_seconds",
            "From a request's head to the end of its answer; streams are left out.",
            labels=["method", "route"],
        )
        for (method, route), counts in sorted(self._latencies.items()):
            total, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            latency.add_metric([method, route], buckets, self._sums[method, route])
        yield latency
        jobs = GaugeMetricFamily("gradient_jobs", "Jobs by state.", labels=["state"])
        for state, number in sorted(now.jobs.items()):
            jobs.add_metric([state], number)
        yield jobs
        gauges: tuple[tuple[str, str, float], ...] = (
            ("gradient_queue_length", "Jobs that wait for a machine.", now.queue),
            ("gradient_engine_up", "1 while the engine answers.", now.engine_up),
            ("gradient_streams", "Logs and event streams, fetches, the operator's work.", now.streams),
            ("gradient_open_requests", "Requests that are under way.", now.open_requests),
            ("gradient_disk_free_bytes", "Free space where the data are.", now.disk_free),
            ("gradient_disk_total_bytes", "All space where the data are.", now.disk_total),
            ("gradient_database_writes_waiting", "Writes that wait for the writer.", now.writes_waiting),
            ("gradient_read_only", "1 while nothing may be changed.", now.read_only),
            ("gradient_loop_lag_seconds", "How late the event loop was just now.", self._lag_s),
            (
                "gradient_loop_lag_worst_seconds",
                "How late it was at worst since this was last looked at.",
                self._worst_lag_s,
            ),
        )
        for name, meaning, value in gauges:
            yield GaugeMetricFamily(name, meaning, value=float(value))
        yield CounterMetricFamily(
            "gradient_refused_tokens", "Requests refused for their token.", value=now.refused_tokens
        )

    def _tick(self, due_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._lag_s = max(0.0, loop.time() - due_s)
        self._worst_lag_s = max(self._worst_lag_s, self._lag_s)
        self._timer = loop.call_later(_LAG_EVERY_S, self._tick, loop.time() + _LAG_EVERY_S)


class _Collected:
    """Families that are ready, as a registry takes them."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families
