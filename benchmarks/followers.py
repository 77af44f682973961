"""What 2,000 open streams cost the server: memory for each, and CPU while nothing happens.

The yardstick is a bare tornado handler that sends the same first event and then waits, in a process of its
own: what the connection itself costs before anything of ours is done.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from benchmarks import Row
from benchmarks._served import cpu, descriptors, memory, running, server

FOLLOWERS = 2000
JOBS = 20
IDLE_S = 8.0
LINES = 200

BARE = """
import asyncio, resource, sys
from tornado import httpserver, netutil, web

class Stream(web.RequestHandler):
    async def get(self):
        self.set_header("Content-Type", "text/event-stream")
        self.write(b"event: job\\ndata: " + b"x" * 800 + b"\\n\\n")
        await self.flush()
        await asyncio.Event().wait()

async def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = httpserver.HTTPServer(web.Application([("/", Stream)], log_function=lambda handler: None))
    (listening,) = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets([listening])
    print(listening.getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def rows() -> Iterable[Row]:
    raise_limit()
    bare_kb = bare()
    with server() as served:
        assert served.process is not None and served.runtime is not None
        pid, url, token = served.process.pid, served.runtime.url, served.runtime.token

        started, used = time.monotonic(), cpu(pid)
        time.sleep(IDLE_S)
        alone = (cpu(pid) - used) / (time.monotonic() - started)

        def measure(name: str, paths: list[str], lines: int = 0) -> Iterator[Row]:
            kb, used, fds = followed(pid, url, token, paths, lines)
            yield Row(f"{name}: memory of each", kb, "kB", bare_kb, "a bare tornado handler that streams")
            yield Row(f"{name}: CPU while idle", used * 1000, "ms/s", alone * 1000, "the server without them")
            yield Row(f"{name}: descriptors", fds, "fds", FOLLOWERS, "one for each connection")

        quiet = ("sh", "-c", "echo up; exec sleep 600")
        with running(served, *quiet, ready="up\n") as job:
            log = f"/jobs/{job}/logs?follow=true"
            # What a server takes once, for good, whoever follows: not to be charged to the first of them.
            followed(pid, url, token, [log] * 200, 0, wait_s=0.5)
            yield from measure(f"{FOLLOWERS} followers of one log", [log] * FOLLOWERS)
        with contextlib.ExitStack() as stack:
            jobs = [stack.enter_context(running(served, *quiet, ready="up\n")) for _ in range(JOBS)]
            paths = [f"/jobs/{jobs[n % JOBS]}/logs?follow=true" for n in range(FOLLOWERS)]
            yield from measure(f"{FOLLOWERS} followers of {JOBS} logs", paths)
        lines = ("sh", "-c", f"echo up; head -c 1 >/dev/null; sleep 8; seq {LINES}; exec sleep 600")
        with running(served, *lines, ready="up\n") as job:
            paths = [f"/jobs/{job}/logs?follow=true"] * FOLLOWERS
            yield from measure(f"{FOLLOWERS} followers of a log that grew", paths, LINES)
        yield from measure(f"{FOLLOWERS} followers of /events", ["/events"] * FOLLOWERS)


def bare() -> float:
    """kB for each follower of a bare handler."""
    with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            followed(process.pid, url, "", ["/"] * 200, 0, wait_s=0.5, prefix="")
            kb, _, _ = followed(process.pid, url, "", ["/"] * FOLLOWERS, 0, wait_s=0.5, prefix="")
        finally:
            process.kill()
    return kb


def followed(
    pid: int,
    url: str,
    token: str,
    paths: list[str],
    lines: int,
    wait_s: float = IDLE_S,
    prefix: str = "/api/v1",
) -> tuple[float, float, int]:
    """(kB for each, CPU seconds per second, descriptors more) of a process with a follower on each path."""
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
    before, held = memory(pid), descriptors(pid)
    sockets: list[socket.socket] = []
    try:
        for path in paths:
            one = socket.create_connection(address)
            sockets.append(one)
            one.sendall(
                f"GET {prefix}{path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                f"Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n".encode()
            )
        for one in sockets:
            headers = one.recv(256)
            if not headers.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(headers.decode(errors="replace"))
        if lines:
            for one in sockets:
                read_until(one, f"\\n{lines}\\n".encode())
        time.sleep(1.0)
        used, started = cpu(pid), time.monotonic()
        time.sleep(wait_s)
        used = (cpu(pid) - used) / (time.monotonic() - started)
        return (memory(pid) - before) / 1000 / len(paths), used, descriptors(pid) - held
    finally:
        for one in sockets:
            one.close()
        while descriptors(pid) > held + len(paths) // 2:  # the next ones shall find it as these did
            time.sleep(0.05)


def read_until(one: socket.socket, text: bytes) -> None:
    seen = b""
    while text not in seen:
        piece = one.recv(65536)
        if not piece:
            raise RuntimeError("the stream was cut")
        seen = (seen + piece)[-65536:]


def raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
