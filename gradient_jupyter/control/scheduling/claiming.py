"""Gives waiting jobs their machines: ``placing`` says whose turn it is, the rows have the last word.

The queue in memory is a picture of the rows. Where the two differ it is drawn anew.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gradient_jupyter.control.running import tasks
from gradient_jupyter.control.scheduling import machines, placing
from gradient_jupyter.control.scheduling.machines import Room
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.job import Phase, Reason, State, Target
from gradient_jupyter.store import attempts as attempt_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger
from gradient_jupyter.store.ledger import Claim

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

STARTING = Reason(
    code="starting", message="The workspace is being unpacked and the command started.", next=""
)


class Claiming:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._started = False
        self.unborn: set[str] = set()
        """Those placed just now, of which the engine has not heard yet."""

    async def place(self) -> None:
        """As many as fit."""
        plane, queue = self._plane, self._plane.queue
        if queue.doubtful:
            await self.reload()
        if not queue:
            queue.hindered(None)
            return
        nodes, sizes = await plane.nodes(), await plane.sizes()
        chosen = placing.place(queue, sizes, nodes, plane.settings.limits)
        if chosen:
            name = plane.engine.capabilities().name

            def work(connection: Connection) -> list[str]:
                left = {room.node: room for room in machines.rooms(nodes, ledger.taken(connection))}
                return [each.job_id for each in chosen if self._claim(connection, each, left, name)]

            try:
                stored = await plane.database.write(work)
            except BaseException as error:
                queue.doubtful = True  # it holds for them what the rows do not say
                if isinstance(error, GradientError):
                    await self._give_back(error)
                raise
            self.unborn.update(stored)
            for job_id in stored:
                plane.reconciler.look_at(job_id)
            if len(stored) < len(chosen):
                queue.doubtful = True  # some moved on meanwhile, and what they would have had is free
                plane.reconciler.look_at_queue()
        queue.hindered(None)
        plane.changes.queue_moved()

    def _claim(self, connection: Connection, claim: Claim, left: dict[str, Room], engine: str) -> bool:
        """Intent before effect: attempt, claim and key stand in the store before the engine hears of it.
        The rows decide: ``left`` is what they have left."""
        job = rows.find(connection, claim.job_id)
        if job is None or job.phase is not Phase.QUEUED or job.target is not Target.RUN:
            return False
        room = left.get(claim.node)
        if job.attempt + 1 != claim.attempt or room is None or not room.takes(claim):
            log.error("%s: the queue thought otherwise of it or of its machine than the rows", job.id)
            return False
        rows.change(
            connection, job, state=State.PROVISIONING, phase=Phase.STARTING, attempt=claim.attempt,
            engine=engine, reason=STARTING,
        )  # fmt: skip
        attempt_rows.begin(
            connection, job.id, claim.attempt, tasks.key(self._plane.install, job.id, claim.attempt), engine
        )
        ledger.take(connection, claim)
        return True

    async def _give_back(self, error: GradientError) -> None:
        """What could not be stored is nobody's, and whoever waits is told why."""
        message = f"It cannot be started at the moment: {error.message}"
        self._plane.queue.hindered(Reason(code=error.code, message=message, next=error.next))
        with contextlib.suppress(GradientError):
            await self.reload()
        self._plane.changes.queue_moved()

    async def reload(self) -> None:
        """The rows are the truth of who waits and who holds what."""
        plane = self._plane
        plane.queue.begin_reload()
        waiting, claims = await plane.database.read(
            lambda connection: (rows.waiting(connection), ledger.taken(connection))
        )
        corrected = plane.queue.reload(waiting, claims)
        started, self._started = self._started, True
        if corrected and started:
            log.info("the queue was corrected by the rows of %s", ", ".join(corrected[:10]))
