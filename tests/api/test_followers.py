"""Many who follow over real connections: fast, slow, stuck, cut off and come back. Real server, real jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest

from gradient_jupyter.api.streams import Heart

PYTHON = sys.executable
PATIENCE_S = 90.0


class Stream:
    """One event stream over a connection of its own."""

    def __init__(self, solo, path: str, last_id: str = "") -> None:
        self._runtime = solo.runtime
        self._path = path
        self.last_id = last_id

    async def __aenter__(self) -> Stream:
        port = int(self._runtime.url.rpartition(":")[2])
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        again = f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else ""
        self._writer.write(
            f"GET /api/v1{self._path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {self._runtime.token}\r\n{again}\r\n".encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def messages(self) -> AsyncIterator[tuple[str, dict]]:
        """(event, data); ``last_id`` is the position after it."""
        pending = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            pending += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
            *whole, pending = pending.split(b"\n\n")
            for message in whole:
                fields = dict(line.split(": ", 1) for line in message.decode().splitlines())
                if "event" in fields:
                    self.last_id = fields.get("id", self.last_id)
                    yield fields["event"], json.loads(fields["data"])


def run(scene) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scene()

    asyncio.run(scenario())


@pytest.fixture
def stopped(solo) -> Iterator[list[str]]:
    """Jobs in this list do not outlive their test."""
    jobs: list[str] = []
    yield jobs
    for job in jobs:
        solo.request("POST", f"/jobs/{job}/stop")
        solo.finished(job)


WRITES = "import sys\nfor n in range(20000): print('line', n, 'ü' * (n % 7), flush=n % 500 == 0)"
WRITTEN = "".join(f"line {n} {'ü' * (n % 7)}\n" for n in range(20000))


def test_two_hundred_followers_of_one_job_all_get_the_same_whole_text(solo):
    """P7: some read slowly, some are cut off at random pieces and come back with Last-Event-ID."""
    job = solo.job(PYTHON, "-c", WRITES)
    path = f"/jobs/{job['id']}/logs?follow=true"
    choose = random.Random(7)
    fast_are_done = asyncio.Event()

    async def follow(kind: str, cuts: int) -> str:
        text, last_id = "", ""
        while True:
            left = choose.randrange(1, 4) if cuts else 0
            async with Stream(solo, path, last_id) as stream:
                async for event, data in stream.messages():
                    last_id = stream.last_id
                    if event == "end":
                        return text
                    if event != "log" or data["stream"] != "stdout":
                        continue
                    text += data["text"]
                    if kind == "slow":
                        await fast_are_done.wait()
                    left -= 1
                    if cuts and not left:
                        cuts -= 1
                        break

    async def scene() -> None:
        slow = [asyncio.create_task(follow("slow", 0)) for _ in range(20)]
        others = [follow("fast", 0 if n % 2 else 3) for n in range(180)]
        texts = await asyncio.gather(*others)
        fast_are_done.set()
        texts += await asyncio.gather(*slow)
        assert [len(text) for text in texts] == [len(WRITTEN)] * 200
        assert set(texts) == {WRITTEN}

    run(scene)


def test_who_never_reads_costs_the_server_one_piece_and_hinders_nobody(solo, stopped):
    """Threat: a reader that keeps its connection open and takes nothing."""
    stuck_count, size = 40, 24_000_000
    script = f"import sys\nfor _ in range({size} // 60): print('x' * 59)"
    job = solo.job(PYTHON, "-c", script)
    solo.finished(job["id"])
    path = f"/api/v1/jobs/{job['id']}/logs?follow=true"
    server = psutil.Process(solo.process.pid)
    address = ("127.0.0.1", int(solo.runtime.url.rpartition(":")[2]))

    async def read_all() -> int:
        got = 0
        async with Stream(solo, path.removeprefix("/api/v1")) as stream:
            async for event, data in stream.messages():
                got += len(data["text"]) if event == "log" and data["stream"] == "stdout" else 0
        return got

    assert asyncio.run(read_all()) == size  # what serving it takes at all
    before = server.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(stuck_count):
            stuck = stack.enter_context(socket.socket())
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(address)
            stuck.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
                f"Authorization: Bearer {solo.runtime.token}\r\n\r\n".encode()
            )
            assert stuck.recv(1)
        assert asyncio.run(read_all()) == size
        grown = server.memory_info().rss - before
        # Each may hold a piece of 256 KiB and its encoding; not one of the megabytes that wait for it.
        assert grown < stuck_count * 600_000 + 10_000_000
    assert solo.request("GET", f"/jobs/{job['id']}").status == 200


def test_a_position_in_the_middle_of_a_piece_is_gone_on_from(solo):
    """P7, at any byte."""
    job = solo.job(PYTHON, "-c", "print('0123456789' * 30)")
    solo.finished(job["id"])
    path = f"/jobs/{job['id']}/logs"
    (end,) = [i for e, i, d in solo.events(path) if e == "log" and d["stream"] == "stdout"]
    epoch, offset = end.split("-")
    for back in (1, 2, 150, 301):
        rest = solo.events(path, headers={"Last-Event-ID": f"{epoch}-{int(offset) - back}"})
        text = "".join(data["text"] for event, _, data in rest if event == "log")
        assert text == ("0123456789" * 30 + "\n")[-back:]


def test_followers_hold_a_connection_each_and_nothing_else(solo, stopped):
    """The server's descriptors are not used up by the logs that are followed."""
    jobs = [solo.job("sh", "-c", "echo up; exec sleep 600")["id"] for _ in range(5)]
    stopped += jobs
    for job in jobs:
        solo.printed(job, "up\n")

    async def scene() -> None:
        before = len(os.listdir(f"/proc/{solo.process.pid}/fd"))
        async with contextlib.AsyncExitStack() as stack:
            for n in range(100):
                path = f"/jobs/{jobs[n % 5]}/logs?follow=true"
                stream = await stack.enter_async_context(Stream(solo, path))
                async for event, data in stream.messages():
                    if event == "log" and data["text"].endswith("up\n"):
                        break
            assert len(os.listdir(f"/proc/{solo.process.pid}/fd")) - before <= 100 + 10

    run(scene)


