"""Jobs and their artifacts. Their attempts stand in ``attempts``.

``change`` is the only way a job's row changes: it checks the transition against the published table,
notes the moment, and writes the event, in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    Connection,
    Select,
    Update,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    union,
    update,
)
from sqlalchemy.engine import Row

from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.dataset import JobDataset
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.event import Action
from gradient_jupyter.resources.job import (
    TRANSITIONS,
    HostEnvironment,
    Job,
    Moment,
    Phase,
    Progress,
    Reason,
    State,
    Target,
)
from gradient_jupyter.resources.page import JobQuery
from gradient_jupyter.resources.port import Port
from gradient_jupyter.store import datasets, events, spent_keys
from gradient_jupyter.store.projects import visible
from gradient_jupyter.store.tables import artifacts, jobs, projects

LIVE = tuple(state.value for state in State if not state.final)
FINAL = tuple(state.value for state in State if state.final)


#: The tag that exempts a job from being deleted for its age.
KEEP = "keep"

#: What a person may still change of a job that has ended: nothing of what it did.
_ALSO_WHEN_FINAL = frozenset({"target", "tags", "name"})
_JSON_COLUMNS = frozenset({"reason", "warnings", "tags", "progress"})


class Waiting(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """As much of a waiting job as placing it needs: there may be thousands."""

    job_id: str
    owner: str
    machine_type: str
    priority: int
    seq: int
    attempt: int
    """How many it has had."""


class IllegalTransition(Exception):
    """A bug of ours: the row was asked for a change that the published table does not allow."""


def create(connection: Connection, job: Job, idempotency_key: str | None) -> None:
    seq = connection.execute(
        _INSERT,
        dict(
            id=job.id, project_id=job.project_id, owner=job.owner, created_by=job.created_by,
            number=job.number, name=job.name, created_us=job.created_us, command=_json(job.command),
            snapshot=job.snapshot, machine_type=job.machine_type, env=_json(job.env),
            host=_json(job.host) if job.host else None, target=job.target.value, state=job.state.value,
            phase=job.phase.value,
            attempt=0, engine="", warnings="[]", history=_json(job.history), idempotency_key=idempotency_key,
            priority=job.priority, retries=job.retries, max_duration_s=job.max_duration_s,
            tags=_json(job.tags), source=job.source, rerun_of=job.rerun_of, datasets=_json(job.datasets),
            ports=_json(job.ports) if job.ports else None,
        ),
    ).inserted_primary_key  # fmt: skip
    datasets.pin(connection, job.id, job.datasets)
    assert seq is not None
    events.append(connection, job.owner, job.project_id, "job", job.id, Action.CREATED, job, seq[0])


def by_state(connection: Connection) -> dict[str, int]:
    """How many jobs are in each state."""
    rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
    return {state.value: 0 for state in State} | {row[0]: row[1] for row in rows}


def get(connection: Connection, principals: Sequence[str], job_id: str) -> Job | None:
    """The job, if it exists for these principals."""
    return _one(connection, _BY_ID.where(visible(principals)), job=job_id)


def find(connection: Connection, job_id: str) -> Job | None:
    """The job, for the control plane itself."""
    return _one(connection, _BY_ID, job=job_id)


def by_idempotency_key(connection: Connection, created_by: str, key: str) -> Job | None:
    """The job this person made with it."""
    return _one(connection, _BY_KEY, by=created_by, key=key)


def is_key_taken(connection: Connection, owner: str, key: str) -> bool:
    """By whomever: of one owner's jobs no two have the same."""
    return connection.execute(_TAKEN, {"of": owner, "key": key}).first() is not None


