"""Deleting jobs for their age: those that ended longer ago than ``keep_jobs_days``, and bear no ``keep`` tag.

Never one that has not ended, and none while the clock is in doubt (``clock``). A job is deleted as a person
would delete it: its target changes, the reconciler does the rest.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.keeping.clock import Clock
from gradient_jupyter.control.people import audit
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.job import Target
from gradient_jupyter.store import jobs as rows

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

_AT_ONCE = 100


class Retired(msgspec.Struct, frozen=True):
    jobs: tuple[str, ...] = ()
    doubt: str | None = None
    """Why nothing was deleted although something is old enough."""


class Retention:
    """``newest_us`` is the time of the newest event before this server started."""

    def __init__(self, plane: Plane, newest_us: int | None, clock: Clock) -> None:
        self._plane = plane
        self._newest_us = newest_us
        self._clock = clock

    async def apply(self, *, dry_run: bool = False, trust_clock: bool = False) -> Retired:
        keep_s = self._plane.settings.keep_jobs_days * 24 * 3600
        if not keep_s:
            return Retired()
        before_us = now_us() - round(keep_s * 1e6)
        old = await self._plane.database.read(partial(rows.ended_before, before_us=before_us))
        doubt = None if trust_clock else self._clock.doubt(self._newest_us, keep_s)
        if not old or doubt is not None:
            return Retired(doubt=doubt if old else None)
        if dry_run:
            return Retired(tuple(old))
        gone: list[str] = []
        for start in range(0, len(old), _AT_ONCE):

            def work(connection: Connection, part: list[str] = old[start : start + _AT_ONCE]) -> list[str]:
                still = [job_id for job_id in part if rows.is_ended_before(connection, job_id, before_us)]
                for job_id in still:
                    job = rows.find(connection, job_id)
                    if job is not None:
                        rows.change(connection, job, target=Target.DELETED)
                        audit.record(connection, "job.delete", "job", job.id, detail="for its age")
                return still

            gone += await self._plane.database.write(work)
        for job_id in gone:
            self._plane.reconciler.look_at(job_id)
        return Retired(tuple(gone))
