"""A stream of Server-Sent Events across interruptions.

The server may restart, a proxy may cut, a laptop may sleep: the stream is opened again where it stopped,
by ``Last-Event-ID``. Only an explicit ``end``, or an error that waiting cannot heal, ends it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from gradient_jupyter.client.sse import Message, Parser
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.errors import ServerUnavailable

SILENCE_S = 45.0
"""The server sends a heartbeat every 15 s; after three that are missing the connection is dead."""
PATIENCE_S = 120.0
"""How long a server may stay away before its absence is an error."""
_LONGEST_WAIT_S = 5.0
_FINISH_S = 1.0
#: What comes with these codes does not go away by itself.
_LASTING = frozenset({"not-running", "start-failed", "runtime-file", "client-too-old", "hub-without-service"})

OPEN = "open"
"""The event of the message that stands for each connection made, before what comes over it."""


class OutOfTime(Exception):
    """``deadline`` has passed."""


def follow(
    transport: Transport, path: str, query: Mapping[str, Any] | None = None, *, deadline: float | None = None
) -> Iterator[Message]:
    """The messages of one event stream, ``end`` included and last.

    ``deadline`` is a time of the monotonic clock; OutOfTime is raised when it has passed.
    """
    last_id, failures, heard = "", 0, time.monotonic()
    while True:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        try:
            with transport.stream(
                "GET", path, query=query, headers=headers, answer_s=_within(deadline, SILENCE_S)
            ) as response:
                try:
                    yield Message(OPEN, "", last_id)
                    for message in _messages(response, deadline):
                        failures = 0
                        last_id = message.id or last_id
                        yield message
                        if message.event == "end":
                            _finish(response)
                            return
                finally:
                    heard = time.monotonic()
        except ServerUnavailable as error:
            if error.code in _LASTING or time.monotonic() - heard > PATIENCE_S:
                raise
        except HTTPError:
            pass  # cut in the middle: go on from last_id
        _within(deadline, 0)
        # Not all at once: a server that comes back meets its clients one after the other.
        longest = min(_LONGEST_WAIT_S, 0.1 * 2 ** min(failures, 10))
        time.sleep(_within(deadline, random.uniform(longest / 2, longest)))  # noqa: S311
        failures += 1


def _messages(response: urllib3.BaseHTTPResponse, deadline: float | None) -> Iterator[Message]:
    parser = Parser()
    while True:
        if deadline is not None:
            wire = getattr(response.connection, "sock", None)
            if wire is not None:
                wire.settimeout(_within(deadline, SILENCE_S))
        if not (chunk := response.read1(65536)):
            return
        yield from parser.feed(chunk)


def _finish(response: urllib3.BaseHTTPResponse) -> None:
    """Nothing follows an ``end`` but the end of the answer. With that read, the connection serves again."""
    wire = getattr(response.connection, "sock", None)
    if wire is not None:
        wire.settimeout(_FINISH_S)
    with contextlib.suppress(HTTPError):
        response.read1(1)


def _within(deadline: float | None, seconds: float) -> float:
    """``seconds``, or less where the deadline comes first."""
    if deadline is None:
        return seconds
    left = deadline - time.monotonic()
    if left <= 0:
        raise OutOfTime
    return min(seconds, left)
