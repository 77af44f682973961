"""Runs inside a real job, with a real MLflow client: everything a training script does. Prints what it found.

Each step asserts what it can from inside; the test looks at the rest from outside.
"""

import concurrent.futures
import json
import math
import os
import pathlib
import tempfile

import mlflow
from mlflow.tracking import MlflowClient

found = {"version": mlflow.__version__}
client = MlflowClient()
scratch = pathlib.Path(tempfile.mkdtemp())

# Scripts that were written elsewhere begin so. It changes nothing.
found["experiment"] = mlflow.set_experiment("another").experiment_id

with mlflow.start_run() as run:
    assert run.info.run_id == os.environ["GRADIENT_JOB_ID"]
    assert run.info.experiment_id == os.environ["GRADIENT_PROJECT_ID"]
    mlflow.log_param("lr", 0.01)
    mlflow.log_param("lr", 0.01)  # again, the same
    mlflow.log_params({f"p{n}": n for n in range(100)})
    try:
        mlflow.log_param("lr", 0.02)
    except mlflow.exceptions.MlflowException as error:
        found["changed"] = str(error)
    for step in range(100):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"accuracy": 0.9, "strange": math.nan, "large": math.inf}, step=7)
    mlflow.set_tag("team", "vision")
    mlflow.set_tags({"a": "1", "b": "2"})
    mlflow.set_tag("gone", "soon")
    mlflow.delete_tag("gone")

    text = scratch / "notes.txt"
    text.write_text("hello")
    mlflow.log_artifact(str(text))
    mlflow.log_artifact(str(text), "deep/er")
    (scratch / "tree/sub").mkdir(parents=True)
    (scratch / "tree/one").write_text("1")
    (scratch / "tree/sub/two").write_text("2")
    mlflow.log_artifacts(str(scratch / "tree"), "tree")
    mlflow.log_dict({"a": 1}, "config.json")
    mlflow.log_text("words", "words.txt")
    with open(scratch / "big", "wb") as file:
        for n in range(100):
            file.write(bytes([n]) * 1_000_000)
    mlflow.log_artifact(str(scratch / "big"))
    found["listed"] = sorted(
        (each.path, each.is_dir, each.file_size) for each in client.list_artifacts(run.info.run_id)
    )
    found["listed tree"] = sorted(each.path for each in client.list_artifacts(run.info.run_id, "tree"))
    back = mlflow.artifacts.download_artifacts(
        f"runs:/{run.info.run_id}/tree", dst_path=str(scratch / "back")
    )
    found["downloaded"] = sorted(
        str(path.relative_to(back)) for path in pathlib.Path(back).rglob("*") if path.is_file()
    )
    whole = mlflow.artifacts.download_artifacts(
        f"runs:/{run.info.run_id}/big", dst_path=str(scratch / "back")
    )
    assert pathlib.Path(whole).read_bytes() == (scratch / "big").read_bytes()
    # It is the job's own directory.
    assert (pathlib.Path(os.environ["GRADIENT_ARTIFACTS_DIR"]) / "tree/sub/two").read_text() == "2"

    with mlflow.start_run(nested=True, run_name="trial 1") as nested:
        mlflow.log_param("depth", 3)
        mlflow.log_metric("score", 0.5)
        mlflow.log_text("nested", "words.txt")
        mlflow.log_text("nested", "sub/words.txt")
    found["nested"] = nested.info.run_id
    again = client.get_run(nested.info.run_id)
    assert again.info.status == "FINISHED" and again.data.params == {"depth": "3"}
    assert again.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert [each.path for each in client.list_artifacts(nested.info.run_id)] == ["sub", "words.txt"]
    with mlflow.start_run(nested=True, run_name="trial 2"):
        mlflow.log_metric("score", 0.7)

    def batch(n):
        from mlflow.entities import Metric

        client.log_batch(
            run.info.run_id,
            metrics=[Metric(f"thread{n}", step / 2, 1700000000000 + step, step) for step in range(1000)],
        )

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(batch, range(4)))
        list(pool.map(batch, range(4)))  # a retry changes nothing
    for n in range(4):
        points = client.get_metric_history(run.info.run_id, f"thread{n}")
        assert [(each.step, each.value) for each in points] == [(step, step / 2) for step in range(1000)], n
    found["history"] = len(client.get_metric_history(run.info.run_id, "loss"))
    found["strange"] = repr(client.get_run(run.info.run_id).data.metrics["strange"])
    found["large"] = repr(client.get_run(run.info.run_id).data.metrics["large"])

    ids = [run.info.experiment_id]
    by_score = client.search_runs(ids, "metrics.score > 0.4", order_by=["metrics.score DESC"])
    found["by score"] = [each.info.run_name for each in by_score]
    found["by tag"] = len(client.search_runs(ids, f"tags.mlflow.parentRunId = '{run.info.run_id}'"))
    found["by param"] = [each.info.run_id for each in client.search_runs(ids, "params.lr = '0.01'")]
    frame = mlflow.search_runs(ids)
    found["frame"] = sorted(frame["run_id"])

    try:
        client.create_registered_model("mine")
    except mlflow.exceptions.MlflowException as error:
        found["registry"] = [error.error_code, str(error)]
found["status"] = client.get_run(run.info.run_id).info.status
print(json.dumps(found))
