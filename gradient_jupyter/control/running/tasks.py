"""From a job's attempt to the task an engine runs, and from a task's key back to its job."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from gradient_jupyter.control.layout import Layout
from gradient_jupyter.engines.base import Resources, Task
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.secret import SecretValue
from gradient_jupyter.resources.server import API
from gradient_jupyter.store.ledger import Claim


def key(install: str, job_id: str, attempt: int, rank: int = 0) -> str:
    return f"{install}-job-{job_id}-{attempt}-{rank}"


def job_of(install: str, key: str) -> str | None:
    """The job a key stands for; None when it is no key of this installation."""
    parts = key.split("-")
    if len(parts) != 5 or parts[0] != install or parts[1] != "job":
        return None
    return parts[2]


def attempt_of(install: str, key: str) -> tuple[str, int] | None:
    """The job and the attempt a key stands for; None when it is no key of this installation."""
    job_id, attempt = job_of(install, key), key.split("-")[-2:-1]
    return (job_id, int(attempt[0])) if job_id is not None and attempt[0].isdecimal() else None


def task(
    layout: Layout,
    install: str,
    job: Job,
    claim: Claim,
    private: dict[str, str],
    public: Mapping[str, Path] | None = None,
    secret: dict[str, SecretValue] | None = None,
    wanted: dict[str, SecretValue] | None = None,
) -> Task:
    """What the engine is asked to run. Deterministic, but for ``private``, ``public`` and what is secret: the
    same attempt always gives the same task. ``secret`` are the platform's own; ``wanted`` are what the job's
    variables ask for, which overrule no variable of the platform's."""
    host = socket.gethostname()
    ours = {
        "GRADIENT_JOB_ID": job.id,
        "GRADIENT_JOB_NAME": job.name,
        "GRADIENT_JOB_NUMBER": str(job.number),
        "GRADIENT_PROJECT_ID": job.project_id,
        "GRADIENT_PROJECT": job.project,
        "GRADIENT_ATTEMPT": str(job.attempt),
        "GRADIENT_MACHINE_TYPE": job.machine_type,
        "PS_HOSTNAME": host,
        **({"GRADIENT_PORTS": ",".join(map(str, job.ports))} if job.ports else {}),
    }
    secret = secret or {}
    taken = {*ours, *private, *secret}
    theirs = {name: value for name, value in (wanted or {}).items() if name not in taken}
    return Task(
        key=key(install, job.id, job.attempt),
        command=job.command,
        env={**job.env, **ours},
        snapshot=job.snapshot,
        directory=layout.attempt(job.id, job.attempt),
        storage=layout.storage(job.owner),
        datasets={one.name: layout.trees / one.snapshot for one in job.datasets if one.snapshot},
        public=dict(public or {}),
        resources=Resources(cpus=claim.cpus, memory_bytes=claim.memory_bytes, gpus=claim.gpus),
        labels={"owner": job.owner, "job": job.id, "attempt": str(job.attempt)},
        host=job.host,
        max_duration_s=job.max_duration_s,
        private=private,
        secret={**theirs, **secret},
    )


def mlflow(job: Job, callback_url: str) -> dict[str, str]:
    """What, beside the token, makes an MLflow client inside the job log to the job's own run.

    What the job's own environment says wins. A job that logs to a server of its own gets nothing: our token
    would be sent there.
    """
    if "MLFLOW_TRACKING_URI" in job.env:
        return {}
    address = callback_url.removesuffix(f"/api/{API}") + "/mlflow"
    ours = {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_REGISTRY_URI": address,
        "MLFLOW_EXPERIMENT_ID": job.project_id,
        "MLFLOW_RUN_ID": job.id,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # The addresses it would print are those of MLflow's own pages.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    return {name: value for name, value in ours.items() if name not in job.env}
