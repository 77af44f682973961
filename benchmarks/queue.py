"""What one job costs the control plane: CPU of the server's process alone, by the length of the queue.

A real server on the local engine, jobs of one line (``true``), submitted over HTTP like any other. Of a long
queue only the first are run to their end, only the last are cancelled, and only the submits of the last are
counted: a sample, with all the others waiting meanwhile. The server's children (supervisors, commands) are
not counted: they are the jobs, not their control.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import Row

LENGTHS = (100, 1_000, 10_000)
SAMPLE = 100
YARDSTICK_RUNS = 50
_measured: dict[str, list[tuple[int, float]]] = {}


def rows() -> Iterable[Row]:
    for name in ("submit", "run", "cancel", "submit and run"):
        _measured[name] = []
    spawn: list[float] = []
    commits: list[float] = []
    for length in LENGTHS:
        spawn.append(_own_cpu(lambda: subprocess.run(["true"], check=True)))
        with tempfile.TemporaryDirectory() as place:
            commits.append(_own_cpu(_Commits(Path(place)).one))
            with _server(Path(place)) as server:
                costs = _measure(server, length)
        costs["submit and run"] = costs["submit"] + costs["run"]
        for name, cost in costs.items():
            _measured[name].append((length, cost))
    found = []
    for name, points in _measured.items():
        for (length, cost), yardstick in zip(points, spawn, strict=True):
            found.append(
                Row(f"{name}, {length:,} waiting", cost, "ms CPU", yardstick, "subprocess.run(['true'])")
            )
    whole = _measured["submit and run"]
    for (length, cost), yardstick in zip(whole, commits, strict=True):
        found.append(
            Row(
                f"submit and run, {length:,} waiting",
                cost,
                "ms CPU",
                yardstick,
                "a bare SQLite row, 5 commits",
            )
        )
    (_, least), (_, most) = whole[0], whole[-1]
    found.append(
        Row(
            f"submit and run, {LENGTHS[-1]:,} waiting",
            most,
            "ms CPU",
            least,
            f"the same, {LENGTHS[0]:,} waiting",
        )
    )
    return found


def plot() -> str:
    """The costs by the length of the queue, as an SVG. After ``rows``."""
    width, height, left, bottom = 640, 360, 60, 40
    top = max(cost for points in _measured.values() for _, cost in points) * 1.15
    low, high = math.log10(LENGTHS[0]), math.log10(LENGTHS[-1])

    def at(length: int, cost: float) -> tuple[float, float]:
        across = (math.log10(length) - low) / (high - low)
        return left + across * (width - left - 150), (height - bottom) * (1 - cost / top) + 10

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 20}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="60" y="16">CPU of the server per job, ms, by the number of jobs that wait</text>',
    ]
    for tick in range(5):
        cost = top * tick / 4
        _, y = at(LENGTHS[0], cost)
        parts.append(f'<line x1="{left}" x2="{width - 150}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{cost:.1f}</text>')
    for length in LENGTHS:
        x, _ = at(length, 0)
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{length:,}</text>')
    colours = ("#4477aa", "#228833", "#ccbb44", "#222222")
    for (name, points), colour in zip(_measured.items(), colours, strict=True):
        places = [at(length, cost) for length, cost in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        parts.append(f'<text x="{x + 10:.1f}" y="{y + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


class _Server:
    """A server of its own, spoken to over one connection."""

    def __init__(self, place: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADIENT_")}
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME", "JUPYTER_RUNTIME_DIR"):
            environment[name] = str(place / name)
            (place / name).mkdir()
        half = {"cpus": _cpus() / 2, "memory_bytes": 1 << 20}
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "gradient_jupyter.server",
                f"--GradientServer.machine_types={{'half': {half}}}",
                "--GradientServer.default_machine_type=half", "--log-level=WARN",
            ],
            env=environment, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout
        ready = json.loads(self.process.stdout.readline())
        (runtime,) = (place / "JUPYTER_RUNTIME_DIR").glob("gradient-*.json")
        self._token = json.loads(runtime.read_bytes())["token"]
        self._http = http.client.HTTPConnection(ready["url"].removeprefix("http://"), timeout=600)
        self._times = psutil.Process(ready["pid"])
        self._snapshot = self.ask("POST", "/snapshots", {"entries": []})["id"]

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"}
        self._http.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), headers)
        answer = self._http.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        if answer.status >= 400:
            raise RuntimeError(found)
        return found

    def submit(self, *command: str) -> str:
        host = {"python": sys.executable, "path": ["/usr/bin", "/bin"]}
        asked = {"command": command, "snapshot": self._snapshot, "project": "bench", "host": host}
        return str(self.ask("POST", "/jobs", asked)["id"])

    def wait(self, job_id: str, *states: str) -> None:
        while self.ask("GET", f"/jobs/{job_id}")["state"] not in states:
            time.sleep(0.2)

    def cpu_ms(self) -> float:
        times = self._times.cpu_times()
        return (times.user + times.system) * 1000

    def close(self) -> None:
        self._http.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


@contextlib.contextmanager
def _server(place: Path) -> Iterator[_Server]:
    server = _Server(place)
    try:
        yield server
    finally:
        server.close()


def _measure(server: _Server, length: int) -> dict[str, float]:
    """Milliseconds of CPU per job: to submit one, to run one, to cancel one."""
    server.wait(server.submit("true"), "Stopped")  # what only the first one costs
    blockers = [server.submit("sleep", "100000") for _ in range(2)]
    for blocker in blockers:
        server.wait(blocker, "Running")
    jobs = [server.submit("true") for _ in range(length - SAMPLE)]
    before = server.cpu_ms()
    jobs += [server.submit("true") for _ in range(SAMPLE)]
    submit = (server.cpu_ms() - before) / SAMPLE

    last, jobs = jobs[-SAMPLE // 2 :], jobs[: -SAMPLE // 2]
    before = server.cpu_ms()
    for job in last:
        server.ask("POST", f"/jobs/{job}/stop")
    for job in last:
        server.wait(job, "Cancelled")
    cancel = (server.cpu_ms() - before) / len(last)

    sample = jobs[: SAMPLE // 2]
    for blocker in blockers:
        server.ask("POST", f"/jobs/{blocker}/stop")
    server.wait(blockers[1], "Cancelled")
    before = server.cpu_ms()
    for job in sample:
        server.wait(job, "Stopped")
    run = (server.cpu_ms() - before) / len(sample)
    return {"submit": submit, "run": run, "cancel": cancel}


class _Commits:
    """A row inserted and changed four times, each on disk before the next, as a job's own is."""

    def __init__(self, place: Path) -> None:
        self._connection = sqlite3.connect(place / "bare.sqlite", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT, body TEXT)")

    def one(self) -> None:
        row = self._connection.execute(
            "INSERT INTO jobs (state, body) VALUES ('0', ?)", ("x" * 1500,)
        ).lastrowid
        for state in "1234":
            self._connection.execute("UPDATE jobs SET state = ? WHERE id = ?", (state, row))


def _own_cpu(work: Callable[[], object]) -> float:
    """Milliseconds of CPU of this process and its children for one call, on average."""

    def cpu() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    work()
    before = cpu()
    for _ in range(YARDSTICK_RUNS):
        work()
    return (cpu() - before) / YARDSTICK_RUNS * 1000


def _cpus() -> int:
    return len(os.sched_getaffinity(0))
