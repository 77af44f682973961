"""What a request does when the other side misbehaves. The other sides here are bare sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from gradient_jupyter.client.connection import Address
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.errors import (
    ErrorAnswer,
    ErrorBody,
    GradientError,
    ServerError,
    ServerUnavailable,
    TooLarge,
)
from gradient_jupyter.resources.server import Hello, proof

TOKEN = "gru_secret"
Behaviour = Callable[[socket.socket, bytes], None]


class Peer:
    """Proves itself as our server would, then does what ``behaviour`` says with each later request."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.requests: list[str] = []
        self._behaviour = behaviour
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(10)
                while head := self._head(caller):
                    line = head.split(b"\r\n", 1)[0].decode()
                    target = urlsplit(line.split(" ")[1])
                    if target.path == "/api/v1/hello":
                        (nonce,) = parse_qs(target.query)["nonce"]
                        hello = Hello(version="0.1.0", api="v1", proof=proof(TOKEN, nonce, self.url))
                        caller.sendall(answer(200, msgspec.json.encode(hello)))
                        continue
                    self.requests.append(line)
                    self._behaviour(caller, head)
                    break

    def _head(self, caller: socket.socket) -> bytes:
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                if not (more := caller.recv(1)):
                    return b""
                data += more
        except OSError:
            return b""
        return data

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


class Fixed:
    def __init__(self, url: str) -> None:
        self._address = Address(url, TOKEN)

    def find(self) -> Address:
        return self._address


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture
def speak() -> Iterator[Callable[[Behaviour], tuple[Transport, Peer]]]:
    opened: list[tuple[Transport, Peer]] = []

    def speak(behaviour: Behaviour) -> tuple[Transport, Peer]:
        peer = Peer(behaviour)
        opened.append((Transport(Fixed(peer.url)), peer))
        return opened[-1]

    yield speak
    for transport, peer in opened:
        transport.close()
        peer.close()


def test_a_refusal_in_the_middle_of_a_body_is_what_the_caller_hears(
    speak: Callable[..., tuple[Transport, Peer]],
) -> None:
    refusal = msgspec.json.encode(ErrorAnswer(error=ErrorBody(code="pack-too-large", message="Too much.")))

    def refuse(caller: socket.socket, head: bytes) -> None:
        caller.recv(1000)
        caller.sendall(answer(413, refusal, "Connection: close"))
        caller.shutdown(socket.SHUT_WR)

    transport, peer = speak(refuse)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100_000):
            sent += 1
            yield b"x" * 65536

    with pytest.raises(TooLarge, match="Too much") as refused:
        transport.request("POST", "/blobs", dict, body=endless())
    assert refused.value.code == "pack-too-large"
    assert sent < 100_000
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        (answer(302, b"", "Location: http://evil.test/"), ServerError, "http-302"),
        (answer(404, b"<html>not here"), ServerError, "http-404"),
        (answer(502, b"<html>bad gateway"), ServerUnavailable, "server-unavailable"),
        (answer(200, b"not json"), ServerError, "server-error"),
        (answer(200, b'{"a": "\xff"}'), ServerError, "server-error"),
        (answer(418, b'{"error": {"code": "teapot", "message": "No."}}'), GradientError, "teapot"),
        (answer(599, b'{"error": {"code": "odd", "message": "No."}}'), ServerError, "odd"),
    ],
)
def test_every_answer_becomes_a_value_or_an_error(
    speak: Callable[..., tuple[Transport, Peer]], said: bytes, kind: type[GradientError], code: str
) -> None:
    transport, _ = speak(lambda caller, head: caller.sendall(said))
    with pytest.raises(kind) as failed:
        transport.request("GET", "/server", dict)
    assert failed.value.code == code


def test_a_lost_answer_is_asked_for_once_more_where_that_is_harmless(
    speak: Callable[..., tuple[Transport, Peer]],
) -> None:
    answers = [b"", answer(200, b'{"n": 1}')]
    transport, peer = speak(lambda caller, head: caller.sendall(answers.pop(0)))
    assert transport.request("GET", "/server", dict) == {"n": 1}
    assert len(peer.requests) == 2


def test_what_may_not_be_done_twice_is_not_sent_twice(speak: Callable[..., tuple[Transport, Peer]]) -> None:
    transport, peer = speak(lambda caller, head: None)
    with pytest.raises(ServerUnavailable, match="cannot be reached"):
        transport.request("POST", "/projects", dict)
    assert len(peer.requests) == 1


def test_nobody_there_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ServerUnavailable, match="cannot be reached: connection refused") as failed:
        Transport(Fixed(url)).request("GET", "/server", dict)
    assert "gradient server status" in failed.value.next


def test_the_token_goes_in_a_header_and_only_after_the_proof(
    speak: Callable[..., tuple[Transport, Peer]],
) -> None:
    heads: list[bytes] = []

    def keep(caller: socket.socket, head: bytes) -> None:
        heads.append(head)
        caller.sendall(answer(200, b"{}"))

    transport, peer = speak(keep)
    transport.request("GET", "/jobs", dict, query={"limit": 3, "cursor": None, "state": "a b"})
    assert peer.requests == ["GET /api/v1/jobs?limit=3&state=a+b HTTP/1.1"]
    assert f"Authorization: Bearer {TOKEN}".encode() in heads[0]
