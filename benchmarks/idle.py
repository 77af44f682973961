"""What a server costs that nobody uses: memory, CPU, wake-ups. Linux only: from ``/proc``.

The yardsticks are the least that such a program could be: a Python that has imported tornado and msgspec,
listens, and wakes once a second. For a minute after each job a server keeps a fork server; that is a row of
its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks import Row
from gradient_jupyter.engines.local.forkserver import ForkServer
from tests.solo import SoloServer

WINDOW_S = 20.0
JOBS = 20
BARE = """
import asyncio, msgspec
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

async def main():
    server = HTTPServer(web.Application([]))
    server.add_sockets(bind_sockets(0, "127.0.0.1"))
    print("ready", flush=True)
    while True:
        await asyncio.sleep(1)

asyncio.run(main())
"""


class Cost(NamedTuple):
    cpu_s: float
    wakeups: int


def rows() -> Iterable[Row]:
    with tempfile.TemporaryDirectory(prefix="gradient-bench-") as place:
        server = SoloServer(Path(place)).start()
        bare = subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE)
        try:
            assert server.process is not None
            assert bare.stdout is not None
            bare.stdout.readline()
            for _ in range(JOBS):
                server.finished(server.job("true")["id"])
            time.sleep(1)  # the last job is tidied up
            pids = server.process.pid, bare.pid
            before = [cost(pid) for pid in pids]
            time.sleep(WINDOW_S)
            after = [cost(pid) for pid in pids]
            cpu, bare_cpu = (100 * (b.cpu_s - a.cpu_s) / WINDOW_S for a, b in zip(before, after, strict=True))
            wakes, bare_wakes = (
                (b.wakeups - a.wakeups) / WINDOW_S for a, b in zip(before, after, strict=True)
            )
            rss, bare_rss = (memory(pid, "Rss") for pid in pids)
            pss, bare_pss = (memory(pid, "Pss") for pid in pids)
        finally:
            bare.kill()
            bare.communicate()
            server.stop()
    memory_of = "tornado and msgspec, listening; limited by: sqlalchemy, tornado, traitlets"
    time_of = "the same, waking once a second; limited by: the looks for whether to end"
    return [
        Row("RSS of a server after 20 jobs", rss, "MB", bare_rss, memory_of),
        Row("PSS of a server after 20 jobs", pss, "MB", bare_pss, memory_of),
        Row("PSS of its fork server", fork_server(), "MB", bare_pss, "tornado and msgspec, listening"),
        Row("CPU", cpu, "%", bare_cpu, time_of),
        Row("wake-ups", wakes, "/s", bare_wakes, time_of),
    ]


def memory(pid: int, kind: str) -> float:
    """MB. ``Rss`` counts a page that several processes share in each of them, ``Pss`` its share of it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1000
    raise OSError(f"no {kind} in smaps_rollup")


def cost(pid: int) -> Cost:
    cpu_ns = wakeups = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        cpu_ns += int((thread / "schedstat").read_text().split()[0])
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        wakeups += int(status["voluntary_ctxt_switches"])
    return Cost(cpu_ns / 1e9, wakeups)


def fork_server() -> float:
    """MB of one that waits."""
    server = ForkServer()
    server.make(30)
    try:
        assert server.identity is not None
        return memory(server.identity.pid, "Pss")
    finally:
        server.dismiss()
