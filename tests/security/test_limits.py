"""Rows 10-12, 63-65: each limit hit below, at and above it; slow senders; what smuggles; what is deep or
many.

Boundary B2 and B6, asset A8. Loop lag and memory are measured and printed (``-s``); only memory is asserted,
with a wide margin. No time is asserted.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time

import pytest
from people import packed
from solo import PATIENCE_S, SoloServer

from gradient_jupyter.api.app import all_routes
from gradient_jupyter.api.routes import JSON_BODY

#: What the server may take more than before for any one of these attacks. Far more than it does.
ROOM = 192 << 20


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """A server that waits for half a second: for heads, and for bodies."""
    server = SoloServer(
        tmp_path_factory.mktemp("impatient"),
        "--GradientServer.header_timeout_s=0.5",
        "--GradientServer.body_timeout_s=0.5",
    )
    server.start()
    yield server
    server.stop()


class Wire:
    """A connection of one's own, byte for byte."""

    def __init__(self, server: SoloServer) -> None:
        self.server = server
        self.host = server.runtime.url.removeprefix("http://")
        name, _, port = self.host.partition(":")
        self.socket = socket.create_connection((name, int(port)), PATIENCE_S)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        # The server may have answered and gone before everything was sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        ours = f"Host: {self.host}\r\nAuthorization: Bearer {self.server.runtime.token}\r\n"
        more = "".join(f"{line}\r\n" for line in lines)
        return f"{method} {path} HTTP/1.1\r\n{ours}{more}\r\n".encode()

    def rest(self) -> bytes:
        """Everything until the server closes."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self.socket.recv(65536):
                found += chunk
        return found

    def rest_within(self) -> bytes:
        """What is answered to all that was sent: a last request that closes is put behind it."""
        self.send(self.head("GET", "/api/v1/nothing-here", "Connection: close"))
        with contextlib.suppress(OSError):  # refused, and closed already
            self.socket.shutdown(socket.SHUT_WR)
        return self.rest()

    def status(self) -> int:
        """That of the next answer; 0: there is none, the connection was closed."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n" not in found and (chunk := self.socket.recv(4096)):
                found += chunk
        match = re.match(rb"HTTP/1\.1 (\d{3})", found)
        return int(match[1]) if match else 0


def memory(server: SoloServer) -> int:
    """Resident, bytes."""
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


@contextlib.contextmanager
def flat(server: SoloServer, what: str):
    """What is done in here takes no memory to speak of, and the server answers afterwards."""
    before = memory(server)
    yield
    began = time.monotonic()
    assert server.request("GET", "/server").status == 200
    grown = memory(server) - before
    print(f"{what}: {grown / 1e6:+.1f} MB, the next answer after {(time.monotonic() - began) * 1e3:.0f} ms")
    assert grown < ROOM


def fitting(size: int) -> bytes:
    """A body of so many bytes that is good but for its size."""
    frame = json.dumps({"name": ""}).encode()
    return frame[:-2] + b"x" * 10 + frame[-2:] + b" " * (size - len(frame) - 10)


@pytest.mark.parametrize(("more", "status"), [(-1, 201), (0, 201), (1, 413)])
def test_a_body_at_its_limit_is_taken_and_one_byte_more_is_not(solo, more, status):
    body = fitting(JSON_BODY + more).replace(b"x" * 10, f"limit-{more:04}".encode())
    assert solo.request("POST", "/projects", body=body).status == status


BODIES = [route for route in all_routes() if route.body]


@pytest.mark.parametrize("route", BODIES, ids=lambda route: route.summary)
def test_every_body_has_a_limit(solo, route):
    """None is read to its end that only says how large it is."""
    with Wire(solo) as wire:
        path = re.sub(r"\{[^}]*\}", "x", route.address)
        wire.send(wire.head(route.method, path, f"Content-Length: {route.limit + 1}"))
        wire.send(b"x" * min(route.limit + 1, 2 << 20))
        assert wire.status() == 413


@pytest.mark.parametrize("route", [route for route in all_routes() if not route.body and not route.sink],
                         ids=lambda route: f"{route.method} {route.address}")  # fmt: skip
def test_what_takes_no_body_takes_none(solo, route):
    if route.path.endswith("/server/stop"):
        return  # it would stop; its rule is the same line of code
    with Wire(solo) as wire:
        path = re.sub(r"\{[^}]*\}", "x", route.address)
        wire.send(wire.head(route.method, path, "Content-Length: 1") + b"x")
        # Where the token stands in the address it is none.
        assert wire.status() == (401 if route.face.token_in else 400)


@pytest.mark.parametrize(("size", "statuses"), [(60_000, {200}), (66_000, {431}), (10_000_000, {431})])
def test_a_head_has_a_limit(solo, size, statuses):
    """64 KiB together. It is said so, though what comes behind it is not read: it may be anything."""
    with flat(solo, f"a head of {size} bytes"), Wire(solo) as wire:
        wire.send(wire.head("GET", "/api/v1/server", f"X-Long: {'x' * size}"))
        assert wire.status() in statuses


