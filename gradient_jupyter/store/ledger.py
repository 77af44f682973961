"""The ledger of claims: what each attempt has taken of which node, until its task was seen to be done."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select
from sqlalchemy.engine import Row

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.store.tables import claims, jobs


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    job_id: str
    attempt: int
    node: str
    machine_type: str
    cpus: float
    memory_bytes: int
    gpus: tuple[str, ...]
    owner: str = ""
    """Its job's, and the job's place in the order of arrival: for the queue. Stored with the job."""
    seq: int = 0


def take(connection: Connection, claim: Claim) -> None:
    connection.execute(
        _TAKE,
        dict(
            job_id=claim.job_id, attempt=claim.attempt, node=claim.node, machine_type=claim.machine_type,
            cpus=claim.cpus, memory_bytes=claim.memory_bytes, gpus=msgspec.json.encode(claim.gpus).decode(),
            created_us=now_us(),
        ),
    )  # fmt: skip


def release(connection: Connection, job_id: str, attempt: int) -> None:
    connection.execute(_RELEASE, {"id": job_id, "number": attempt})


def taken(connection: Connection) -> list[Claim]:
    return [_claim(row) for row in connection.execute(_SELECT)]


def of(connection: Connection, job_id: str, attempt: int) -> Claim | None:
    row = connection.execute(_ONE, {"id": job_id, "number": attempt}).first()
    return _claim(row) if row else None


_TAKE = insert(claims)
_RELEASE = delete(claims).where(claims.c.job_id == bindparam("id"), claims.c.attempt == bindparam("number"))
_SELECT = select(claims, jobs.c.owner, jobs.c.seq).join(jobs, jobs.c.id == claims.c.job_id)
_ONE = _SELECT.where(claims.c.job_id == bindparam("id"), claims.c.attempt == bindparam("number"))


def _claim(row: Row[Any]) -> Claim:
    return Claim(
        job_id=row.job_id, attempt=row.attempt, node=row.node, machine_type=row.machine_type, cpus=row.cpus,
        memory_bytes=row.memory_bytes, gpus=decode(row.gpus, type=tuple[str, ...]),
        owner=row.owner, seq=row.seq,
    )  # fmt: skip
