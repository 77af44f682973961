"""Log: what a run printed, in the order in which it was read, with the stream told apart."""

from __future__ import annotations

from gradient_jupyter.resources.base import Resource
from gradient_jupyter.resources.job import Job


class LogPiece(Resource, frozen=True, kw_only=True):
    """A part of one stream. ``text`` ends between characters; bytes that are no UTF-8 became U+FFFD."""

    time_us: int
    stream: str
    """``stdout``, ``stderr``, or ``platform`` for what Gradient itself has to say."""
    text: str


class Truncated(Resource, frozen=True, kw_only=True):
    """The position asked for does not exist (any more): the log begins again at 0 with this size."""

    offset: int
    size: int


class Ended(Resource, frozen=True, kw_only=True):
    """The explicit end of a stream. ``final``: the job has ended, and nothing more will come."""

    final: bool
    job: Job
