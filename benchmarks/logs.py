"""How fast a job's output reaches whoever follows it: how soon, and how much of it.

*Soon*: a job writes 64 KiB with the time at its beginning, again and again, and the follower notes when it
has the whole of it. *Much*: a job writes as fast as it can, and the follower counts and digests. The
yardsticks are the same programs with a pipe in between.
"""

from __future__ import annotations

import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec
import urllib3

from benchmarks import Row
from benchmarks._served import SoloServer, cpu, server
from gradient_jupyter.client import Client
from gradient_jupyter.resources.log import LogPiece
from gradient_jupyter.resources.server import Runtime

CHUNK = 64 * 1024
CHUNKS = 200
PAUSE_S = 0.02
BYTES = 500_000_000

#: Each chunk says when its writing began, on the clock that all processes share.
STAMPED = f"""
import os, time
for n in range({CHUNKS}):
    time.sleep({PAUSE_S})
    head = b"\\n@%d@" % time.monotonic_ns()
    rest = head + b"x" * ({CHUNK} - len(head) - 1) + b"$"
    while rest:
        rest = rest[os.write(1, rest):]
"""
FAST = f"""
import hashlib, os, sys
line = b"".join(b"epoch %6d  loss 0.%06d  accuracy 0.%06d\\n" % (n, n * 7 % 999983, n) for n in range(20000))
digest, left = hashlib.blake2b(), {BYTES}
while left:
    part = line[:left]
    digest.update(part)
    left -= len(part)
    while part:
        part = part[os.write(1, part):]
os.write(2, digest.hexdigest().encode())
"""


def rows() -> Iterable[Row]:
    with server() as served:
        yield from latency(served)
        yield from throughput(served)


def latency(served: SoloServer) -> Iterator[Row]:
    ours, piped = [], []
    for _ in range(2):  # in turns
        piped += delays(through_a_pipe())
        ours += delays(printed(raw(served, sys.executable, "-c", STAMPED)))
    for name, of in (("p50", statistics.median), ("p99", p99)):
        yield Row(f"64 KiB from write to receipt, {name}", of(ours), "ms", of(piped), "through a pipe")


def throughput(served: SoloServer) -> Iterator[Row]:
    piped = min(timed(lambda: counted(into_cat())) for _ in range(2))
    against = "the same command | cat"
    runs: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        "raw SSE client": lambda: raw(served, sys.executable, "-c", FAST),
        "Python client": lambda: client(served, sys.executable, "-c", FAST),
        "gradient jobs logs": lambda: command_line(served, sys.executable, "-c", FAST),
    }
    assert served.process is not None
    for name, run in runs.items():
        before = cpu(served.process.pid)
        took = timed(lambda run=run: checked(run()))  # type: ignore[misc]
        yield Row(
            f"{BYTES / 1e6:.0f} MB to a {name}", BYTES / 1e6 / took, "MB/s", BYTES / 1e6 / piped, against
        )
        spent = (cpu(served.process.pid) - before) / BYTES * 1e9
        yield Row(f"server CPU for it, {name}", spent, "ms/MB", piped / BYTES * 1e9, "wall time of the pipe")


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def delays(texts: Iterable[str]) -> list[float]:
    """Milliseconds from the stamp in each chunk to its last byte."""
    found: list[float] = []
    pending = ""
    for text in texts:
        now = time.monotonic_ns()
        pending += text
        while (end := pending.find("$")) >= 0:
            stamp = pending[:end].split("@", 2)[1]
            found.append((now - int(stamp)) / 1e6)
            pending = pending[end + 1 :]
    assert len(found) == CHUNKS, f"{CHUNKS - len(found)} chunks were lost"
    return found


def printed(pieces: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (text for stream, text in pieces if stream == "stdout")


def through_a_pipe() -> Iterator[str]:
    command = [sys.executable, "-c", STAMPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), CHUNK):
            yield data.decode()


def into_cat() -> Iterator[bytes]:
    with (
        subprocess.Popen(
            [sys.executable, "-c", FAST], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as job,
        subprocess.Popen(["cat"], stdin=job.stdout, stdout=subprocess.PIPE) as cat,
    ):
        assert cat.stdout is not None
        while data := os.read(cat.stdout.fileno(), CHUNK):
            yield data


def counted(pieces: Iterable[bytes]) -> None:
    assert sum(len(piece) for piece in pieces) == BYTES


def checked(pieces: Iterable[tuple[str, str]]) -> None:
    """Every byte, in its order: the job digests what it writes, and says it at its end."""
    digest, size, told = hashlib.blake2b(), 0, ""
    for stream, text in pieces:
        if stream == "stdout":
            data = text.encode()
            digest.update(data)
            size += len(data)
        elif stream == "stderr":
            told += text
    assert (size, digest.hexdigest()) == (BYTES, told), f"{BYTES - size} bytes are missing, or others came"


def raw(served: SoloServer, *command: str) -> Iterator[tuple[str, str]]:
    """(stream, text) as the least of clients sees them: lines that begin with ``data:``."""
    job = served.job(*command)["id"]
    assert served.runtime is not None
    answer = urllib3.PoolManager().request(
        "GET",
        f"{served.runtime.url}/api/v1/jobs/{job}/logs?follow=true",
        headers={"Authorization": f"Bearer {served.runtime.token}"},
        preload_content=False,
    )
    decode, event, rest = msgspec.json.Decoder(LogPiece).decode, b"", b""
    while chunk := answer.read1(1 << 18):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"event: "):
                event = line[7:]
            elif line.startswith(b"data: ") and event == b"log":
                piece = decode(line[6:])
                yield piece.stream, piece.text
    assert event == b"end"


def client(served: SoloServer, *command: str) -> Iterator[tuple[str, str]]:
    job = str(served.job(*command)["id"])
    runtime: Runtime | None = served.runtime
    assert runtime is not None
    with Client(runtime.url, token=runtime.token) as connected:
        for line in connected.jobs.get(job).logs(follow=True):
            yield line.stream, line.text


def command_line(served: SoloServer, *command: str) -> Iterator[tuple[str, str]]:
    job = str(served.job(*command)["id"])
    gradient = [sys.executable, "-m", "gradient_jupyter.cli", "jobs", "logs", "--follow", job]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(gradient, stdout=subprocess.PIPE, stderr=errors, env=served.environment) as process,
    ):
        assert process.stdout is not None
        while data := process.stdout.read(CHUNK):
            yield "stdout", data.decode()
        process.wait()
        errors.seek(0)
        digest = re.search(rb"[0-9a-f]{128}", errors.read())
        assert digest is not None
        yield "stderr", digest[0].decode()
