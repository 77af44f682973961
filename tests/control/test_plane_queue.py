"""The queue inside the control plane: several people, a real store, the real local engine, in one process."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from gradient_jupyter.control import jobs
from gradient_jupyter.control.data import snapshots
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane, Settings
from gradient_jupyter.control.scheduling.queue import Limits
from gradient_jupyter.engines.local import LocalEngine
from gradient_jupyter.resources.errors import Conflict, NotFound
from gradient_jupyter.resources.job import CreateJob, HostEnvironment, Job, State
from gradient_jupyter.resources.snapshot import Manifest
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger, schema
from gradient_jupyter.store.database import DiskFull
from gradient_jupyter.workspace.blobs import BlobStore

ANN, BEN = (Principal(user_id=f"u{name}", name=name) for name in ("ann", "ben"))
PATIENCE_S = 60.0


class Ear:
    """What ``Changes`` tells of one job, whatever it is."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def job_changed(self) -> None:
        self._event.set()

    log_grew = queue_moved = job_changed

    async def something(self) -> None:
        await self._event.wait()
        self._event.clear()


class World:
    """A control plane of one's own and what people do with it."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    async def submit(self, who: Principal, *command: str) -> str:
        snapshot = await snapshots.create(self.plane, who, Manifest(entries=()))
        asked = CreateJob(
            command=command or ("true",), snapshot=snapshot.id, project=f"of {who.name}",
            host=HostEnvironment(python=sys.executable, path=("/usr/bin", "/bin")),
        )  # fmt: skip
        return (await jobs.submit(self.plane, who, asked, None)).id

    async def get(self, who: Principal, job_id: str) -> Job:
        return await jobs.get(self.plane, who, job_id)

    async def until(self, who: Principal, job_id: str, *states: State) -> Job:
        async with asyncio.timeout(PATIENCE_S):
            heard = Ear()
            with self.plane.changes.of_job(job_id, heard):
                while (job := await self.get(who, job_id)).state not in states:
                    assert not job.final, job
                    await heard.something()
                return job

    async def sql(self, text: str) -> None:
        await self.plane.database.write(lambda connection: connection.exec_driver_sql(text))

    async def refused_for_want_of_space(self) -> tuple[asyncio.Event, str]:
        """A job of Ann's that was to be placed while no claim could be stored; and what sets that right."""
        write, there_is_room = self.plane.database.write, asyncio.Event()

        async def full(work):
            if work.__qualname__.startswith("Claiming.place") and not there_is_room.is_set():
                raise DiskFull("The disk is full.", next="Free some space.")
            return await write(work)

        self.plane.database.write = full  # type: ignore[method-assign]
        heard = Heard("The disk is full")
        log = logging.getLogger("gradient_jupyter.control.running.reconcile")
        log.addHandler(heard)
        try:
            job_id = await self.submit(ANN)
            async with asyncio.timeout(PATIENCE_S):
                await heard.heard.wait()
        finally:
            log.removeHandler(heard)
        return there_is_room, job_id

    async def check_the_queue_is_the_rows(self) -> None:
        queue = self.plane.queue
        queue.begin_reload()
        waiting, claims = await self.plane.database.read(
            lambda connection: (rows.waiting(connection), ledger.taken(connection))
        )
        assert queue.reload(waiting, claims) == []


