"""MLflow's HTTP as its clients see it, spoken by hand: what is taken, what is refused, and in which words."""

from __future__ import annotations

import json
import random
import sys

import pytest

DATASET = {"name": "iris", "digest": "abc", "source_type": "http", "source": "{}", "schema": "{}"}

#: Says of its own run what it can, and fails the first time.
TRIED_AGAIN = """
import json, os, sys, urllib.request as r

def post(path, **body):
    headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]}
    data = json.dumps({"run_id": os.environ["MLFLOW_RUN_ID"], **body}).encode()
    address = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow" + path
    return json.load(r.urlopen(r.Request(address, data, headers)))

attempt = os.environ["GRADIENT_ATTEMPT"]
post("/runs/log-parameter", key="seed", value=attempt)
post("/runs/log-metric", key="m", value=int(attempt), timestamp=1)
if attempt == "1":
    post("/runs/set-tag", key="only", value="first")
sys.exit(0 if attempt == "2" else 7)
"""


def refused(answer, status, error_code, *words):
    body = answer.json()
    assert (answer.status, body["error_code"]) == (status, error_code), answer.data
    for word in words:
        assert word in body["message"]
    return body


def run_of(job):
    return job.call("GET", f"/mlflow/runs/get?run_id={job.id}").json()["run"]


def pairs(found):
    return {each["key"]: each["value"] for each in found}


def test_a_job_finds_its_own_run_in_its_environment(solo, job):
    assert job.env["MLFLOW_TRACKING_URI"] == f"{solo.runtime.url}/mlflow" == job.env["MLFLOW_REGISTRY_URI"]
    assert job.env["MLFLOW_RUN_ID"] == job.id and job.env["MLFLOW_EXPERIMENT_ID"] == job.project
    assert job.env["MLFLOW_TRACKING_TOKEN"] == job.env["GRADIENT_JOB_TOKEN"]
    assert job.env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    info = run_of(job)["info"]
    assert (info["run_id"], info["experiment_id"], info["status"]) == (job.id, job.project, "RUNNING")


def test_what_the_user_set_wins_and_a_foreign_server_never_gets_our_token(solo, begin):
    """Asset A7, an attempt's token: the client would send it to whatever MLFLOW_TRACKING_URI names."""
    chosen = begin(env={"MLFLOW_EXPERIMENT_ID": "17"})
    assert chosen.env["MLFLOW_EXPERIMENT_ID"] == "17" and chosen.env["MLFLOW_RUN_ID"] == chosen.id
    foreign = begin(env={"MLFLOW_TRACKING_URI": "https://mlflow.example.org"})
    assert [name for name in foreign.env if name.startswith("MLFLOW_")] == ["MLFLOW_TRACKING_URI"]
    # Also where the address is a secret.
    kept = {"value": "https://mlflow.example.org"}
    assert solo.request("PUT", "/secrets/user/mlflow-address", json_body=kept).status == 200
    secret = begin(env={"MLFLOW_TRACKING_URI": "secret:mlflow-address"})
    assert [name for name in secret.env if name.startswith("MLFLOW_")] == ["MLFLOW_TRACKING_URI"]
    own = begin(env={"MLFLOW_TRACKING_TOKEN": "secret:mlflow-address"})
    assert own.env["MLFLOW_TRACKING_TOKEN"] != own.env["GRADIENT_JOB_TOKEN"]


def test_both_prefixes_of_mlflow_are_answered(solo, job):
    for prefix in ("/mlflow/api/2.0", "/mlflow/ajax-api/2.0"):
        answer = solo.request("GET", f"{prefix}/mlflow/runs/get?run_uuid={job.id}", token=job.token)
        assert answer.json()["run"]["info"]["run_id"] == job.id


