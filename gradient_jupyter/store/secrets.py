"""Secrets as they are stored: sealed. Nothing here can open one.

``owner`` is ``user:<id>``, ``project:<id>`` or ``group:<id>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.engine import Row

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.secret import Scope, Secret
from gradient_jupyter.store.tables import job_secrets, secrets

_SCOPES = {"user": Scope.USER, "project": Scope.PROJECT, "group": Scope.TEAM}


class Bound(NamedTuple):
    """Whose secret of which name."""

    owner: str
    name: str


class Sealed(msgspec.Struct, frozen=True):
    """One stored secret."""

    owner: str
    name: str
    key_id: str
    sealed: bytes


def put(
    connection: Connection, owner: str, name: str, key_id: str, sealed: bytes, masked: bool, user_id: str
) -> Secret:
    """Stores it, in place of the one of that name if there is one."""
    now = now_us()
    values = {
        "key_id": key_id, "sealed": sealed, "masked": masked, "changed_us": now, "changed_by": user_id
    }  # fmt: skip
    where = (secrets.c.owner == owner, secrets.c.name == name)
    if not connection.execute(update(secrets).where(*where).values(values)).rowcount:
        kind, _, identity = owner.partition(":")
        connection.execute(
            insert(secrets).values(
                owner=owner, name=name, project_id=identity if kind == "project" else None, created_us=now,
                created_by=user_id, **values,
            )
        )  # fmt: skip
    return _secret(connection.execute(select(secrets).where(*where)).one())


def of(connection: Connection, owner: str) -> list[tuple[Secret, Sealed]]:
    """By name."""
    found = connection.execute(select(secrets).where(secrets.c.owner == owner).order_by(secrets.c.name))
    return [(_secret(row), _sealed(row)) for row in found]


def get(connection: Connection, bound: Bound) -> Sealed | None:
    row = connection.execute(
        select(secrets).where(secrets.c.owner == bound.owner, secrets.c.name == bound.name)
    ).first()
    return _sealed(row) if row else None


def remove(connection: Connection, owner: str, name: str) -> bool:
    """Whether there was one."""
    found = connection.execute(delete(secrets).where(secrets.c.owner == owner, secrets.c.name == name))
    return bool(found.rowcount)


def count(connection: Connection, owner: str) -> int:
    return int(
        connection.execute(select(func.count()).select_from(secrets).where(secrets.c.owner == owner)).scalar()
        or 0
    )


def owners(connection: Connection, among: Iterable[str], name: str) -> set[str]:
    """Who of these has one of that name."""
    found = connection.execute(
        select(secrets.c.owner).where(secrets.c.owner.in_(tuple(among)), secrets.c.name == name)
    )
    return set(found.scalars())


def keys(connection: Connection) -> dict[str, int]:
    """How many secrets there are under each key."""
    found = connection.execute(select(secrets.c.key_id, func.count()).group_by(secrets.c.key_id))
    return {row[0]: row[1] for row in found}


def elsewhere(connection: Connection, key_id: str) -> list[Sealed]:
    """Those under another key."""
    return [_sealed(row) for row in connection.execute(select(secrets).where(secrets.c.key_id != key_id))]


def reseal(connection: Connection, old: Sealed, key_id: str, sealed: bytes) -> None:
    """The same secret under another key. When it was changed, and by whom, stays."""
    connection.execute(
        update(secrets)
        .where(secrets.c.owner == old.owner, secrets.c.name == old.name)
        .values(key_id=key_id, sealed=sealed)
    )


def bind(connection: Connection, job_id: str, meant: Mapping[str, Bound], through: str) -> None:
    """Notes which secrets the job's variables mean, and as whom its sender was a member of its project."""
    for variable, bound in meant.items():
        connection.execute(
            insert(job_secrets).values(
                job_id=job_id, variable=variable, owner=bound.owner, name=bound.name, through=through
            )
        )


def meant(connection: Connection, job_id: str) -> dict[str, tuple[Bound, str]]:
    """Variable → secret, of a job; and as whom its sender was a member of its project."""
    found = connection.execute(select(job_secrets).where(job_secrets.c.job_id == job_id))
    return {row.variable: (Bound(row.owner, row.name), row.through) for row in found}


def _sealed(row: Row[tuple[object, ...]]) -> Sealed:
    return Sealed(owner=row.owner, name=row.name, key_id=row.key_id, sealed=row.sealed)


def _secret(row: Row[tuple[object, ...]]) -> Secret:
    kind, _, identity = row.owner.partition(":")
    return Secret(
        name=row.name, scope=_SCOPES[kind], of=identity, created_us=row.created_us, created_by=row.created_by,
        changed_us=row.changed_us, changed_by=row.changed_by, key_id=row.key_id, masked=row.masked,
    )  # fmt: skip
