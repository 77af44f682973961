"""Many short jobs, one after the other and side by side, with kills in between (technique T14, the soak).

Fault: use. Promise: P11, in the long run too: once warm, a server at rest has no more descriptors, threads,
rows and files than it had many jobs ago, and its memory does not climb.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
from pathlib import Path
from typing import NamedTuple

import pytest
from faults import remains, witness
from faults.test_history import SMALL
from faults.victim import Victim

#: The first rounds fill caches and pools.
WARM, ROUNDS, JOBS, KILLS = 10, 40, 10, 20
_ALLOWED_KB = 4096
"""Between the medians of two thirds of the rounds: what an allocator may do though nothing has leaked."""


class Sample(NamedTuple):
    memory_kb: int
    descriptors: int
    threads: int
    rows: tuple[int, ...]
    files: int


def sample(server: Victim) -> Sample:
    assert server.process is not None
    proc = Path("/proc", str(server.process.pid))
    (memory,) = (line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS"))
    connection = sqlite3.connect(f"file:{server.data}/gradient.sqlite?mode=ro", uri=True)
    try:
        tables = ("jobs", "attempts", "claims", "artifacts", "snapshots", "blobs", "projects")
        rows = tuple(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables)
    finally:
        connection.close()
    return Sample(
        int(memory.split()[1]),
        len(os.listdir(proc / "fd")),
        len(os.listdir(proc / "task")),
        rows,
        sum(len(names) for _, _, names in os.walk(server.data)),
    )


def one_round(server: Victim) -> None:
    """A few jobs with a log and an artifact, followed, and deleted."""
    script = witness.SHELL + 'begin; echo done; echo x > "$GRADIENT_ARTIFACTS_DIR/x"; end'
    jobs = [server.job("sh", "-c", script)["id"] for _ in range(JOBS)]
    position = next(iter(server.events("/events", {"Last-Event-ID": "nobody-0"})))[1]
    for job_id in jobs:
        assert server.finished(job_id)["state"] == "Stopped"
        server.request("DELETE", f"/jobs/{job_id}")
    waiting = set(jobs)
    for _, _, change in server.events("/events", {"Last-Event-ID": position}):
        if change["action"] == "deleted":  # type: ignore[index]
            waiting.discard(change["id"])  # type: ignore[index]
            if not waiting:
                break
    remains.at_rest(server)


@pytest.mark.slow
def test_a_server_in_long_use_keeps_its_size(tmp_path: Path) -> None:
    server = Victim(tmp_path, *SMALL)
    server.start()
    try:
        samples: list[Sample] = []
        for number in range(WARM + ROUNDS):
            one_round(server)
            if number >= WARM:
                samples.append(sample(server))
        left = remains.of(server)
        assert not left, left
        early, late = samples[: ROUNDS // 3], samples[-ROUNDS // 3 :]
        assert {one.rows for one in early} == {one.rows for one in late}
        for of in (lambda one: one.descriptors, lambda one: one.threads):
            # One left by each round of ten jobs would make it twice as many.
            grown = statistics.median(map(of, late)) - statistics.median(map(of, early))
            assert grown < ROUNDS // 3, samples
        assert {one.files for one in early} == {one.files for one in late}
        grown = statistics.median(one.memory_kb for one in late) - statistics.median(
            one.memory_kb for one in early
        )
        print(f"\n{ROUNDS * JOBS} jobs: memory {grown:+.0f} kB, {late[-1]}")
        assert grown < _ALLOWED_KB, samples
        for _ in range(KILLS):
            server.kill()
            server.start()
            one_round(server)
        left = remains.of(server)
        assert not left, left
        assert sample(server).rows == late[-1].rows
        began = witness.check(witness.read(server.storage()))
        assert len(began) == (WARM + ROUNDS + KILLS) * JOBS
    finally:
        server.stop()