@pytest.mark.parametrize(
    ("path", "error_code", "sentence"),
    [
        ("/api/2.0/mlflow/nothing", "ENDPOINT_NOT_FOUND", "docs/mlflow.md"),
        ("/api/2.0/mlflow/registered-models/create", "FEATURE_DISABLED", "registry"),
        ("/api/2.0/mlflow/model-versions/search", "FEATURE_DISABLED", "registry"),
        ("/api/3.0/mlflow/traces", "FEATURE_DISABLED", "Traces"),
        ("/anything/else", "ENDPOINT_NOT_FOUND", "tracking API"),
    ],
)
def test_what_is_not_there_is_refused_in_mlflows_words(solo, job, path, error_code, sentence):
    for token in ("ours", job.token):
        refused(solo.request("POST", f"/mlflow{path}", json_body={}, token=token), 404, error_code, sentence)


def test_without_a_token_even_that_is_not_told(solo):
    answer = solo.request("POST", "/mlflow/api/2.0/mlflow/nothing", token=None)
    refused(answer, 401, "UNAUTHENTICATED")


def test_numbers_may_come_as_strings_and_unknown_fields_are_ignored(job):
    answer = job.post(
        "/runs/log-metric", run_id=job.id, key="a", value="0.5", timestamp="1700000000000", step="3",
        unheard_of={"x": 1}, model_id=None,
    )  # fmt: skip
    assert (answer.status, answer.json()) == (200, {})
    (metric,) = run_of(job)["data"]["metrics"]
    assert metric == {"key": "a", "value": 0.5, "timestamp": 1700000000000, "step": 3}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_json_has_no_number_for_comes_back_as_it_was_sent(job, value):
    assert job.post("/runs/log-metric", run_id=job.id, key="odd", value=value, timestamp=1).status == 200
    assert run_of(job)["data"]["metrics"][0]["value"] == value
    history = job.call("GET", f"/mlflow/metrics/get-history?run_id={job.id}&metric_key=odd").json()
    assert [point["value"] for point in history["metrics"]] == [value]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/runs/log-metric", {"value": 1, "timestamp": 1}),
        ("/runs/log-metric", {"key": "a", "timestamp": 1}),
        ("/runs/log-metric", {"key": "a", "value": "much", "timestamp": 1}),
        ("/runs/log-metric", {"key": "a", "value": 1, "timestamp": -1}),
        ("/runs/log-metric", {"key": "a", "value": 1, "timestamp": 2**63 - 1}),
        ("/runs/log-metric", {"key": "a", "value": 1, "timestamp": 1, "step": 2**63}),
        ("/runs/log-metric", {"key": "", "value": 1, "timestamp": 1}),
        ("/runs/log-metric", {"key": "a" * 251, "value": 1, "timestamp": 1}),
        ("/runs/log-metric", {"key": "../a", "value": 1, "timestamp": 1}),
        ("/runs/log-metric", {"key": "a//b", "value": 1, "timestamp": 1}),
        ("/runs/log-metric", {"key": "/a", "value": 1, "timestamp": 1}),
        ("/runs/log-metric", {"key": "a\x00", "value": 1, "timestamp": 1}),
        ("/runs/log-parameter", {"key": "p", "value": "x" * 6001}),
        ("/runs/set-tag", {"key": "t", "value": "x" * 8001}),
        ("/runs/log-batch", {"metrics": [{"key": "m", "value": 1, "timestamp": 1}] * 1001}),
        ("/runs/log-batch", {"params": [{"key": f"p{n}", "value": "1"} for n in range(101)]}),
        ("/runs/log-batch", {"tags": [{"key": f"t{n}", "value": "1"} for n in range(101)]}),
        ("/runs/log-batch", {"params": [{"key": "p", "value": "1"}, {"key": "p", "value": "2"}]}),
        ("/runs/log-batch", {"metrics": "none"}),
        ("/runs/log-inputs", {"datasets": [{"dataset": {**DATASET, "name": ""}}]}),
        ("/runs/log-inputs", {"datasets": [{"dataset": {**DATASET, "digest": "d" * 37}}]}),
        ("/runs/log-model", {"model_json": "{"}),
        ("/runs/log-model", {"model_json": "[1]"}),
        ("/runs/search", {"filter": "metrics.a >"}),
        ("/runs/search", {"filter": "1 = 1"}),
        ("/runs/search", {"filter": "params.a > 'b'"}),
        ("/runs/search", {"filter": "attributes.secret = 'b'"}),
        ("/runs/search", {"order_by": ["metrics.a SIDEWAYS"]}),
        ("/runs/search", {"max_results": 0}),
        ("/runs/search", {"max_results": 50001}),
        ("/runs/search", {"page_token": "x"}),
        ("/runs/search", {"run_view_type": "SOME"}),
        ("/runs/update", {"status": "DREAMING"}),
        ("/runs/update", {"status": 9}),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_and_changes_nothing(job, path, body):
    refused(job.post(path, **{"run_id": job.id, **body}), 400, "INVALID_PARAMETER_VALUE")
    data = run_of(job).get("data", {})
    assert not data.get("metrics") and not data.get("params") and not data.get("tags")


