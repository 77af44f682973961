"""What logging numbers costs: twenty jobs of a thousand points a second each, and one call.

*Stored*: every job logs on a schedule, and afterwards all points are counted in the store; the yardstick is
what was asked for, so the ratio is the share that came through. *Server CPU*: of the server's process, while
they log. *One call*: what a training loop waits for, beside a program that writes and flushes the same line
to a file of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from benchmarks import Row
from benchmarks._served import SoloServer, cpu, server

JOBS = 20
RATE = 1000
SECONDS = 10
CALLS = 50_000

#: Logs ``RATE`` points a second, each at its time; where it falls behind, it catches up and says by how much.
STEADY = f"""
import gradient_job, os, time
go = os.environ["GRADIENT_STORAGE_DIR"] + "/go"
print("up", flush=True)
while not os.path.exists(go):
    time.sleep(0.02)
began = time.monotonic()
for n in range({RATE * SECONDS}):
    gradient_job.log_metric("loss", n / 7, step=n)
    ahead = began + n / {RATE} - time.monotonic()
    if ahead > 0.002:
        time.sleep(ahead)
print("took", time.monotonic() - began, flush=True)
gradient_job.flush()
"""

ONE_CALL = f"""
import gradient_job, os, time
gradient_job.log_metric("warm", 1)
ours, own = [], []
file = open(os.environ["TMPDIR" if "TMPDIR" in os.environ else "HOME"] + "/lines", "w")
for turn in range(4):
    began = time.perf_counter()
    for n in range({CALLS} // 4):
        gradient_job.log_metric("loss", n / 7, step=n)
    ours.append(time.perf_counter() - began)
    began = time.perf_counter()
    for n in range({CALLS} // 4):
        file.write('["loss",%r,%d,%d]\\n' % (n / 7, n, time.time_ns() // 1000))
        file.flush()
    own.append(time.perf_counter() - began)
print(min(ours) / ({CALLS} // 4), min(own) / ({CALLS} // 4))
"""


def rows() -> Iterable[Row]:
    with server() as served:
        yield from steady(served)
        yield from one_call(served)


def steady(served: SoloServer) -> Iterator[Row]:
    jobs = [served.job("python", "-c", STEADY)["id"] for _ in range(JOBS)]
    for job in jobs:
        served.printed(job, "up\n")
    assert served.process is not None
    before, began = cpu(served.process.pid), time.monotonic()
    (served.storage() / "go").touch()
    took = [float(_line(served, job, "took")) for job in jobs]
    spent, wall = cpu(served.process.pid) - before, time.monotonic() - began
    for job in jobs:
        served.finished(job)
    stored = sum(_count(served, job) for job in jobs)
    asked = JOBS * RATE * SECONDS
    name = f"{JOBS} jobs × {RATE:,} points/s for {SECONDS} s"
    yield Row(f"{name}: stored", stored, "points", asked, "points asked for")
    yield Row(f"{name}: the slowest job's loop", max(took), "s", SECONDS, "its schedule")
    yield Row(f"{name}: server CPU", spent / wall, "cores", 1.0, "one core")


def one_call(served: SoloServer) -> Iterator[Row]:
    job = served.job("python", "-c", ONE_CALL)["id"]
    served.finished(job)
    ours, own = (float(word) * 1e6 for word in served.text(job).split()[-2:])
    yield Row("one log_metric call", ours, "µs", own, "the same line written and flushed by hand")
    assert _count(served, job) == 4 * (CALLS // 4), "points were lost"


def _line(served: SoloServer, job: object, word: str) -> str:
    seen = ""
    for event, _, data in served.events(f"/jobs/{job}/logs?follow=true"):
        if event == "log":
            seen += data["text"]  # type: ignore[index]
            if (at := seen.find(word)) >= 0 and "\n" in seen[at:]:
                return seen[at + len(word) :].split()[0]
        assert event != "end", seen
    raise AssertionError("the log ended")


def _count(served: SoloServer, job: object) -> int:
    items = served.request("GET", f"/jobs/{job}/metrics").json()["items"]
    return int(next(each["count"] for each in items if each["key"] == "loss"))
