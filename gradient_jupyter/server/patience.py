"""How long a connection may hold its place: what never speaks, or speaks a byte a minute, is closed.

A head has to be whole, and a connection that has asked nothing yet has to ask, within ``head_s``. A body has
to move: at most ``body_s`` may pass without a byte of it, and on the whole it comes at no less than
``SLOWEST`` bytes a second after the first ``body_s``. Only waiting for the sender counts, never the time our
own disk takes. Who has asked before may stay silent for an hour: a notebook keeps its client. Who reads
slowly may do so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Protocol

log = logging.getLogger(__name__)

SLOWEST = 1024
_SILENT_S = 3600.0


class Waiting:
    """What one connection waits for from its sender, and since when."""

    __slots__ = ("_body_s", "_head_s", "_heard_s", "_paused_s", "_received")

    def __init__(self) -> None:
        self._heard_s = time.monotonic()
        self._head_s: float | None = self._heard_s
        """Since when a head is waited for; None: nothing is, or only out of courtesy."""
        self._body_s: float | None = None
        """Since when a body comes."""
        self._received = 0
        self._paused_s: float | None = None
        """Since when we do not read."""

    def heard(self) -> None:
        self._heard_s = time.monotonic()

    def head_begins(self) -> None:
        if self._head_s is None:
            self._head_s = self._heard_s

    def body_begins(self) -> None:
        """The head is whole."""
        self._head_s, self._body_s, self._received = None, self._heard_s, 0

    def body_moves(self, size: int) -> None:
        self._received += size

    def body_ends(self) -> None:
        self._head_s = self._body_s = None

    def pauses(self) -> None:
        self._paused_s = time.monotonic()

    def resumes(self) -> None:
        """What passed since it paused was our time."""
        self._heard_s = time.monotonic()
        passed_s = self._heard_s - (self._paused_s or self._heard_s)
        self._paused_s = None
        if self._body_s is not None:
            self._body_s += passed_s
        if self._head_s is not None:
            self._head_s += passed_s

    def overdue(self, now: float, head_s: float, body_s: float, idle: bool) -> str:
        """Why it is to be closed; empty: it is not. ``idle``: nothing is asked."""
        if self._paused_s is not None:
            return ""
        if self._body_s is not None:
            if now - self._heard_s > body_s:
                return "its body does not move"
            spent = now - self._body_s
            if spent > body_s and self._received < (spent - body_s) * SLOWEST:
                return "its body comes too slowly"
        elif self._head_s is not None:
            if now - self._head_s > head_s:
                return "its head is not whole"
        elif idle and now - self._heard_s > _SILENT_S:
            return "it was silent for an hour"
        return ""


class Patient(Protocol):
    waiting: Waiting

    @property
    def idle(self) -> bool: ...
    def cut(self) -> None: ...


class Patience:
    """Looks through the open connections now and then. Of one event loop."""

    def __init__(self, connections: Collection[Patient], head_s: float, body_s: float) -> None:
        self._connections = connections
        self._head_s = head_s
        self._body_s = body_s
        self._every_s = max(0.1, min(5.0, head_s / 4, body_s / 4))
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = time.monotonic()
        for each in list(self._connections):
            if why := each.waiting.overdue(now, self._head_s, self._body_s, each.idle):
                log.debug("a connection is closed: %s", why)
                each.cut()
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)