def test_lost_hints_delay_a_line_and_lose_none(own_solo):
    """P7; heals with the server's next look, about a second later."""
    own_solo.start()
    (hints,) = [path for path in (own_solo.data / "engines" / "local").iterdir() if path.is_socket()]
    hints.unlink()
    wait = 'while [ ! -e "$GRADIENT_STORAGE_DIR/go" ]; do sleep 0.05; done'
    job = own_solo.job("sh", "-c", f"echo one; {wait}; echo two; exec sleep 600")
    go = own_solo.data / "storage" / "user" / job["created_by"] / "go"

    async def scene() -> None:
        async with Stream(own_solo, f"/jobs/{job['id']}/logs?follow=true") as stream:
            async for event, data in stream.messages():
                if event == "log" and data["text"].endswith("one\n"):
                    go.touch()  # from here on only the log changes, and the follower sleeps
                if event == "log" and data["text"].endswith("two\n"):
                    return

    run(scene)
    own_solo.request("POST", f"/jobs/{job['id']}/stop")
    own_solo.finished(job["id"])


def test_the_server_takes_more_followers_than_its_soft_limit_and_jobs_keep_theirs(own_solo):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 600:
        pytest.fail(f"the hard limit of descriptors here is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        own_solo.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft if soft >= 600 else hard, hard))
    job = own_solo.job("sh", "-c", "ulimit -Sn")
    own_solo.finished(job["id"])
    assert own_solo.text(job["id"]).split()[-1] == "200"
    assert "the limit was 200" in own_solo.log()

    async def scene() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(400):
                await stack.enter_async_context(Stream(own_solo, "/events"))

    try:
        run(scene)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_connection_too_many_is_told_so_and_leaves_the_others_alone(own_solo):
    """T5, threat: whoever takes all descriptors would keep logs and the database from being opened."""
    own_solo.start()
    job = own_solo.job("sh", "-c", "while :; do date; sleep 0.05; done")

    async def scene() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stream = await stack.enter_async_context(Stream(own_solo, f"/jobs/{job['id']}/logs?follow=true"))
            messages = stream.messages()
            while (await anext(messages))[0] != "log":
                pass
            resource.prlimit(own_solo.process.pid, resource.RLIMIT_NOFILE, (160, 160))
            port = int(own_solo.runtime.url.rpartition(":")[2])
            for _ in range(200):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert json.loads(body)["error"]["code"] == "too-many-connections"
            for _ in range(5):
                await anext(messages)
            await messages.aclose()

    run(scene)
    own_solo.request("POST", f"/jobs/{job['id']}/stop")
    assert own_solo.finished(job["id"])["state"] == "Cancelled"
    assert "Too many open files" not in own_solo.log()
    assert own_solo.log().count("that is all this system allows") == 1


def test_followers_of_events_all_hear_everything(solo):
    async def scene() -> None:
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(Stream(solo, "/events")) for _ in range(50)]
            job = await asyncio.to_thread(solo.job, "true")

            async def states(stream: Stream) -> list[tuple[str, str]]:
                found = []
                async for event, data in stream.messages():
                    if event == "change" and data["id"] == job["id"]:
                        found.append((stream.last_id, data["resource"]["phase"]))
                        if data["resource"]["phase"] == "done":
                            break
                return found

            told = await asyncio.gather(*(states(stream) for stream in streams))
            assert told[0][0][1] == "queued" and len(told[0]) >= 4
            assert all(each == told[0] for each in told)

    run(scene)


class Silent:
    """A connection over which nothing is sent."""

    def __init__(self) -> None:
        self.beats: list[bytes] = []
        self.beaten = asyncio.Event()

    async def begin(self, status: int, headers: dict[str, str]) -> None: ...
    async def send(self, data: bytes) -> None: ...

    def remind(self, data: bytes) -> None:
        self.beats.append(data)
        self.beaten.set()


def test_one_heart_beats_for_every_silent_stream_and_for_none_that_left():
    async def scene() -> None:
        heart = Heart(0.05)
        silent, gone = [Silent() for _ in range(3)], Silent()
        for each in (*silent, gone):
            heart.heard(each)
        heart.forget(gone)
        for _ in range(2):
            await asyncio.gather(*(each.beaten.wait() for each in silent))
            for each in silent:
                each.beaten.clear()
        assert {beat for each in silent for beat in each.beats} == {b": still here\n\n"}
        assert not gone.beats
        for each in silent:
            heart.forget(each)

    run(scene)
