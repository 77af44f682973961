"""Unpacked datasets are whole or not there, are shared, and never go while a job reads them.

Promises P5 (nothing half done is believed), P14 (nothing that is needed is cleared away), P9 (a full disk is
a reason, not a crash).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import update

sys.path.insert(0, str(Path(__file__).parent))

from conftest import plane_at
from sending import ANN, send

from gradient_jupyter.control import jobs
from gradient_jupyter.control.data import datasets, trees
from gradient_jupyter.control.data.trees import PREPARING, Trees
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.dataset import AddVersion, CreateDataset
from gradient_jupyter.resources.errors import GradientError, NoSpace, NotFound
from gradient_jupyter.resources.job import CreateJob, Job, Phase, RerunJob, State
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import tables
from gradient_jupyter.store.ledger import Claim
from gradient_jupyter.workspace.materialise import materialise

#: How long is waited for what must not hang.
PATIENCE_S = 60
ROOT = str(Path(__file__).parents[2])
FILES = {"a/one.csv": b"1,2\n" * 30_000, "a/b/two": b"22" * 9, "three": os.urandom(50_000)}


async def made(plane: Plane, name: str, files: dict[str, bytes] = FILES) -> str:
    """A dataset of one version; its snapshot."""
    snapshot = await send(plane, files)
    await datasets.create(plane, ANN, CreateDataset(name=name, snapshot=snapshot))
    return snapshot


async def job(plane: Plane, *wanted: str, state: State = State.PENDING) -> Job:
    empty = await send(plane, {})
    asked = CreateJob(command=("true",), snapshot=empty, project="p", datasets=wanted)
    found = await jobs.submit(plane, ANN, asked, None)
    await become(plane, found, state)
    return found


async def become(plane: Plane, one: Job, state: State) -> None:
    await plane.database.write(
        lambda connection: connection.execute(
            update(tables.jobs).where(tables.jobs.c.id == one.id).values(state=state.value)
        )
    )


async def until_ready(trees: Trees, one: Job) -> list[str]:
    """Asks as the reconciler does. What it was told meanwhile."""
    told = []
    while (reason := await trees.ready(one)) is not None:
        assert reason.code == PREPARING
        told.append(reason.message)
        await asyncio.sleep(0.005)
    return told


def held(plane: Plane) -> set[str]:
    return set(os.listdir(plane.layout.trees))


async def until_held(plane: Plane, names: set[str]) -> None:
    """What a killed server left is removed by the way."""
    while held(plane) != names:
        await asyncio.sleep(0.005)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def started(work: Callable[[Plane], Awaitable[None]]) -> Callable[[Plane], Awaitable[None]]:
    async def begun(plane: Plane) -> None:
        await plane.trees.start()
        await work(plane)

    return begun


def test_a_version_is_unpacked_once_for_all_that_ask_and_nobody_may_write_to_it(with_plane) -> None:
    async def work(plane: Plane) -> None:
        snapshot = await made(plane, "leaf")
        every = [await job(plane, "leaf") for _ in range(8)]
        told = await asyncio.gather(*(until_ready(plane.trees, one) for one in every))
        assert all("leaf:1 is being unpacked" in each[0] for each in told)
        assert held(plane) == {snapshot}
        tree = plane.trees.path(snapshot)
        assert content(tree) == FILES
        made_at = tree.stat().st_ino
        assert not any(path.lstat().st_mode & 0o222 for path in (tree, *tree.rglob("*")))
        assert await until_ready(plane.trees, every[0]) == []
        assert await until_ready(plane.trees, await job(plane, "leaf")) == []
        assert tree.stat().st_ino == made_at

    with_plane(started(work))


def test_what_keeps_it_from_being_unpacked_is_told_to_every_job_and_nothing_is_left(with_plane) -> None:
    async def work(plane: Plane) -> None:
        await made(plane, "leaf")
        digest = next(digest for digest, status in plane.blobs.names() if status.st_size > 40_000)
        path = plane.layout.blobs / digest[:2] / digest
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        for one in [await job(plane, "leaf"), await job(plane, "leaf")]:
            with pytest.raises(GradientError, match="damaged"):
                await until_ready(plane.trees, one)
        assert held(plane) == set()
        path.write_bytes(whole)
        await until_ready(plane.trees, await job(plane, "leaf"))

    with_plane(started(work))


def test_a_job_that_leaves_ends_the_work_unless_somebody_else_waits(with_plane) -> None:
    async def work(plane: Plane) -> None:
        files = {f"{n}": os.urandom(200_000) for n in range(60)}
        snapshot = await made(plane, "much", files)
        first, second = await job(plane, "much"), await job(plane, "much")
        assert await plane.trees.ready(first) and await plane.trees.ready(second)
        plane.trees.leave(first.id)
        await until_ready(plane.trees, second)
        assert held(plane) == {snapshot}
        shutil.rmtree(plane.trees.path(snapshot))
        third = await job(plane, "much")
        assert await plane.trees.ready(third)
        plane.trees.leave(third.id)
        await plane.trees.close()
        assert held(plane) == set()

    with_plane(started(work))


def test_the_longest_unused_go_over_the_budget_and_none_that_a_job_uses(with_plane) -> None:
    async def work(plane: Plane) -> None:
        one, two, three, four = [
            await made(plane, f"d{n}", {"x": os.urandom(100_000), f"n{n}": b""}) for n in range(1, 5)
        ]
        user = await job(plane, "d1")
        for wanted in (user, await job(plane, "d2"), await job(plane, "d1")):
            await until_ready(plane.trees, wanted)
        assert held(plane) == {one, two}
        await until_ready(plane.trees, await job(plane, "d3"))
        assert held(plane) == {one, three}  # d1 was asked for after d2
        await become(plane, user, State.RUNNING)
        await until_ready(plane.trees, await job(plane, "d4"))
        assert held(plane) == {one, four}  # d1 is the oldest, and is used
        others = [await job(plane, "d3", state=State.RUNNING), await job(plane, "d4", state=State.RUNNING)]
        await until_ready(plane.trees, others[0])
        assert held(plane) == {one, three, four}  # what is used is kept whatever it takes
        await become(plane, user, State.STOPPED)
        await plane.trees.tidy()
        assert held(plane) == {three, four}

    with_plane(started(work), trees_bytes=300_000)


def test_what_nothing_names_any_more_goes_and_what_a_waiting_job_has_stays(with_plane) -> None:
    async def work(plane: Plane) -> None:
        snapshot = await made(plane, "leaf")
        await until_ready(plane.trees, await job(plane, "leaf", state=State.STOPPED))
        assert await plane.trees.tidy() == []
        (dataset,) = (await datasets.page(plane, ANN, 10, None, None)).items
        await datasets.add_version(
            plane, ANN, dataset.id, AddVersion(snapshot=await send(plane, {"new": b"1"}))
        )
        waiting = await job(plane, "leaf:1")
        with pytest.raises(GradientError, match="not over"):
            await datasets.delete(plane, ANN, dataset.id, 1)
        await become(plane, waiting, State.CANCELLED)
        await datasets.delete(plane, ANN, dataset.id, 1)
        assert [tree.snapshot for tree in await plane.trees.tidy(dry_run=True)] == [snapshot]
        assert held(plane) == {snapshot}
        await plane.trees.tidy()
        assert held(plane) == set()

    with_plane(started(work))


def test_a_full_disk_is_a_reason_and_unused_data_is_given_up_for_it(with_plane) -> None:
    async def work(plane: Plane) -> None:
        snapshot = await made(plane, "leaf")
        one = await job(plane, "leaf")
        full = Trees(plane, 1 << 40, 1 << 60)
        with pytest.raises(NoSpace, match="no space on the server's disk to unpack"):
            await until_ready(full, one)
        assert held(plane) == set()
        await until_ready(plane.trees, one)
        await become(plane, one, State.RUNNING)
        await full.relieve()
        assert held(plane) == {snapshot}
        await become(plane, one, State.STOPPED)
        await full.relieve()
        assert held(plane) == set()
        await full.close()

    with_plane(started(work))


def holding(monkeypatch: pytest.MonkeyPatch, answer: threading.Event, at_once: int) -> threading.Barrier:
    """Has the disk not answer to the first so many that unpack. Where they meet when they are that far."""
    met, count = threading.Barrier(at_once + 1), iter(range(at_once))

    def slow(*arguments, **more):
        if next(count, None) is not None:
            met.wait(PATIENCE_S)
            answer.wait(PATIENCE_S)
        materialise(*arguments, **more)

    monkeypatch.setattr(trees, "materialise", slow)
    return met


def test_while_others_are_unpacked_nobody_hangs_who_asks_or_tidies(with_plane, monkeypatch) -> None:
    """Fault: two slow disks, and a job that is stopped while it waits for its turn."""
    answer = threading.Event()
    met = holding(monkeypatch, answer, 2)

    async def work(plane: Plane) -> None:
        snapshots = [await made(plane, name, {"x": name.encode()}) for name in ("a", "b", "c")]
        try:
            for name in ("a", "b"):
                assert await plane.trees.ready(await job(plane, name))
            await asyncio.to_thread(met.wait, PATIENCE_S)
            stopped = await job(plane, "c")
            assert await plane.trees.ready(stopped)
            await asyncio.sleep(0)  # it waits for its turn
            plane.trees.leave(stopped.id)
            next_one = await job(plane, "c")
            reason = await asyncio.wait_for(plane.trees.ready(next_one), PATIENCE_S / 6)
            assert reason is not None and reason.code == PREPARING
            assert await asyncio.wait_for(plane.trees.tidy(), PATIENCE_S / 6) == []
            await asyncio.wait_for(plane.trees.relieve(), PATIENCE_S / 6)
        finally:
            answer.set()
        await until_ready(plane.trees, next_one)
        assert snapshots[2] in held(plane)

    with_plane(started(work))


def test_an_error_that_may_pass_is_told_and_it_is_tried_again(with_plane, monkeypatch) -> None:
    """Fault: EIO. The job says what holds it up, also while it is tried once more, and then runs."""
    monkeypatch.setattr(trees, "_AGAIN_S", (0.0, 0.0))
    left = [errno.EIO, errno.EMFILE, errno.EIO]

    def failing(*arguments, **more):
        if left:
            number = left.pop()
            raise OSError(number, os.strerror(number))
        materialise(*arguments, **more)

    monkeypatch.setattr(trees, "materialise", failing)

    async def work(plane: Plane) -> None:
        snapshot = await made(plane, "leaf")
        told = await until_ready(plane.trees, await job(plane, "leaf"))
        assert (
            "Unpacking its dataset leaf:1 is held up: input/output error. It is tried again by itself."
            in (told)
        )
        assert held(plane) == {snapshot}
        shutil.rmtree(plane.trees.path(snapshot))
        assert not any("held up" in text for text in await until_ready(plane.trees, await job(plane, "leaf")))

    with_plane(started(work))


def test_between_two_tries_there_is_a_pause_and_the_reason_stands(with_plane, monkeypatch) -> None:
    tried = []

    def failing(*_, **__):
        tried.append(None)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(trees, "_AGAIN_S", (3600.0, 3600.0))
    monkeypatch.setattr(trees, "materialise", failing)

    async def work(plane: Plane) -> None:
        await made(plane, "leaf")
        one = await job(plane, "leaf")
        while (reason := await plane.trees.ready(one)) is None or "held up" not in reason.message:
            await asyncio.sleep(0.005)
        for _ in range(10):
            assert await plane.trees.ready(one) == reason
        assert len(tried) == 1

    with_plane(started(work))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOTDIR, None])
def test_an_error_that_stays_ends_the_job_with_a_reason_and_lets_go_of_the_rest(
    with_plane, monkeypatch, number
) -> None:
    """Fault: the disk is read-only. What else was unpacked for the job alone is not unpacked further."""
    answer, slow_one = threading.Event(), threading.Event()

    def failing(manifest, *arguments, **more):
        if len(manifest.files) == 1:
            slow_one.set()
            answer.wait(PATIENCE_S)
            materialise(manifest, *arguments, **more)
        raise ValueError if number is None else OSError(number, os.strerror(number))

    monkeypatch.setattr(trees, "materialise", failing)

    async def work(plane: Plane) -> None:
        slow = await made(plane, "slow", {"x": b"x"})
        await made(plane, "leaf")
        one = await placed(plane, await job(plane, "slow", "leaf"))
        try:
            while not one.final:
                found = await plane.reconciler._ensure(one)
                assert found is not None
                one = found
                await asyncio.sleep(0.005)
            assert slow_one.is_set() and plane.trees._making[slow].stopped
        finally:
            answer.set()
        assert one.state is State.ERROR and one.reason is not None and one.reason.next
        assert one.reason.message == (
            "Its data could not be unpacked."
            if number is None
            else f"Its data cannot be unpacked: {os.strerror(number).lower()}."
        )

    with_plane(started(work))


async def placed(plane: Plane, one: Job) -> Job:
    """Its first attempt has a machine."""
    plane.queue.claims[one.id] = Claim(
        job_id=one.id, attempt=1, node="n", machine_type="m", cpus=1, memory_bytes=1, gpus=()
    )
    return await plane.database.write(
        lambda connection: rows.change(
            connection, one, state=State.PROVISIONING, phase=Phase.STARTING, attempt=1
        )
    )


def test_a_public_dataset_that_was_taken_away_ends_the_job_that_asked_for_it(data: Path) -> None:
    """It would run on other data than it was meant for. Also one that waited over the change, and a rerun."""

    async def before() -> Job:
        async with plane_at(data, public_datasets={"maps": data}) as plane:
            return await job(plane, "maps")

    async def after(one: Job) -> None:
        async with plane_at(data) as plane:
            with pytest.raises(NotFound, match="'maps' is not there any more") as refused:
                await jobs.rerun(plane, ANN, one.id, RerunJob(), None)
            assert refused.value.code == "no-such-dataset" and refused.value.next
            without = await jobs.rerun(plane, ANN, one.id, RerunJob(datasets=()), None)
            assert without.datasets == ()
            ended = await plane.reconciler._ensure(await placed(plane, one))
            assert ended is not None and ended.state is State.ERROR and ended.reason is not None
            assert ended.reason.code == "no-such-dataset" and "'maps'" in ended.reason.message
            assert "--dataset" in ended.reason.next

    asyncio.run(after(asyncio.run(before())))


def test_a_stop_does_not_wait_until_what_a_killed_server_left_is_removed(data: Path, monkeypatch) -> None:
    """Fault: SIGTERM in the middle of it. The next start removes the rest."""
    trash = data / "trees" / ".trash-0123456789abcdef"
    removing, answer = threading.Event(), threading.Event()
    unlink = os.unlink

    def slow(name, **more):
        if str(name).startswith("left"):
            removing.set()
            answer.wait(PATIENCE_S)
        unlink(name, **more)

    async def stopped() -> None:
        async with plane_at(data) as plane:
            trash.mkdir(parents=True)
            for number in range(50):
                (trash / f"left{number}").touch()
            await plane.trees.start()
            await asyncio.to_thread(removing.wait, PATIENCE_S)
            closing = asyncio.create_task(plane.trees.close())
            await asyncio.sleep(0)
            answer.set()
            await closing
            assert len(list(trash.iterdir())) == 49
            plane.trees = Trees(plane, 1 << 40, 0)
            await plane.trees.start()
            await until_held(plane, set())

    monkeypatch.setattr(os, "unlink", slow)
    asyncio.run(stopped())


KILLED = """
import asyncio, os, signal, sys
sys.path[:0] = [{tests!r}, {above!r}]
from pathlib import Path
from conftest import plane_at
from gradient_jupyter.control.data import trees
from test_trees import job, until_ready
from gradient_jupyter.resources.job import State