@pytest.mark.parametrize("count", [100, 1000])
def test_many_headers_and_cookies_cost_little(solo, count):
    """Row 63, CVE-2025-67726, CVE-2024-52804: repeated names and cookies are not joined in quadratic time."""
    with flat(solo, f"{count} headers"), Wire(solo) as wire:
        wire.send(wire.head("GET", "/api/v1/server", *(f"X-A: {number}" for number in range(count))))
        assert wire.status() == 200
    with flat(solo, "cookies"), Wire(solo) as wire:
        cookies = "; ".join(f'a{number}="\\{number:o}"' for number in range(count))
        wire.send(wire.head("GET", "/api/v1/server", f"Cookie: {cookies}"))
        assert wire.status() == 200


@pytest.mark.parametrize("length", [1000, 60_000])
def test_a_long_query_is_the_callers_mistake(solo, length):
    assert solo.request("GET", f"/jobs?tag={'x' * length}").status == 400
    assert (
        solo.request("GET", "/jobs?" + "&".join(f"a{number}=1" for number in range(length // 10))).status
        == 400
    )


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"command":' + b"[" * 100_000,
        b'{"env":{"A":' + b'{"a":' * 100_000,
        b'{"entries":' + b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("route", BODIES, ids=lambda route: route.summary)
def test_json_of_any_depth_is_the_callers_mistake(people, route, body):
    """Row 65: 10^5 deep."""
    path = re.sub(r"\{[^}]*\}", "x", route.address)
    status, content, _ = people.exactly("operator", route.method, path, body)
    assert status == 400, content[:300]


@pytest.mark.parametrize(
    ("field", "most", "value"),
    [("command", 4096, "x"), ("tags", 50, "t")],
)
def test_a_list_has_a_limit(people, field, most, value):
    asked = {"command": ["true"], "snapshot": people.ids["snapshot"], "project_id": "prabsent"}
    for count, status in ((most - 1, 404), (most, 404), (most + 1, 400)):
        body = {**asked, field: [f"{value}{number}" for number in range(count)]}
        assert people.ask("owner", "POST", "/api/v1/jobs", body=body).status == status


@pytest.mark.parametrize(
    ("limit", "status"), [(1, 200), (1000, 200), (1001, 400), (0, 400), (-1, 400), (1 << 70, 400)]
)
def test_a_page_has_a_limit(people, limit, status):
    for path in ("/api/v1/jobs", "/api/v1/projects"):
        assert people.ask("owner", "GET", f"{path}?limit={limit}").status == status


def test_a_pack_that_unpacks_to_far_more_than_it_says_is_refused(people):
    """Row 10-12: what is declared is checked while it is read."""
    content = packed(b"x" * 100)
    for lie in (content[:-1], content + b"x", content.replace(b"x" * 100, b"y" * 100)):
        before = people.state()["blobs"]
        assert people.exactly("owner", "POST", "/api/v1/blobs", lie)[0] == 400
        assert people.state()["blobs"] == before


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_million_chunks_of_one_byte_take_no_memory_and_hold_up_nobody(solo, count):
    """Row 65. Somebody else is answered meanwhile."""
    with flat(solo, f"{count} chunks"), Wire(solo) as wire:
        wire.send(wire.head("POST", "/api/v1/projects", "Transfer-Encoding: chunked"))
        for _ in range(count // 10_000):
            wire.send(b"1\r\n \r\n" * 10_000)
        assert solo.request("GET", "/server").status == 200
        wire.send(b"0\r\n\r\n")
        wire.socket.settimeout(600)
        assert wire.status() == 400  # spaces are no JSON


def test_a_body_in_some_small_chunks_is_a_body(solo):
    with Wire(solo) as wire:
        body = json.dumps({"name": "in small chunks"}).encode() + b" " * 5000
        wire.send(wire.head("POST", "/api/v1/projects", "Transfer-Encoding: chunked"))
        wire.send(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert wire.status() == 201


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 0"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5, 6",),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5_0",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Content-Length : 5",),
        ("X: y\x00z",),
        ("X: y\rz",),
        ("Transfer_Encoding: chunked", "Content-Length: -1"),
    ],
    ids=repr,
)
def test_a_message_that_two_readers_could_understand_in_two_ways_is_refused(people, lines):
    """Smuggling: what follows is never taken for a second request."""
    before = people.state()
    hidden = f"DELETE /api/v1/jobs/{people.ids['done']} HTTP/1.1\r\nHost: {people.host}\r\n"
    hidden += f"Authorization: Bearer {people.tokens['owner']}\r\n\r\n"
    with Wire(people) as wire:
        wire.send(wire.head("POST", "/api/v1/projects", *lines) + b"0\r\n\r\n" + hidden.encode())
        answers = wire.rest_within()
    statuses = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3})", answers)]
    assert 202 not in statuses and len(statuses) <= 1
    assert all(status >= 400 for status in statuses)
    assert people.ask("owner", "GET", f"/api/v1/jobs/{people.ids['done']}").json()["target"] != "deleted"
    assert people.state() == before


