"""Job: workspace + command + environment + machine type, executed away from the notebook.

A job has a *target* (what a person wants) and a *state* (what has been observed). Callers change the
target only; the control plane closes the difference. ``TRANSITIONS`` is the whole of what may happen.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.dataset import JobDataset, WantedDatasets
from gradient_jupyter.resources.port import Port, Ports
from gradient_jupyter.resources.project import ProjectName
from gradient_jupyter.resources.snapshot import Digest


class State(enum.StrEnum):
    PENDING = "Pending"
    PROVISIONING = "Provisioning"
    RUNNING = "Running"
    STOPPED = "Stopped"
    """The command ended with exit code 0. Gradient's word for success."""
    FAILED = "Failed"
    """The command ended with another exit code; 127 (not found) and 137 (killed) are among them."""
    ERROR = "Error"
    """The platform's fault: it could not be started, or was lost."""
    CANCELLED = "Cancelled"
    PREEMPTED = "Preempted"

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


class Phase(enum.StrEnum):
    """Where within its state a job is."""

    RETRYING = "retrying"
    """An attempt has ended and another is to follow; first nothing of the old one may be left."""
    QUEUED = "queued"
    PREPARING = "preparing"
    """Its datasets are unpacked on the machine, where they are not there yet."""
    PULLING = "pulling"
    STARTING = "starting"
    RUNNING = "running"
    COLLECTING = "collecting"
    DONE = "done"


class Target(enum.StrEnum):
    RUN = "run"
    CANCELLED = "cancelled"
    DELETED = "deleted"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.PROVISIONING, State.CANCELLED, State.ERROR}),
    State.PROVISIONING: frozenset(
        {
            State.PENDING, State.RUNNING, State.STOPPED, State.FAILED, State.ERROR, State.CANCELLED,
            State.PREEMPTED,
        }
    ),
    State.RUNNING: frozenset(
        {State.PENDING, State.STOPPED, State.FAILED, State.ERROR, State.CANCELLED, State.PREEMPTED}
    ),
    State.STOPPED: frozenset(),
    State.FAILED: frozenset(),
    State.ERROR: frozenset(),
    State.CANCELLED: frozenset(),
    State.PREEMPTED: frozenset(),
}  # fmt: skip

#: The phases each state passes through, in order.
PHASES: dict[State, tuple[Phase, ...]] = {
    State.PENDING: (Phase.QUEUED, Phase.RETRYING),
    State.PROVISIONING: (Phase.PREPARING, Phase.PULLING, Phase.STARTING),
    State.RUNNING: (Phase.RUNNING, Phase.COLLECTING),
    **{state: (Phase.DONE,) for state, after in TRANSITIONS.items() if not after},
}


class Reason(Resource, frozen=True, kw_only=True):
    """Why a job is where it is, in words a person can act on."""

    code: str
    message: str
    next: str = ""


#: The code of the reason of a job that is Pending for the last moment.
PLACED = "placed"


class Moment(Resource, frozen=True, kw_only=True):
    """When a job entered a phase."""

    state: State
    phase: Phase
    time_us: int


#: One argument or value: no null byte, which no operating system can pass on.
Word = Annotated[str, msgspec.Meta(max_length=131072, pattern=r"^[^\x00\ud800-\udfff]*\Z")]
EnvName = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")]


class HostEnvironment(Request, frozen=True, kw_only=True):
    """The submitter's own environment, for engines that run where it lives (the local engine).

    ``python`` is the absolute path of the interpreter; ``path`` the directories searched for commands.
    """

    python: Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^/[^\x00]*\Z")]
    path: tuple[Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^/[^\x00]*\Z")], ...] = ()


JobName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]+\Z")
]
#: One word or short phrase by which a person finds jobs again.
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]+\Z")]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=50)]
#: Orders the jobs of one owner; between owners their shares decide. Higher goes first.
Priority = Annotated[int, msgspec.Meta(ge=-100, le=100)]
#: How many more attempts may follow the first.
Retries = Annotated[int, msgspec.Meta(ge=0, le=100)]
#: Seconds that one attempt may run, counted by the clock that nobody sets.
MaxDuration = Annotated[float, msgspec.Meta(gt=0, le=366 * 24 * 3600)]
#: Where the files came from, for people: a directory, an archive, a repository and its commit.
Source = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]*\Z")]