def test_more_than_a_megabyte_at_once_is_refused(job):
    many = [{"key": f"p{n}", "value": "x" * 6000} for n in range(100)]
    answer = job.post(
        "/runs/log-batch", run_id=job.id, params=many, tags=[{"key": "t", "value": "x" * 500_000}]
    )
    refused(answer, 413, "RESOURCE_LIMIT_EXCEEDED")


def test_a_parameter_stays_what_it_was(job):
    first = [{"key": "lr", "value": "0.1"}, {"key": "b", "value": "1"}]
    for _ in range(2):  # the same once more is no change (mlflow#24577)
        assert job.post("/runs/log-batch", run_id=job.id, params=first).status == 200
    other = [{"key": "new", "value": "1"}, {"key": "lr", "value": "0.2"}]
    for path, body in (
        ("/runs/log-batch", {"params": other, "tags": [{"key": "t", "value": "1"}]}),
        ("/runs/log-parameter", {"key": "lr", "value": "0.2"}),
    ):
        answer = job.post(path, run_id=job.id, **body)
        refused(answer, 400, "INVALID_PARAMETER_VALUE", "lr", "0.1", "0.2")
    data = run_of(job)["data"]
    assert pairs(data["params"]) == {"lr": "0.1", "b": "1"} and "tags" not in data


