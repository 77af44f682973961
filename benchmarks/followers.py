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
from collections.abc import Iterable
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
    quiet = ("sh", "-c", "echo up; exec sleep 600")
    grows = ("sh", "-c", f"echo up; sleep 10; seq {LINES}; exec sleep 600")
    scenes: list[tuple[str, tuple[str, ...], int, int]] = [
        ("of one log", quiet, 1, 0),
        (f"of {JOBS} logs", quiet, JOBS, 0),
        ("of a log that grew", grows, 1, LINES),
        ("of /events", quiet, 0, 0),
    ]
    for name, command, jobs, lines in scenes:
        # What a process has freed it seldom gives back, so each scene has a server of its own.
        with server() as served, contextlib.ExitStack() as stack:
            assert served.process is not None and served.runtime is not None
            running_jobs = [stack.enter_context(running(served, *command, ready="up\n")) for _ in range(jobs)]
            paths = [f"/jobs/{job}/logs?follow=true" for job in running_jobs] or ["/events"]
            pid, url, token = served.process.pid, served.runtime.url, served.runtime.token
            # What a server takes once, for good, whoever follows, is not to be charged to the first of them.
            followed(pid, url, token, paths * (100 // len(paths)), 0, wait_s=0.0)
            kb, used, fds = followed(pid, url, token, paths * (FOLLOWERS // len(paths)), lines)
        what = f"{FOLLOWERS} followers {name}"
        yield Row(f"{what}: memory of each", kb, "kB", bare_kb, "a bare tornado handler that streams")
        yield Row(f"{what}: CPU while idle", used * 1000, "ms/s", 1000, "one core")
        yield Row(f"{what}: descriptors", fds, "fds", FOLLOWERS, "one for each connection")


def bare() -> float:
    """kB for each follower of a bare handler."""
    with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            followed(process.pid, url, "", ["/"] * 100, 0, wait_s=0.0, prefix="")
            kb, _, _ = followed(process.pid, url, "", ["/"] * FOLLOWERS, 0, wait_s=0.0, prefix="")
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
