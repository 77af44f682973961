"""A real server with jobs to measure, and what its process costs. Linux: it reads ``/proc``."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # where the harness `solo` is

from solo import SoloServer


@contextlib.contextmanager
def server() -> Iterator[SoloServer]:
    """One that runs many small jobs side by side, in a place of its own that is removed again."""
    with tempfile.TemporaryDirectory(prefix="gradient-bench-") as root:
        served = SoloServer(
            Path(root),
            "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
            "--GradientServer.default_machine_type=small",
            "--GradientServer.stop_grace_s=2",
            "--GradientServer.isolation=none",
        )
        served.start()
        try:
            yield served
        finally:
            served.stop()


@contextlib.contextmanager
def running(served: SoloServer, *command: str, ready: str = "") -> Iterator[str]:
    """A job that runs, and is over afterwards. ``ready``: what it prints when it can be measured."""
    job_id = str(served.job(*command)["id"])
    try:
        if ready:
            served.printed(job_id, ready)
        yield job_id
    finally:
        served.request("POST", f"/jobs/{job_id}/stop")
        served.finished(job_id)


def memory(pid: int) -> int:
    """Bytes that are this process's: its proportional set size."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    raise OSError("no Pss in smaps_rollup")


def cpu(pid: int) -> float:
    """Seconds of CPU that this process's present threads have used, to the nanosecond."""
    spent = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            spent += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    return spent / 1e9


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
