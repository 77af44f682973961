"""Metrics of jobs as people and runs see them: written by a run, read whole, made small, or followed.

Each attempt has its own; a job's are those of its newest. How they are stored is ``points``'.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path

from gradient_jupyter.control import jobs
from gradient_jupyter.control.following.feeds import Bell
from gradient_jupyter.control.people import access
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running import attempts
from gradient_jupyter.resources.errors import NotFound
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.log import Ended
from gradient_jupyter.resources.metric import (
    Buckets,
    Kind,
    Metrics,
    Sample,
    Series,
    Summary,
    parse_cursor,
)
from gradient_jupyter.resources.owner import Role

#: Between two messages to a follower.
_FOLLOW_S = 0.5


async def log(plane: Plane, principal: Principal, job_id: str, samples: Sequence[Sample]) -> None:
    """Stores points of the job's current attempt. Raises ``Conflict`` when that is over, or another's."""
    if principal.attempt is not None:
        attempt = principal.attempt[1]
    else:
        job = await plane.database.read(
            lambda connection: access.job(connection, principal, job_id, Role.MEMBER)
        )
        attempt = job.attempt
    await attempts.lately(plane, job_id, attempt)
    await plane.points.append(plane.layout.attempt(job_id, attempt), samples)


async def summaries(plane: Plane, principal: Principal, job_id: str, attempt: int | None) -> Metrics:
    job, number, directory = await _attempt(plane, principal, job_id, attempt)
    items = await plane.points.summaries(directory) if number else []
    return Metrics(items=tuple(items), attempt=number, final=job.final or number < job.attempt)


async def points(
    plane: Plane,
    principal: Principal,
    job_id: str,
    key: str,
    attempt: int | None = None,
    cursor: str | None = None,
    limit: int = 10_000,
    kind: Kind | None = None,
) -> Series:
    after = parse_cursor(cursor)
    _, _, directory = await _attempt(plane, principal, job_id, attempt)
    return await plane.points.read(directory, key, after, limit, kind)


async def buckets(
    plane: Plane,
    principal: Principal,
    job_id: str,
    key: str,
    most: int,
    attempt: int | None = None,
    kind: Kind | None = None,
    steps: tuple[int | None, int | None] = (None, None),
    times_us: tuple[int | None, int | None] = (None, None),
) -> Buckets:
    _, _, directory = await _attempt(plane, principal, job_id, attempt)
    return await plane.points.buckets(directory, key, most, kind, steps, times_us)


async def follow(plane: Plane, principal: Principal, job_id: str) -> AsyncGenerator[Job | Metrics | Ended]:
    """The job and the summaries of all its metrics; then whatever of that has changed, at most twice a
    second; ``Ended`` when no more will come. When another attempt takes over, its metrics follow."""
    bell = Bell()
    load = partial(jobs.get, plane, principal, job_id)
    with plane.followed.job(principal, job_id, load, bell) as followed:
        job = await followed.job()
        yield job
        while True:
            bell.mute()
            number = job.attempt
            directory = plane.layout.attempt(job_id, number)
            with plane.points.watched(directory, bell.ring):
                known: dict[tuple[Kind, str], Summary] = {}
                told = False
                while True:
                    fresh = await followed.job()
                    over = fresh.final or fresh.attempt > number
                    items = await plane.points.summaries(directory) if number else []
                    changed = tuple(each for each in items if known.get((each.kind, each.key)) != each)
                    if changed or not told:
                        known.update({(each.kind, each.key): each for each in changed})
                        told = True
                        yield Metrics(items=changed, attempt=number, final=over)
                    if fresh is not job:
                        job = fresh
                        yield job
                    if over:
                        break
                    await bell.wait()
                    bell.mute()
                    await asyncio.sleep(_FOLLOW_S)
            if job.final:
                yield Ended(final=True, job=job)
                return


async def _attempt(
    plane: Plane, principal: Principal, job_id: str, attempt: int | None
) -> tuple[Job, int, Path]:
    job = await jobs.get(plane, principal, job_id)
    number = job.attempt if attempt is None else attempt
    if number > job.attempt:
        raise NotFound(
            f"The job {job_id} has no attempt {number}.",
            next=f"It has {job.attempt} so far; leave the number out for the newest.",
            code="no-such-attempt",
        )
    return job, number, plane.layout.attempt(job_id, number)
