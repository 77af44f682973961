"""Runs and what was said of them. A job's own run is the job; its row here comes with the first word.

``ALL`` is every run there is, jobs and tracking runs alike, as one table. Who may see which is asked by
those who call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Row

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.job import Job, Target
from gradient_jupyter.resources.tracking import (
    STATUS_OF,
    Dataset,
    Logged,
    ModelLink,
    Run,
    RunStatus,
)
from gradient_jupyter.store.jobs import LIVE
from gradient_jupyter.store.tables import (
    jobs,
    logged_models,
    projects,
    run_inputs,
    run_models,
    run_params,
    run_tags,
    runs,
)

#: Of an attempt that is over nobody will say how the runs in it ended.
_ABANDONED = and_(
    runs.c.status == RunStatus.RUNNING,
    runs.c.job_id.is_not(None),
    ~exists().where(
        jobs.c.id == runs.c.job_id, jobs.c.attempt == runs.c.attempt, jobs.c.state.in_(LIVE)
    ),
)  # fmt: skip
ALL = union_all(
    select(
        jobs.c.id, jobs.c.project_id, jobs.c.id.label("job_id"), jobs.c.attempt,
        func.coalesce(runs.c.name, jobs.c.name).label("name"),
        case({state.value: status.value for state, status in STATUS_OF.items()}, value=jobs.c.state)
        .label("status"),
        jobs.c.created_by.label("user"),
        func.coalesce(jobs.c.started_us, jobs.c.created_us).label("start_us"),
        jobs.c.ended_us.label("end_us"),
        (jobs.c.target == Target.DELETED.value).label("deleted"),
        # Whose words there are: none, or those of an earlier attempt, say nothing of this one.
        func.coalesce(runs.c.attempt == jobs.c.attempt, False).label("spoken"),
    ).select_from(jobs.outerjoin(runs, runs.c.id == jobs.c.id)),
    select(
        runs.c.id, runs.c.project_id, runs.c.job_id, runs.c.attempt, runs.c.name,
        case((_ABANDONED, RunStatus.KILLED.value), else_=runs.c.status).label("status"),
        runs.c.user, runs.c.start_us, runs.c.end_us, runs.c.deleted_us.is_not(None).label("deleted"),
        literal(True).label("spoken"),
    ).where(or_(runs.c.job_id.is_(None), runs.c.id != runs.c.job_id)),
).subquery("run")  # fmt: skip

_ONE = select(ALL).where(ALL.c.id == bindparam("run"))


class Said(NamedTuple):
    run: Run
    logged: Logged


class Told(msgspec.Struct, frozen=True):
    """A value that was to be changed, and may not."""

    key: str
    was: str


def get(connection: Connection, run_id: str) -> Run | None:
    row = connection.execute(_ONE, {"run": run_id}).first()
    return run_of(row) if row else None


def run_of(row: Row[Any]) -> Run:
    return Run(
        id=row.id, project_id=row.project_id, job_id=row.job_id, attempt=row.attempt, name=row.name,
        status=RunStatus(row.status), user=row.user, start_us=row.start_us, end_us=row.end_us,
        deleted=bool(row.deleted),
    )  # fmt: skip


def create(connection: Connection, run: Run, created_by: str, tags: Sequence[tuple[str, str]]) -> None:
    """A tracking run."""
    connection.execute(
        insert(runs).values(
            id=run.id, project_id=run.project_id, job_id=run.job_id, attempt=run.attempt, name=run.name,
            status=run.status.value, user=run.user, created_by=created_by, created_us=now_us(),
            start_us=run.start_us,
        )
    )  # fmt: skip
    set_tags(connection, run.id, tags)


def open_own(connection: Connection, job: Job) -> None:
    """The row of a job's own run, for the words of its current attempt: an earlier one's go."""
    connection.execute(
        insert(runs).on_conflict_do_nothing(),
        dict(
            id=job.id, project_id=job.project_id, job_id=job.id, attempt=job.attempt, name=None,
            status="", user="", created_by=job.created_by, created_us=now_us(), start_us=job.created_us,
        ),
    )  # fmt: skip
    renewed = connection.execute(
        update(runs)
        .where(runs.c.id == job.id, runs.c.attempt != job.attempt)
        .values(attempt=job.attempt, name=None)
    )
    if renewed.rowcount:
        for table in (run_params, run_tags, run_inputs, run_models):
            connection.execute(delete(table).where(table.c.run_id == job.id))
        connection.execute(delete(logged_models).where(logged_models.c.run_id == job.id))


def change(connection: Connection, run_id: str, **values: Any) -> None:
    connection.execute(update(runs).where(runs.c.id == run_id).values(**values))


def add_params(
    connection: Connection, run_id: str, params: Sequence[tuple[str, str]], most: int
) -> Told | None:
    """Stores what is new. A parameter that has another value already keeps it and is told: then the caller
    undoes the rest. Raises ``ValueError`` beyond ``most``."""
    if not params:
        return None
    connection.execute(
        insert(run_params).on_conflict_do_nothing(),
        [{"run_id": run_id, "key": key, "value": value} for key, value in params],
    )
    wanted = dict(params)
    there = connection.execute(
        select(run_params.c.key, run_params.c.value).where(
            run_params.c.run_id == run_id, run_params.c.key.in_(wanted)
        )
    )
    for row in there:
        if row.value != wanted[row.key]:
            return Told(row.key, row.value)
    _bound(connection, run_params, run_id, most)
    return None


def set_tags(
    connection: Connection, run_id: str, tags: Sequence[tuple[str, str]], most: int = 1 << 30
) -> None:
    """Raises ``ValueError`` beyond ``most``."""
    if not tags:
        return
    statement = insert(run_tags)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["run_id", "key"], set_={"value": statement.excluded.value}
        ),
        [{"run_id": run_id, "key": key, "value": value} for key, value in tags],
    )
    _bound(connection, run_tags, run_id, most)


def _bound(connection: Connection, table: Any, run_id: str, most: int) -> None:
    count = connection.execute(
        select(func.count()).select_from(table).where(table.c.run_id == run_id)
    ).scalar_one()
    if count > most:
        raise ValueError(table.name)


def tag(connection: Connection, run_id: str, key: str) -> str | None:
    return connection.execute(
        select(run_tags.c.value).where(run_tags.c.run_id == run_id, run_tags.c.key == key)
    ).scalar()


def delete_tag(connection: Connection, run_id: str, key: str) -> bool:
    gone = connection.execute(delete(run_tags).where(run_tags.c.run_id == run_id, run_tags.c.key == key))
    return gone.rowcount > 0


def add_inputs(connection: Connection, run_id: str, datasets: Iterable[Dataset]) -> None:
    values = [
        {
            "run_id": run_id, "name": each.name, "digest": each.digest, "source_type": each.source_type,
            "source": each.source, "schema": each.schema, "profile": each.profile,
            "tags": msgspec.json.encode(each.tags).decode(),
        }
        for each in datasets
    ]  # fmt: skip
    if values:
        connection.execute(insert(run_inputs).prefix_with("OR REPLACE"), values)


def add_models(connection: Connection, run_id: str, links: Iterable[ModelLink]) -> None:
    values = [{"run_id": run_id, **msgspec.structs.asdict(each)} for each in links]
    if values:
        connection.execute(insert(run_models).prefix_with("OR REPLACE"), values)


def count_of(connection: Connection, run_id: str) -> tuple[int, int, int]:
    """How many data sets it has read, how long what describes them is, and how many models it names."""
    texts = (run_inputs.c.source, run_inputs.c.schema, run_inputs.c.profile, run_inputs.c.tags)
    length = sum((func.length(func.coalesce(text, "")) for text in texts), literal(0))
    inputs, described = connection.execute(
        select(func.count(), func.coalesce(func.sum(length), 0)).where(run_inputs.c.run_id == run_id)
    ).one()
    models = connection.execute(
        select(func.count()).select_from(run_models).where(run_models.c.run_id == run_id)
    ).scalar_one()
    return inputs, described, models


def logged(connection: Connection, run_ids: Sequence[str]) -> dict[str, Logged]:
    """What was said of these runs, each of which has words of its own (``spoken``)."""
    params: dict[str, list[tuple[str, str]]] = {}
    tags: dict[str, list[tuple[str, str]]] = {}
    for table, found in ((run_params, params), (run_tags, tags)):
        for row in connection.execute(
            select(table).where(table.c.run_id.in_(run_ids)).order_by(table.c.run_id, table.c.key)
        ):
            found.setdefault(row.run_id, []).append((row.key, row.value))
    inputs: dict[str, list[Dataset]] = {}
    for row in connection.execute(select(run_inputs).where(run_inputs.c.run_id.in_(run_ids))):
        inputs.setdefault(row.run_id, []).append(
            Dataset(
                name=row.name, digest=row.digest, source_type=row.source_type, source=row.source,
                schema=row.schema, profile=row.profile,
                tags=decode(row.tags, type=tuple[tuple[str, str], ...]),
            )
        )  # fmt: skip
    models: dict[str, list[ModelLink]] = {}
    for row in connection.execute(select(run_models).where(run_models.c.run_id.in_(run_ids))):
        models.setdefault(row.run_id, []).append(
            ModelLink(model_id=row.model_id, direction=row.direction, step=row.step)
        )
    return {
        run_id: Logged(
            params=tuple(params.get(run_id, ())), tags=tuple(tags.get(run_id, ())),
            inputs=tuple(inputs.get(run_id, ())), models=tuple(models.get(run_id, ())),
        )
        for run_id in run_ids
    }  # fmt: skip


def spoken(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of them that have words of their own."""
    return set(connection.execute(select(ALL.c.id).where(ALL.c.id.in_(run_ids), ALL.c.spoken)).scalars())


