"""What a person waits for who sends a directory away: from submitting it to the first line that its command
prints, in a Python that has the client at hand. The yardstick prints the same line without us.

Where bubblewrap works its world is part of it, as for everybody.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks import Row
from gradient_jupyter import Client
from tests.solo import SoloServer

RUNS = 25
THINKING_S = 0.5
"""Between two submits of a person's. A program's come without a pause."""
COMMAND = [sys.executable, "-c", "print('hello')"]


def rows() -> Iterable[Row]:
    with tempfile.TemporaryDirectory(prefix="gradient-bench-") as place, served(Path(place)) as client:
        workspace = Path(place) / "workspace"
        workspace.mkdir()
        for number in range(20):
            (workspace / f"module{number}.py").write_text(f"print({number})\n" * 50)
        edits = 0

        def unchanged() -> float:
            time.sleep(THINKING_S)
            return first_line(client, workspace)

        def edited() -> float:
            nonlocal edits
            edits += 1
            (workspace / "module0.py").write_text(f"print({edits})\n")
            return unchanged()

        kinds: dict[str, Callable[[], float]] = {
            "python -c print": bare,
            "submit to first line": unchanged,
            "the same, one file edited before": edited,
            "the same, no pause between jobs": lambda: first_line(client, workspace),
            "the same, no files": lambda: time.sleep(THINKING_S) or first_line(client, None),
        }
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for run in range(RUNS + 1):
            for name, measure in kinds.items():  # in turns, so that a busy moment meets them all
                took = measure()
                if run:  # the first of each uploads, compiles and warms the disk's cache
                    seconds[name].append(took)
    medians = {name: statistics.median(times) * 1000 for name, times in seconds.items()}
    yardstick = medians.pop("python -c print")
    limits = {
        "submit to first line": "the world (bwrap) and the command's Python, then two commits to disk",
        "the same, one file edited before": "three requests more, each with its commit",
        "the same, no pause between jobs": "the job before, whose end is being collected",
        "the same, no files": "as the first",
    }
    return [
        Row(name, value, "ms", yardstick, f"python -c print; limited by: {limits[name]}")
        for name, value in medians.items()
    ]


def bare() -> float:
    started = time.perf_counter()
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return time.perf_counter() - started


def first_line(client: Client, workspace: Path | None) -> float:
    started = time.perf_counter()
    took = 0.0
    for line in client.jobs.create(COMMAND, workspace=workspace, project="bench").logs(follow=True):
        if line.stream == "stdout" and not took:
            took = time.perf_counter() - started
    return took


@contextlib.contextmanager
def served(place: Path) -> Iterator[Client]:
    """A client of a server of its own; neither knows of anything outside ``place``."""
    server = SoloServer(place).start()
    cache = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    try:
        assert server.runtime is not None
        with Client(server.runtime.url, server.runtime.token) as client:
            yield client
    finally:
        server.stop()
        if cache is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = cache
