"""What deleted runs leave behind: when it goes, what stays, and who counts it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from gradient_jupyter.cli.admin import _WORDS
from gradient_jupyter.control.keeping import doctor, usage
from gradient_jupyter.control.mlflow import experiments, logged_models, run_removal, tracking
from gradient_jupyter.control.people import projects
from gradient_jupyter.resources.errors import Conflict, NotFound
from gradient_jupyter.resources.metric import Sample
from gradient_jupyter.store import tracking as rows
from gradient_jupyter.workspace.space import space_of

sys.path.insert(0, str(Path(__file__).parent))

from sending import ANN, submit

_DOCS = Path(__file__).parents[2] / "docs"


async def begun(plane, project, many=1):
    """Tracking runs, each with a metric and an artifact."""
    ids = []
    for _ in range(many):
        run = (await tracking.create(plane, ANN, project.id, None, "", None, [])).run
        await tracking.log(plane, ANN, run.id, [Sample("m", 1.0, 0, 1)])
        (plane.layout.run(run.id) / "artifacts").mkdir(exist_ok=True)
        (plane.layout.run(run.id) / "artifacts" / "x").write_bytes(b"x" * 50_000)
        ids.append(run.id)
    return ids


async def project_of(plane, name="p"):
    plane.points.start()
    return await experiments.create(plane, ANN, name, None, [])


def item(collected, kind):
    (found,) = [each for each in collected.items if each.kind == kind]
    return found


def test_a_run_that_is_taken_back_while_others_go_stays(with_plane):
    """Race: gc has read which runs may go; one of them is restored before its turn comes."""

    async def work(plane):
        project = await project_of(plane)
        *others, wanted = await begun(plane, project, 60)
        for run_id in (*others, wanted):
            await tracking.delete(plane, ANN, run_id)
        going = asyncio.create_task(run_removal.purge(plane, 0))
        while plane.layout.run(others[0]).exists():
            await asyncio.sleep(0)
        await tracking.restore(plane, ANN, wanted)
        count, freed = await going
        assert count == len(others) and freed > 0
        assert (plane.layout.run(wanted) / "artifacts" / "x").read_bytes() == b"x" * 50_000
        assert not (await tracking.get(plane, ANN, wanted)).run.deleted
        assert [path.name for path in plane.layout.runs.iterdir()] == [wanted]

    with_plane(work)


def test_what_a_killed_server_left_of_a_run_is_found_and_what_nobody_knows_waits_for_a_person(with_plane):
    """Fault: the server is killed after the row went, and while the directory is emptied."""

    async def work(plane):
        project = await project_of(plane)
        kept, unnamed, emptied = await begun(plane, project, 3)
        for run_id in (unnamed, emptied):
            await plane.points.release(plane.layout.run(run_id))
            await tracking.delete(plane, ANN, run_id)
            assert await plane.database.write(
                lambda connection, run_id=run_id: rows.erase(connection, run_id, 2**62)
            )
        trash = plane.layout.runs / f".trash-{emptied}"
        plane.layout.run(emptied).rename(trash)
        for path in (plane.layout.run(unnamed), plane.layout.run(kept), trash):
            os.utime(path, (0, 0))
        await plane.keeper._round(False)
        assert not trash.exists()
        assert plane.layout.run(unnamed).exists(), "it may be of a newer database than the one put back"
        told = item(await plane.keeper.collect(dry_run=True), "leftovers")
        assert told.count == 1 and unnamed in told.names[0]
        assert item(await plane.keeper.collect(), "leftovers").count == 1
        assert [path.name for path in plane.layout.runs.iterdir()] == [kept]

    with_plane(work)


def test_a_dry_run_tells_how_many_runs_would_go_and_df_what_that_frees(with_plane):
    async def work(plane):
        project = await project_of(plane)
        gone, kept = await begun(plane, project, 2)
        assert item(await plane.keeper.collect(dry_run=True), "runs").count == 0
        await tracking.delete(plane, ANN, gone)
        told = item(await plane.keeper.collect(dry_run=True), "runs")
        assert told.count == 1 and told.bytes == space_of(plane.layout.run(gone)).bytes
        assert (await usage.disk_use(plane, collectable=True)).collectable == told.bytes
        assert plane.layout.run(gone).exists()
        assert item(await plane.keeper.collect(), "runs").count == 1
        assert not plane.layout.run(gone).exists() and plane.layout.run(kept).exists()

    with_plane(work, garbage_grace_s=0.0)


def test_a_project_whose_runs_were_all_deleted_goes_and_takes_them_along(with_plane):
    async def work(plane):
        project = await project_of(plane)
        one, other = await begun(plane, project, 2)
        await tracking.delete(plane, ANN, one)
        with pytest.raises(Conflict, match="holds 1 run "):
            await projects.delete(plane, ANN, project.id, with_jobs=False)
        await tracking.delete(plane, ANN, other)
        await projects.delete(plane, ANN, project.id, with_jobs=False)
        await plane.reconciler._erase_projects()
        assert list(plane.layout.runs.iterdir()) == []
        with pytest.raises(NotFound):
            await tracking.get(plane, ANN, one)

    with_plane(work)


def test_metrics_and_runs_are_kinds_of_their_own_and_count_for_their_project(with_plane):
    async def work(plane):
        project = await project_of(plane)
        (run_id,) = await begun(plane, project)
        model = await logged_models.create(plane, ANN, project.id, "m", "", None, [], [])
        job, _ = await submit(plane, {"a": b"a"})
        attempt = plane.layout.attempt(job.id, 1)
        attempt.mkdir(parents=True)
        for name in ("metrics.sqlite", "metrics.sqlite-wal"):
            (attempt / name).write_bytes(b"m" * 100_000)
        plane.layout.run(model.id).mkdir(exist_ok=True)
        (plane.layout.run(model.id) / "weights").write_bytes(b"w" * 100_000)
        await plane.points.release(plane.layout.run(run_id))
        use = await usage.disk_use(plane, collectable=False)
        kinds = {each.kind: each for each in use.items}
        assert kinds["metrics"].files == 2 and kinds["metrics"].bytes >= 200_000
        ours = sum(space_of(plane.layout.run(each)).bytes for each in (run_id, model.id))
        assert kinds["runs"].bytes == ours > 150_000
        shares = {each.name: (each.jobs, each.bytes) for each in use.projects}
        assert shares["p"] == (1, ours + kinds["metrics"].bytes)

    with_plane(work)


def test_every_kind_of_df_is_explained():
    table = (_DOCS / "administration.md").read_text()
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    for kind in usage.KINDS:
        assert kind in _WORDS
        assert kind in first_cells.replace(",", "").split()


def test_the_doctor_looks_at_the_metrics_of_runs_and_names_runs_that_nobody_knows(data, with_plane):
    """Fault: a run's metrics are overwritten, and directories of an unknown run and model lie about."""

    async def work(plane):
        project = await project_of(plane)
        right, wrong = await begun(plane, project, 2)
        await submit(plane, {"a": b"a"})
        for run_id in (right, wrong):
            await plane.points.release(plane.layout.run(run_id))
        for path in plane.layout.run(wrong).glob("metrics.sqlite*"):
            path.write_bytes(b"x" * 5000)
        unknown = [plane.layout.runs / name for name in ("rn" + "0" * 12, "m-" + "0" * 12)]
        young = plane.layout.runs / ("rn" + "1" * 12)
        for path in (*unknown, young):
            path.mkdir()
        for path in (*unknown, plane.layout.run(right)):
            os.utime(path, (0, 0))
        known = doctor.Known(0, 0, "none", contained=False, gpus=())
        for full in (False, True):
            checks = doctor.examine(plane.layout, known, full=full).checks
            (files,) = [
                each.message for each in checks if each.name == "files" and "runs' metrics" in each.message
            ]
            assert "of 2 of 2 runs' metrics" in files and f"{wrong}: The metrics in" in files
            assert right not in files
            (left,) = [each.message for each in checks if each.name == "leftovers"]
            assert all(str(path) in left for path in unknown)
            assert right not in left and young.name not in left

    with_plane(work)
