"""A job that is there to be spoken for: it tells its token and waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from solo import SoloServer

WAITING = """
import json, os, sys
env = {name: value for name, value in os.environ.items() if "MLFLOW" in name or "TOKEN" in name}
with open(os.environ["GRADIENT_STORAGE_DIR"] + "/env-" + os.environ["GRADIENT_JOB_ID"], "w") as file:
    json.dump(env, file)  # in the log its tokens would be masked
print("up", flush=True)
import time
time.sleep(600)
"""


@dataclass
class Waiting:
    """A running job, spoken for with its own token."""

    solo: SoloServer
    id: str
    project: str
    env: dict[str, str]

    @property
    def token(self) -> str:
        return self.env["MLFLOW_TRACKING_TOKEN"]

    def call(self, method: str, path: str, fields: object = None, **given: Any) -> Any:
        return self.solo.request(
            method, f"/mlflow/api/2.0{path}", json_body=fields, token=self.token, **given
        )

    def post(self, path: str, **body: object) -> Any:
        return self.call("POST", f"/mlflow{path}", body)


@pytest.fixture
def begin(solo: SoloServer) -> Iterator[Callable[..., Waiting]]:
    """Starts such a job; it is stopped afterwards."""
    begun = []

    def start(**fields: object) -> Waiting:
        job = solo.job(sys.executable, "-c", WAITING, **fields)
        begun.append(job["id"])
        solo.printed(job["id"], "up\n")
        env = json.loads((solo.storage() / f"env-{job['id']}").read_text())
        return Waiting(solo, str(job["id"]), str(job["project_id"]), env)

    yield start
    for job_id in begun:
        if solo.request("POST", f"/jobs/{job_id}/stop").status != 404:  # the test has deleted it
            solo.finished(job_id)


@pytest.fixture
def job(begin: Callable[..., Waiting]) -> Waiting:
    return begin()


@pytest.fixture
def mine(solo: SoloServer) -> Callable[..., Any]:
    """A person's call: ``mine("POST", "/runs/search", experiment_ids=[…])``."""

    def call(method: str, path: str, **body: object) -> Any:
        if method == "GET":
            return solo.request("GET", f"/mlflow/api/2.0/mlflow{path}")
        return solo.request(method, f"/mlflow/api/2.0/mlflow{path}", json_body=body)

    return call
