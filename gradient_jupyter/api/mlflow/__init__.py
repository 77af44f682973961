"""MLflow's tracking API under ``/mlflow``, so that its unchanged clients log to us.

A module per noun of theirs. An experiment is a project; a run is a job, or a tracking run beside one.
What is no route here (the model registry, traces, the gateway) is refused in MLflow's own words.
"""

from gradient_jupyter.api.mlflow import artifacts, experiments, metrics, models, runs
from gradient_jupyter.api.mlflow.face import MLFLOW
from gradient_jupyter.api.routes import Route

__all__ = ["MLFLOW", "routes"]


def routes() -> list[Route]:
    return [route for noun in (runs, metrics, experiments, artifacts, models) for route in noun.routes()]
