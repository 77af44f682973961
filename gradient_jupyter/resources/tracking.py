"""Run: what is logged under one id: a job's own, or a tracking run beside it.

A job's own run bears the job's id, and its status is the job's. A tracking run is begun by whoever logs:
inside a job (a nested run, a trial), or in a notebook under a person's own token. The words are MLflow's.
"""

from __future__ import annotations

import enum

from gradient_jupyter.resources.base import Resource
from gradient_jupyter.resources.job import State


class RunStatus(enum.StrEnum):
    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


#: What a job's state is to MLflow.
STATUS_OF: dict[State, RunStatus] = {
    State.PENDING: RunStatus.SCHEDULED,
    State.PROVISIONING: RunStatus.SCHEDULED,
    State.RUNNING: RunStatus.RUNNING,
    State.STOPPED: RunStatus.FINISHED,
    State.FAILED: RunStatus.FAILED,
    State.ERROR: RunStatus.FAILED,
    State.CANCELLED: RunStatus.KILLED,
    State.PREEMPTED: RunStatus.KILLED,
}


class Run(Resource, frozen=True, kw_only=True):
    id: str
    project_id: str
    job_id: str | None = None
    """The job it is the run of, or was begun in."""
    attempt: int = 0
    """Of that job: whose words they are. 0: none has begun, or there is no job."""
    name: str
    status: RunStatus
    user: str
    start_us: int
    end_us: int | None = None
    deleted: bool = False

    @property
    def own(self) -> bool:
        """It is the job itself."""
        return self.id == self.job_id


class Dataset(Resource, frozen=True, kw_only=True):
    """A data set that a run has read, as its client describes it."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


class ModelLink(Resource, frozen=True, kw_only=True):
    """A logged model that a run has read (``in``) or made (``out``)."""

    model_id: str
    direction: str
    step: int = 0


class Logged(Resource, frozen=True, kw_only=True):
    """What was said of a run, beside its metrics. Pairs are in the order of their keys."""

    params: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    inputs: tuple[Dataset, ...] = ()
    models: tuple[ModelLink, ...] = ()


class LoggedModel(Resource, frozen=True, kw_only=True):
    """MLflow's logged model: files with a name, made by a run, or by nobody in particular."""

    id: str
    project_id: str
    run_id: str | None = None
    name: str
    model_type: str = ""
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    created_us: int
    updated_us: int
