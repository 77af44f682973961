"""The attempts of jobs: which task stands for which, and how each ended."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.job import Attempt, Job, Reason, State
from gradient_jupyter.store.tables import attempts, jobs


def begin(connection: Connection, job_id: str, attempt: int, key: str, engine: str) -> None:
    connection.execute(
        _BEGIN, dict(job_id=job_id, attempt=attempt, key=key, engine=engine, created_us=now_us())
    )


def end(
    connection: Connection,
    job: Job,
    state: State,
    reason: Reason | None,
    exit_code: int | None,
    started_us: int | None,
    ended_us: int,
    log_bytes: int | None,
) -> None:
    """How the job's current attempt ended."""
    connection.execute(
        _END,
        {
            "job": job.id, "number": job.attempt, "at": ended_us, "code": exit_code, "end": state.value,
            "why": None if reason is None else msgspec.json.encode(reason).decode(), "began": started_us,
            "logged": log_bytes,
        },
    )  # fmt: skip


def of_job(connection: Connection, job_id: str) -> list[Attempt]:
    """Oldest first."""
    query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.attempt)
    return [
        Attempt(
            attempt=row.attempt, created_us=row.created_us, started_us=row.started_us, ended_us=row.ended_us,
            exit_code=row.exit_code, state=State(row.state) if row.state else None,
            reason=decode(row.reason, type=Reason) if row.reason else None,
            log_bytes=row.log_bytes,
        )
        for row in connection.execute(query)
    ]  # fmt: skip


def log_bytes(connection: Connection, job_id: str, attempt: int) -> int | None:
    """Of an attempt that has ended, the decoded bytes its log had then; None where that is not known."""
    return connection.execute(_LOG_BYTES, {"job": job_id, "number": attempt}).scalar()


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


#: Put together once, as in ``jobs``.
_BEGIN = insert(attempts)
_END = (
    update(attempts)
    .where(attempts.c.job_id == bindparam("job"), attempts.c.attempt == bindparam("number"))
    .values(
        ended_us=bindparam("at"),
        exit_code=bindparam("code"),
        state=bindparam("end"),
        reason=bindparam("why"),
        started_us=bindparam("began"),
        log_bytes=bindparam("logged"),
    )
)
_LOG_BYTES = select(attempts.c.log_bytes).where(
    attempts.c.job_id == bindparam("job"), attempts.c.attempt == bindparam("number")
)
