"""Who reaches which run. Assets A7 (a job's results) and A2 (other people's projects): a running job's token
opens its own run and those begun in it, a person's what their role in the project allows. Everything else
does not exist for them."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from control.conftest import plane_at

from gradient_jupyter.control.mlflow import experiments, logged_models, run_files, tracking
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.errors import Forbidden, NotFound
from gradient_jupyter.resources.metric import Sample
from gradient_jupyter.resources.owner import Role


def code(answer):
    return answer.status, answer.json()["error_code"]


NOT_THERE = (404, "RESOURCE_DOES_NOT_EXIST")


def every_call(run_id, project):
    """Every route that names a run, with a body that would do."""
    files = f"/mlflow-artifacts/artifacts/{project}/{run_id}/artifacts"
    yield "GET", f"/mlflow/runs/get?run_id={run_id}", None
    yield "GET", f"/mlflow/metrics/get-history?run_id={run_id}&metric_key=m", None
    yield "GET", f"/mlflow/metrics/get-history-bulk-interval?run_ids={run_id}&metric_key=m", None
    yield "GET", f"/mlflow/artifacts/list?run_id={run_id}", None
    yield "GET", f"/mlflow-artifacts/artifacts?path={project}/{run_id}/artifacts", None
    yield "GET", f"{files}/x", None
    yield "PUT", f"{files}/x", None
    yield "DELETE", f"{files}/x", None
    for path, body in (
        ("update", {"status": "FAILED"}),
        ("delete", {}),
        ("restore", {}),
        ("log-metric", {"key": "m", "value": 1, "timestamp": 1}),
        ("log-parameter", {"key": "p", "value": "1"}),
        ("log-batch", {"metrics": [{"key": "m", "value": 1, "timestamp": 1}]}),
        ("log-batch", {"tags": [{"key": "t", "value": "1"}]}),
        ("log-batch", {}),
        ("set-tag", {"key": "t", "value": "1"}),
        ("delete-tag", {"key": "t"}),
        ("log-inputs", {"models": [{"model_id": "m"}]}),
        ("outputs", {"models": [{"model_id": "m"}]}),
        ("log-model", {"model_json": "{}"}),
    ):
        yield "POST", f"/mlflow/runs/{path}", {"run_id": run_id, **body}
    if run_id:  # without one it is the job's own
        yield "POST", "/mlflow/logged-models", {"source_run_id": run_id, "name": "m"}


def test_a_jobs_token_reaches_no_other_run(solo, begin, mine):
    mine_job, other = begin(), begin()
    child = other.post("/runs/create", experiment_id=other.project).json()["run"]["info"]["run_id"]
    alone = mine("POST", "/runs/create", experiment_id=other.project).json()["run"]["info"]["run_id"]
    model = other.post("/logged-models", name="m").json()["model"]["info"]["model_id"]
    for run_id in (other.id, child, alone, "rn000000000000", "j000000000000", "x" * 300, "../x", ""):
        for method, path, body in every_call(run_id, other.project):
            answer = mine_job.call(method, path, body)
            assert answer.status in (400, 404) and answer.json()["error_code"] != "INTERNAL_ERROR"
            if run_id in (other.id, child, alone):
                assert code(answer) == NOT_THERE, (method, path, answer.data)
    for method, path, body in (
        ("GET", f"/mlflow/logged-models/{model}", None),
        ("PATCH", f"/mlflow/logged-models/{model}", {"status": "LOGGED_MODEL_READY"}),
        ("DELETE", f"/mlflow/logged-models/{model}", None),
        ("PATCH", f"/mlflow/logged-models/{model}/tags", {"tags": [{"key": "a", "value": "1"}]}),
        ("DELETE", f"/mlflow/logged-models/{model}/tags/a", None),
        ("POST", f"/mlflow/logged-models/{model}/params", {"params": []}),
        ("GET", f"/mlflow/logged-models/{model}/artifacts/directories", None),
        ("GET", f"/mlflow-artifacts/artifacts?path={other.project}/models/{model}/artifacts", None),
    ):
        assert code(mine_job.call(method, path, body)) == NOT_THERE, path
    found = mine_job.post("/runs/search", experiment_ids=[mine_job.project, other.project]).json()["runs"]
    assert [each["info"]["run_id"] for each in found] == [mine_job.id]
    assert mine_job.post("/logged-models/search", experiment_ids=[other.project]).json() == {}
    data = mine("GET", f"/runs/get?run_id={other.id}").json()["run"]["data"]
    assert data == {}, "nothing of it arrived"


def test_a_job_sees_its_own_project_alone_and_changes_none(solo, begin):
    job = begin(project="mine alone")
    foreign = solo.job("true", project="not its own")["project_id"]
    own = job.call("GET", f"/mlflow/experiments/get?experiment_id={job.project}").json()["experiment"]
    assert own["name"] == "mine alone"
    assert code(job.call("GET", f"/mlflow/experiments/get?experiment_id={foreign}")) == NOT_THERE
    # Whatever its script calls the experiment: by its name nothing is told of another project.
    for name in ("not its own", "nobody's", "x" * 300):
        found = job.call("GET", f"/mlflow/experiments/get-by-name?experiment_name={quote(name)}").json()
        assert found["experiment"] == own
        assert job.post("/experiments/create", name=name).json() == {"experiment_id": job.project}
    projects = solo.request("GET", "/projects").json()["items"]
    assert "nobody's" not in [each["name"] for each in projects]
    listed = job.post("/experiments/search", filter="name LIKE '%'").json()["experiments"]
    assert [each["experiment_id"] for each in listed] == [job.project]
    for path, body in (
        ("update", {"experiment_id": job.project, "new_name": "x"}),
        ("delete", {"experiment_id": job.project}),
        ("set-experiment-tag", {"experiment_id": job.project, "key": "a", "value": "1"}),
        ("delete-experiment-tag", {"experiment_id": job.project, "key": "a"}),
    ):
        answer = job.post(f"/experiments/{path}", **body)
        assert code(answer) == (403, "PERMISSION_DENIED") and "mine alone" in answer.json()["message"]
    assert code(job.post("/runs/create", experiment_id=foreign)) == NOT_THERE


def test_the_token_of_an_attempt_that_is_over_opens_nothing(solo, job):
    """P2: fenced, in MLflow's shape, for reading as for writing."""
    child = job.post("/runs/create", experiment_id=job.project).json()["run"]["info"]["run_id"]
    solo.request("POST", f"/jobs/{job.id}/stop")
    solo.finished(job.id)
    for run_id in (job.id, child):
        for method, path, body in every_call(run_id, job.project):
            answer = job.call(method, path, body)
            assert (answer.status, answer.json()["code"]) == (409, "attempt-fenced"), (method, path)


