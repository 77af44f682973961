"""Requests to the server: one place where an answer becomes a value and a failure becomes an error."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from gradient_jupyter.client.connection import ANSWER_S, CONNECT_S, PREFIX, Address, NotOurs, open_pool
from gradient_jupyter.client.locate import Locator
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import (
    ErrorAnswer,
    GradientError,
    ServerError,
    ServerUnavailable,
    from_answer,
)

T = TypeVar("T")
Body = msgspec.Struct | Iterable[bytes] | None
_SAFE = frozenset({"GET", "DELETE"})
_LARGEST_ERROR = 65536
_PROXY_WITHOUT_SERVER = frozenset({502, 503, 504})


class _Request(NamedTuple):
    method: str
    path: str
    body: Body
    query: Mapping[str, Any]
    headers: Mapping[str, str]
    answer_s: float


class Transport:
    """Sends requests to whatever server ``locator`` finds. May be used from several threads."""

    def __init__(self, locator: Locator) -> None:
        self._locator = locator
        self._lock = threading.Lock()
        self._current: tuple[Address, urllib3.HTTPConnectionPool] | None = None

    @property
    def address(self) -> Address:
        return self._connected()[0]

    def close(self) -> None:
        with self._lock:
            current, self._current = self._current, None
        if current:
            current[1].close()

    def request(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: Body = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        answer_s: float = ANSWER_S,
    ) -> T:
        """The server's answer as ``answer`` (``type(None)``: nothing is expected).

        A request that the server has not seen is sent again once, to the server that is found then. So is
        one that it may have seen, if doing it twice is doing it once: GET, DELETE and ``repeatable``.
        """
        with self.stream(
            method, path, body=body, query=query, headers=headers, repeatable=repeatable, answer_s=answer_s
        ) as response:
            try:
                content = response.read()
            except HTTPError as error:
                raise self._unreachable(error) from error
        if answer is type(None):
            return None  # type: ignore[return-value,unused-ignore]
        try:
            return decode(content, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ServerError(
                f"The server's answer to {method} {path} cannot be understood: {error}.",
                next="Are client and server of one version? gradient server status shows the server's.",
            ) from error

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        body: Body = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
        answer_s: float = ANSWER_S,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """An open answer whose status is below 300; ``answer_s`` is how long each read of it may wait."""
        request = _Request(method, path, body, query or {}, headers or {}, answer_s)
        try:
            response = self._send(request)
        except (NewConnectionError, ConnectTimeoutError, NotOurs):
            self.close()
            response = self._send_last(request)
        except HTTPError as error:
            self.close()
            if not (method in _SAFE or repeatable):
                raise self._unreachable(error) from error
            response = self._send_last(request)
        try:
            if response.status >= 300:
                raise _refusal(response)
            yield response
        finally:
            response.close()  # a connection whose answer was read to its end has gone back to the pool

    def _send_last(self, request: _Request) -> urllib3.BaseHTTPResponse:
        try:
            return self._send(request)
        except HTTPError as error:
            raise self._unreachable(error) from error

    def _send(self, request: _Request) -> urllib3.BaseHTTPResponse:
        address, pool = self._connected()
        target = f"{urlsplit(address.url).path}{PREFIX}{request.path}"
        if given := {name: value for name, value in request.query.items() if value is not None}:
            target += "?" + urlencode(given, doseq=True)  # a parameter with several values is repeated
        headers = {
            "Authorization": f"Bearer {address.key or address.token}",
            "Accept": "application/json",
            "User-Agent": "gradient-jupyter",
            **request.headers,
        }
        content: Any = request.body
        if isinstance(content, msgspec.Struct):
            content = msgspec.json.encode(content)
            headers["Content-Type"] = "application/json"
        return pool.urlopen(
            request.method,
            target,
            body=content,
            headers=headers,
            retries=False,
            redirect=False,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=request.answer_s),
            preload_content=False,
        )

    def _connected(self) -> tuple[Address, urllib3.HTTPConnectionPool]:
        with self._lock:
            if self._current is None:
                address = self._locator.find()
                self._current = address, open_pool(address)
            return self._current

    def _unreachable(self, error: Exception) -> ServerUnavailable:
        where = self._current[0].url if self._current else "its address"
        self.close()
        return ServerUnavailable(
            f"The Gradient server at {where} cannot be reached: {_cause(error)}.",
            next="Is it running? gradient server status tells; jobs go on without it.",
        )


def _refusal(response: urllib3.BaseHTTPResponse) -> GradientError:
    """The error that an answer with a status of 300 or above stands for."""
    try:
        content = response.read(_LARGEST_ERROR)
        error = decode(content, type=ErrorAnswer).error
    except (HTTPError, msgspec.DecodeError, UnicodeDecodeError):
        if response.status in _PROXY_WITHOUT_SERVER:
            return ServerUnavailable(
                f"A proxy answers in place of the Gradient server (status {response.status}).",
                next="Try again soon.",
            )
        return ServerError(
            f"Something that is not a Gradient server answered with status {response.status}.",
            next="Check the server's address.",
            code=f"http-{response.status}",
        )
    return from_answer(response.status, error)


def _cause(error: BaseException) -> str:
    """What went wrong at the bottom, in the system's words."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text or type(error).__name__).rstrip(".").lower()