class CreateJob(Request, frozen=True, kw_only=True):
    """What a caller asks for. Either ``project_id`` or ``project`` (a name, made if absent)."""

    command: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=4096)]
    """An argument vector; no shell looks at it."""
    snapshot: Digest
    project: ProjectName | None = None
    project_id: str | None = None
    name: JobName | None = None
    machine_type: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    """None: the server's default."""
    host: HostEnvironment | None = None
    env: dict[EnvName, Word] = msgspec.field(default_factory=dict)
    priority: Priority = 0
    retries: Retries = 0
    max_duration_s: MaxDuration | None = None
    tags: Tags = ()
    source: Source = ""
    ports: Ports = ()
    """Where what it listens on is reached while it runs."""
    datasets: WantedDatasets = ()
    """What it finds below ``/datasets`` and ``/data``: ``mnist`` (its newest version now), ``mnist:3``."""


class RerunJob(Request, frozen=True, kw_only=True):
    """What is to be different from the job that is repeated. None: as it was.

    Its files are the same to the byte. ``env`` is laid over the old one; the variables in ``unset`` are taken
    away.
    """

    command: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=4096)] | None = None
    project: ProjectName | None = None
    project_id: str | None = None
    name: JobName | None = None
    machine_type: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    host: HostEnvironment | None = None
    env: dict[EnvName, Word] = msgspec.field(default_factory=dict)
    unset: tuple[EnvName, ...] = ()
    priority: Priority | None = None
    retries: Retries | None = None
    max_duration_s: MaxDuration | None = None
    tags: Tags | None = None
    ports: Ports | None = None
    datasets: WantedDatasets | None = None
    """None: the very versions that it had."""


class UpdateJob(Request, frozen=True, kw_only=True):
    """What may be changed of a job that exists. None: left as it is."""

    name: JobName | None = None
    tags: Tags | None = None
    priority: Priority | None = None
    """Only while the job waits."""


class Progress(Request, frozen=True, kw_only=True):
    """How far a run says it is."""

    fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    message: Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]*\Z")] = ""


class Attempt(Resource, frozen=True, kw_only=True):
    """One run of a job's command. Only the last one's results are the job's."""

    attempt: int
    created_us: int
    started_us: int | None = None
    ended_us: int | None = None
    exit_code: int | None = None
    state: State | None = None
    """How it ended: what the job would have become without a further attempt. None while it lives."""
    reason: Reason | None = None
    log_bytes: int | None = None
    """How long its log was when it ended, in bytes of text; None while it lives or where it is not known."""


class Job(Resource, frozen=True, kw_only=True):
    id: str
    name: str
    project_id: str
    project: str
    """The project's name when the job was read."""
    owner: str
    created_by: str
    number: int
    """1 for the first job of its project."""
    command: tuple[str, ...]
    snapshot: str
    machine_type: str
    state: State
    phase: Phase
    target: Target
    created_us: int
    reason: Reason | None = None
    queue_position: int | None = None
    """1 is next. Only while queued."""
    exit_code: int | None = None
    attempt: int = 0
    """0 until a machine is claimed; then 1, 2, …"""
    engine: str = ""
    started_us: int | None = None
    ended_us: int | None = None
    env: dict[str, str] = msgspec.field(default_factory=dict)
    host: HostEnvironment | None = None
    priority: int = 0
    retries: int = 0
    """How many attempts may follow the first when one fails or is lost."""
    max_duration_s: float | None = None
    """How long one attempt may run; None: as long as it likes."""
    tags: tuple[str, ...] = ()
    source: str = ""
    """Where its files came from, in words for people; empty when nobody said."""
    rerun_of: str | None = None
    """The job it repeats."""
    ports: tuple[Port, ...] = ()
    """Where what it listens on is reached while it runs."""
    progress: Progress | None = None
    """How far the run says it is; None until it says so."""
    datasets: tuple[JobDataset, ...] = ()
    """Which versions of which datasets it asked for and has; they stay these."""
    warnings: tuple[str, ...] = ()
    history: tuple[Moment, ...] = ()

    @property
    def final(self) -> bool:
        return self.state.final