def page(
    connection: Connection,
    principals: Sequence[str],
    wanted: JobQuery,
    before: int | None,
) -> tuple[list[Job], int | None]:
    """Newest first, and the cursor of what follows.

    Project and state go by their indices. For the rest the rows are read backwards until the page is full: of
    100,000 jobs at most a fifth of a second, on a reader's thread. An index of all that is asked for would
    halve that, and cost every change of every job."""
    limit = wanted.limit
    query = _SELECT.where(visible(principals)).order_by(jobs.c.seq.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(jobs.c.seq < before)
    if wanted.project_id is not None:
        query = query.where(jobs.c.project_id == wanted.project_id)
    if wanted.state:
        query = query.where(jobs.c.state.in_([state.value for state in wanted.state]))
    for number, tag in enumerate(wanted.tag):
        tags = func.json_each(jobs.c.tags).table_valued("value", name=f"tag_{number}")
        query = query.where(exists().select_from(tags).where(tags.c.value == tag))
    if wanted.name is not None:
        query = query.where(jobs.c.name.icontains(wanted.name, autoescape=True))
    if wanted.machine_type is not None:
        query = query.where(jobs.c.machine_type == wanted.machine_type)
    if wanted.since_us is not None:
        query = query.where(jobs.c.created_us >= wanted.since_us)
    if wanted.until_us is not None:
        query = query.where(jobs.c.created_us < wanted.until_us)
    rows = connection.execute(query).all()
    following = rows[limit - 1].seq if len(rows) > limit else None
    return [_job(row) for row in rows[:limit]], following


def with_ports(connection: Connection) -> list[Job]:
    """The jobs that are not over and are to be reached somewhere."""
    return [_job(row) for row in connection.execute(_WITH_PORTS)]


def waiting(connection: Connection) -> list[Waiting]:
    """The jobs that wait for a machine, in the order in which they came."""
    return [
        Waiting(
            job_id=row.id, owner=row.owner, machine_type=row.machine_type, priority=row.priority, seq=row.seq,
            attempt=row.attempt,
        )
        for row in connection.execute(_WAITING)
    ]  # fmt: skip


def queued(connection: Connection, owner: str, at_most: int) -> int:
    """How many jobs this owner has waiting; counting ends at ``at_most``."""
    return int(connection.execute(_QUEUED, {"owner": owner, "at_most": at_most}).scalar_one())


def unsettled(connection: Connection) -> list[str]:
    """Every job with a step to be taken: on a machine, or to be cancelled or deleted. Those that merely wait
    are the queue's."""
    return list(connection.execute(_UNSETTLED).scalars())


def all_ids(connection: Connection) -> set[str]:
    return set(connection.execute(select(jobs.c.id)).scalars())


def projects_of_all(connection: Connection) -> dict[str, tuple[str, str]]:
    """Id and name of each job's project."""
    query = select(jobs.c.id, projects.c.id.label("project_id"), projects.c.name).join(
        projects, projects.c.id == jobs.c.project_id
    )
    return {row.id: (row.project_id, row.name) for row in connection.execute(query)}


def ended_before(connection: Connection, before_us: int) -> list[str]:
    """Jobs that ended before then and may go: not tagged ``KEEP``, not on their way out already."""
    return list(connection.execute(_may_go(before_us).order_by(jobs.c.seq)).scalars())


def is_ended_before(connection: Connection, job_id: str, before_us: int) -> bool:
    return connection.execute(_may_go(before_us).where(jobs.c.id == job_id)).first() is not None


def _may_go(before_us: int) -> Select[Any]:
    tags = func.json_each(jobs.c.tags).table_valued("value")
    return select(jobs.c.id).where(
        jobs.c.state.in_(FINAL), jobs.c.ended_us < before_us, jobs.c.target != Target.DELETED,
        ~exists().select_from(tags).where(tags.c.value == KEEP),
    )  # fmt: skip


def unfinished(connection: Connection) -> list[str]:
    """Every job with something left to do, waiting or not: not final, or to be deleted."""
    return list(connection.execute(_UNFINISHED).scalars())


def live(connection: Connection) -> int:
    """How many jobs are not final."""
    return int(connection.execute(_LIVE).scalar_one())


def ids_of_project(connection: Connection, project_id: str) -> list[str]:
    return list(connection.execute(select(jobs.c.id).where(jobs.c.project_id == project_id)).scalars())


def change(
    connection: Connection,
    job: Job,
    *,
    state: State | None = None,
    phase: Phase | None = None,
    time_us: int | None = None,
    **values: Any,
) -> Job:
    """Writes what is given; returns the job as it is then. ``job`` was read in this transaction. ``time_us``
    is when it came to be so, if that was not now."""
    state = state or job.state
    if state is not job.state and state not in TRANSITIONS[job.state]:
        raise IllegalTransition(f"{job.id}: {job.state} -> {state}")
    if job.final and values.keys() - _ALSO_WHEN_FINAL:
        raise IllegalTransition(f"{job.id} is final: {sorted(values)}")
    phase = phase or job.phase
    history = job.history
    if (state, phase) != (job.state, job.phase):
        # In the order in which it happened, also when the clock was set back meanwhile.
        moment_us = max(time_us or now_us(), history[-1].time_us if history else 0)
        history = (*history, Moment(state=state, phase=phase, time_us=moment_us))
    changed = msgspec.structs.replace(job, state=state, phase=phase, history=history, **values)
    columns: dict[str, Any] = {"state": state.value, "phase": phase.value, "history": _json(history)}
    for name, value in values.items():
        if name in _JSON_COLUMNS:
            columns[name] = None if value is None else _json(value)
        else:
            columns[name] = value
    connection.execute(
        _update(tuple(columns)), {"job": job.id, **{f"new_{name}": value for name, value in columns.items()}}
    )
    events.append(connection, job.owner, job.project_id, "job", job.id, Action.CHANGED, changed)
    return changed


def erase(connection: Connection, job: Job) -> None:
    """The row goes; its idempotency key stays a while, and makes no second job."""
    spent_keys.keep(connection, job.id)
    connection.execute(delete(jobs).where(jobs.c.id == job.id))
    events.append(connection, job.owner, job.project_id, "job", job.id, Action.DELETED, None)


def add_artifacts(
    connection: Connection, job_id: str, found: Sequence[Artifact], *, replace: bool = False
) -> None:
    """Stores artifacts; with ``replace`` in place of what an interrupted collection has stored before."""
    if replace:
        connection.execute(delete(artifacts).where(artifacts.c.job_id == job_id))
    if found:
        connection.execute(
            insert(artifacts),
            [{"job_id": job_id, **msgspec.structs.asdict(artifact)} for artifact in found],
        )


def list_artifacts(
    connection: Connection, job_id: str, limit: int | None = None, start: int = 0
) -> list[Artifact]:
    """In the order of their paths."""
    query = select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.path)
    rows = connection.execute(query.limit(limit).offset(start))
    return [_artifact(row) for row in rows]


