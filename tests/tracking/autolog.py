"""Runs inside a real job: scikit-learn's autolog with a real MLflow client. Prints what it found."""

import json
import pathlib
import tempfile

import mlflow
from mlflow.tracking import MlflowClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

three = int(mlflow.__version__.split(".")[0]) >= 3
mlflow.sklearn.autolog()
features, labels = load_iris(return_X_y=True)
with mlflow.start_run() as run:
    LogisticRegression(max_iter=500, C=0.5).fit(features, labels)

client = MlflowClient()
done = client.get_run(run.info.run_id)
found = {
    "params": done.data.params,
    "metrics": sorted(done.data.metrics),
    "tags": {key: done.data.tags[key] for key in ("estimator_name", "estimator_class")},
    "datasets": [each.dataset.name for each in done.inputs.dataset_inputs],
    "files": sorted(each.path for each in client.list_artifacts(run.info.run_id)),
}
if three:
    (model,) = mlflow.search_logged_models([run.info.experiment_id], output_format="list")
    found["model"] = [model.model_id, str(model.status), model.source_run_id == run.info.run_id]
    found["outputs"] = [each.model_id for each in done.outputs.model_outputs]
    found["model params"] = model.params["C"]
    found["model files"] = sorted(
        each.path for each in mlflow.artifacts.list_artifacts(f"models:/{model.model_id}")
    )
    uri = f"models:/{model.model_id}"
else:
    uri = f"runs:/{run.info.run_id}/model"
back = mlflow.artifacts.download_artifacts(uri, dst_path=tempfile.mkdtemp())
found["downloaded"] = sorted(path.name for path in pathlib.Path(back).iterdir())
loaded = mlflow.sklearn.load_model(uri)
found["right"] = bool((loaded.predict(features) == labels).mean() > 0.9)

print(json.dumps(found))
