"""Messages on the wire, byte for byte: framing, order, back-pressure, ends. Boundary B2, asset A8.

Served is an application of tornado's own, so that both sides of the interface are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado import httputil, web

from gradient_jupyter.server import connection as wire
from gradient_jupyter.server.listening import Listener
from gradient_jupyter.server.patience import Patience, Waiting

PATIENCE_S = 60


class Seen:
    """What the application noticed, from the test's thread."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.begun = threading.Event()
        self.open = asyncio.Event()
        self.received = 0
        self.sent = 0


class Plain(web.RequestHandler):
    def get(self, name: str = "") -> None:
        self.write(f"{self.request.method} {self.request.uri} {self.request.remote_ip}")

    def post(self, name: str = "") -> None:
        self.write(self.request.body)

    head = get


class Nothing(web.RequestHandler):
    def get(self) -> None:
        self.set_status(204)


class Pieces(web.RequestHandler):
    """An answer of unknown length."""

    async def get(self) -> None:
        for piece in ("one", "two", "three"):
            self.write(piece)
            await self.flush()


class Waits(web.RequestHandler):
    """An answer that comes when the test says so."""

    def initialize(self, seen: Seen) -> None:
        self.seen = seen

    async def get(self) -> None:
        self.seen.begun.set()
        await self.seen.open.wait()
        self.write("late")

    def on_connection_close(self) -> None:
        self.seen.gone.set()


class Floods(web.RequestHandler):
    """An endless answer."""

    def initialize(self, seen: Seen) -> None:
        self.seen = seen

    async def get(self) -> None:
        while True:
            self.write(b"x" * 65536)
            await self.flush()
            self.seen.sent += 65536
            await asyncio.sleep(0)


@web.stream_request_body
class Takes(web.RequestHandler):
    """A body that is taken when the test says so."""

    def initialize(self, seen: Seen) -> None:
        self.seen = seen

    def prepare(self) -> None:
        if self.request.path == "/refuses":
            self.set_status(403)
            self.finish("no")

    async def data_received(self, chunk: bytes) -> None:
        self.seen.received += len(chunk)
        self.seen.begun.set()
        await self.seen.open.wait()

    def post(self) -> None:
        self.write(str(self.seen.received))

    def on_connection_close(self) -> None:
        self.seen.gone.set()


@web.stream_request_body
class Breaks(web.RequestHandler):
    def data_received(self, chunk: bytes) -> None:
        raise RuntimeError("the application is broken")

    def post(self) -> None: ...


