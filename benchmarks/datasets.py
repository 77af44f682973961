"""What a dataset costs a job: from submitting it to its first line, with data that is unpacked already and
with data that is not. The yardstick is the same job without any.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks import Row
from benchmarks.job import COMMAND, THINKING_S, served
from gradient_jupyter import Client

RUNS = 15
FILES, FILE_BYTES = 64, 4 << 20


def rows() -> Iterable[Row]:
    with tempfile.TemporaryDirectory(prefix="gradient-bench-") as place, served(Path(place)) as client:
        data = Path(place) / "images"
        data.mkdir()
        for number in range(FILES):
            (data / f"{number}.bin").write_bytes(os.urandom(FILE_BYTES))
        began = time.perf_counter()
        client.datasets.create("images", data)
        stored_s = time.perf_counter() - began
        first_s = first_line(client, "images")
        kinds: dict[str, Callable[[], float]] = {
            "without": lambda: first_line(client),
            "with": lambda: first_line(client, "images"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(RUNS):
            for name, measure in kinds.items():  # in turns, so that a busy moment meets both
                seconds[name].append(measure())
    without = statistics.median(seconds["without"]) * 1000
    megabytes = FILES * FILE_BYTES // 10**6
    return [
        Row(
            f"first line, {megabytes} MB that a job had before", statistics.median(seconds["with"]) * 1000,
            "ms", without, "the same job without a dataset; limited by: one look at a directory, two mounts",
        ),
        Row(
            f"first line, {megabytes} MB that no job had yet", first_s * 1000, "ms", without,
            "the same job without a dataset; limited by: decoding, hashing, writing, and the disk's sync",
        ),
        Row(
            f"storing {megabytes} MB in {FILES} files", stored_s * 1000, "ms", without,
            "the same job without a dataset; limited by: hashing, compressing, hashing and the disk's sync",
        ),
    ]  # fmt: skip


def first_line(client: Client, *datasets: str) -> float:
    time.sleep(THINKING_S)
    started = time.perf_counter()
    job = client.jobs.create(COMMAND, workspace=None, project="bench", datasets=datasets)
    took = 0.0
    for line in job.logs(follow=True):
        if line.stream == "stdout" and not took:
            took = time.perf_counter() - started
    return took
