"""Jobs, their attempts and their artifacts.

``change`` is the only way a job's row changes: it checks the transition against the published table,
notes the moment, and writes the event, in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, insert, select, update
from sqlalchemy.engine import Row

from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.event import Action
from gradient_jupyter.resources.job import (
    TRANSITIONS,
    Attempt,
    HostEnvironment,
    Job,
    Moment,
    Phase,
    Progress,
    Reason,
    State,
    Target,
)
from gradient_jupyter.store import events
from gradient_jupyter.store.projects import visible
from gradient_jupyter.store.tables import artifacts, attempts, jobs, projects

FINAL = tuple(state.value for state in State if state.final)


#: What a person may still change of a job that has ended: nothing of what it did.
_ALSO_WHEN_FINAL = frozenset({"target", "tags", "name"})
_JSON_COLUMNS = frozenset({"reason", "warnings", "tags", "progress"})


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """As much of a waiting job as placing it needs: there may be thousands."""

    job_id: str
    machine_type: str


class IllegalTransition(Exception):
    """A bug of ours: the row was asked for a change that the published table does not allow."""


def create(connection: Connection, job: Job, idempotency_key: str | None) -> None:
    connection.execute(
        insert(jobs).values(
            id=job.id, project_id=job.project_id, owner=job.owner, created_by=job.created_by,
            number=job.number, name=job.name, created_us=job.created_us, command=_json(job.command),
            snapshot=job.snapshot, machine_type=job.machine_type, env=_json(job.env),
            host=_json(job.host) if job.host else None, target=job.target, state=job.state, phase=job.phase,
            attempt=0, engine="", warnings="[]", history=_json(job.history), idempotency_key=idempotency_key,
            priority=job.priority, retries=job.retries, max_duration_s=job.max_duration_s,
            tags=_json(job.tags), source=job.source, rerun_of=job.rerun_of,
        )
    )  # fmt: skip
    events.append(connection, job.owner, job.project_id, "job", job.id, Action.CREATED, job)


def get(connection: Connection, principals: Sequence[str], job_id: str) -> Job | None:
    """The job, if it exists for these principals."""
    return _one(connection, visible(principals), jobs.c.id == job_id)


def find(connection: Connection, job_id: str) -> Job | None:
    """The job, for the control plane itself."""
    return _one(connection, jobs.c.id == job_id)


def by_idempotency_key(connection: Connection, owner: str, key: str) -> Job | None:
    return _one(connection, jobs.c.owner == owner, jobs.c.idempotency_key == key)


def page(
    connection: Connection,
    principals: Sequence[str],
    limit: int,
    before: int | None,
    project_id: str | None,
    state: State | None,
    tag: str | None = None,
) -> tuple[list[Job], int | None]:
    """Newest first, and the cursor of what follows."""
    query = _select().where(visible(principals)).order_by(jobs.c.seq.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(jobs.c.seq < before)
    if project_id is not None:
        query = query.where(jobs.c.project_id == project_id)
    if state is not None:
        query = query.where(jobs.c.state == state)
    if tag is not None:
        tags = func.json_each(jobs.c.tags).table_valued("value")
        query = query.where(exists().select_from(tags).where(tags.c.value == tag))
    rows = connection.execute(query).all()
    following = rows[limit - 1].seq if len(rows) > limit else None
    return [_job(row) for row in rows[:limit]], following


def waiting(connection: Connection) -> list[Waiting]:
    """The jobs that wait for a machine, in the order in which they came."""
    query = (
        select(jobs.c.id, jobs.c.machine_type)
        .where(jobs.c.state == State.PENDING, jobs.c.phase == Phase.QUEUED, jobs.c.target == Target.RUN)
        .order_by(jobs.c.seq)
    )
    return [Waiting(job_id=row.id, machine_type=row.machine_type) for row in connection.execute(query)]


def unfinished(connection: Connection) -> list[str]:
    """Every job with something left to do: not final, or to be deleted."""
    return list(
        connection.execute(
            select(jobs.c.id)
            .where(jobs.c.state.not_in(FINAL) | (jobs.c.target == Target.DELETED))
            .order_by(jobs.c.seq)
        ).scalars()
    )


def live(connection: Connection) -> int:
    """How many jobs are not final."""
    return int(
        connection.execute(
            select(func.count()).select_from(jobs).where(jobs.c.state.not_in(FINAL))
        ).scalar_one()
    )


def ids_of_project(connection: Connection, project_id: str) -> list[str]:
    return list(connection.execute(select(jobs.c.id).where(jobs.c.project_id == project_id)).scalars())


def change(
    connection: Connection,
    job: Job,
    *,
    state: State | None = None,
    phase: Phase | None = None,
    **values: Any,
) -> Job:
    """Writes what is given; returns the job as it is then. ``job`` was read in this transaction."""
    state = state or job.state
    if state is not job.state and state not in TRANSITIONS[job.state]:
        raise IllegalTransition(f"{job.id}: {job.state} -> {state}")
    if job.final and values.keys() - _ALSO_WHEN_FINAL:
        raise IllegalTransition(f"{job.id} is final: {sorted(values)}")
    phase = phase or job.phase
    history = job.history
    if (state, phase) != (job.state, job.phase):
        history = (*history, Moment(state=state, phase=phase, time_us=now_us()))
    changed = msgspec.structs.replace(job, state=state, phase=phase, history=history, **values)
    columns: dict[str, Any] = {"state": state, "phase": phase, "history": _json(history)}
    for name, value in values.items():
        if name in _JSON_COLUMNS:
            columns[name] = None if value is None else _json(value)
        else:
            columns[name] = value
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(**columns))
    events.append(connection, job.owner, job.project_id, "job", job.id, Action.CHANGED, changed)
    return changed


def erase(connection: Connection, job: Job) -> None:
    connection.execute(delete(jobs).where(jobs.c.id == job.id))
    events.append(connection, job.owner, job.project_id, "job", job.id, Action.DELETED, None)


def begin_attempt(connection: Connection, job_id: str, attempt: int, key: str, engine: str) -> None:
    connection.execute(
        insert(attempts).values(job_id=job_id, attempt=attempt, key=key, engine=engine, created_us=now_us())
    )


def end_attempt(
    connection: Connection,
    job: Job,
    state: State,
    reason: Reason | None,
    exit_code: int | None,
    started_us: int | None,
    ended_us: int,
) -> None:
    """How the job's current attempt ended."""
    connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job.id, attempts.c.attempt == job.attempt)
        .values(
            ended_us=ended_us, exit_code=exit_code, state=state, started_us=started_us,
            reason=None if reason is None else _json(reason),
        )
    )  # fmt: skip


