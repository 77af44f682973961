"""What it costs to look at a long series: 1,000 buckets of it, beside reading every point.

Both through the Python client, from the request to the last number in the caller's hands.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable

from benchmarks import Row
from benchmarks._served import running, server
from gradient_jupyter.client import Client
from gradient_jupyter.resources.metric import LogMetrics, Point

POINTS = 100_000
BUCKETS = 1000
ROUNDS = 15


def rows() -> Iterable[Row]:
    with server() as served, running(served, sys.executable, "-c", "import time; time.sleep(600)") as job_id:
        assert served.runtime is not None
        with Client(served.runtime.url, served.runtime.token) as client:
            metrics = client.jobs.get(job_id).metrics
            wait_for_start(client, job_id)
            for start in range(0, POINTS, 10_000):
                points = tuple(
                    Point("loss", math.exp(-n / 3e4) + (n * 7919 % 1000) / 1e4, n, 1_000_000 + n)
                    for n in range(start, start + 10_000)
                )
                client._transport.request(
                    "POST", f"/jobs/{job_id}/metrics", dict, body=LogMetrics(points=points)
                )
            whole, small = [], []
            for _ in range(ROUNDS):
                whole.append(timed(lambda: metrics.read("loss"), POINTS))
                small.append(timed(lambda: metrics.buckets("loss", BUCKETS), BUCKETS))
    name = f"{POINTS:,} points as {BUCKETS:,} buckets"
    small_ms, whole_ms = statistics.median(small) * 1000, statistics.median(whole) * 1000
    yield Row(name, small_ms, "ms", whole_ms, "reading every point")


def wait_for_start(client: Client, job_id: str) -> None:
    for _ in client.jobs.get(job_id).metrics.follow():
        if client.jobs.get(job_id).record.started_us is not None:
            return


def timed(work: Callable[[], object], expected: int) -> float:
    began = time.perf_counter()
    found = work()
    took = time.perf_counter() - began
    assert len(found) == expected  # type: ignore[arg-type]
    return took
