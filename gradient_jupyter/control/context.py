"""Who asks, from where, under which id: known wherever a request leads, also in a write on the store's
thread.

Log lines and the audit record take it from here, so that no function has to hand it on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import msgspec


class Asking(msgspec.Struct, frozen=True):
    """One request, or (everything empty) the server's own doing."""

    request_id: str = ""
    address: str = ""
    user_id: str = ""
    token_id: str = ""
    attempt: str = ""
    job_id: str = ""


_SERVER = Asking()
_asking: ContextVar[Asking | None] = ContextVar("gradient_asking", default=None)


def current() -> Asking:
    return _asking.get() or _SERVER


def enter(asking: Asking) -> None:
    """From now on, in this task and in what it starts."""
    _asking.set(asking)


@contextlib.contextmanager
def about_job(job_id: str) -> Iterator[None]:
    """What is done in here by the server itself concerns this job."""
    token = _asking.set(Asking(job_id=job_id))
    try:
        yield
    finally:
        _asking.reset(token)
