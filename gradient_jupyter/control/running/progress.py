"""What running jobs say of how far they are.

A report may come from every turn of a loop, and each one stored is a commit and an event. So the newest
report wins, and each job has at most one stored a second; the answer says that it was accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gradient_jupyter.control.people import access
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.running import attempts
from gradient_jupyter.resources.errors import Conflict
from gradient_jupyter.resources.job import Progress
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.store import jobs as rows

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane
    from gradient_jupyter.store.database import Database

log = logging.getLogger(__name__)
_EVERY_S = 1.0


async def report(plane: Plane, principal: Principal, job_id: str, progress: Progress) -> Progress:
    """Takes a report of the job's current attempt. Raises ``Conflict`` when that is over, or another's."""

    def current(connection: Connection) -> int:
        if principal.attempt is not None:
            return attempts.living(connection, *principal.attempt).attempt
        job = access.job(connection, principal, job_id, Role.MEMBER)
        return attempts.living(connection, job.id, job.attempt).attempt

    attempt = await plane.database.read(current)
    plane.reports.take(job_id, attempt, progress)
    return progress


class Reports:
    """Reports on their way into the store. Of one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest: dict[str, tuple[int, Progress]] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._closing = asyncio.Event()

    def take(self, job_id: str, attempt: int, progress: Progress) -> None:
        self._newest[job_id] = (attempt, progress)
        if job_id not in self._writers:
            self._writers[job_id] = asyncio.create_task(self._write(job_id), name=f"progress-{job_id}")

    async def close(self) -> None:
        """Stores what waits."""
        self._closing.set()
        await asyncio.gather(*self._writers.values(), return_exceptions=True)

    async def _write(self, job_id: str) -> None:
        try:
            while (newest := self._newest.pop(job_id, None)) is not None:
                attempt, progress = newest
                await self._database.write(partial(_store, job_id=job_id, attempt=attempt, progress=progress))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _EVERY_S)
        except Exception as error:
            log.warning("%s: its progress was not stored: %s", job_id, error)
        finally:
            self._newest.pop(job_id, None)
            del self._writers[job_id]


def _store(connection: Connection, job_id: str, attempt: int, progress: Progress) -> None:
    with contextlib.suppress(Conflict):  # it ended meanwhile: what it said last was said too late
        job = attempts.living(connection, job_id, attempt)
        if job.progress != progress:
            rows.change(connection, job, progress=progress)