def test_an_attempts_token_opens_nothing_of_our_own_face_besides_its_job(solo, job):
    for path in ("/jobs", "/projects", f"/projects/{job.project}", f"/jobs/{job.id}/artifacts"):
        assert solo.request("GET", path, token=job.token).status == 403


ANN, BEN, CAT = (Principal(user_id=f"u{name}", name=name) for name in ("ann", "ben", "cat"))


def test_a_person_may_do_what_their_role_in_the_project_allows(tmp_path):
    """Ann owns it, Ben views it, Cat is a stranger: also to the person who knows every id."""

    async def main():
        async with plane_at(tmp_path / "data") as plane:
            plane.points.start()
            project = await experiments.create(plane, ANN, "ann's", None, [])
            said = await tracking.create(plane, ANN, project.id, None, "", None, [])
            run_id = said.run.id
            model = await logged_models.create(plane, ANN, project.id, "m", "", run_id, [], [])
            loose = await logged_models.create(plane, ANN, project.id, "m", "", None, [], [])
            path = f"{project.id}/{run_id}/artifacts/x"

            def share(connection):
                connection.exec_driver_sql(
                    "INSERT INTO members VALUES (?, ?, 'viewer')", (project.id, BEN.owner)
                )

            await plane.database.write(share)
            reads = [
                lambda who: tracking.get(plane, who, run_id),
                lambda who: experiments.get(plane, who, project.id),
                lambda who: experiments.by_name(plane, who, "ann's"),
                lambda who: logged_models.get(plane, who, model.id),
                lambda who: logged_models.get(plane, who, loose.id),
                lambda who: run_files.place_of(plane, who, path, Role.VIEWER),
            ]
            writes = [
                lambda who: tracking.log(plane, who, run_id, [Sample("m", 1.0, 0, 1)]),
                lambda who: tracking.log(plane, who, run_id, params=[("p", "1")]),
                lambda who: tracking.log(plane, who, run_id, tags=[("t", "1")]),
                lambda who: tracking.create(plane, who, project.id, None, "", None, []),
                lambda who: tracking.update(plane, who, run_id, None, None, "x"),
                lambda who: tracking.delete(plane, who, run_id),
                lambda who: tracking.log_inputs(plane, who, run_id, [], []),
                lambda who: tracking.note_model(plane, who, run_id, "{}"),
                lambda who: experiments.set_tag(plane, who, project.id, "a", "1"),
                lambda who: experiments.rename(plane, who, project.id, "other"),
                lambda who: experiments.delete(plane, who, project.id),
                lambda who: logged_models.create(plane, who, project.id, "m", "", run_id, [], []),
                lambda who: logged_models.create(plane, who, project.id, "m", "", None, [], []),
                lambda who: logged_models.finalize(plane, who, model.id, "LOGGED_MODEL_READY"),
                lambda who: logged_models.finalize(plane, who, loose.id, "LOGGED_MODEL_READY"),
                lambda who: logged_models.check_may_change(plane, who, model.id),
                lambda who: run_files.place_of(plane, who, path, Role.MEMBER),
            ]
            for call in reads:
                await call(ANN)
                await call(BEN)
                with pytest.raises(NotFound):
                    await call(CAT)
            for call in writes:
                with pytest.raises(Forbidden):
                    await call(BEN)
                with pytest.raises(NotFound):
                    await call(CAT)
            from gradient_jupyter.control.mlflow import run_search

            for who, seen in ((ANN, 1), (BEN, 1), (CAT, 0)):
                page = await run_search.search(plane, who, [project.id], [], [], False, 10, 0)
                assert len(page.runs) == seen
                found = await experiments.search(plane, who, [], [], False, 10, 0)
                assert [each.id for each in found] == [project.id] * seen
                assert len(await logged_models.search(plane, who, [project.id], [], [])) == 2 * seen
            # What was refused has left nothing, also not on the disk.
            assert sorted(path.name for path in (tmp_path / "data/runs").iterdir()) == sorted(
                [run_id, loose.id]
            )
            await tracking.delete(plane, ANN, run_id)
            with pytest.raises(Forbidden):
                await tracking.restore(plane, BEN, run_id)

    import asyncio

    asyncio.run(main())


def test_the_answer_for_foreign_and_for_absent_is_the_same(begin, mine):
    job, other = begin(), begin()
    answers = [
        job.call("GET", f"/mlflow/runs/get?run_id={run_id}").data.replace(run_id.encode(), b"ID")
        for run_id in (other.id, "j000000000000")
    ]
    assert answers[0] == answers[1], json.loads(answers[0])