def test_requests_in_a_row_are_answered_in_their_order(solo):
    """Pipelining: a hundred at once, one of them wrong."""
    with Wire(solo) as wire:
        heads = [wire.head("GET", "/api/v1/server"), wire.head("GET", "/api/v1/jobs/none")] * 50
        wire.send(b"".join(heads) + wire.head("GET", "/api/v1/server", "Connection: close"))
        statuses = [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3})", wire.rest())]
    assert statuses == [200, 404] * 50 + [200]


def test_a_multipart_body_is_never_looked_into(solo):
    """Row 63, CVE-2025-47287: a thousand bad parts are a body like any other, and one line in the log at
    most."""
    part = b"--x\r\nContent-Disposition: nonsense\r\n\r\n\r\n"
    before = len(solo.log())
    with flat(solo, "multipart"):
        answer = solo.request(
            "POST",
            "/projects",
            body=part * 20_000,
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
    assert answer.status == 400
    assert len(solo.log()) - before < 2000
    form = solo.request(
        "POST", "/projects", body=b"name=form", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert form.status == 400


@pytest.mark.parametrize(
    "begun",
    [b"", b"G", b"GET /api/v1/server HTTP/1.1\r\n", b"GET /api/v1/server HTTP/1.1\r\nHost: x\r\nX: y"],
)
def test_a_head_that_never_ends_is_not_waited_for(impatient, begun):
    """Slowloris: the connection is closed by the server, without an answer."""
    with Wire(impatient) as wire:
        wire.send(begun)
        assert wire.rest() == b""


def closes_on(wire: Wire, byte: bytes) -> bool:
    """Whether the server closes the connection, without an answer, while a byte comes now and then."""
    wire.socket.settimeout(0.05)
    for _ in range(1000):
        wire.send(byte)
        try:
            return wire.socket.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionResetError:
            return True
    return False


def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for(impatient):
    with Wire(impatient) as wire:
        wire.send(b"GET /")
        assert closes_on(wire, b"x")


def test_the_second_head_of_a_connection_is_not_waited_for_either(impatient):
    with Wire(impatient) as wire:
        wire.send(wire.head("GET", "/api/v1/server"))
        assert wire.status() == 200
        wire.send(b"GET /api")
        assert b"HTTP/1.1" not in wire.rest()


@pytest.mark.parametrize("path", ["/api/v1/projects", "/api/v1/blobs", "/api/v1/snapshots"])
def test_a_body_that_does_not_move_is_not_waited_for(impatient, path):
    with Wire(impatient) as wire:
        wire.send(wire.head("POST", path, "Content-Length: 1000") + b"{")
        assert b" 20" not in wire.rest()


def test_a_body_that_creeps_is_not_waited_for(impatient):
    """A byte now and then is not standing still, and yet it would take for ever."""
    with Wire(impatient) as wire:
        wire.send(wire.head("POST", "/api/v1/projects", "Content-Length: 1000000"))
        assert closes_on(wire, b" ")


def test_who_has_asked_before_may_be_silent_and_who_follows_may_wait(impatient):
    """A notebook's connection, and a log of a job that says nothing, are not slow senders."""
    job = impatient.job("sleep", "600")
    with Wire(impatient) as idle, Wire(impatient) as follower, Wire(impatient) as slow:
        idle.send(idle.head("GET", "/api/v1/server"))
        assert idle.status() == 200
        follower.send(follower.head("GET", f"/api/v1/jobs/{job['id']}/logs?follow=true"))
        assert follower.status() == 200
        # Meanwhile another one is given up: so long was waited.
        slow.send(b"G")
        assert slow.rest() == b""
        idle.send(idle.head("GET", "/api/v1/server"))
        assert b"200 OK" in idle.socket.recv(65536)
        impatient.request("POST", f"/jobs/{job['id']}/stop")
        follower.socket.settimeout(PATIENCE_S)
        seen = b""
        while b"event: end" not in seen:
            chunk = follower.socket.recv(65536)
            assert chunk, seen
            seen += chunk


def test_hundreds_of_idle_connections_hold_up_nobody_and_are_let_go(impatient):
    wires = [Wire(impatient) for _ in range(300)]
    try:
        with flat(impatient, "300 idle connections"):
            pass
        assert all(wire.rest() == b"" for wire in wires)
    finally:
        for wire in wires:
            wire.socket.close()