def artifacts_below(connection: Connection, job_id: str, directory: str) -> list[Artifact]:
    """Those below a directory (the empty one: all), in the order of their paths."""
    query = select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.path)
    if directory:
        # Everything that begins with "directory/": "0" is what comes after "/".
        query = query.where(artifacts.c.path > f"{directory}/", artifacts.c.path < f"{directory}0")
    return [_artifact(row) for row in connection.execute(query)]


def get_artifact(connection: Connection, job_id: str, path: str) -> Artifact | None:
    row = connection.execute(
        select(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.path == path)
    ).first()
    return _artifact(row) if row else None


def remove_artifact(connection: Connection, job_id: str, path: str) -> None:
    connection.execute(delete(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.path == path))


#: Statements are put together once: doing that costs as much as running them.
_SELECT = select(jobs, projects.c.name.label("project")).join(projects, projects.c.id == jobs.c.project_id)
_INSERT = insert(jobs)
_BY_ID = _SELECT.where(jobs.c.id == bindparam("job"))
_BY_KEY = _SELECT.where(jobs.c.created_by == bindparam("by"), jobs.c.idempotency_key == bindparam("key"))
_TAKEN = select(jobs.c.seq).where(jobs.c.owner == bindparam("of"), jobs.c.idempotency_key == bindparam("key"))
_WAITING = (
    select(jobs.c.id, jobs.c.owner, jobs.c.machine_type, jobs.c.priority, jobs.c.seq, jobs.c.attempt)
    .where(
        jobs.c.state == State.PENDING.value,
        jobs.c.phase == Phase.QUEUED.value,
        jobs.c.target == Target.RUN.value,
    )
    .order_by(jobs.c.seq)
)
_QUEUED = select(func.count()).select_from(
    select(jobs.c.seq)
    .where(jobs.c.state == literal_column("'Pending'"), jobs.c.owner == bindparam("owner"))
    .limit(bindparam("at_most"))
    .subquery()
)
# By the indices: of the jobs that ended there are far more than of all others.
_UNSETTLED = union(
    select(jobs.c.id).where(jobs.c.state.in_([State.PROVISIONING.value, State.RUNNING.value])),
    select(jobs.c.id).where(jobs.c.state == State.PENDING.value, jobs.c.target != Target.RUN.value),
    select(jobs.c.id).where(jobs.c.state == State.PENDING.value, jobs.c.phase != Phase.QUEUED.value),
    select(jobs.c.id).where(jobs.c.target == literal_column("'deleted'")),
)
_UNFINISHED = union(
    select(jobs.c.id).where(jobs.c.state.in_(LIVE)),
    select(jobs.c.id).where(jobs.c.target == literal_column("'deleted'")),
)
_WITH_PORTS = _SELECT.where(
    jobs.c.ports.is_not(None), jobs.c.state.in_([literal_column(f"'{state}'") for state in LIVE])
)
_LIVE = select(func.count()).select_from(jobs).where(jobs.c.state.in_(LIVE))


