"""Idempotency keys of jobs that were erased: a submit that is repeated late does not bring one back (P1)."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from gradient_jupyter.store.tables import jobs, spent_keys

#: How many are kept. Whoever repeats a submit does so long before that many jobs more were deleted.
KEPT = 100_000


_JOB_OF = select(spent_keys.c.job_id).where(
    spent_keys.c.created_by == bindparam("by"), spent_keys.c.key == bindparam("of")
)


def keep(connection: Connection, job_id: str) -> None:
    """Of a job that is about to be erased."""
    spent = select(jobs.c.created_by, jobs.c.idempotency_key, jobs.c.id).where(
        jobs.c.id == job_id, jobs.c.idempotency_key.is_not(None)
    )
    insertion = insert(spent_keys).prefix_with("OR IGNORE")
    connection.execute(insertion.from_select(["created_by", "key", "job_id"], spent))


def job_of(connection: Connection, created_by: str, key: str) -> str | None:
    """The id of the erased job that the key once made."""
    return connection.execute(_JOB_OF, {"by": created_by, "of": key}).scalar()


def trim(connection: Connection) -> None:
    """Forgets all but the newest ``KEPT``."""
    newest = select(func.max(spent_keys.c.seq)).scalar_subquery()
    connection.execute(delete(spent_keys).where(spent_keys.c.seq <= newest - KEPT))
