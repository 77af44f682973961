"""The reconciler: makes what is so become what was asked for.

It is level-triggered. A worker takes a job's key, reads its row, asks the engine what it sees, asks
``plan`` for the next step and takes it, until there is none. What triggers it does not matter: a hint, a
person, the relist of every minute, a restart. Intent is stored before an effect; a claim is released
only when the engine was seen to be done.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gradient_jupyter.control import context
from gradient_jupyter.control.data import datasets
from gradient_jupyter.control.mlflow import run_removal
from gradient_jupyter.control.running import tasks
from gradient_jupyter.control.running.endings import Endings, noted
from gradient_jupyter.control.running.plan import (
    Action,
    Conclude,
    Ensure,
    Erase,
    Note,
    Remove,
    Requeue,
    Retry,
    Stop,
    plan,
)
from gradient_jupyter.control.running.tokens import PUSH_PREFIX
from gradient_jupyter.control.running.workqueue import WorkQueue
from gradient_jupyter.control.scheduling.claiming import STARTING, Claiming
from gradient_jupyter.control.vault import secrets
from gradient_jupyter.engines.base import Conflict, HintKind, Observation, Rejected, Unreachable
from gradient_jupyter.engines.base import Phase as Seen
from gradient_jupyter.resources.errors import GradientError, NoSpace
from gradient_jupyter.resources.job import Job, Phase, Reason, State, Target
from gradient_jupyter.resources.secret import SecretValue
from gradient_jupyter.store import attempts as attempt_rows
from gradient_jupyter.store import events as event_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger, spent_keys
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store import tracking as run_rows
from gradient_jupyter.workspace import durable
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.wording import decimal

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_WORKERS = 8
_RELIST_S = 60.0
#: When the engine's hints broke off.
_REWATCH_S = 5.0
_QUEUE = "queue"
_PROJECTS = "projects"


class Reconciler:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._work = WorkQueue()
        self._claiming = Claiming(plane)
        self._endings = Endings(plane)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins with everything that is not finished."""
        await self._relist()
        await self._claiming.reload()
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
            with context.about_job("" if key in (_QUEUE, _PROJECTS) else key):
                await self._turn(key)

    async def _turn(self, key: str) -> None:
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
            await self._claiming.place()
        elif key == _PROJECTS:
            await self._erase_projects()
        else:
            await self._job(key)

    async def _job(self, job_id: str) -> None:
        """Step by step. The row is read once: whoever changes what is wanted of it adds its key again."""
        job = await self._find(job_id)
        seen = None
        unborn = job_id in self._claiming.unborn and job is not None and job.state is State.PROVISIONING
        self._claiming.unborn.discard(job_id)
        if job is not None and not unborn:
            seen = await self._observe(job)
        before: Action | None = None
        while job is not None:
            if seen is not None and seen.phase is Seen.RUNNING:
                self._plane.gathering.watch(job)
            notes: list[Note] = []
            action = plan(job, seen)
            while isinstance(action, Note) and seen is not None and seen.phase.ended:
                # It was over before we looked: its steps are written together with its end.
                notes.append(action)
                job = noted(job, action)
                action = plan(job, seen)
            if action is None:
                return
            if isinstance(action, Requeue) and (pause_s := self._endings.pause_s(job_id)) > 0:
                self._work.add_later(job_id, pause_s)
                return
            if action == before:
                # It took no effect. Asking again at once would be a busy loop.
                self._work.add_later(job_id, 1.0)
                return
            after, seen = await self._act(job, seen, action, notes)
            if isinstance(action, Stop):
                # Whatever does not answer is not asked politely for ever.
                settings = self._plane.settings
                self._work.add_later(job_id, settings.stop_grace_s + settings.patience_s)
            if isinstance(action, Stop | Erase):
                return
            if after is not None and after.attempt != job.attempt:
                seen = await self._observe(after)  # what was seen was another attempt's
            job, before = after, action

    async def _find(self, job_id: str) -> Job | None:
        known = self._plane.changes.placed.get(job_id)
        if known is not None:
            return known
        return await self._plane.database.read(lambda connection: rows.find(connection, job_id))

    async def _observe(self, job: Job) -> Observation | None:
        if job.attempt == 0:
            return None
        key = tasks.key(self._plane.install, job.id, job.attempt)
        return (await self._plane.engine.observe([key])).get(key)

    async def _act(
        self, job: Job, seen: Observation | None, action: Action, notes: list[Note]
    ) -> tuple[Job | None, Observation | None]:
        """Takes one step. Returns the row and what the engine shows after it, asking only where the step may
        have changed them."""
        engine = self._plane.engine
        key = tasks.key(self._plane.install, job.id, job.attempt)
        match action:
            case Ensure():
                after = await self._ensure(job)
                return after, await self._observe(after) if after is not None else None
            case Stop():
                await engine.stop(key, self._plane.settings.stop_grace_s)
            case Note():
                return await self._endings.note(job, action), seen
            case Conclude():
                self._plane.trees.leave(job.id)
                if action.kill and seen is not None:
                    await engine.stop(key, 0)
                return await self._endings.conclude(job, action, notes), seen
            case Retry():
                if action.end.kill and seen is not None:
                    await engine.stop(key, 0)
                return await self._endings.retry(job, action.end, notes), seen
            case Requeue():
                return await self._endings.requeue(job), None
            case Remove():
                # Once more, should the server have been killed just behind the end.
                await self._plane.points.release(self._plane.layout.attempt(job.id, job.attempt))
                await engine.remove(key)
                return job, None
            case Erase():
                await self._erase(job)
        return job, seen

    async def _erase(self, job: Job) -> None:
        for attempt in range(1, job.attempt + 1):
            await self._plane.points.release(self._plane.layout.attempt(job.id, attempt))
        begun = await self._plane.database.read(partial(run_rows.directories_of_job, job_id=job.id))
        freed = await run_removal.clear(self._plane, begun)
        freed += await self._plane.on_files(remove_tree, self._plane.layout.job(job.id))
        await self._plane.database.write(lambda connection: rows.erase(connection, job))
        log.info("deleted %s: %s of log, artifacts and workspace", job.id, decimal(freed))
        self.look_at_projects()
        self._plane.keeper.look_soon()

    async def _ensure(self, job: Job) -> Job | None:
        """Returns the row as it is then."""
        self._claiming.unborn.discard(job.id)  # from here on the engine may know it, and is asked
        plane = self._plane
        claim = plane.queue.claims.get(job.id)
        if claim is None or claim.attempt != job.attempt:
            claim = await plane.database.read(lambda connection: ledger.of(connection, job.id, job.attempt))
        assert claim is not None, "placing an attempt stores its claim in the same transaction"
        home = {
            "GRADIENT_JOB_URL": f"{plane.callback_url}/jobs/{job.id}",
            **_old_metrics(job),
            **tasks.mlflow(job, plane.callback_url),
        }
        secret = _credentials(plane, job)
        needed = await secrets.needed(plane, job)
        try:
            if job.datasets:
                datasets.check_public(plane, job.datasets)
                waits = await plane.trees.ready(job)
                if waits is not None or job.phase is Phase.PREPARING:
                    job_now = await self._prepared(job, waits)
                    if waits is not None or job_now is None or job_now.target is not Target.RUN:
                        return job_now
                    job = job_now
            wanted = secrets.opened(plane.keyring, needed)
            public = plane.settings.public_datasets
            task = tasks.task(plane.layout, plane.install, job, claim, home, public, secret, wanted)
            await self._check_space()
            await plane.on_files(_make_directories, task.directory / "artifacts", task.storage)
            await plane.engine.ensure(task)
        except (Rejected, GradientError) as error:
            # A full disk, a snapshot that is damaged: the same attempt would end the same way.
            following = error.next if isinstance(error, GradientError) else ""
            if error.code == "no-space":
                following = "Free some space: gradient jobs delete removes old runs."
            reason = Reason(code=error.code, message=error.message, next=following)
            plane.trees.leave(job.id)
            return await self._endings.conclude(job, Conclude(State.ERROR, reason))
        except Conflict as error:
            log.error("%s: %s", job.id, error)
            plane.trees.leave(job.id)
            return await self._endings.conclude(
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

        return job

    async def _prepared(self, job: Job, waits: Reason | None) -> Job | None:
        """Says how far its data is, or that it is there. Returns the row as it is then."""
        phase, reason = (Phase.STARTING, STARTING) if waits is None else (Phase.PREPARING, waits)
        if (job.phase, job.reason) == (phase, reason):
            return job

        def work(connection: Connection) -> Job | None:
            fresh = rows.find(connection, job.id)
            if fresh is None or fresh.state is not State.PROVISIONING or fresh.attempt != job.attempt:
                return fresh
            return rows.change(connection, fresh, phase=phase, reason=reason)

        return await self._plane.database.write(work)

    async def _check_space(self) -> None:
        """Before a start. Unpacked data that no job uses is given up for it."""
        try:
            self._plane.check_space()
        except NoSpace:
            await self._plane.trees.relieve()
            self._plane.check_space()

    async def _erase_projects(self) -> None:
        for project_id in await self._plane.database.read(project_rows.deleting):
            runs = await self._plane.database.read(
                partial(run_rows.directories_of_project, project_id=project_id)
            )
            await run_removal.clear(self._plane, runs)

        def work(connection: Connection) -> None:
            for project_id in project_rows.deleting(connection):
                project_rows.erase_if_empty(connection, project_id)

        await self._plane.database.write(work)

    async def _relist(self) -> None:
        """The truth, every minute: every row with a step to take, those that wait, and everything the engine
        has."""
        plane = self._plane
        for job_id in await plane.database.read(rows.unsettled):
            self._work.add(job_id)
        self._plane.queue.doubtful = True
        self._work.add(_QUEUE)
        self._work.add(_PROJECTS)
        try:
            present = await plane.engine.observe()
        except Unreachable as error:
            log.warning("relist: the engine does not answer: %s", error)
            return
        for key in present:
            known = await plane.database.read(partial(attempt_rows.job_of_key, key=key))
            mine = tasks.job_of(plane.install, key)
            if known is None and mine is not None:
                # A database that was restored, or has lost its last commits, may not know of an attempt that
                # was made. Its task stays: it is found when that attempt is made again, not started twice.
                job = await plane.database.read(partial(rows.find, job_id=mine))
                known = None if job is None else attempt_rows.Known(job.id, True)
            if known is not None and known.current:
                self._work.add(known.job_id)
            elif mine is not None:
                # Also one of an attempt that another has followed: it was believed to be gone, and is fenced.
                log.warning("removing %s: no job wants it", key)
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
                await self._plane.database.write(spent_keys.trim)
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
                    # One that holds no machine has nothing left to say; the relist sees what was missed.
                    if hint.kind is HintKind.STATE and job_id in self._plane.queue.claims:
                        self._work.add(job_id)
                    self._plane.changes.log_grew(job_id)
                return  # the engine is being closed
            except Exception as error:
                log.warning("hints: %s; again in %.0f s", error, _REWATCH_S)
                await asyncio.sleep(_REWATCH_S)


def _old_metrics(job: Job) -> dict[str, str]:
    """What Gradient's own ``gradient_utils.metrics`` looks for, beside ``_push_gateway``."""
    return {
        "PAPERSPACE_METRIC_WORKLOAD_TYPE": "experiment",
        "PAPERSPACE_METRIC_WORKLOAD_ID": job.id,
        "PAPERSPACE_EXPERIMENT_ID": job.id,
    }


def _credentials(plane: Plane, job: Job) -> dict[str, SecretValue]:
    """What opens this server to the run, as far as its attempt reaches."""
    token = SecretValue(plane.tokens.of(job.id, job.attempt))
    ours = {
        "GRADIENT_JOB_TOKEN": token,
        "PAPERSPACE_METRIC_PUSHGATEWAY": SecretValue(_push_gateway(plane, job)),
    }
    # A job that logs to an MLflow server of its own must not send our token there.
    if not job.env.keys() & {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"}:
        ours["MLFLOW_TRACKING_TOKEN"] = token
    return ours


def _push_gateway(plane: Plane, job: Job) -> str:
    """Where old scripts push their metrics. They send no token: the address holds one."""
    server = plane.callback_url.partition("/api/")[0]
    return f"{server}/pushgateway/{plane.tokens.of(job.id, job.attempt, PUSH_PREFIX)}"


def _make_directories(*paths: Path) -> None:
    try:
        for path in paths:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        if error.errno not in durable.NO_SPACE:
            raise
        raise NoSpace("There is no space left, or no room for more files, on the server's disk.") from error
