"""Whose datasets are, what keeps their files, and what deleting them frees (boundary B1, row 3; P14)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sending import ANN, BOB, deliver, forget, manifest, on_disk, send
from test_garbage import a_year_passes

from gradient_jupyter.control import jobs
from gradient_jupyter.control.data import datasets, snapshots
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.dataset import AddVersion, CreateDataset, Dataset, UpdateDataset
from gradient_jupyter.resources.errors import Conflict, Forbidden, GradientError, NotFound
from gradient_jupyter.resources.job import CreateJob, Job, RerunJob

CAROL = Principal(user_id="ucarol", name="carol", groups=("lab",))
DAN = Principal(user_id="udan", name="dan", groups=("lab", "other"))
FILES = {"x": os.urandom(5000), "y": os.urandom(6000)}


async def made(plane: Plane, files: dict[str, bytes], who: Principal = ANN, **more: object) -> Dataset:
    asked = CreateDataset(**{"name": "leaf", "snapshot": await send(plane, files, who), **more})
    return await datasets.create(plane, who, asked)


async def job(plane: Plane, *wanted: str, who: Principal = ANN) -> Job:
    empty = await send(plane, {}, who)
    asked = CreateJob(command=("true",), snapshot=empty, project="p", datasets=wanted)
    return await jobs.submit(plane, who, asked, None)


async def swept(plane: Plane) -> int:
    await plane.database.write(a_year_passes)
    plane.garbage.leases.__init__(0)  # as after a restart: it has promised nobody anything
    return (await plane.garbage.sweep(whole=True)).bytes


def test_a_version_keeps_its_files_and_a_job_keeps_its_versions(with_plane) -> None:
    async def work(plane: Plane) -> None:
        dataset = await made(plane, FILES)
        one = await job(plane, "leaf")
        await swept(plane)
        plane.unpack(dataset.latest.snapshot, plane.layout.root / "a")
        await jobs.stop(plane, ANN, one.id)
        await plane.database.write(lambda c: c.exec_driver_sql("UPDATE jobs SET state = 'Cancelled'"))
        gone = await datasets.delete(plane, ANN, dataset.id, None)
        assert (gone.gone, gone.versions, gone.bytes) == (True, (1,), 0)
        await swept(plane)
        plane.unpack(dataset.latest.snapshot, plane.layout.root / "b")
        again = await jobs.rerun(plane, ANN, one.id, RerunJob(), None)
        assert again.datasets == one.datasets
        for each in (one, again):
            await forget(plane, each)
        assert await swept(plane) > 11_000
        assert on_disk(plane) == set()

    with_plane(work, garbage_grace_s=0)


def test_deleting_says_what_it_frees_and_that_is_what_goes(with_plane) -> None:
    async def work(plane: Plane) -> None:
        dataset = await made(plane, FILES)
        await datasets.add_version(
            plane, ANN, dataset.id, AddVersion(snapshot=await send(plane, {**FILES, "z": os.urandom(9000)}))
        )
        await swept(plane)
        second = await datasets.delete(plane, ANN, dataset.id, 2)
        assert 9000 < second.bytes < 30_000 and not second.gone
        assert await swept(plane) == second.bytes
        copy = await made(plane, FILES, name="copy")
        whole = await datasets.delete(plane, ANN, dataset.id, None)
        assert whole.bytes == 0, "ann has the same files once more"
        assert await swept(plane) == 0
        rest = await datasets.delete(plane, ANN, copy.id, None)
        assert rest.bytes > 10_000
        assert await swept(plane) == rest.bytes

    with_plane(work, garbage_grace_s=0)


def test_deleting_does_not_tell_what_others_have(with_plane) -> None:
    """Asset: which files a person has (DESIGN §6), against who has the same and asks what goes with them."""

    async def work(plane: Plane) -> None:
        async def gone() -> int:
            dataset = await made(plane, FILES)
            return (await datasets.delete(plane, ANN, dataset.id, None)).bytes

        alone = await gone()
        theirs = await made(plane, FILES, BOB)
        one = await job(plane, "leaf", who=BOB)
        plane.layout.trees.mkdir(exist_ok=True)
        plane.unpack(theirs.latest.snapshot, plane.trees.path(theirs.latest.snapshot))
        assert await gone() == alone > 10_000
        plane.unpack(theirs.latest.snapshot, plane.layout.root / "still")
        assert one.datasets[0].snapshot == theirs.latest.snapshot

    with_plane(work, garbage_grace_s=0)


def test_the_same_files_make_no_version_and_numbers_are_not_given_twice(with_plane) -> None:
    async def work(plane: Plane) -> None:
        dataset = await made(plane, FILES)
        same = AddVersion(snapshot=dataset.latest.snapshot)
        other = AddVersion(snapshot=await send(plane, {"z": b"z"}))
        assert not (await datasets.add_version(plane, ANN, dataset.id, same)).new
        assert (await datasets.add_version(plane, ANN, dataset.id, other)).version.number == 2
        assert (await datasets.add_version(plane, ANN, dataset.id, same)).version.number == 3
        await datasets.delete(plane, ANN, dataset.id, 3)
        added = await datasets.add_version(plane, ANN, dataset.id, same)
        assert (added.version.number, added.new, added.dataset.versions) == (4, True, 3)
        found = await datasets.versions(plane, ANN, dataset.id, 2, None)
        assert ([one.number for one in found.items], found.next) == ([4, 2], "2")

    with_plane(work)


def test_what_is_somebody_elses_does_not_exist(with_plane) -> None:
    """Asset: a person's data. Not its name, not its bytes, not even that the server has them."""

    async def work(plane: Plane) -> None:
        dataset = await made(plane, FILES)
        first = dataset.latest.snapshot
        assert (await datasets.page(plane, BOB, 10, None, None)).items == ()
        for attempt in (
            datasets.get(plane, BOB, dataset.id), datasets.delete(plane, BOB, dataset.id, None),
            datasets.update(plane, BOB, dataset.id, UpdateDataset(description="x")),
            datasets.versions(plane, BOB, dataset.id, 10, None),
            datasets.files(plane, BOB, dataset.id, None, 10, 0),
            datasets.add_version(plane, BOB, dataset.id, AddVersion(snapshot=first)),
            job(plane, "leaf", who=BOB), job(plane, dataset.id, who=BOB),
        ):  # fmt: skip
            with pytest.raises(NotFound) as refused:
                await attempt
            assert refused.value.code == "no-such-dataset"
        with pytest.raises(NotFound) as refused:
            await datasets.create(plane, BOB, CreateDataset(name="leaf", snapshot=first))
        assert refused.value.code == "no-such-snapshot"
        assert len((await snapshots.missing(plane, BOB, manifest(FILES))).missing) == 2
        with pytest.raises(GradientError, match="not been sent"):
            await snapshots.create(plane, BOB, manifest(FILES))
        await deliver(plane, FILES, {file.digest for file in manifest(FILES).files}, BOB)
        theirs = await made(plane, FILES, BOB)
        assert theirs.id != dataset.id
        assert (await job(plane, "leaf", who=BOB)).datasets[0].dataset_id == theirs.id

    with_plane(work)


