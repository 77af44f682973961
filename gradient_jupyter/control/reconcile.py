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
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control import machines, placing, tasks
from gradient_jupyter.control.collect import Collected
from gradient_jupyter.control.machines import Room
from gradient_jupyter.control.plan import (
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
from gradient_jupyter.control.tails import LogFile
from gradient_jupyter.control.workqueue import WorkQueue
from gradient_jupyter.engines.base import Conflict, HintKind, Observation, Rejected, Unreachable
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import GradientError, NoSpace, ServerError
from gradient_jupyter.resources.job import Job, Phase, Reason, State, Target
from gradient_jupyter.store import attempts as attempt_rows
from gradient_jupyter.store import events as event_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger, spent_keys
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store.ledger import Claim
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.wording import decimal

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_WORKERS = 8
_RELIST_S = 60.0
#: Collecting that is over sooner is written together with the job's end.
_REWATCH_S = 5.0
#: Before an attempt that follows many others.
_LONGEST_PAUSE_S = 300.0
_QUEUE = "queue"
_PROJECTS = "projects"
_STARTING = Reason(
    code="starting", message="The workspace is being unpacked and the command started.", next=""
)


class Reconciler:
    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._work = WorkQueue()
        self._reload = True
        self._unborn: set[str] = set()
        """Those placed just now, of which the engine has not heard yet."""
        self._again_at: dict[str, float] = {}
        """By the loop's clock, when the next attempt may be queued. A new server need not wait."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begins with everything that is not finished."""
        await self._relist()
        await self._reload_queue()
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
        """Step by step. The row is read once: whoever changes what is wanted of it adds its key again."""
        job = await self._find(job_id)
        seen = None
        unborn = job_id in self._unborn and job is not None and job.state is State.PROVISIONING
        self._unborn.discard(job_id)
        if job is not None and not unborn:
            seen = await self._observe(job)
        before: Action | None = None
        while job is not None:
            notes: list[Note] = []
            action = plan(job, seen)
            while isinstance(action, Note) and seen is not None and seen.phase.ended:
                # It was over before we looked: its steps are written together with its end.
                notes.append(action)
                job = noted(job, action)
                action = plan(job, seen)
            if action is None:
                return
            if isinstance(action, Requeue) and (pause_s := self._pause_s(job_id)) > 0:
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
                return await self._note(job, action), seen
            case Conclude():
                if action.kill and seen is not None:
                    await engine.stop(key, 0)
                return await self._conclude(job, action, notes), seen
            case Retry():
                if action.end.kill and seen is not None:
                    await engine.stop(key, 0)
                return await self._retry(job, action.end, notes), seen
            case Requeue():
                return await self._requeue(job), None
            case Remove():
                await engine.remove(key)
                return job, None
            case Erase():
                await self._erase(job)
        return job, seen

    async def _erase(self, job: Job) -> None:
        freed = await self._plane.on_files(remove_tree, self._plane.layout.job(job.id))
        await self._plane.database.write(lambda connection: rows.erase(connection, job))
        log.info("deleted %s: %s of log, artifacts and workspace", job.id, decimal(freed))
        self.look_at_projects()
        self._plane.keeper.look_soon()

    async def _ensure(self, job: Job) -> Job | None:
        """Returns the row as it is then."""
        self._unborn.discard(job.id)  # from here on the engine may know it, and is asked
        plane = self._plane
        claim = plane.queue.claims.get(job.id)
        if claim is None or claim.attempt != job.attempt:
            claim = await plane.database.read(lambda connection: ledger.of(connection, job.id, job.attempt))
        assert claim is not None, "placing an attempt stores its claim in the same transaction"
        home = {
            "GRADIENT_JOB_URL": f"{plane.callback_url}/jobs/{job.id}",
            "GRADIENT_JOB_TOKEN": plane.tokens.of(job.id, job.attempt),
        }
        task = tasks.task(plane.layout, plane.install, job, claim, home)
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
            return await self._conclude(job, Conclude(State.ERROR, reason))
        except Conflict as error:
            log.error("%s: %s", job.id, error)
            return await self._conclude(
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

    async def _note(self, job: Job, note: Note) -> Job | None:
        return await self._plane.database.write(
            lambda connection: _noted(connection, job, [(note, now_us())])
        )

    async def _conclude(self, job: Job, end: Conclude, notes: list[Note] | None = None) -> Job | None:
        """Collects first, then makes the job final and frees its machine in one transaction.

        ``notes`` are steps that are not written yet. They are written with the end, or before it where
        collecting takes long enough for a person to see it. Returns the row as it is then; None while what
        it left is still being collected, after which the job is looked at again.
        """
        began: list[tuple[Note, int]] = [(note, now_us()) for note in notes or ()]
        collected = Collected([], [])
        if job.attempt and job.state is not State.PENDING:
            if job.state is State.RUNNING and job.phase is not Phase.COLLECTING:
                began.append((Note(State.RUNNING, Phase.COLLECTING, job.started_us), now_us()))
            done = await self._plane.collector.collect(job)
            if done is None:
                await self._plane.database.write(lambda connection: _noted(connection, job, began))
                return None
            collected = done
        log_bytes = await self._log_bytes(job)

        def work(connection: Connection) -> Job | None:
            fresh = _noted(connection, job, began)
            if fresh is None or fresh.final or fresh.attempt != job.attempt:
                return fresh
            values = {"started_us": end.started_us} if end.started_us is not None else {}
            fresh = rows.change(
                connection,
                fresh,
                state=end.state,
                phase=Phase.DONE,
                reason=end.reason,
                exit_code=end.exit_code,
                ended_us=end.ended_us or now_us(),
                warnings=(*fresh.warnings, *collected.warnings),
                **values,
            )
            rows.add_artifacts(connection, job.id, collected.artifacts, replace=collected.fresh)
            if job.attempt and job.state is not State.PENDING:
                _end_attempt(connection, fresh, end, log_bytes)
            return fresh

        concluded = await self._plane.database.write(work)
        self._again_at.pop(job.id, None)
        self.look_at_queue()
        return concluded

    async def _retry(self, job: Job, end: Conclude, notes: list[Note]) -> Job | None:
        """The attempt is over and counts for nothing. Its machine is free; the next waits until the engine
        has forgotten it, so that never two of one job can run. Returns the row as it is then."""
        assert end.reason is not None
        began = [(note, now_us()) for note in notes]
        pause_s = min(self._plane.settings.retry_delay_s * 2 ** (job.attempt - 1), _LONGEST_PAUSE_S)
        self._again_at[job.id] = asyncio.get_running_loop().time() + pause_s
        pause = f" after a pause of {pause_s:g} s," if pause_s else ""
        reason = Reason(
            code="retry",
            message=f"Attempt {job.attempt} of at most {job.retries + 1}: {end.reason.message}",
            next=f"The next attempt starts{pause} as soon as a machine is free.",
        )
        log_bytes = await self._log_bytes(job)

        def work(connection: Connection) -> Job | None:
            fresh = rows.find(connection, job.id)
            if fresh is None or fresh.final or fresh.attempt != job.attempt or fresh.state is State.PENDING:
                return fresh
            if fresh.target is not Target.RUN:
                return fresh  # a person was quicker: the next look concludes it
            fresh = _noted(connection, job, began)
            assert fresh is not None, "it was there a line ago, in the same transaction"
            _end_attempt(connection, fresh, end, log_bytes)
            return rows.change(
                connection, fresh, state=State.PENDING, phase=Phase.RETRYING, reason=reason, started_us=None,
                progress=None,
            )  # fmt: skip

        retried = await self._plane.database.write(work)
        self.look_at_queue()
        return retried

    async def _log_bytes(self, job: Job) -> int | None:
        """How long the attempt's log is, now that nobody writes it; what is missing later was lost."""
        file = LogFile(self._plane.layout.attempt(job.id, job.attempt) / "log")
        try:
            return await self._plane.followed.tails.run(file.size)
        except (ServerError, OSError) as error:
            log.warning("%s: its log cannot be measured: %s", job.id, error)
            return None

    async def _requeue(self, job: Job) -> Job | None:
        """Nothing of the attempt before is left. Returns the row as it is then."""
        artifacts = self._plane.layout.attempt(job.id, job.attempt) / "artifacts"
        await self._plane.on_files(remove_tree, artifacts)

        def work(connection: Connection) -> Job | None:
            fresh = rows.find(connection, job.id)
            if fresh is not None and fresh.phase is Phase.RETRYING and fresh.attempt == job.attempt:
                return rows.change(connection, fresh, phase=Phase.QUEUED)
            return fresh

        requeued = await self._plane.database.write(work)
        self._again_at.pop(job.id, None)
        self.look_at_queue()
        return requeued

    def _pause_s(self, job_id: str) -> float:
        """What is left of the pause before the next attempt: what failed may need a moment to be well."""
        return self._again_at.get(job_id, 0.0) - asyncio.get_running_loop().time()

    async def _place(self) -> None:
        plane, queue = self._plane, self._plane.queue
        if self._reload:
            await self._reload_queue()
        if not queue:
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
            except BaseException:
                self._reload = True  # the queue holds for them what the rows do not say
                raise
            self._unborn.update(stored)
            for job_id in stored:
                self.look_at(job_id)
            if len(stored) < len(chosen):
                self._reload = True  # some moved on meanwhile, and what they would have had is free
                self.look_at_queue()
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
            engine=engine, reason=_STARTING,
        )  # fmt: skip
        attempt_rows.begin(
            connection, job.id, claim.attempt, tasks.key(self._plane.install, job.id, claim.attempt), engine
        )
        ledger.take(connection, claim)
        return True

    async def _reload_queue(self) -> None:
        """The rows are the truth of who waits and who holds what."""
        plane = self._plane
        plane.queue.begin_reload()
        waiting, claims = await plane.database.read(
            lambda connection: (rows.waiting(connection), ledger.taken(connection))
        )
        corrected = plane.queue.reload(waiting, claims)
        self._reload = False
        if corrected and self._tasks:
            log.info("the queue was corrected by the rows of %s", ", ".join(corrected[:10]))

    async def _erase_projects(self) -> None:
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
        self._reload = True
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


def _end_attempt(connection: Connection, job: Job, end: Conclude, log_bytes: int | None) -> None:
    """Its end, and its machine given back: the engine has been seen to be done with it."""
    started_us = end.started_us if end.started_us is not None else job.started_us
    attempt_rows.end(
        connection, job, end.state, end.reason, end.exit_code, started_us, end.ended_us or now_us(), log_bytes
    )
    ledger.release(connection, job.id, job.attempt)


def noted(job: Job, note: Note) -> Job:
    """The row as it will be once the note is written."""
    return msgspec.structs.replace(
        job, state=note.state, phase=note.phase, started_us=note.started_us, reason=None
    )


def _noted(connection: Connection, job: Job, notes: Iterable[tuple[Note, int]]) -> Job | None:
    """Writes steps with the times at which they were seen. Returns the row as it is then."""
    fresh = rows.find(connection, job.id)
    for note, time_us in notes:
        if fresh is None or fresh.final or fresh.attempt != job.attempt:
            break
        fresh = rows.change(
            connection, fresh, state=note.state, phase=note.phase, started_us=note.started_us, reason=None,
            time_us=time_us,
        )  # fmt: skip
    return fresh


def _make_directories(*paths: Path) -> None:
    try:
        for path in paths:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpace("There is no space left, or no room for more files, on the server's disk.") from error