@cache
def _update(columns: tuple[str, ...]) -> Update:
    return (
        update(jobs)
        .where(jobs.c.id == bindparam("job"))
        .values({name: bindparam(f"new_{name}") for name in columns})
    )


def _one(connection: Connection, query: Select[Any], **values: object) -> Job | None:
    row = connection.execute(query, values).first()
    return _job(row) if row else None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _job(row: Row[Any]) -> Job:
    return Job(
        id=row.id, name=row.name, project_id=row.project_id, project=row.project, owner=row.owner,
        created_by=row.created_by, number=row.number, command=decode(row.command, type=tuple[str, ...]),
        snapshot=row.snapshot, machine_type=row.machine_type, state=State(row.state), phase=Phase(row.phase),
        target=Target(row.target), created_us=row.created_us,
        reason=decode(row.reason, type=Reason) if row.reason else None,
        exit_code=row.exit_code, attempt=row.attempt, engine=row.engine, started_us=row.started_us,
        ended_us=row.ended_us, env=decode(row.env, type=dict[str, str]),
        host=decode(row.host, type=HostEnvironment) if row.host else None,
        priority=row.priority, retries=row.retries, max_duration_s=row.max_duration_s,
        tags=decode(row.tags, type=tuple[str, ...]), source=row.source, rerun_of=row.rerun_of,
        progress=decode(row.progress, type=Progress) if row.progress else None,
        datasets=decode(row.datasets, type=tuple[JobDataset, ...]),
        warnings=decode(row.warnings, type=tuple[str, ...]),
        history=decode(row.history, type=tuple[Moment, ...]),
        ports=decode(row.ports, type=tuple[Port, ...]) if row.ports else (),
    )  # fmt: skip


def _artifact(row: Row[Any]) -> Artifact:
    return Artifact(path=row.path, size=row.size, modified_us=row.modified_us, digest=row.digest)