def test_a_groups_dataset_is_there_for_all_of_it_and_for_nobody_else(with_plane) -> None:
    async def work(plane: Plane) -> None:
        dataset = await made(plane, FILES, CAROL, owner="group:lab")
        assert dataset.owner == "group:lab"
        assert (await job(plane, "leaf", who=DAN)).datasets[0].dataset_id == dataset.id
        added = await datasets.add_version(
            plane, DAN, dataset.id, AddVersion(snapshot=await send(plane, {"z": b"dan"}, DAN))
        )
        assert added.version.number == 2
        await swept(plane)
        for version in (1, 2):
            files = await datasets.files(plane, CAROL, dataset.id, version, 10, 0)
            assert len(files.items) == 3 - version
        with pytest.raises(NotFound):
            await datasets.get(plane, ANN, dataset.id)
        with pytest.raises(Forbidden):
            await made(plane, FILES, ANN, owner="group:lab")
        # What carol has sent for the group is not known to be dan's.
        assert len((await snapshots.missing(plane, DAN, manifest(FILES))).missing) == 2
        mine = await made(plane, FILES, CAROL)
        assert (await job(plane, "leaf", who=CAROL)).datasets[0].dataset_id == mine.id

    with_plane(work, garbage_grace_s=0)


def test_public_ones_are_there_for_all_and_a_persons_own_wins_where_it_is_asked_for(
    with_plane, tmp_path: Path
) -> None:
    async def work(plane: Plane) -> None:
        (public,) = (await datasets.page(plane, ANN, 10, None, None)).items
        assert (public.name, public.owner, public.public, public.latest) == ("leaf", "public", True, None)
        assert (await datasets.get(plane, BOB, public.id)) == public
        assert (await job(plane, "leaf")).datasets[0].snapshot == ""
        with pytest.raises(NotFound, match="no versions"):
            await job(plane, "leaf:1")
        for attempt in (
            datasets.delete(plane, ANN, public.id, None),
            datasets.update(plane, ANN, public.id, UpdateDataset(description="mine")),
            datasets.add_version(plane, ANN, public.id, AddVersion(snapshot=await send(plane, FILES))),
        ):
            with pytest.raises(Forbidden):
                await attempt
        mine = await made(plane, FILES)
        assert (await job(plane, "leaf")).datasets[0].dataset_id == mine.id
        assert len((await datasets.page(plane, ANN, 10, None, "leaf")).items) == 2

    with_plane(work, public_datasets={"leaf": tmp_path})


def test_what_a_job_asks_for_is_found_or_refused_with_what_there_is(with_plane) -> None:
    async def work(plane: Plane) -> None:
        dataset = await made(plane, FILES)
        await datasets.create(plane, ANN, CreateDataset(name="empty"))
        for wanted, kind, code in (
            (("leav",), NotFound, "no-such-dataset"), (("leaf:2",), NotFound, "no-such-version"),
            (("empty",), Conflict, "dataset-empty"), (("leaf", "leaf:1"), GradientError, "dataset-twice"),
        ):  # fmt: skip
            with pytest.raises(kind) as refused:
                await job(plane, *wanted)
            assert refused.value.code == code and refused.value.next
        with pytest.raises(NotFound, match="There is: empty, leaf"):
            await job(plane, "leav")
        assert (await job(plane, f"{dataset.id}:1")).datasets[0].name == "leaf"

    with_plane(work)


def test_one_that_jobs_have_who_are_not_over_is_kept_and_they_are_named(with_plane) -> None:
    async def work(plane: Plane) -> None:
        dataset = await made(plane, FILES)
        await datasets.add_version(
            plane, ANN, dataset.id, AddVersion(snapshot=await send(plane, {"z": b"z"}))
        )
        one = await job(plane, "leaf:1")
        for number in (1, None):
            with pytest.raises(Conflict, match=one.id) as refused:
                await datasets.delete(plane, ANN, dataset.id, number)
            assert refused.value.code == "dataset-in-use"
        assert (await datasets.delete(plane, ANN, dataset.id, 2)).versions == (2,)

    with_plane(work)
