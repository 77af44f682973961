"""What a person waits for before anything of ours begins: the command's start and the package's import."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import Row

RUNS = 15


def rows() -> Iterable[Row]:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "gradient --help": [str(Path(sys.executable).with_name("gradient")), "--help"],
        "gradient run --help": [str(Path(sys.executable).with_name("gradient")), "run", "--help"],
        "import gradient_jupyter": [sys.executable, "-c", "import gradient_jupyter"],
        "gradient_jupyter.Client": [sys.executable, "-c", "import gradient_jupyter; gradient_jupyter.Client"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(RUNS + 1):
        for name, command in commands.items():  # in turns, so that a busy moment meets them all
            took = timed(command)
            if run:  # the first one warms the disk's cache and compiles
                seconds[name].append(took)
    medians = {name: statistics.median(times) * 1000 for name, times in seconds.items()}
    yardstick = medians.pop("python -c pass")
    limits = {
        "gradient --help": "its start script's imports",
        "gradient run --help": "importing click",
        "import gradient_jupyter": "the interpreter's start",
        "gradient_jupyter.Client": "importing urllib3 and msgspec",
    }
    return [
        Row(name, value, "ms", yardstick, f"python -c pass; limited by: {limits[name]}")
        for name, value in medians.items()
    ]


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started