def test_a_batch_that_is_sent_again_changes_nothing(job):
    """mlflow#24577: a client that is not sure sends once more."""
    points = [{"key": "m", "value": n / 3, "timestamp": n, "step": n} for n in range(1000)]
    random.Random(1).shuffle(points)
    for _ in range(3):
        assert job.post("/runs/log-batch", run_id=job.id, metrics=points).status == 200
    seen, token = [], ""
    while True:
        page = job.call(
            "GET",
            f"/mlflow/metrics/get-history?run_id={job.id}&metric_key=m&max_results=333&page_token={token}",
        ).json()
        seen += [(each["step"], each["value"]) for each in page["metrics"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert seen == [(n, n / 3) for n in range(1000)]


def test_a_metric_nobody_has_logged_has_no_history(job):
    assert job.call("GET", f"/mlflow/metrics/get-history?run_id={job.id}&metric_key=x").json() == {}


def test_several_runs_are_compared_by_a_sample(job):
    made = job.post("/runs/create", experiment_id=job.project).json()["run"]["info"]["run_id"]
    for run_id in (job.id, made):
        points = [{"key": "m", "value": n, "timestamp": n, "step": n} for n in range(500)]
        job.post("/runs/log-batch", run_id=run_id, metrics=points)
    found = job.call(
        "GET",
        f"/mlflow/metrics/get-history-bulk-interval?run_ids={job.id}&run_ids={made}&metric_key=m"
        "&start_step=100&end_step=399&max_results=10",
    ).json()["metrics"]
    for run_id in (job.id, made):
        steps = [each["step"] for each in found if each["run_id"] == run_id]
        assert len(steps) == 10 and steps[0] == 100 and steps[-1] == 399 and steps == sorted(steps)


def test_tags_change_and_go(job):
    job.post("/runs/set-tag", run_id=job.id, key="a", value="1")
    job.post("/runs/set-tag", run_id=job.id, key="a", value="2")
    job.post("/runs/set-tag", run_id=job.id, key="mlflow.runName", value="my best")
    run = run_of(job)
    assert pairs(run["data"]["tags"]) == {"a": "2", "mlflow.runName": "my best"}
    assert run["info"]["run_name"] == "my best"
    assert job.post("/runs/delete-tag", run_id=job.id, key="a").status == 200
    refused(job.post("/runs/delete-tag", run_id=job.id, key="a"), 404, "RESOURCE_DOES_NOT_EXIST")


def test_a_name_that_nobody_can_see_leaves_the_one_it_had(job):
    job.post("/runs/update", run_id=job.id, run_name="seen")
    for name in (" ", "\u200b\x07"):
        job.post("/runs/update", run_id=job.id, run_name=name)
        job.post("/runs/set-tag", run_id=job.id, key="mlflow.runName", value=name)
        assert run_of(job)["info"]["run_name"] == "seen"


def test_what_a_run_has_read_and_made_is_told(job):
    given = [{"dataset": DATASET, "tags": [{"key": "mlflow.data.context", "value": "training"}]}]
    for _ in range(2):
        job.post("/runs/log-inputs", run_id=job.id, datasets=given, models=[{"model_id": "m-in"}])
    job.post("/runs/outputs", run_id=job.id, models=[{"model_id": "m-out", "step": 3}])
    job.post("/runs/log-model", run_id=job.id, model_json=json.dumps({"artifact_path": "model"}))
    run = run_of(job)
    assert run["inputs"] == {"dataset_inputs": given, "model_inputs": [{"model_id": "m-in"}]}
    assert run["outputs"] == {"model_outputs": [{"model_id": "m-out", "step": 3}]}
    assert json.loads(pairs(run["data"]["tags"])["mlflow.log-model.history"]) == [{"artifact_path": "model"}]
    for text in ("datasets.name = 'iris'", "datasets.context IN ('training')", "dataset.digest LIKE 'a%'"):
        found = job.post("/runs/search", experiment_ids=[job.project], filter=text).json()
        assert [each["info"]["run_id"] for each in found["runs"]] == [job.id], text


def test_a_jobs_status_is_the_jobs_whatever_its_client_says(solo, job, mine):
    answer = job.post("/runs/update", run_id=job.id, status="FINISHED", end_time=1, run_name="renamed").json()
    assert (answer["run_info"]["status"], answer["run_info"]["run_name"]) == ("RUNNING", "renamed")
    solo.request("POST", f"/jobs/{job.id}/stop")
    solo.finished(job.id)
    assert mine("GET", f"/runs/get?run_id={job.id}").json()["run"]["info"]["status"] == "KILLED"


def test_a_run_that_its_attempt_did_not_end_is_killed_with_it(solo, job, mine):
    made = job.post("/runs/create", experiment_id="", run_name="child").json()["run"]["info"]
    assert made["status"] == "RUNNING" and made["experiment_id"] == job.project
    solo.request("POST", f"/jobs/{job.id}/stop")
    solo.finished(job.id)
    assert mine("GET", f"/runs/get?run_id={made['run_id']}").json()["run"]["info"]["status"] == "KILLED"


def test_runs_are_found_by_what_was_said_of_them(job):
    names = []
    for n in range(6):
        made = job.post(
            "/runs/create", experiment_id=job.project, run_name=f"Run {n}", start_time=1000 + n,
            tags=[{"key": "half", "value": "even" if n % 2 == 0 else "odd"}],
        ).json()["run"]["info"]["run_id"]  # fmt: skip
        names.append(made)
        job.post("/runs/log-parameter", run_id=made, key="my param", value=f"v_{n}")
        if n != 5:
            job.post("/runs/log-metric", run_id=made, key="acc", value=n / 10, timestamp=1)
    job.post("/runs/log-metric", run_id=names[4], key="acc", value="NaN", timestamp=2, step=9)

    def search(text="", **more):
        answer = job.post("/runs/search", experiment_ids=[job.project], filter=text, **more)
        assert answer.status == 200, answer.data
        return [each["info"]["run_name"][-1] for each in answer.json().get("runs", [])]

    assert search("metrics.acc > 0.1 and metrics.acc <= 0.3") == ["3", "2"]
    assert search("metric.acc >= 0", order_by=["metrics.acc DESC"]) == ["3", "2", "1", "0"]
    assert search("tags.half = 'odd'", order_by=["metrics.acc"]) == ["1", "3", "5"]
    assert search("params.`my param` LIKE 'v_%' AND run_name ILIKE 'run _'") == list("543210")
    assert search('params."my param" != "v_0"', order_by=["params.`my param` ASC"]) == list("12345")
    assert search("attributes.run_name LIKE 'run%'") == []
    assert search(f"run_id IN ('{names[1]}', '{names[2]}')") == ["2", "1"]
    assert search("tags.half IS NULL") == [run_of(job)["info"]["run_name"][-1]]
    assert search("start_time < 1003 AND tags.half IS NOT NULL") == ["2", "1", "0"]
    # The values that are no numbers, and those that are not there, come last either way.
    assert search("tags.half IS NOT NULL", order_by=["metrics.acc DESC"])[-2:] == ["5", "4"]
    assert search("tags.half = 'x'' OR 1=1 --'") == []
    assert search("params.`my param` LIKE 'v[_]%'") == []

    seen, token = [], None
    while True:
        page = job.post(
            "/runs/search", experiment_ids=[job.project], filter="run_name LIKE 'Run %'", max_results=4,
            page_token=token, order_by=["metrics.acc ASC"],
        ).json()  # fmt: skip
        seen += [each["info"]["run_name"][-1] for each in page["runs"]]
        token = page.get("next_page_token")
        if token is None:
            break
    assert seen == ["0", "1", "2", "3", "5", "4"]


def test_a_later_attempt_says_everything_anew(solo):
    """P2: what an attempt that is over has said is not the job's."""
    done = solo.finished(solo.job(sys.executable, "-c", TRIED_AGAIN, retries=3)["id"])
    assert (done["state"], done["attempt"]) == ("Stopped", 2), solo.text(done["id"])
    run = solo.request("GET", f"/mlflow/api/2.0/mlflow/runs/get?run_id={done['id']}").json()["run"]
    assert run["data"]["params"] == [{"key": "seed", "value": "2"}]
    assert [each["value"] for each in run["data"]["metrics"]] == [2.0] and "tags" not in run["data"]
    assert run["info"]["status"] == "FINISHED"


# Experiments.


def test_an_experiment_is_a_project(solo, mine):
    made = mine("POST", "/experiments/create", name="exp one", tags=[{"key": "a", "value": "1"}]).json()
    project = solo.request("GET", f"/projects/{made['experiment_id']}").json()
    assert project["name"] == "exp one"
    refused(mine("POST", "/experiments/create", name="exp one"), 400, "RESOURCE_ALREADY_EXISTS")
    found = mine("GET", "/experiments/get-by-name?experiment_name=exp%20one").json()["experiment"]
    assert found["experiment_id"] == project["id"] and found["tags"] == [{"key": "a", "value": "1"}]
    assert mine("POST", "/experiments/update", experiment_id=project["id"], new_name="exp two").status == 200
    assert solo.request("GET", f"/projects/{project['id']}").json()["name"] == "exp two"
    mine("POST", "/experiments/set-experiment-tag", experiment_id=project["id"], key="b", value="2")
    for text in ("name = 'exp two'", "name LIKE 'exp t%'", "tags.b = '2'", "attribute.name ILIKE 'EXP TWO'"):
        answer = mine("POST", "/experiments/search", filter=text).json()
        assert [each["experiment_id"] for each in answer["experiments"]] == [project["id"]], text
    assert mine("GET", "/experiments/search?max_results=1&filter=name%20%3D%20%27no%27").json() == {}
    assert mine("POST", "/experiments/delete", experiment_id=project["id"]).status == 200
    refused(mine("GET", "/experiments/get-by-name?experiment_name=exp%20one"), 404, "RESOURCE_DOES_NOT_EXIST")


def test_an_experiment_with_anything_in_it_is_not_deleted(solo, mine):
    job = solo.job("true", project="holds a job")
    refused(mine("POST", "/experiments/delete", experiment_id=job["project_id"]), 409, "RESOURCE_CONFLICT")
    made = mine("POST", "/experiments/create", name="holds a run").json()["experiment_id"]
    mine("POST", "/runs/create", experiment_id=made)
    refused(mine("POST", "/experiments/delete", experiment_id=made), 409, "RESOURCE_CONFLICT", "1 run")


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_an_experiment_is_called_as_a_project_may_be(mine, name):
    refused(mine("POST", "/experiments/create", name=name), 400, "INVALID_PARAMETER_VALUE")


def test_whoever_has_chosen_no_experiment_logs_to_default(solo, mine):
    made = mine("POST", "/runs/create", experiment_id="0").json()["run"]["info"]
    assert solo.request("GET", f"/projects/{made['experiment_id']}").json()["name"] == "Default"
    again = mine("POST", "/runs/create", experiment_id="0").json()["run"]["info"]
    assert again["experiment_id"] == made["experiment_id"]
    found = mine("GET", "/experiments/get?experiment_id=0").json()["experiment"]
    assert found["experiment_id"] == made["experiment_id"]


# Tracking runs.


def test_a_tracking_run_begins_ends_goes_and_comes_back(mine):
    experiment = mine("POST", "/experiments/create", name="of runs").json()["experiment_id"]
    run = mine("POST", "/runs/create", experiment_id=experiment, user_id="ann", start_time=5).json()["run"]
    run_id = run["info"]["run_id"]
    assert run["info"]["user_id"] == "ann" and run["info"]["start_time"] == 5
    mine("POST", "/runs/log-parameter", run_id=run_id, key="a", value="1")
    ended = mine("POST", "/runs/update", run_id=run_id, status=3, end_time=9).json()["run_info"]
    assert (ended["status"], ended["end_time"]) == ("FINISHED", 9)
    assert mine("POST", "/runs/delete", run_id=run_id).status == 200
    refused(
        mine("POST", "/runs/set-tag", run_id=run_id, key="a", value="1"),
        400,
        "INVALID_PARAMETER_VALUE",
        "deleted",
    )
    assert mine("POST", "/runs/search", experiment_ids=[experiment]).json() == {}
    gone = mine("POST", "/runs/search", experiment_ids=[experiment], run_view_type="DELETED_ONLY").json()
    assert gone["runs"][0]["info"]["lifecycle_stage"] == "deleted"
    assert mine("POST", "/runs/restore", run_id=run_id).status == 200
    back = mine("POST", "/runs/search", experiment_ids=[experiment]).json()["runs"][0]
    assert back["data"]["params"] == [{"key": "a", "value": "1"}]


def test_a_job_is_not_deleted_as_a_run(solo, mine):
    job = solo.finished(solo.job("true")["id"])
    refused(
        mine("POST", "/runs/delete", run_id=job["id"]), 400, "INVALID_PARAMETER_VALUE", "gradient jobs delete"
    )


def test_what_a_job_has_shown_stays_when_it_is_over_and_tags_stay_open(solo, job, mine):
    """P2, asset A7: a job's results. Also of the runs begun in it, also for the project's own people."""
    child = job.post("/runs/create", experiment_id=job.project).json()["run"]["info"]["run_id"]
    model = job.post("/logged-models", name="m").json()["model"]["info"]["model_id"]
    for run_id in (job.id, child):
        assert mine("POST", "/runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1).status == 200
        assert mine("POST", "/runs/log-parameter", run_id=run_id, key="p", value="1").status == 200
    solo.request("POST", f"/jobs/{job.id}/stop")
    solo.finished(job.id)
    for run_id in (job.id, child):
        before = mine("GET", f"/runs/get?run_id={run_id}").json()["run"]
        for path, body in (
            ("runs/log-metric", {"key": "m", "value": 2, "timestamp": 2}),
            ("runs/log-parameter", {"key": "q", "value": "1"}),
            ("runs/log-batch", {"metrics": [{"key": "m", "value": 2, "timestamp": 2}]}),
            (
                "runs/log-batch",
                {"params": [{"key": "q", "value": "1"}], "tags": [{"key": "t", "value": "1"}]},
            ),
            ("runs/log-inputs", {"datasets": [{"dataset": DATASET}]}),
            ("runs/outputs", {"models": [{"model_id": "m"}]}),
            ("runs/log-model", {"model_json": "{}"}),
            ("logged-models", {"source_run_id": run_id, "name": "m"}),
        ):
            answer = mine("POST", f"/{path}", run_id=run_id, **body)
            told = refused(answer, 409, "INVALID_STATE", "is over", "outside the job")
            assert told["code"] == "run-over"
        assert mine("GET", f"/runs/get?run_id={run_id}").json()["run"] == before
        assert mine("POST", "/runs/set-tag", run_id=run_id, key="late", value="1").status == 200
        assert mine("POST", "/runs/update", run_id=run_id, run_name="the best").status == 200
        run = mine("GET", f"/runs/get?run_id={run_id}").json()["run"]
        assert pairs(run["data"]["tags"])["late"] == "1" and run["info"]["run_name"] == "the best"
    refused(mine("POST", "/runs/update", run_id=child, status="FINISHED"), 409, "INVALID_STATE")
    for method, path, body in (
        ("PATCH", f"/logged-models/{model}", {"status": "LOGGED_MODEL_READY"}),
        ("POST", f"/logged-models/{model}/params", {"params": [{"key": "a", "value": "1"}]}),
    ):
        refused(mine(method, path, **body), 409, "INVALID_STATE")
    late = [{"key": "a", "value": "1"}]
    assert mine("PATCH", f"/logged-models/{model}/tags", tags=late).status == 200
    base = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{job.project}/{child}/artifacts/late"
    refused(solo.request("PUT", base, body=b"x"), 409, "INVALID_STATE")


def test_a_job_that_has_not_begun_takes_no_words(own_solo):
    own_solo.options = (
        *own_solo.options,
        "--GradientServer.machine_types={'one': {'cpus': 0.01, 'memory_bytes': 1048576}}",
        "--GradientServer.max_running_jobs=1",
        "--GradientServer.default_machine_type=one",
    )
    own_solo.start()
    first = own_solo.job("sh", "-c", "echo up; sleep 600")
    own_solo.printed(first["id"], "up\n")
    waiting = own_solo.job("true")
    body = {"run_id": waiting["id"], "key": "early", "value": "1"}
    answer = own_solo.request("POST", "/mlflow/api/2.0/mlflow/runs/set-tag", json_body=body)
    refused(answer, 409, "RESOURCE_CONFLICT", "not begun")
    info = own_solo.request("GET", f"/mlflow/api/2.0/mlflow/runs/get?run_id={waiting['id']}").json()["run"][
        "info"
    ]
    assert info["status"] == "SCHEDULED"
    own_solo.request("POST", f"/jobs/{first['id']}/stop")