def list_attempts(connection: Connection, job_id: str) -> list[Attempt]:
    """Oldest first."""
    query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.attempt)
    return [
        Attempt(
            attempt=row.attempt, created_us=row.created_us, started_us=row.started_us, ended_us=row.ended_us,
            exit_code=row.exit_code, state=State(row.state) if row.state else None,
            reason=msgspec.json.decode(row.reason, type=Reason) if row.reason else None,
        )
        for row in connection.execute(query)
    ]  # fmt: skip


class Known(msgspec.Struct, frozen=True):
    """Whose attempt a key stands for. ``current``: no other has followed it."""

    job_id: str
    current: bool


def job_of_key(connection: Connection, key: str) -> Known | None:
    """What the store knows of a task that an engine has."""
    row = connection.execute(
        select(attempts.c.job_id, attempts.c.attempt, jobs.c.attempt.label("newest"))
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .where(attempts.c.key == key)
    ).first()
    return Known(row.job_id, row.attempt == row.newest) if row else None


def add_artifacts(connection: Connection, job_id: str, found: Sequence[Artifact]) -> None:
    if found:
        connection.execute(
            insert(artifacts),
            [{"job_id": job_id, **msgspec.structs.asdict(artifact)} for artifact in found],
        )


def list_artifacts(connection: Connection, job_id: str) -> list[Artifact]:
    rows = connection.execute(
        select(artifacts).where(artifacts.c.job_id == job_id).order_by(artifacts.c.path)
    )
    return [_artifact(row) for row in rows]


def get_artifact(connection: Connection, job_id: str, path: str) -> Artifact | None:
    row = connection.execute(
        select(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.path == path)
    ).first()
    return _artifact(row) if row else None


def remove_artifact(connection: Connection, job_id: str, path: str) -> None:
    connection.execute(delete(artifacts).where(artifacts.c.job_id == job_id, artifacts.c.path == path))


def _select() -> Select[Any]:
    ahead = jobs.alias("ahead")
    position = (
        select(func.count())
        .where(
            ahead.c.state == State.PENDING, ahead.c.target == Target.RUN, ahead.c.seq <= jobs.c.seq,
            jobs.c.state == State.PENDING,
        )
        .scalar_subquery()
    )  # fmt: skip
    return select(jobs, projects.c.name.label("project"), position.label("position")).join(
        projects, projects.c.id == jobs.c.project_id
    )


def _one(connection: Connection, *conditions: ColumnElement[bool]) -> Job | None:
    row = connection.execute(_select().where(*conditions)).first()
    return _job(row) if row else None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _job(row: Row[Any]) -> Job:
    decode = msgspec.json.decode
    return Job(
        id=row.id, name=row.name, project_id=row.project_id, project=row.project, owner=row.owner,
        created_by=row.created_by, number=row.number, command=decode(row.command, type=tuple[str, ...]),
        snapshot=row.snapshot, machine_type=row.machine_type, state=State(row.state), phase=Phase(row.phase),
        target=Target(row.target), created_us=row.created_us,
        reason=decode(row.reason, type=Reason) if row.reason else None,
        queue_position=row.position if row.state == State.PENDING and row.target == Target.RUN else None,
        exit_code=row.exit_code, attempt=row.attempt, engine=row.engine, started_us=row.started_us,
        ended_us=row.ended_us, env=decode(row.env, type=dict[str, str]),
        host=decode(row.host, type=HostEnvironment) if row.host else None,
        priority=row.priority, retries=row.retries, max_duration_s=row.max_duration_s,
        tags=decode(row.tags, type=tuple[str, ...]), source=row.source, rerun_of=row.rerun_of,
        progress=decode(row.progress, type=Progress) if row.progress else None,
        warnings=decode(row.warnings, type=tuple[str, ...]),
        history=decode(row.history, type=tuple[Moment, ...]),
    )  # fmt: skip


def _artifact(row: Row[Any]) -> Artifact:
    return Artifact(path=row.path, size=row.size, modified_us=row.modified_us, digest=row.digest)