class Served:
    """A loop on a thread of its own with one listener."""

    def __init__(self) -> None:
        self.seen: Seen
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    async def _run(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        seen = self.seen = Seen()
        routes = [
            ("/nothing", Nothing),
            ("/pieces", Pieces),
            ("/waits", Waits, {"seen": seen}),
            ("/floods", Floods, {"seen": seen}),
            ("/takes|/refuses", Takes, {"seen": seen}),
            ("/breaks", Breaks),
            ("/(.*)", Plain),
        ]
        application = web.Application(routes, log_function=lambda handler: None)
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        self.listener = Listener(application, [listening])
        self._ready.set()
        await self._end.wait()
        await self.listener.close()

    def let_go(self) -> None:
        self.loop.call_soon_threadsafe(self.seen.open.set)

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def served():
    one = Served()
    yield one
    one.close()


@contextlib.contextmanager
def connected(served):
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as client:
        yield client


def everything(client) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            found += chunk
    return found


def until(client, end: bytes) -> bytes:
    found = b""
    while not found.endswith(end):
        chunk = client.recv(65536)
        assert chunk, found
        found += chunk
    return found


def said(served, data: bytes) -> bytes:
    with connected(served) as client:
        client.sendall(data)
        return everything(client)


def head(method: str, path: str, *lines: str, version: str = "1.1") -> bytes:
    more = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n{more}\r\n".encode()


CLOSE = "Connection: close"


def test_one_answer_has_a_length_and_a_date(served):
    answer = said(served, head("GET", "/a?b=c", CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nGET /a?b=c 127.0.0.1")
    assert b"\r\nContent-Length: 20\r\n" in answer
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", answer)


def test_an_answer_of_unknown_length_comes_in_chunks(served):
    answer = said(served, head("GET", "/pieces", CLOSE))
    assert b"Transfer-Encoding: chunked" in answer
    assert answer.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")


def test_to_an_old_client_it_ends_with_the_connection(served):
    answer = said(served, head("GET", "/pieces", "Connection: keep-alive", version="1.0"))
    assert b"Transfer-Encoding" not in answer and answer.endswith(b"\r\n\r\nonetwothree")


@pytest.mark.parametrize(
    ("version", "line", "stays"),
    [
        ("1.1", "X: y", True),
        ("1.1", "Connection: close", False),
        ("1.1", "Connection: Close", False),
        ("1.0", "X: y", False),
        ("1.0", "Connection: keep-alive", True),
    ],
)
def test_a_connection_stays_as_the_client_asks(served, version, line, stays):
    with connected(served) as client:
        client.sendall(head("GET", "/", line, version=version))
        first = until(client, b"127.0.0.1")
        assert (b"Connection: close" in first) is not stays
        if stays:
            assert version == "1.1" or b"Connection: keep-alive" in first
            client.sendall(head("GET", "/again", CLOSE))
        assert (b"/again" in everything(client)) is stays


def test_head_tells_the_length_and_sends_nothing(served):
    answer = said(served, head("HEAD", "/", CLOSE))
    assert b"Content-Length: 16\r\n" in answer and answer.endswith(b"\r\n\r\n")


def test_what_has_no_content_has_no_length(served):
    answer = said(served, head("GET", "/nothing", CLOSE))
    assert (
        answer.startswith(b"HTTP/1.1 204 ") and b"Content-Length" not in answer and b"chunked" not in answer
    )


def test_answers_come_in_the_order_of_the_requests_though_the_first_is_the_slowest(served):
    with connected(served) as client:
        client.sendall(head("GET", "/waits") + head("GET", "/second") + head("GET", "/third", CLOSE))
        assert served.seen.begun.wait(PATIENCE_S)
        served.let_go()
        answers = everything(client)
    assert re.findall(rb"\r\n\r\n(late|GET /\w+)", answers) == [b"late", b"GET /second", b"GET /third"]


def test_what_stands_behind_a_last_request_is_no_request(served):
    answers = said(served, head("GET", "/a", CLOSE) + head("GET", "/b"))
    assert answers.count(b"HTTP/1.1") == 1


def test_a_body_that_comes_byte_by_byte_is_whole(served):
    data = head("POST", "/", "Content-Length: 4", CLOSE) + b"body"
    with connected(served) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            client.sendall(bytes([byte]))
        assert everything(client).endswith(b"\r\n\r\nbody")


def test_a_body_in_chunks_with_extensions_and_trailers_is_a_body(served):
    body = b"2;a=b\r\nbo\r\n2\r\ndy\r\n0\r\nX-Check: 1\r\nHost: evil\r\n\r\n"
    data = head("POST", "/", "Transfer-Encoding: chunked") + body + head("GET", "/next", CLOSE)
    answers = said(served, data)
    assert b"\r\n\r\nbody" in answers and answers.endswith(b"GET /next 127.0.0.1")


def test_who_waits_for_leave_to_send_gets_it(served):
    with connected(served) as client:
        client.sendall(head("POST", "/", "Content-Length: 4", "Expect: 100-continue", CLOSE))
        assert until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert everything(client).endswith(b"\r\n\r\nbody")


def test_who_waits_for_leave_to_send_may_be_refused_instead(served):
    answer = said(served, head("POST", "/refuses", "Content-Length: 4", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 403 ") and b"100 Continue" not in answer


def test_another_protocol_is_not_spoken_and_the_request_is_answered(served):
    hidden = head("GET", "/hidden")
    answer = said(served, head("GET", "/", "Connection: Upgrade", "Upgrade: h2c") + hidden)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        head("GET", "/", version="0.9"),
        head("GET", "/", version="2.0"),
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        head("POST", "/", "Transfer-Encoding: chunked") + b"x\r\n",
        head("POST", "/", "Transfer-Encoding: chunked") + b"1\r\nab\r\n",
        head("POST", "/", "Transfer-Encoding: chunked") + b"FFFFFFFFFFFFFFFFF\r\n",
        head("POST", "/", "Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told_so_and_nothing_behind_it_is_read(served, data):
    """Row 64: the end of a message is known, or the connection ends."""
    before = said(served, head("GET", "/good") + data + head("GET", "/hidden"))
    assert b"GET /hidden" not in before
    assert re.findall(rb"HTTP/1\.1 (\d+)", before) == [b"200", b"400"]
    assert before.endswith(
        b'{"error":{"code":"bad-http","message":"The request is not valid HTTP.","next":""}}'
    )


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"", b"\r\n" * 1000),
        (b"GET /", b"x" * 1000),
        (b"GET / HTTP/1.1\r\nX: ", b"x" * 1000),
        (b"GET / HTTP/1.1\r\nX", b"x" * 1000),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 100),
        (head("POST", "/", "Transfer-Encoding: chunked") + b"1;", b"x" * 1000),
        (head("POST", "/", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 100),
    ],
    ids=["empty lines", "target", "value", "name", "headers", "extension", "trailers"],
)
def test_nothing_in_a_message_may_grow_without_end(served, begun, more):
    """Row 65: it is given up before a megabyte."""
    with connected(served) as client:
        sent = 0
        with contextlib.suppress(ConnectionError):
            client.sendall(begun)
            client.setblocking(False)
            while sent < 1 << 24:
                with contextlib.suppress(BlockingIOError):
                    sent += client.send(more)
                with contextlib.suppress(BlockingIOError):
                    answer = client.recv(4096)
                    break
        assert answer[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400")
    assert said(served, head("GET", "/", CLOSE)).startswith(b"HTTP/1.1 200")


def test_a_body_that_is_not_taken_is_not_read(served):
    """Asset A8: a slow disk behind a fast sender fills no memory."""
    size = 64 << 20
    with connected(served) as client:
        client.sendall(head("POST", "/takes", f"Content-Length: {size}", CLOSE))
        client.setblocking(False)
        sent, piece = 0, b"x" * 65536
        with contextlib.suppress(BlockingIOError):
            while sent < size:
                sent += client.send(piece)
                assert sent < 32 << 20, "it reads on and on"
        assert served.seen.begun.wait(PATIENCE_S)
        served.let_go()
        client.setblocking(True)
        client.settimeout(PATIENCE_S)
        client.sendall(b"x" * (size - sent))
        assert everything(client).endswith(b"\r\n\r\n%d" % size)


def test_an_answer_that_is_not_taken_is_not_made(served):
    with connected(served) as client:
        client.sendall(head("GET", "/floods"))
        assert client.recv(1)
        before = -1
        while before != (before := served.seen.sent):
            assert before < 64 << 20, "it makes more and more"
            threading.Event().wait(0.3)  # what the kernel takes is full then


def test_who_hangs_up_before_the_answer_is_noticed(served):
    with connected(served) as client:
        client.sendall(head("GET", "/waits"))
        assert served.seen.begun.wait(PATIENCE_S)
    assert served.seen.gone.wait(PATIENCE_S)


def test_who_hangs_up_in_the_middle_of_a_body_is_noticed(served):
    served.let_go()
    with connected(served) as client:
        client.sendall(head("POST", "/takes", "Content-Length: 100") + b"x")
        assert served.seen.begun.wait(PATIENCE_S)
    assert served.seen.gone.wait(PATIENCE_S)


def test_an_answer_before_the_end_of_the_request_arrives_and_ends_the_connection(served):
    """The sender would otherwise meet a broken pipe in place of the reason."""
    with connected(served) as client:
        client.sendall(head("POST", "/refuses", "Content-Length: 8000000"))
        for _ in range(80):
            client.sendall(b"x" * 100_000)
        answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 403 ") and b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"no")


def test_an_application_that_breaks_costs_its_own_connection_only(served):
    assert b"HTTP/1.1 2" not in said(served, head("POST", "/breaks", "Content-Length: 1") + b"x")
    assert said(served, head("GET", "/", CLOSE)).startswith(b"HTTP/1.1 200")


def test_closing_ends_all_that_are_open_also_those_that_take_nothing(served, monkeypatch):
    monkeypatch.setattr("gradient_jupyter.server.listening._END_S", 0.2)
    with connected(served) as slow, connected(served) as idle, connected(served) as waits:
        slow.sendall(head("GET", "/floods"))
        waits.sendall(head("GET", "/waits"))
        assert slow.recv(1) and served.seen.begun.wait(PATIENCE_S)
        served.close()
        assert everything(idle) == everything(waits) == b""
        everything(slow)


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self) -> float:
            return self.now

    one = Clock()
    monkeypatch.setattr("gradient_jupyter.server.patience.time", one)
    return one


def overdue(waiting: Waiting, clock, idle: bool = True) -> str:
    return waiting.overdue(clock.now, 30.0, 60.0, idle)


def test_our_own_time_over_a_body_does_not_count(clock):
    waiting = Waiting()
    waiting.heard()
    waiting.body_begins()
    waiting.pauses()
    clock.now += 1000
    assert not overdue(waiting, clock)
    waiting.resumes()
    assert not overdue(waiting, clock)
    clock.now += 61
    assert overdue(waiting, clock) == "its body does not move"


def test_who_has_asked_may_be_silent_for_an_hour_and_who_is_being_answered_for_ever(clock):
    waiting = Waiting()
    waiting.heard()
    waiting.body_begins()
    waiting.body_ends()
    clock.now += 3599
    assert not overdue(waiting, clock)
    clock.now += 2
    assert overdue(waiting, clock) == "it was silent for an hour"
    assert not overdue(waiting, clock, idle=False)


def test_a_head_has_its_time_and_a_body_its_pace(clock):
    waiting = Waiting()
    clock.now += 31
    assert overdue(waiting, clock) == "its head is not whole"
    waiting.heard()
    waiting.body_begins()
    for _ in range(4):
        clock.now += 20
        waiting.heard()
        waiting.body_moves(10)
    assert overdue(waiting, clock) == "its body comes too slowly"
    waiting.body_moves(1 << 20)
    assert not overdue(waiting, clock)


def test_the_overdue_are_cut(served):
    patience = []
    served.loop.call_soon_threadsafe(lambda: patience.append(Patience(served.listener.connections, 0.2, 0.2)))
    with connected(served) as client:
        client.sendall(b"GET / HT")
        assert everything(client) == b""
    served.loop.call_soon_threadsafe(patience[0].close)


def test_the_limit_of_a_head_is_exact(served):
    fixed = len("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: \r\n\r\n") - len(
        "GET  HTTP/1.1\r\n\r\n"
    )
    for size, status in ((wire.MOST_HEAD - fixed, b"200"), (wire.MOST_HEAD - fixed + 1, b"431")):
        answer = said(served, head("GET", "/", CLOSE, f"X: {'x' * size}"))
        assert answer[9:12] == status


# Any cuts.


class Recorder(httputil.HTTPServerConnectionDelegate):
    """Answers everything, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, tuple[tuple[str, str], ...], bytes]] = []

    def start_request(self, server_conn, request_conn):
        return Recorded(self, request_conn)


class Recorded(httputil.HTTPMessageDelegate):
    def __init__(self, recorder: Recorder, exchange) -> None:
        self.recorder, self.exchange, self.body = recorder, exchange, b""

    def headers_received(self, start_line, headers):
        self.asked = (start_line.method, start_line.path, tuple(headers.get_all()))

    def data_received(self, chunk):
        self.body += chunk
        return asyncio.sleep(0)  # taken a little later

    def finish(self):
        self.recorder.asked.append((*self.asked, self.body))
        self.exchange.answer(200, [], b"ok")


async def asked(pieces: list[bytes]) -> tuple[list, bytes]:
    """What is understood of these pieces, and what is answered."""
    recorder, ours = Recorder(), set()
    here, there = socket.socketpair()
    buffer = memoryview(bytearray(65536))
    loop = asyncio.get_running_loop()
    here.setblocking(False)
    connection = wire.Connection(recorder, ours, buffer)
    await loop.connect_accepted_socket(lambda: connection, here)
    there.setblocking(False)
    for piece in pieces:
        await loop.sock_sendall(there, piece)
        for _ in range(6):  # it arrives, and is taken
            await asyncio.sleep(0)
    answers = b""
    while chunk := await loop.sock_recv(there, 65536):
        answers += chunk
    there.close()
    await connection.lost
    return recorder.asked, re.sub(rb"Date: [^\r]+", b"Date:", answers)


IN_A_ROW = (
    head("POST", "/one?a=b", "Content-Length: 5") + b"first"
    + head("GET", "/two", "X-A: 1", "X-A: 2")
    + head("POST", "/three", "Transfer-Encoding: chunked") + b"3;x\r\nabc\r\n1\r\nd\r\n0\r\nX-T: 1\r\n\r\n"
    + head("POST", "/four", "Content-Length: 0")
    + head("GET", "/five", CLOSE)
)  # fmt: skip
WHOLE = asyncio.run(asked([IN_A_ROW]))


@given(st.lists(st.integers(0, len(IN_A_ROW)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_same_bytes_are_the_same_requests_however_they_are_cut(cuts):
    bounds = sorted({0, *cuts, len(IN_A_ROW)})
    pieces = [IN_A_ROW[a:b] for a, b in itertools.pairwise(bounds)]
    assert asyncio.run(asked(pieces)) == WHOLE


def test_they_are_what_was_sent():
    requests, answers = WHOLE
    assert [(method, path, body) for method, path, _, body in requests] == [
        ("POST", "/one?a=b", b"first"), ("GET", "/two", b""), ("POST", "/three", b"abcd"),
        ("POST", "/four", b""), ("GET", "/five", b""),
    ]  # fmt: skip
    assert requests[1][2][1:] == (("X-A", "1"), ("X-A", "2")) and answers.count(b"HTTP/1.1 200 OK") == 5
    assert not any(name == "X-T" for _, _, headers, _ in requests for name, _ in headers)
