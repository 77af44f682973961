"""The ledger of claims: what each attempt has taken of which node, until its task was seen to be done."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, delete, insert, select

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.store.tables import claims


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    job_id: str
    attempt: int
    node: str
    machine_type: str
    cpus: float
    memory_bytes: int
    gpus: tuple[str, ...]


def take(connection: Connection, claim: Claim) -> None:
    connection.execute(
        insert(claims).values(
            job_id=claim.job_id, attempt=claim.attempt, node=claim.node, machine_type=claim.machine_type,
            cpus=claim.cpus, memory_bytes=claim.memory_bytes, gpus=msgspec.json.encode(claim.gpus).decode(),
            created_us=now_us(),
        )
    )  # fmt: skip


def release(connection: Connection, job_id: str, attempt: int) -> None:
    connection.execute(delete(claims).where(claims.c.job_id == job_id, claims.c.attempt == attempt))


def taken(connection: Connection) -> list[Claim]:
    return [_claim(row) for row in connection.execute(select(claims))]


def of(connection: Connection, job_id: str, attempt: int) -> Claim | None:
    row = connection.execute(
        select(claims).where(claims.c.job_id == job_id, claims.c.attempt == attempt)
    ).first()
    return _claim(row) if row else None


def _claim(row) -> Claim:  # type: ignore[no-untyped-def]
    return Claim(
        job_id=row.job_id, attempt=row.attempt, node=row.node, machine_type=row.machine_type, cpus=row.cpus,
        memory_bytes=row.memory_bytes, gpus=msgspec.json.decode(row.gpus, type=tuple[str, ...]),
    )  # fmt: skip
