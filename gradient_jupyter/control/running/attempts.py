"""Which attempt of which job is asking, and the fence around those that are over.

An attempt's token opens what a route says it does (``Inside``), for its own job, as long as the attempt
is the job's current one and its command may run. Once another has taken over, or the end has been seen, it is
refused: of one job at most one attempt's results are ever accepted (P2), also when an older one turns out to
be alive after all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.running.tokens import PREFIX
from gradient_jupyter.resources.errors import Conflict, Unauthenticated
from gradient_jupyter.resources.job import Job, Phase
from gradient_jupyter.store import jobs as rows

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane


async def principal(plane: Plane, token: str, kind_of_token: str = PREFIX) -> Principal:
    """Who bears the token: the job's owner, as far as that attempt reaches. Raises ``Unauthenticated`` for a
    token that is not ours, or of another kind, ``Conflict`` for one whose attempt is over."""
    read = plane.tokens.read(token, kind_of_token)
    if read is None:
        raise Unauthenticated("This is no token of this server's.", code="wrong-token")
    job_id, attempt = read
    job = await lately(plane, job_id, attempt)
    kind, _, identity = job.owner.partition(":")
    return Principal(
        user_id=identity if kind == "user" else job.created_by,
        name=job_id,
        groups=(identity,) if kind == "group" else (),
        attempt=read,
    )


async def lately(plane: Plane, job_id: str, attempt: int) -> Job:
    """The job, if a moment ago this was its current attempt and its command could still run. Else
    ``Conflict``.

    It costs no look at the disk, and may be a few milliseconds old: whoever changes the job itself asks
    ``living`` in the same transaction.
    """
    known = plane.changes.placed.get(job_id)
    if known is not None and known.attempt == attempt and known.phase in _LIVING:
        return known
    told = plane.changes.told
    job = await plane.database.read(lambda connection: living(connection, job_id, attempt))
    plane.changes.found(job, told)  # the next time is without a look at the disk
    return job


def living(connection: Connection, job_id: str, attempt: int) -> Job:
    """The job, if this attempt is its current one and its command may still run. Else ``Conflict``."""
    job = rows.find(connection, job_id)
    if job is None or not lives(job, attempt):
        raise Conflict(
            f"Attempt {attempt} of the job {job_id} is over, so nothing is accepted from it any more.",
            next="End this process: its results count for nothing.",
            code="attempt-fenced",
        )
    return job


def lives(job: Job, attempt: int) -> bool:
    """Whether this attempt is the job's current one and its command may still run."""
    return job.attempt == attempt and job.phase in _LIVING


_LIVING = frozenset({Phase.PULLING, Phase.STARTING, Phase.RUNNING})
