"""A job's log as it is written: pieces of text, each with its time and whose words they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

from gradient_jupyter.client.stream import follow
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.log import Ended, LogPiece, Truncated

STDOUT, STDERR, PLATFORM = "stdout", "stderr", "platform"


class LogLine(NamedTuple):
    """A piece of a log: usually a line with its newline, but a job may write less or more at once."""

    time_us: int
    stream: str
    """``stdout``, ``stderr`` (the job's own) or ``platform`` (ours)."""
    text: str


def read(
    transport: Transport,
    job_id: str,
    *,
    follow_it: bool,
    on_job: Callable[[Job], object],
    attempt: int | None = None,
) -> Iterator[LogLine]:
    """The log from its beginning, each piece once; followed until the job is final where asked.

    ``on_job`` is told the job first and at each of its changes, in the order of the log.
    """
    query = {"follow": "true" if follow_it else "false"}
    if attempt is not None:
        query["attempt"] = str(attempt)
    lost: Truncated | None = None
    shown = Position()
    for message in follow(transport, f"/jobs/{quote(job_id, safe='')}/logs", query):
        match message.event:
            case "job":
                on_job(decode(message.data, type=Job))
            case "log":
                here = Position.of(message.id)
                if lost is not None and here.epoch == shown.epoch and here.offset <= lost.size:
                    continue  # of what is left of the log, this has been told before
                lost, shown = None, here
                piece = decode(message.data, type=LogPiece)
                yield LogLine(piece.time_us, piece.stream, piece.text)
            case "log-truncated":
                if (now := decode(message.data, type=Truncated)) != lost:
                    lost = now
                    yield LogLine(0, PLATFORM, "The end of this log was lost in a power failure.\n")
            case "end":
                on_job(decode(message.data, type=Ended).job)


class Position(NamedTuple):
    """Where a piece ends: ``<epoch>-<offset>``, in decoded bytes of one log."""

    epoch: str = ""
    offset: int = 0

    @classmethod
    def of(cls, identity: str) -> Position:
        epoch, _, offset = identity.partition("-")
        return cls(epoch, int(offset) if offset.isdecimal() else 0)