class Heard(logging.Handler):
    """Waits for words in the log."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.heard = asyncio.Event()
        self._words = words

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.heard.set()


def run(root: Path, story, **settings) -> None:
    async def main() -> None:
        layout = Layout(root)
        root.mkdir(parents=True, exist_ok=True)
        install = schema.prepare(layout.database)
        plane = Plane(
            layout, install, Settings(stop_grace_s=1, **settings), BlobStore(layout.blobs),
            lambda plane: LocalEngine(layout.engines, plane.unpack, install=install, isolation="none"),
            b"k" * 32, "http://127.0.0.1:9",
        )  # fmt: skip
        await plane.start()
        try:
            await story(World(plane))
        finally:
            await plane.close()

    asyncio.run(main())


def test_whoever_comes_late_is_next_and_the_queue_stays_what_the_rows_say(tmp_path):
    async def story(world: World) -> None:
        flood = [await world.submit(ANN, "sleep", "600")]
        await world.until(ANN, flood[0], State.RUNNING)
        flood += [await world.submit(ANN) for _ in range(5)]
        late = await world.submit(BEN)
        assert (await world.get(BEN, late)).queue_position == 1
        assert [(await world.get(ANN, job_id)).queue_position for job_id in flood[1:]] == [2, 3, 4, 5, 6]
        reason = (await world.get(BEN, late)).reason
        assert reason is not None and flood[0] not in reason.message, "whose job it is, is not for strangers"
        await jobs.stop(world.plane, ANN, flood[3])
        await jobs.delete(world.plane, ANN, flood[4])
        await world.check_the_queue_is_the_rows()
        await jobs.stop(world.plane, ANN, flood[0])
        ended = [await world.until(BEN, late, State.STOPPED)]
        ended += [await world.until(ANN, flood[number], State.STOPPED) for number in (1, 2, 5)]
        started = [job.started_us for job in ended]
        assert started == sorted(started, key=lambda at: at or 0)
        await world.check_the_queue_is_the_rows()
        assert not world.plane.queue and not world.plane.queue.claims

    run(tmp_path / "data", story)


def test_a_full_queue_of_one_is_not_full_for_another(tmp_path):
    async def story(world: World) -> None:
        first = await world.submit(ANN, "sleep", "600")
        await world.until(ANN, first, State.RUNNING)
        await world.submit(ANN)
        with pytest.raises(Conflict, match="1 job waiting") as refused:
            await world.submit(ANN)
        assert refused.value.code == "queue-full"
        await world.submit(BEN)
        await jobs.stop(world.plane, ANN, first)
        await world.until(ANN, first, State.CANCELLED)

    run(tmp_path / "data", story, limits=Limits(max_queued_jobs=1))


def test_a_claim_that_cannot_be_stored_is_asked_for_again(tmp_path):
    """P12. Fault: the database refuses the claim. Nothing starts, the job waits on; heals by itself with the
    next try, in less than a second after the fault is gone."""

    async def story(world: World) -> None:
        await world.sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON claims BEGIN SELECT RAISE(FAIL, 'no such luck'); END"
        )
        refused = Heard("no such luck")
        logging.getLogger("gradient_jupyter.control.running.reconcile").addHandler(refused)
        job = await world.submit(ANN)
        async with asyncio.timeout(PATIENCE_S):
            await refused.heard.wait()
        assert (await world.get(ANN, job)).state is State.PENDING
        assert await world.plane.database.read(ledger.taken) == []
        await world.sql("DROP TRIGGER refuse")
        ended = await world.until(ANN, job, State.STOPPED)
        assert ended.attempt == 1
        await world.check_the_queue_is_the_rows()

    run(tmp_path / "data", story)


def test_a_machine_that_the_rows_say_is_taken_is_not_given_out_again(tmp_path):
    """P3's ground. Fault: the queue missed a claim. The transaction that would claim it too finds it in the
    rows, refuses, and the queue is corrected at once. Heals, once the row is gone, with the next start."""

    async def story(world: World) -> None:
        first = await world.submit(ANN)
        await world.until(ANN, first, State.STOPPED)
        (node,) = await world.plane.nodes()
        await world.sql(
            "INSERT INTO claims (job_id, attempt, node, machine_type, cpus, memory_bytes, gpus, created_us)"
            f" VALUES ('{first}', 9, '{node.name}', 'local', {node.cpus}, 1, '[]', 1)"
        )
        second = await world.submit(BEN)
        async with asyncio.timeout(PATIENCE_S):
            heard = Ear()
            with world.plane.changes.of_job(second, heard):
                while first not in world.plane.queue.claims:
                    await heard.something()
        seen = await world.get(BEN, second)
        assert (seen.state, seen.attempt, seen.queue_position) == (State.PENDING, 0, 1)
        assert [claim.job_id for claim in await world.plane.database.read(ledger.taken)] == [first]
        await world.check_the_queue_is_the_rows()
        await world.sql("DELETE FROM claims")
        waiting.append(second)

    async def later(world: World) -> None:
        await world.until(BEN, waiting[0], State.STOPPED)

    waiting: list[str] = []
    run(tmp_path / "data", story)
    run(tmp_path / "data", later)


def test_while_no_claim_can_be_stored_nobody_is_told_that_a_machine_is_taken(tmp_path):
    """Fault: the disk is full whenever a job is placed. P12: the job says why it waits, holds nothing
    meanwhile, and starts by itself, at the latest after the longest back-off (30 s)."""

    async def story(world: World) -> None:
        there_is_room, job_id = await world.refused_for_want_of_space()
        job = await world.get(ANN, job_id)
        assert job.reason is not None and job.reason.code == "no-space" and job.reason.next
        assert not world.plane.queue.claims and job.queue_position == 1
        there_is_room.set()
        await world.until(ANN, job_id, State.STOPPED)
        assert world.plane.queue.trouble is None
        await world.check_the_queue_is_the_rows()

    run(tmp_path / "root", story)


def test_what_hindered_placing_is_forgotten_when_nothing_is_to_be_placed(tmp_path):
    """Fault: as above, and the job is stopped. Whoever waits for another reason later is told that one."""

    async def story(world: World) -> None:
        _, job_id = await world.refused_for_want_of_space()
        assert world.plane.queue.trouble is not None
        await jobs.stop(world.plane, ANN, job_id)
        await world.until(ANN, job_id, State.CANCELLED)
        await world.plane.reconciler._claiming.place()
        assert world.plane.queue.trouble is None

    run(tmp_path / "root", story)


def test_a_key_is_its_senders_whoever_owns_the_project(tmp_path):
    """P1, boundary B2."""

    async def story(world: World) -> None:
        plane = world.plane
        project = (await world.get(BEN, await world.submit(BEN))).project_id

        async def submit(who: Principal) -> str:
            snapshot = await snapshots.create(plane, who, Manifest(entries=()))
            asked = CreateJob(command=("true",), snapshot=snapshot.id, project_id=project)
            return (await jobs.submit(plane, who, asked, "the same")).id

        await world.sql(f"INSERT INTO members VALUES ('{project}', '{ANN.owner}', 'member')")
        first = await submit(ANN)
        assert await submit(ANN) == first
        with pytest.raises(Conflict) as taken:
            await submit(BEN)
        assert taken.value.code == "idempotency-key-taken"
        await world.sql("DELETE FROM members")
        with pytest.raises(NotFound):  # the job is there, and no longer hers to see
            await submit(ANN)

    run(tmp_path / "root", story)
