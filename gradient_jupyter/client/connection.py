"""Connections to one server: nothing secret goes over one that has not proved whose it is.

On loopback any program may hold a port that once was ours. So each *new* connection to a loopback address
begins with ``GET /hello``: only the server that shares our token can answer its nonce. The token is sent
on that same connection afterwards and on no other. A server that is named by an address on another host
is trusted by its name (HTTPS); its keeper vouches for it.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util.wait import wait_for_read

from gradient_jupyter.resources import server as wire
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import InvalidRequest, ServerUnavailable
from gradient_jupyter.resources.token import proof_key, token_id

PREFIX = f"/api/{wire.API}"
CONNECT_S = 5.0
SEND_S = 120.0
"""How long one write may wait for the server to take bytes."""
ANSWER_S = 60.0
_HELLO_BYTES = 65536
_PIECE_BYTES = 256 * 1024


class Address(msgspec.Struct, frozen=True):
    """Where a server is and what opens it."""

    url: str
    """Without a slash at its end."""
    token: str
    """Proves on loopback that the server is ours, and opens it unless there is a ``key``."""
    key: str = ""
    """What is sent to be let in, where that is another than ``token``."""

    @property
    def loopback(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class NotOurs(ServerUnavailable):
    """Something answers at the address, but it does not know our token."""

    default_code = "not-our-server"


class _Proven(HTTPConnection):
    """A connection that says hello before anything else is sent over it."""

    auto_open = 0  # never reconnect in the middle of a request: a new connection is a new stranger

    def __init__(self, *args: Any, address: Address, **more: Any) -> None:
        super().__init__(*args, **more)
        self._address = address
        self.hello: wire.Hello | None = None

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **more: Any) -> None:
        if self.sock is None:
            self._open()
        assert self.sock is not None
        timeout, self.timeout = self.timeout, SEND_S
        if body is not None and not isinstance(body, (bytes, str)):
            body = self._until_answered(body)
        super().request(method, url, body, headers, **more)
        self.timeout = timeout

    def _open(self) -> None:
        self.connect()
        try:
            self.hello = self._say_hello()
        except (OSError, HTTPError) as error:
            self.close()
            raise NewConnectionError(self, f"no hello: {error}") from error
        except BaseException:
            self.close()
            raise
        if self.sock is None:
            raise NewConnectionError(self, "closed after hello")

    def _say_hello(self) -> wire.Hello:
        nonce = secrets.token_urlsafe(24)
        named = token_id(self._address.token)
        which = f"&token={named}" if named else ""
        prefix = urlsplit(self._address.url).path
        super().request(
            "GET", f"{prefix}{PREFIX}/hello?nonce={nonce}{which}", preload_content=False, decode_content=False
        )
        response = self.getresponse()
        body = response.read(_HELLO_BYTES)
        stranger = NotOurs(
            f"What answers at {self._address.url} is not our Gradient server, so it was told nothing.",
            next="Start the server again: gradient server start.",
        )
        if response.status != 200 or len(body) == _HELLO_BYTES:
            raise stranger
        try:
            hello = decode(body, type=wire.Hello)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise stranger from None
        proof = wire.proof(proof_key(self._address.token), nonce, self._address.url)
        if not hmac.compare_digest(hello.proof.encode(), proof.encode()):
            raise stranger
        return hello

    def _until_answered(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """The body, cut short once the server has answered: it refuses what it does not want to read."""
        for block in body:
            view = memoryview(block)
            for start in range(0, len(view), _PIECE_BYTES):
                if self.sock is None or wait_for_read(self.sock, timeout=0):
                    return
                yield bytes(view[start : start + _PIECE_BYTES])


class _ProvenPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Proven


def open_pool(address: Address) -> urllib3.HTTPConnectionPool:
    """A pool of connections to ``address``; no proxy, no retries, no redirects of its own."""
    parts = urlsplit(address.url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.username is not None:
        raise InvalidRequest(
            f"{address.url!r} is not the address of a server.", next="It looks like http://127.0.0.1:8888."
        )
    timeout = urllib3.Timeout(connect=CONNECT_S, read=ANSWER_S)
    if parts.scheme == "https":
        return urllib3.HTTPSConnectionPool(parts.hostname, port, timeout=timeout, maxsize=4, retries=False)
    if not address.loopback:
        return urllib3.HTTPConnectionPool(parts.hostname, port, timeout=timeout, maxsize=4, retries=False)
    return _ProvenPool(parts.hostname, port, timeout=timeout, maxsize=4, retries=False, address=address)


def hello(address: Address) -> wire.Hello:
    """Asks a loopback server who it is. Raises NotOurs, or ServerUnavailable when nobody answers."""
    parts = urlsplit(address.url)
    connection = _Proven(parts.hostname or "", parts.port, timeout=CONNECT_S, address=address)
    try:
        connection._open()
    except HTTPError as error:
        raise ServerUnavailable(f"No server answers at {address.url}.") from error
    finally:
        connection.close()
    assert connection.hello is not None
    return connection.hello
