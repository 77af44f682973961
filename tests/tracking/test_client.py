"""The real MLflow clients, oldest and newest, inside a real job and outside with a person's token."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from clients import client_python

HERE = Path(__file__).parent
CLIENTS = ["mlflow-2", "mlflow-3"]

OUTSIDE = """
import json, sys, mlflow
from mlflow.tracking import MlflowClient

client, job = MlflowClient(), sys.argv[1]
done = client.get_run(job)
back = mlflow.artifacts.download_artifacts(f"runs:/{job}/tree", dst_path=sys.argv[2])
mlflow.set_experiment("from a notebook")
with mlflow.start_run(run_name="by hand") as run:
    mlflow.log_param("x", 1)
    mlflow.log_metric("y", 2.5)
    mlflow.log_text("words", "words.txt")
made = client.get_run(run.info.run_id)
client.delete_run(run.info.run_id)
gone = client.get_run(run.info.run_id).info.lifecycle_stage
client.restore_run(run.info.run_id)
print(json.dumps({
    "status": done.info.status, "history": len(client.get_metric_history(job, "loss")),
    "made": [made.info.status, made.data.params, made.data.metrics], "gone": gone,
    "run": run.info.run_id, "experiment": run.info.experiment_id,
    "files": [each.path for each in client.list_artifacts(run.info.run_id)],
}))
"""


def told(text):
    return json.loads(text.splitlines()[-1])


def inside(solo, name, script, **fields):
    host = {"python": client_python(name), "path": ["/usr/bin", "/bin"]}
    done = solo.finished(solo.job("python", "-c", (HERE / script).read_text(), host=host, **fields)["id"])
    assert done["state"] == "Stopped", solo.text(done["id"])
    return done, told(solo.text(done["id"]))


@pytest.mark.parametrize("name", CLIENTS)
def test_an_unchanged_script_logs_to_the_job_it_runs_in(solo, tmp_path, name):
    job, found = inside(solo, name, "inside.py", project=f"scripts {name}")
    assert "lr" in found["changed"] and "0.02" in found["changed"]
    assert found["listed"] == [
        ["big", False, 100_000_000], ["config.json", False, 12], ["deep", True, None],
        ["notes.txt", False, 5], ["tree", True, None], ["words.txt", False, 5],
    ]  # fmt: skip
    assert found["listed tree"] == ["tree/one", "tree/sub"] and found["downloaded"] == ["one", "sub/two"]
    assert (found["history"], found["strange"], found["large"]) == (100, "nan", "inf")
    assert found["by score"] == ["trial 2", "trial 1"] and found["by tag"] == 2
    assert found["by param"] == [job["id"]]
    assert len(found["frame"]) == 3 and {job["id"], found["nested"]} <= set(found["frame"])
    assert found["registry"][0] == "FEATURE_DISABLED" and "registry is not part" in found["registry"][1]
    assert found["experiment"] == job["project_id"]
    assert "another" not in [each["name"] for each in solo.request("GET", "/projects").json()["items"]]
    assert found["status"] == "RUNNING"

    # What it logged is the job's: its artifacts are collected, its metrics are ours.
    kept = {each["path"] for each in solo.request("GET", f"/jobs/{job['id']}/artifacts").json()["items"]}
    assert {"big", "deep/er/notes.txt", "tree/sub/two", "words.txt"} <= kept
    metrics = solo.request("GET", f"/jobs/{job['id']}/metrics").json()["items"]
    assert {"loss", "accuracy", "thread3"} <= {each["key"] for each in metrics}

    outside = subprocess.run(
        [client_python(name), "-c", OUTSIDE, str(job["id"]), str(tmp_path)],
        env={
            **os.environ, "MLFLOW_TRACKING_URI": f"{solo.runtime.url}/mlflow",
            "MLFLOW_TRACKING_TOKEN": solo.runtime.token, "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert outside.returncode == 0, outside.stderr
    seen = told(outside.stdout)
    assert (seen["status"], seen["history"], seen["gone"]) == ("FINISHED", 100, "deleted")
    assert seen["made"] == ["FINISHED", {"x": "1"}, {"y": 2.5}] and seen["files"] == ["words.txt"]
    assert (tmp_path / "tree/sub/two").read_text() == "2"
    assert solo.request("GET", f"/projects/{seen['experiment']}").json()["name"] == "from a notebook"


@pytest.mark.parametrize("name", CLIENTS)
def test_scikit_learns_autolog_logs_a_fit_and_its_model(solo, name):
    job, found = inside(solo, name, "autolog.py", project=f"autolog {name}")
    assert found["params"]["C"] == "0.5" and found["params"]["max_iter"] == "500"
    assert {"training_accuracy_score", "training_log_loss"} <= set(found["metrics"])
    assert found["tags"]["estimator_name"] == "LogisticRegression" and found["datasets"] == ["dataset"]
    assert {"MLmodel", "model.pkl"} <= set(found["downloaded"]) or "model.skops" in found["downloaded"]
    assert found["right"]
    if name == "mlflow-3":
        model_id, status, of_this_run = found["model"]
        assert (status, of_this_run, found["model params"]) == ("READY", True, "0.5")
        assert found["outputs"] == [model_id] and "MLmodel" in found["model files"]
        directory = f"models/{model_id}"
    else:
        directory = "model"
    kept = {each["path"] for each in solo.request("GET", f"/jobs/{job['id']}/artifacts").json()["items"]}
    assert f"{directory}/MLmodel" in kept