def said(connection: Connection, found: Sequence[Run]) -> list[Said]:
    """The runs with what was said of them."""
    talking = spoken(connection, [run.id for run in found])
    words = logged(connection, sorted(talking))
    return [Said(run, words.get(run.id, Logged())) for run in found]


def count_in_job(connection: Connection, job_id: str) -> int:
    return connection.execute(
        select(func.count()).select_from(runs).where(runs.c.job_id == job_id)
    ).scalar_one()


def erase(connection: Connection, run_id: str, before_us: int) -> bool:
    """Removes a run's row, unless somebody has taken the run back. Says whether it went."""
    gone = connection.execute(delete(runs).where(runs.c.id == run_id, runs.c.deleted_us < before_us))
    return gone.rowcount > 0


def deleted_before(connection: Connection, before_us: int, most: int | None) -> list[str]:
    """Tracking runs that a person has deleted, and has had time to take back."""
    query = select(runs.c.id).where(runs.c.deleted_us < before_us).order_by(runs.c.seq).limit(most)
    return list(connection.execute(query).scalars())


# What has a directory of its own: tracking runs, and models that no run has made.


def directories_of_job(connection: Connection, job_id: str) -> list[str]:
    return list(
        connection.execute(
            select(runs.c.id).where(runs.c.job_id == job_id, runs.c.id != runs.c.job_id)
        ).scalars()
    )


def directories_of_project(connection: Connection, project_id: str, *, deleted: bool = True) -> list[str]:
    """``deleted``: also of runs that were deleted and may still be taken back."""
    query = select(runs.c.id).where(
        runs.c.project_id == project_id, or_(runs.c.job_id.is_(None), runs.c.id != runs.c.job_id)
    )
    if not deleted:
        query = query.where(runs.c.deleted_us.is_(None))
    models = select(logged_models.c.id).where(
        logged_models.c.project_id == project_id, logged_models.c.run_id == null()
    )
    return list(connection.execute(union_all(query, models)).scalars())


def projects_of_all(connection: Connection) -> dict[str, tuple[str, str]]:
    """Of what may have a directory of its own: id and name of its project."""
    queries = (
        select(table.c.id, projects.c.id.label("project_id"), projects.c.name).join(
            projects, projects.c.id == table.c.project_id
        )
        for table in (runs, logged_models)
    )
    return {row.id: (row.project_id, row.name) for row in connection.execute(union_all(*queries))}


def all_directories(connection: Connection) -> set[str]:
    return set(
        connection.execute(
            union_all(select(runs.c.id), select(logged_models.c.id).where(logged_models.c.run_id == null()))
        ).scalars()
    )