def die(*_): os.kill(os.getpid(), signal.SIGKILL)
where, real = {where!r}, trees.materialise
if where == "unpacking":
    trees.materialise = lambda *a, wrote, **k: real(*a, wrote=die, **k)
elif where == "before its name":
    os_rename = os.rename
    last = lambda b: len(Path(b).name) == 64 and "trees" in str(b)
    os.rename = lambda a, b, **k: die() if last(b) else os_rename(a, b, **k)
elif where == "renamed":
    trees.space_of = die
elif where == "evicting":
    trees.remove_tree = die

async def main():
    async with plane_at(Path({data!r})) as plane:
        await plane.trees.start()
        one = await job(plane, "leaf")
        await until_ready(plane.trees, one)
        await until_ready(plane.trees, one)
        await plane.database.write(lambda c: c.exec_driver_sql("DELETE FROM datasets"))
        await plane.database.write(lambda c: c.exec_driver_sql("UPDATE jobs SET state = 'Stopped'"))
        await plane.trees.tidy()
asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["unpacking", "before its name", "renamed", "evicting"])
def test_killed_anywhere_a_tree_is_whole_or_made_anew(data: Path, where: str) -> None:
    """Fault: kill -9 while it is unpacked, before and after it gets its name, and while it is removed."""

    async def before() -> str:
        async with plane_at(data) as plane:
            return await made(plane, "leaf")

    snapshot = asyncio.run(before())
    program = KILLED.format(
        tests=str(Path(__file__).parent), above=str(Path(__file__).parents[1]), where=where, data=str(data)
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    left = os.listdir(data / "trees")
    assert (snapshot in left) == (where == "renamed")
    assert len(left) == 1

    async def after() -> None:
        async with plane_at(data) as plane:
            await plane.trees.start()
            if where == "evicting":  # its dataset is gone
                await until_held(plane, set())
                return
            await until_ready(plane.trees, await job(plane, "leaf"))
            await until_held(plane, {snapshot})
            assert content(plane.trees.path(snapshot)) == FILES

    asyncio.run(after())
