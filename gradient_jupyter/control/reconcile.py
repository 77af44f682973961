"""The reconciler: makes what is so become what was asked for.

It is level-triggered. A worker takes a job's key, reads its row, asks the engine what it sees, asks
``plan`` for the next step and takes it, until there is none. What triggers it does not matter: a hint, a
person, the relist of every minute, a restart. Intent is stored before an effect; a claim is released
only when the engine was seen to be done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gradient_jupyter.control import machines, queue, tasks
from gradient_jupyter.control.collect import collect
from gradient_jupyter.control.plan import Action, Conclude, Ensure, Erase, Note, Remove, Stop, plan
from gradient_jupyter.control.queue import Placement
from gradient_jupyter.control.workqueue import WorkQueue
from gradient_jupyter.engines.base import Conflict, HintKind, Observation, Rejected, Unreachable
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import GradientError, NoSpace
from gradient_jupyter.resources.job import Job, Phase, Reason, State, Target
from gradient_jupyter.store import events as event_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.workspace.inside import remove_tree

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_WORKERS = 8
_RELIST_S = 60.0
_REWATCH_S = 5.0
_QUEUE = "queue"
_PROJECTS = "projects"
_STARTING = Reason(
    code="starting", message="The workspace is being unpacked and the command started.", next=""
)


class Reconciler:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._work = WorkQueue()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins with everything that is not finished."""
        await self._relist()
        self._tasks = [
            *(asyncio.create_task(self._worker(), name=f"reconcile-{number}") for number in range(_WORKERS)),
            asyncio.create_task(self._relist_forever(), name="relist"),
            asyncio.create_task(self._listen(), name="hints"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._work.close()

    def look_at(self, job_id: str) -> None:
        """Something about this job changed."""
        self._work.add(job_id)

    def look_at_queue(self) -> None:
        self._work.add(_QUEUE)

    def look_at_projects(self) -> None:
        self._work.add(_PROJECTS)

    async def _worker(self) -> None:
        while True:
            key = await self._work.get()
            if self._plane.read_only:
                self._work.done(key)
                continue
            try:
                await self._reconcile(key)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # Whatever it was: no state was changed by it, and the same question is asked again later.
                delay = self._work.failed(key)
                known = isinstance(error, Unreachable | GradientError)
                log.warning("%s: %s; again in %.1f s", key, error, delay, exc_info=None if known else error)
            else:
                self._work.done(key)

    async def _reconcile(self, key: str) -> None:
        if key == _QUEUE:
            await self._place()
        elif key == _PROJECTS:
            await self._erase_projects()
        else:
            await self._job(key)

    async def _job(self, job_id: str) -> None:
        before: Action | None = None
        while True:
            job = await self._plane.database.read(lambda connection: rows.find(connection, job_id))
            if job is None:
                return
            seen = await self._observe(job)
            action = plan(job, seen)
            if action is None:
                return
            if action == before:
                # It took no effect. Asking again at once would be a busy loop.
                self._work.add_later(job_id, 1.0)
                return
            await self._act(job, seen, action)
            if isinstance(action, Stop | Erase):
                return
            before = action

    async def _observe(self, job: Job) -> Observation | None:
        if job.attempt == 0:
            return None
        key = tasks.key(self._plane.install, job.id, job.attempt)
        return (await self._plane.engine.observe([key])).get(key)

    async def _act(self, job: Job, seen: Observation | None, action: Action) -> None:
        engine = self._plane.engine
        key = tasks.key(self._plane.install, job.id, job.attempt)
        match action:
            case Ensure():
                await self._ensure(job)
            case Stop():
                await engine.stop(key, self._plane.settings.stop_grace_s)
            case Note():
                await self._note(job, action)
            case Conclude():
                if action.kill and seen is not None:
                    await engine.stop(key, 0)
                await self._conclude(job, action)
            case Remove():
                await engine.remove(key)
            case Erase():
                await self._plane.on_files(remove_tree, self._plane.layout.job(job.id))
                await self._plane.database.write(lambda connection: rows.erase(connection, job))
                self.look_at_projects()

    async def _ensure(self, job: Job) -> None:
        plane = self._plane
        claim = await plane.database.read(lambda connection: ledger.of(connection, job.id, job.attempt))
        assert claim is not None, "placing an attempt stores its claim in the same transaction"
        task = tasks.task(plane.layout, plane.install, job, claim)
        try:
            plane.check_space()
            await plane.on_files(_make_directories, task.directory / "artifacts", task.storage)
            await plane.engine.ensure(task)
        except (Rejected, GradientError) as error:
            # A full disk, a snapshot that is damaged: the same attempt would end the same way.
            following = error.next if isinstance(error, GradientError) else ""
            if error.code == "no-space":
                following = "Free some space: gradient jobs delete removes old runs."
            reason = Reason(code=error.code, message=error.message, next=following)
            await self._conclude(job, Conclude(State.ERROR, reason))
        except Conflict as error:
            log.error("%s: %s", job.id, error)
            await self._conclude(
                job,
                Conclude(
                    State.ERROR,
                    Reason(
                        code="conflict",
                        message="The engine already holds another task under this attempt's name.",
                        next="Run it again; if that repeats, report it with the server's log.",
                    ),
                ),
            )

    async def _note(self, job: Job, note: Note) -> None:
        def work(connection: Connection) -> None:
            fresh = rows.find(connection, job.id)
            if fresh is not None and not fresh.final and fresh.attempt == job.attempt:
                rows.change(
                    connection,
                    fresh,
                    state=note.state,
                    phase=note.phase,
                    started_us=note.started_us,
                    reason=None,
                )

        await self._plane.database.write(work)

    async def _conclude(self, job: Job, end: Conclude) -> None:
        """Collects first, then makes the job final and frees its machine in one transaction."""
        collected: list[Artifact] = []
        warnings: list[str] = []
        if job.attempt:
            if job.state is State.RUNNING and job.phase is not Phase.COLLECTING:
                await self._note(job, Note(State.RUNNING, Phase.COLLECTING, job.started_us))
            directory = self._plane.layout.attempt(job.id, job.attempt) / "artifacts"
            collected, warnings = await self._plane.on_files(collect, directory)

        def work(connection: Connection) -> None:
            fresh = rows.find(connection, job.id)
            if fresh is None or fresh.final or fresh.attempt != job.attempt:
                return
            values = {"started_us": end.started_us} if end.started_us is not None else {}
            rows.change(
                connection,
                fresh,
                state=end.state,
                phase=Phase.DONE,
                reason=end.reason,
                exit_code=end.exit_code,
                ended_us=end.ended_us or now_us(),
                warnings=(*fresh.warnings, *warnings),
                **values,
            )
            rows.add_artifacts(connection, job.id, collected)
            if job.attempt:
                rows.end_attempt(connection, job.id, job.attempt, end.exit_code)
                ledger.release(connection, job.id, job.attempt)

        await self._plane.database.write(work)
        self.look_at_queue()

    async def _place(self) -> None:
        plane = self._plane
        nodes = await plane.engine.nodes()
        waiting, claims = await plane.database.read(
            lambda connection: (rows.waiting(connection), ledger.taken(connection))
        )
        sizes = machines.sizes(plane.settings.machine_types, nodes, plane.settings.whole_host)
        placements = queue.place(waiting, sizes, machines.rooms(nodes, claims))
        if placements:
            name = plane.engine.capabilities().name

            def work(connection: Connection) -> list[str]:
                return [each.job_id for each in placements if self._claim(connection, each, name)]

            for job_id in await plane.database.write(work):
                self.look_at(job_id)
        if waiting:
            plane.changes.queue_moved()

    def _claim(self, connection: Connection, placement: Placement, engine: str) -> bool:
        """Intent before effect: attempt, claim and key stand in the store before the engine hears of it."""
        job = rows.find(connection, placement.job_id)
        if job is None or job.state is not State.PENDING or job.target is not Target.RUN:
            return False
        attempt = job.attempt + 1
        rows.change(
            connection, job, state=State.PROVISIONING, phase=Phase.STARTING, attempt=attempt, engine=engine,
            reason=_STARTING,
        )  # fmt: skip
        rows.begin_attempt(
            connection, job.id, attempt, tasks.key(self._plane.install, job.id, attempt), engine
        )
        ledger.take(
            connection,
            ledger.Claim(
                job_id=job.id, attempt=attempt, node=placement.node, machine_type=placement.machine_type,
                cpus=placement.size.cpus, memory_bytes=placement.size.memory_bytes, gpus=placement.gpus,
            ),
        )  # fmt: skip
        return True

    async def _erase_projects(self) -> None:
        def work(connection: Connection) -> None:
            for project_id in project_rows.deleting(connection):
                project_rows.erase_if_empty(connection, project_id)

        await self._plane.database.write(work)

    async def _relist(self) -> None:
        """The truth, every minute: every unfinished row, and everything the engine has."""
        plane = self._plane
        for job_id in await plane.database.read(rows.unfinished):
            self._work.add(job_id)
        self._work.add(_QUEUE)
        self._work.add(_PROJECTS)
        try:
            present = await plane.engine.observe()
        except Unreachable as error:
            log.warning("relist: the engine does not answer: %s", error)
            return
        for key in present:
            known = await plane.database.read(partial(rows.job_of_key, key=key))
            mine = tasks.job_of(plane.install, key)
            if known is None and mine is not None:
                # A database that was restored, or has lost its last commits, may not know of an attempt that
                # was made. Its task stays: it is found when that attempt is made again, not started twice.
                job = await plane.database.read(partial(rows.find, job_id=mine))
                known = None if job is None else job.id
            if known is not None:
                self._work.add(known)
            elif mine is not None:
                log.warning("removing %s: no job knows it", key)
                try:
                    await plane.engine.remove(key)
                except Exception as error:
                    # One that cannot go yet keeps neither the server from starting nor the others waiting.
                    log.warning("%s cannot be removed yet: %s", key, error)

    async def _relist_forever(self) -> None:
        while True:
            await asyncio.sleep(_RELIST_S)
            if self._plane.read_only:
                return
            try:
                await self._relist()
                await self._plane.database.write(event_rows.trim)
            except Exception:
                log.exception("relist failed; again in %.0f s", _RELIST_S)

    async def _listen(self) -> None:
        """Hints make it quick; without them the relist and the followers' own looks make it right."""
        while True:
            try:
                async for hint in self._plane.engine.watch():
                    job_id = tasks.job_of(self._plane.install, hint.key)
                    if job_id is None:
                        continue
                    if hint.kind is HintKind.STATE:
                        self._work.add(job_id)
                    self._plane.changes.log_grew(job_id)
                return  # the engine is being closed
            except Exception as error:
                log.warning("hints: %s; again in %.0f s", error, _REWATCH_S)
                await asyncio.sleep(_REWATCH_S)


def _make_directories(*paths: Path) -> None:
    try:
        for path in paths:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace("There is no space left, or no room for more files, on the server's disk.") from error
