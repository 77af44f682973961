"""How long a connection may hold its place: what never speaks, or speaks a byte a minute, is closed.

A head has to be whole, and a connection that has asked nothing yet has to ask, within ``head_s``. A body has
to move: at most ``body_s`` may pass without a byte of it, and on the whole it comes at no less than
``SLOWEST`` bytes a second after the first ``body_s``. Only waiting for the sender counts, never the time our
own disk takes. Who has asked before may stay silent: a notebook keeps its client for days. Who reads slowly
may do so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from tornado.iostream import IOStream

log = logging.getLogger(__name__)

SLOWEST = 1024


class PatientStream(IOStream):
    """Knows when it was last heard, and what is being waited for."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._heard_s = time.monotonic()
        self._since_s: float | None = self._heard_s
        """Since when a head is waited for; None: nothing is, or only out of courtesy."""
        self._body: tuple[float, float] | None = None
        """While a body comes: when that began, and since when its next piece is waited for."""
        self._received = 0
        self._working_s = 0.0
        self._asked = False
        self._nodelay = False

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        size = super().read_from_fd(buf)
        if size:
            self._heard_s = time.monotonic()
            if self._asked and self._since_s is None and self._body is None:
                self._since_s = self._heard_s  # the first bytes of the next head
        return size

    def set_nodelay(self, value: bool) -> None:
        """On, once and for all. tornado turns it on and off with every request; we write in whole pieces."""
        if value and not self._nodelay:
            self._nodelay = True
            super().set_nodelay(True)

    def head_read(self) -> None:
        """A request's head is whole, and known to be let in or not; its body follows."""
        now = time.monotonic()
        self._asked, self._since_s = True, None
        self._body, self._received, self._working_s = (now, now), 0, 0.0

    def piece_read(self, size: int, worked_s: float) -> None:
        """So much of the body came, and we took so long over it."""
        if self._body is not None:
            self._received += size
            self._working_s += worked_s
            self._body = self._body[0], time.monotonic()

    def body_read(self) -> None:
        """All of it is there; now it is our turn."""
        self._body = None

    def request_over(self) -> None:
        self._body = self._since_s = None

    def overdue(self, now: float, head_s: float, body_s: float) -> str:
        """Why it is to be closed; empty: it is not."""
        if self._body is not None:
            began, waiting = self._body
            if now - max(waiting, self._heard_s) > body_s:
                return "its body does not move"
            spent = now - began - self._working_s
            if spent > body_s and self._received < (spent - body_s) * SLOWEST:
                return "its body comes too slowly"
        elif self._since_s is not None and now - self._since_s > head_s:
            return "its head is not whole" if self._asked else "it never asked anything"
        return ""


class Patience:
    """Looks through the open streams now and then. Of one event loop."""

    def __init__(self, head_s: float, body_s: float) -> None:
        self._head_s = head_s
        self._body_s = body_s
        self._every_s = max(0.1, min(5.0, head_s / 4, body_s / 4))
        self._streams: set[PatientStream] = set()
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def close(self) -> None:
        self._timer.cancel()

    def add(self, stream: PatientStream) -> None:
        self._streams.add(stream)

    def _look(self) -> None:
        now = time.monotonic()
        for stream in list(self._streams):
            if stream.closed():
                self._streams.discard(stream)
            elif why := stream.overdue(now, self._head_s, self._body_s):
                log.debug("a connection is closed: %s", why)
                self._streams.discard(stream)
                stream.close()
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)
