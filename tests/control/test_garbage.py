"""What nothing refers to goes, and nothing else, whatever happens at the same time and whatever is killed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import update

from gradient_jupyter.control import jobs
from gradient_jupyter.control.data import snapshots
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.job import CreateJob
from gradient_jupyter.store import tables

sys.path.insert(0, str(Path(__file__).parent))

from conftest import plane_at
from sending import ANN, BOB, check_whole, deliver, forget, manifest, on_disk, send, submit

ROOT = str(Path(__file__).parents[2])


def test_files_go_with_the_last_job_that_names_them_and_what_is_shared_stays(with_plane, tmp_path):
    async def work(plane):
        first, _ = await submit(plane, {"a": b"shared" * 99, "b": b"only first" * 99})
        await submit(plane, {"a": b"shared" * 99, "c": b"only second" * 99})
        assert (await plane.garbage.sweep()).blobs == 0
        await forget(plane, first)
        told = await plane.garbage.sweep(dry_run=True)
        before = on_disk(plane)
        swept = await plane.garbage.sweep()
        assert (told.snapshots, told.blobs, told.bytes) == (swept.snapshots, swept.blobs, swept.bytes)
        assert (swept.snapshots, swept.blobs) == (1, 2)  # the file, and the manifest
        assert swept.bytes >= 2 * 512
        assert len(before - on_disk(plane)) == 2
        assert await check_whole(plane, tmp_path) == 1

    with_plane(work, garbage_grace_s=0)


def test_what_two_owners_have_sent_stays_for_the_other(with_plane, tmp_path):
    async def work(plane):
        files = {"a": b"both" * 99}
        anns, _ = await submit(plane, files, ANN)
        await submit(plane, files, BOB)
        before = on_disk(plane)
        await forget(plane, anns)
        assert (await plane.garbage.sweep(dry_run=True)).blobs == 0
        swept = await plane.garbage.sweep(whole=True)
        assert (swept.snapshots, swept.blobs) == (0, 0)  # a snapshot is named by its content, whoever sent it
        assert on_disk(plane) == before
        assert await check_whole(plane, tmp_path) == 1

    with_plane(work, garbage_grace_s=0)


def test_an_upload_under_way_keeps_what_it_was_told_is_there_even_when_a_year_passes(with_plane, tmp_path):
    """P14. Fault: the wall clock is set forward by a year between "that is there" and the manifest."""
    files = {"a": b"old" * 99, "b": b"new" * 99}

    async def work(plane):
        job, _ = await submit(plane, {"a": files["a"]})
        await forget(plane, job)
        lacking = await snapshots.missing(plane, ANN, manifest(files))
        assert len(lacking.missing) == 1
        await plane.database.write(a_year_passes)
        for _ in range(3):
            await plane.garbage.sweep(whole=True)
        await deliver(plane, files, set(lacking.missing))
        for _ in range(3):
            await plane.database.write(a_year_passes)
            await plane.garbage.sweep(whole=True)
        # What it was told is there is there, and what it has sent is.
        stored = await snapshots.create(plane, ANN, manifest(files))
        await plane.database.write(a_year_passes)
        await plane.garbage.sweep(whole=True)
        request = CreateJob(command=("true",), snapshot=stored.id, project="p")
        await jobs.submit(plane, ANN, request, None)
        assert await check_whole(plane, tmp_path) == 1

    with_plane(work)


def a_year_passes(connection) -> None:
    """To the rows it is the same whether the clock goes forward or their times go back."""
    year = 366 * 24 * 3600 * 1_000_000
    for table in (tables.blobs, tables.snapshots):
        connection.execute(update(table).values(created_us=table.c.created_us - year))


def test_what_came_just_now_stays_for_the_grace_and_goes_after_it(with_plane):
    async def work(plane):
        await send(plane, {"a": b"never submitted" * 99})
        assert (await plane.garbage.sweep(whole=True)).blobs == 0

    async def later(plane):  # another server: it has promised nobody anything
        assert (await plane.garbage.sweep(whole=True)).blobs == 0
        await plane.database.write(a_year_passes)
        swept = await plane.garbage.sweep(whole=True)
        assert (swept.snapshots, swept.blobs) == (1, 2)
        assert on_disk(plane) == set()

    with_plane(work)
    with_plane(later)


def test_rows_from_the_future_do_not_live_for_ever(with_plane):
    """P14. Fault: the clock was a year ahead when the files came, and has been set back."""

    async def work(plane):
        await send(plane, {"a": b"from the future" * 99})
        ahead = now_us() + 366 * 24 * 3600 * 1_000_000
        await plane.database.write(
            lambda connection: connection.execute(update(tables.blobs).values(created_us=ahead))
        )

    async def later(plane):
        await plane.garbage.sweep()
        await plane.database.write(a_year_passes)
        assert (await plane.garbage.sweep()).blobs == 2

    with_plane(work)
    with_plane(later)


def test_a_manifest_that_cannot_be_read_keeps_everything_of_its_owner(with_plane):
    """P13. It may name anything."""

    async def work(plane):
        kept, _ = await submit(plane, {"a": b"kept" * 99})
        gone, _ = await submit(plane, {"b": b"unnamed" * 99})
        bobs, _ = await submit(plane, {"c": b"bobs" * 99}, BOB)
        await forget(plane, gone)
        await forget(plane, bobs)
        place = plane.layout.blobs / kept.snapshot[:2] / kept.snapshot
        place.write_bytes(b"damaged")
        swept = await plane.garbage.sweep()
        assert swept.unreadable == [kept.snapshot]
        left = on_disk(plane)
        assert manifest({"b": b"unnamed" * 99}).files[0].digest in left
        assert manifest({"c": b"bobs" * 99}).files[0].digest not in left
        said = (await plane.keeper.collect(dry_run=True)).warnings
        assert kept.snapshot in said[0]

    with_plane(work, garbage_grace_s=0)


def test_files_that_no_row_names_are_found_by_a_whole_sweep(with_plane):
    async def work(plane):
        await submit(plane, {"a": b"kept" * 99})
        before = on_disk(plane)
        orphan = plane.blobs.put_bytes(b"written, and then the server was killed")
        assert (await plane.garbage.sweep()).blobs == 0
        assert (await plane.garbage.sweep(whole=True, dry_run=True)).blobs == 1
        assert orphan in on_disk(plane)
        assert (await plane.garbage.sweep(whole=True)).blobs == 1
        assert on_disk(plane) == before

    with_plane(work, garbage_grace_s=0)


def test_a_sweep_does_so_much_and_then_says_that_there_is_more(with_plane):
    async def work(plane):
        job, _ = await submit(plane, {f"{n}": f"{n}".encode() * 50 for n in range(350)})
        await forget(plane, job)
        rounds = 0
        while (await plane.garbage.sweep(most=100)).more:
            rounds += 1
        assert rounds >= 2
        assert on_disk(plane) == set()

    with_plane(work, garbage_grace_s=0)


@pytest.mark.parametrize("rounds", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_who_submits_while_everything_is_swept_all_the_time_loses_nothing(with_plane, tmp_path, rounds):
    """P1, P13. Fault: sweeps without any grace, one after the other, while eight submitters send, submit and
    delete what they share. Whoever is told that something is missing sends it again; whoever is told that the
    job is accepted has its files. It heals at once: the same call goes through."""

    async def work(plane):
        stop = asyncio.Event()
        sweeps, again, accepted = 0, 0, 0

        async def sweep() -> None:
            nonlocal sweeps
            while not stop.is_set():
                await plane.garbage.sweep(whole=sweeps % 3 == 0)
                sweeps += 1

        async def submitter(number: int) -> None:
            nonlocal again, accepted
            chance = random.Random(number)
            mine = []
            for round in range(rounds):
                names = chance.sample(range(12), 5)
                files = {f"f{n}": f"shared {n}".encode() * 40 for n in names}
                files["own"] = f"{number} {round % 3}".encode() * 40
                job, repeated = await submit(plane, files, chance.choice((ANN, BOB)))
                again, accepted = again + repeated, accepted + 1
                mine.append(job)
                if len(mine) > 3:
                    await forget(plane, mine.pop(chance.randrange(len(mine))))
                if round % 10 == 0:
                    plane.unpack(mine[-1].snapshot, tmp_path / f"{number}-{round}")

        sweeping = asyncio.create_task(sweep())
        await asyncio.gather(*(submitter(number) for number in range(8)))
        stop.set()
        await sweeping
        assert sweeps and accepted == 8 * rounds
        assert await check_whole(plane, tmp_path) == 8 * 3
        await plane.garbage.sweep(whole=True)
        assert await check_whole(plane, tmp_path / "again") == 8 * 3
        print(f"{accepted} accepted, {again} sent again, {sweeps} sweeps")

    (tmp_path / "again").mkdir()
    with_plane(work, garbage_grace_s=0)


SWEEP = """
import asyncio, pathlib, sys
sys.path[:0] = sys.argv[2:]
from conftest import plane_at

