"""How much of it there may be. Asset A5, the server's disk, memory and time: one person, or one job, must not
take them from the others by what they send to MLflow's face."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path

import msgspec
import pytest
from control.conftest import plane_at
from sqlalchemy import event, update
from sqlalchemy.engine import Engine

from gradient_jupyter.api.mlflow.metrics import Sample as Chosen
from gradient_jupyter.control.mlflow import (
    experiments,
    logged_models,
    run_files,
    run_removal,
    run_search,
    run_space,
    tracking,
)
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import Conflict, InvalidRequest, NoSpace, NotFound, TooLarge
from gradient_jupyter.resources.metric import Sample, Stored
from gradient_jupyter.resources.run_filter import parse, parse_orders
from gradient_jupyter.resources.tracking import Dataset, ModelLink
from gradient_jupyter.store import tables
from gradient_jupyter.store import tracking as run_rows
from gradient_jupyter.store.tracking_search import RUN_WORDS

sys.path.insert(0, str(Path(__file__).parents[1] / "control"))
from sending import ANN, submit


def with_plane(tmp_path, scene, **settings):
    async def main():
        async with plane_at(tmp_path / "data", **settings) as plane:
            plane.points.start()
            project = await experiments.create(plane, ANN, "mine", None, [])
            await scene(plane, project.id)

    asyncio.run(main())


async def begun(plane, project, who=ANN):
    said = await tracking.create(plane, who, project, None, "", None, [])
    return said.run.id


async def running(plane):
    """A job whose first attempt runs, and what its token makes of its bearer."""
    job, _ = await submit(plane, {})
    await become(plane, job.id, attempt=1, state="Running", phase="running")
    plane.layout.attempt(job.id, 1).mkdir(parents=True, exist_ok=True)
    return job.id, job.project_id, Principal(user_id=ANN.user_id, name=job.id, attempt=(job.id, 1))


async def become(plane, job_id, **values):
    await plane.database.write(
        lambda connection: connection.execute(
            update(tables.jobs).where(tables.jobs.c.id == job_id).values(**values)
        )
    )
    plane.changes.placed.pop(job_id, None)


async def upload(plane, project, run_id, name, data, who=ANN, declared=None):
    one = run_files.Upload(plane, who, f"{project}/{run_id}/artifacts/{name}", declared or len(data))
    try:
        await one.begin()
        await one.feed(data)
        await one.finish()
    finally:
        await one.discard()


# Filters and orders.


@pytest.mark.parametrize(
    "text",
    [
        "metrics.a > " + "1" * 41, "metrics.a > 1." + "1" * 41, "metrics.a > 1e" + "1" * 41,
        "metrics.a > ." + "1" * 41, "metrics.a > " + "1" * 8000 + "a", "metrics.a > " + "1." * 4000,
        "params.a = '" + "''" * 4000, "metrics.a >" + " " * 8000 + "`", "params.a = " + '"' * 8001,
        "params.`" + "a" * 8000, "a." * 4000, "params.a = '" + "x" * 8192 + "'",
        "params.a LIKE '" + "_" * 501 + "'", "params.a ILIKE '%a%b%c%d%'",
        " AND ".join(["metrics.a > 1"] * 101),
    ],
    ids=lambda text: f"{text[:16]}{len(text)}",
)  # fmt: skip
def test_a_filter_is_bounded_in_every_part(text):
    """An expression whose parts could share characters made a number of 20,000 digits take 20 seconds, during
    which nobody else was heard."""
    with pytest.raises(InvalidRequest):
        parse(text, RUN_WORDS)


def test_what_people_write_stays_readable():
    for text in ("1", "1.", "-1.5", ".5", "1e-9", "+2.5E+10", "1" * 40, f"0.{'3' * 40}"):
        (found,) = parse(f"metrics.a > {text}", RUN_WORDS)
        assert found.value == float(text)
    assert len(parse(" AND ".join(["metrics.a > 1"] * 100), RUN_WORDS)) == 100


def test_orders_are_bounded_and_what_is_named_again_is_one():
    assert len(parse_orders(["params.a DESC", "params.a", "params.b"], RUN_WORDS)) == 2
    parse_orders([f"params.p{n}" for n in range(100)], RUN_WORDS)
    with pytest.raises(InvalidRequest):
        parse_orders([f"params.p{n}" for n in range(101)], RUN_WORDS)


def test_searches_name_at_most_so_many_and_each_once(mine, job):
    made = mine("POST", "/experiments/create", name="bounded searches").json()["experiment_id"]
    run = mine("POST", "/runs/create", experiment_id=made).json()["run"]["info"]["run_id"]
    for order in (["metrics.a"] * 3000, [f"params.p{n}" for n in range(101)]):
        for path in ("/runs/search", "/experiments/search"):
            answer = mine("POST", path, experiment_ids=[made], order_by=order)
            assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        fields = [{"field_name": each} for each in order]
        answer = mine("POST", "/logged-models/search", experiment_ids=[made], order_by=fields)
        assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    all_of_them = [f"params.p{n} DESC" for n in range(100)]
    assert mine("POST", "/runs/search", experiment_ids=[made], order_by=all_of_them).status == 200
    for path in ("/runs/search", "/logged-models/search"):
        answer = mine("POST", path, experiment_ids=[f"pr{n}" for n in range(1001)])
        assert (answer.status, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    found = mine("POST", "/runs/search", experiment_ids=[made, *[f"pr{n}" for n in range(998)], made]).json()
    assert [each["info"]["run_id"] for each in found["runs"]] == [run]
    mine("POST", "/runs/log-metric", run_id=run, key="m", value=1, timestamp=1)
    bulk = "/metrics/get-history-bulk-interval?metric_key=m"
    found = mine("GET", bulk + f"&run_ids={run}" * 100).json()["metrics"]
    assert len(found) == 1, "a run that is named again is one run"
    assert mine("GET", bulk + "".join(f"&run_ids=rn{n}" for n in range(101))).status == 400


def test_a_search_in_many_experiments_asks_for_rights_once(tmp_path):
    async def scene(plane, project):
        run_id = await begun(plane, project)
        asked = []

        def count(connection, cursor, statement, *_):
            if "members" in statement:  # a connection's first use says more than what is asked here
                asked.append(statement)

        async def statements(ids):
            asked.clear()
            page = await run_search.search(plane, ANN, ids, [], [], False, 10, 0)
            assert [said.run.id for said, _ in page.runs] == [run_id]
            return len(asked)

        event.listen(Engine, "before_cursor_execute", count)
        try:
            one = await statements([project])
            assert one == await statements([project, *(f"pr{n}" for n in range(500))]) == 1
        finally:
            event.remove(Engine, "before_cursor_execute", count)

    with_plane(tmp_path, scene)


def test_of_a_long_series_a_sample_is_chosen_while_it_passes():
    for count, most in ((0, 5), (1, 5), (5, 5), (6, 5), (100_003, 10), (100_003, 1), (7, 2)):
        sample = Chosen(most)
        for n in range(count):
            sample.add(Stored(n, 0, 0.0))
            assert len(sample._kept) <= 4 * most
        steps = [each.step for each in sample.chosen()]
        assert len(steps) == min(count, most) and steps == sorted(set(steps))
        if count > 1 and most > 1:
            assert (steps[0], steps[-1]) == (0, count - 1)
            gaps = [b - a for a, b in itertools.pairwise(steps)]
            assert max(gaps) <= 2 * min(gaps) + 1, "evenly"
        elif count:
            assert steps == [count - 1]


# Rows.


def test_what_is_told_of_a_run_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "MOST_INPUTS", 3)
    monkeypatch.setattr(tracking, "MOST_LINKS", 3)

    def dataset(n, **fields):
        return Dataset(**{"name": f"d{n}", "digest": "x", "source_type": "http", "source": "", **fields})

    async def scene(plane, project):
        run_id = await begun(plane, project)
        three = [dataset(n) for n in range(3)]
        for _ in range(2):  # the same again is no more
            await tracking.log_inputs(plane, ANN, run_id, three, [])
        links = [ModelLink(model_id=f"m{n}", direction="in") for n in range(4)]
        refused = [
            ([dataset(4)], []), ([], links), ([dataset(0, source="x" * 65_537)], []),
            ([dataset(0, schema="x" * 65_537)], []), ([dataset(0, profile="x" * 65_537)], []),
            ([dataset(0, source_type="x" * 251)], []), ([dataset(0, tags=(("x" * 251, ""),))], []),
            ([dataset(0, tags=(("x", "y" * 8001),))], []),
            ([], [ModelLink(model_id="m" * 251, direction="in")]),
        ]  # fmt: skip
        monkeypatch.setattr(tracking, "MOST_DESCRIPTIONS", 100_000)
        refused.append(([dataset(0, source="x" * 65_000, schema="x" * 65_000)], []))
        for datasets, models in refused:
            with pytest.raises(InvalidRequest):
                await tracking.log_inputs(plane, ANN, run_id, datasets, models)
        said = await tracking.get(plane, ANN, run_id)
        assert len(said.logged.inputs) == 3 and not said.logged.models
        await tracking.log(plane, ANN, run_id, tags=[("mlflow.log-model.history", "no list")])
        with pytest.raises(InvalidRequest):
            await tracking.note_model(plane, ANN, run_id, "{}")

    with_plane(tmp_path, scene)


def test_a_project_has_at_most_so_many_tags_and_models(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "MOST_TAGS", 2)
    monkeypatch.setattr(logged_models, "MOST_MODELS", 2)

    async def scene(plane, project):
        for n in range(2):
            await experiments.set_tag(plane, ANN, project, f"t{n}", "1")
            await logged_models.create(plane, ANN, project, "m", "", None, [], [])
        await experiments.set_tag(plane, ANN, project, "t0", "2")
        with pytest.raises(InvalidRequest):
            await experiments.set_tag(plane, ANN, project, "t2", "1")
        with pytest.raises(InvalidRequest):
            await logged_models.create(plane, ANN, project, "m", "", None, [], [])
        assert len(os.listdir(plane.layout.runs)) == 2, "a refused model has left no directory"

    with_plane(tmp_path, scene)


def test_nothing_is_stored_into_what_the_server_keeps_free(tmp_path):
    async def scene(plane, project):
        run_id = await begun(plane, project)
        model = await logged_models.create(plane, ANN, project, "m", "", None, [], [])
        plane.settings = msgspec.structs.replace(plane.settings, reserve_bytes=1 << 60)
        for call in (
            lambda: tracking.log(plane, ANN, run_id, params=[("p", "1")]),
            lambda: tracking.log(plane, ANN, run_id, tags=[("t", "1")]),
            lambda: tracking.log_inputs(plane, ANN, run_id, [], []),
            lambda: tracking.note_model(plane, ANN, run_id, "{}"),
            lambda: experiments.create(plane, ANN, "more", None, []),
            lambda: experiments.set_tag(plane, ANN, project, "t", "1"),
            lambda: logged_models.create(plane, ANN, project, "m", "", None, [], []),
            lambda: logged_models.set_tags(plane, ANN, model.id, [("t", "1")]),
            lambda: logged_models.add_params(plane, ANN, model.id, [("t", "1")]),
        ):
            with pytest.raises(NoSpace):
                await call()
        await tracking.delete(plane, ANN, run_id)  # what frees something always goes
        await logged_models.erase(plane, ANN, model.id)

    with_plane(tmp_path, scene)


# Artifacts.


def test_a_run_leaves_at_most_as_much_as_a_job_may(tmp_path):
    async def scene(plane, project):
        run_id = await begun(plane, project)
        await upload(plane, project, run_id, "a", b"x" * 600)
        with pytest.raises(TooLarge):
            await upload(plane, project, run_id, "b", b"x" * 500)
        with pytest.raises(TooLarge):  # one that says less than it sends
            await upload(plane, project, run_id, "b", b"x" * 500, declared=1)
        await upload(plane, project, run_id, "a", b"x" * 300)  # in place of the larger one
        await upload(plane, project, run_id, "b", b"x" * 500)
        await upload(plane, project, run_id, "c", b"")
        with pytest.raises(TooLarge) as refused:
            await upload(plane, project, run_id, "d", b"")
        assert refused.value.code == "too-many-artifacts"
        place = await run_files.place_of_run(plane, ANN, run_id, "a")
        await run_files.delete(plane, ANN, place)
        await upload(plane, project, run_id, "d", b"x" * 500)
        assert run_space.used([plane.layout.run(run_id)]) == (3, 1000)
        await upload(
            plane, project, await begun(plane, project), "a", b"x" * 1000
        )  # another run's is its own

    with_plane(tmp_path, scene, max_artifact_bytes=1000, max_artifacts=3)


def test_what_lay_there_before_the_server_started_counts(tmp_path):
    async def scene(plane, project):
        run_id = await begun(plane, project)
        there = plane.layout.run(run_id) / "artifacts/deep"
        there.mkdir(parents=True)
        (there / "old").write_bytes(b"x" * 600)
        with pytest.raises(TooLarge):
            await upload(plane, project, run_id, "new", b"x" * 500)

    with_plane(tmp_path, scene, max_artifact_bytes=1000)


def test_uploads_at_once_do_not_both_take_the_room_that_is_left(tmp_path):
    async def scene(plane, project):
        run_id = await begun(plane, project)
        done = await asyncio.gather(
            *(upload(plane, project, run_id, f"f{n}", b"x" * 400) for n in range(8)), return_exceptions=True
        )
        assert done.count(None) == 2 and sum(isinstance(each, TooLarge) for each in done) == 6, done
        assert run_space.used([plane.layout.run(run_id)]) == (2, 800)
        await upload(plane, project, run_id, "rest", b"x" * 200)  # what was refused has taken no room

    with_plane(tmp_path, scene, max_artifact_bytes=1000)


def test_all_runs_that_one_job_begins_share_its_room(tmp_path):
    async def scene(plane, _):
        _, project, who = await running(plane)
        first, second = await begun(plane, "", who), await begun(plane, "", who)
        await upload(plane, project, first, "a", b"x" * 600, who)
        with pytest.raises(TooLarge):
            await upload(plane, project, second, "a", b"x" * 500, who)
        await upload(plane, project, second, "a", b"x" * 400, who)

    with_plane(tmp_path, scene, max_artifact_bytes=1000)


# Late.


def test_what_comes_after_the_attempt_is_over_is_not_stored(tmp_path):
    """P2. The request began while the attempt counted; its body came when another one did."""

    async def scene(plane, _):
        job_id, project, who = await running(plane)
        child = await begun(plane, "", who)
        uploads = []
        for run_id in (job_id, child):
            one = run_files.Upload(plane, who, f"{project}/{run_id}/artifacts/late", 4)
            plane.layout.attempt(job_id, 1).joinpath("artifacts").mkdir(exist_ok=True)
            await one.begin()
            await one.feed(b"late")
            uploads.append(one)
            await tracking.log(plane, who, run_id, [Sample("m", 1.0, 0, 1)])
        await become(plane, job_id, attempt=2)
        for run_id, one in zip((job_id, child), uploads, strict=True):
            with pytest.raises(Conflict):
                await tracking.log(plane, who, run_id, [Sample("m", 2.0, 1, 2)])
            with pytest.raises(Conflict):
                await one.finish()
            await one.discard()
        for directory in (plane.layout.attempt(job_id, 1), plane.layout.run(child)):
            (found,) = await plane.points.summaries(directory)
            assert found.count == 1
            assert not (directory / "artifacts/late").exists()

    with_plane(tmp_path, scene)


def test_an_upload_to_a_run_that_is_deleted_meanwhile_is_refused(tmp_path):
    async def scene(plane, project):
        run_id = await begun(plane, project)
        one = run_files.Upload(plane, ANN, f"{project}/{run_id}/artifacts/late", 4)
        await one.begin()
        await one.feed(b"late")
        await tracking.delete(plane, ANN, run_id)
        with pytest.raises(InvalidRequest):
            await one.finish()
        await one.discard()
        assert run_space.used([plane.layout.run(run_id)]) == (0, 0)

    with_plane(tmp_path, scene)


# What goes.


def test_a_deleted_run_is_freed_after_its_grace_and_no_sooner(tmp_path):
    async def scene(plane, project):
        gone, kept = await begun(plane, project), await begun(plane, project)
        for run_id in (gone, kept):
            await upload(plane, project, run_id, "a/b", b"x" * 500)
            await tracking.log(plane, ANN, run_id, [Sample("m", 1.0, 0, 1)], [("p", "1")])
        await tracking.delete(plane, ANN, gone)
        assert (await run_removal.purge(plane, 3600))[0] == 0
        assert plane.layout.run(gone).exists()
        await tracking.restore(plane, ANN, gone)
        assert (await run_removal.purge(plane, -1))[0] == 0, "it was taken back"
        await tracking.delete(plane, ANN, gone)
        count, freed = await run_removal.purge(plane, -1)
        assert count == 1 and freed >= 500
        assert os.listdir(plane.layout.runs) == [kept]
        with pytest.raises(NotFound):
            await tracking.get(plane, ANN, gone)
        rows = await plane.database.read(
            lambda connection: connection.exec_driver_sql("SELECT run_id FROM run_params").fetchall()
        )
        assert rows == [(kept,)]
        await upload(plane, project, kept, "c", b"y")
        assert (await run_removal.purge(plane, -1)) == (0, 0)

    with_plane(tmp_path, scene)


def test_a_purge_that_was_cut_between_files_and_row_goes_on(tmp_path):
    async def scene(plane, project):
        run_id = await begun(plane, project)
        await tracking.delete(plane, ANN, run_id)
        await run_removal.clear(plane, [run_id])
        assert (await run_removal.purge(plane, -1))[0] == 1
        assert run_id not in await plane.database.read(run_rows.all_directories)

    with_plane(tmp_path, scene)


def test_directories_of_no_run_are_swept_once_they_are_old_and_nothing_else_is(tmp_path):
    async def scene(plane, project):
        known = await begun(plane, project)
        model = (await logged_models.create(plane, ANN, project, "m", "", None, [], [])).id
        lost, fresh, foreign = "rn000000000000", "rn000000000001", "notes of mine"
        for name in (lost, fresh, foreign):
            (plane.layout.runs / name).mkdir()
            (plane.layout.runs / name / "file").write_bytes(b"x" * 100)
        for name in (lost, known, model, foreign):
            os.utime(plane.layout.runs / name, (1, 1))
        found = await run_removal.leftovers(plane, now_us() / 1e6)
        assert [each.path.name for each in found] == [lost]
        await plane.keeper.collect()
        assert sorted(os.listdir(plane.layout.runs)) == sorted([known, model, fresh, foreign])

    with_plane(tmp_path, scene)