async def main():
    async with plane_at(pathlib.Path(sys.argv[1]), garbage_grace_s=0) as plane:
        await plane.garbage.sweep(whole=True)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "calls", ["unlink,unlinkat", pytest.param("pwrite64,write,fsync,fdatasync", marks=pytest.mark.slow)]
)
def test_a_sweep_killed_at_any_step_loses_nothing_and_the_next_one_finds_the_rest(tmp_path, calls):
    """Fault: SIGKILL at the n-th system call of a sweep (T1). P1: no row without its file, every job's files
    whole. It heals with the next whole sweep: nothing is left that nothing names."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")

    async def prepare(root: Path) -> set[str]:
        async with plane_at(root, garbage_grace_s=0) as plane:
            gone, _ = await submit(
                plane, {"s": b"shared" * 40, **{f"{n}": f"{n}".encode() * 40 for n in range(8)}}
            )
            await submit(plane, {"s": b"shared" * 40, "k": b"kept" * 40})
            needed = on_disk(plane)
            await forget(plane, gone)
            plane.blobs.put_bytes(b"an orphan already")
            return (
                needed
                - {gone.snapshot}
                - {file.digest for file in manifest({f"{n}": f"{n}".encode() * 40 for n in range(8)}).files}
            )

    async def check(root: Path, needed: set[str], scratch: Path) -> None:
        async with plane_at(root, garbage_grace_s=0) as plane:
            assert await check_whole(plane, scratch) == 1
            await plane.garbage.sweep(whole=True)
            assert on_disk(plane) == needed

    template = tmp_path / "template"
    needed = asyncio.run(prepare(template))
    killed = 0
    for n in range(1, 200):
        root = tmp_path / f"at-{n}"
        shutil.copytree(template, root)
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}",
             "-e", f"inject={calls}:signal=SIGKILL:when={n}",
             sys.executable, "-c", SWEEP, str(root), ROOT, str(Path(__file__).parent)],
            capture_output=True, check=False, cwd=ROOT,
        )  # fmt: skip
        scratch = tmp_path / f"scratch-{n}"
        scratch.mkdir()
        asyncio.run(check(root, needed, scratch))
        if done.returncode == 0:
            break
        killed += 1
        shutil.rmtree(root)
    else:
        raise AssertionError("it never came to its end undisturbed")
    assert killed >= 5, done.stderr
    print(f"{killed} kills")
    assert os.path.isdir(template)
