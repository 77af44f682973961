"""Which bytes and which manifests an owner has shown us."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.snapshot import Snapshot
from gradient_jupyter.store.tables import blobs, jobs, snapshots, users

#: SQLite takes a bounded number of parameters per statement.
_AT_ONCE = 500

_ONE = select(snapshots).where(snapshots.c.owner == bindparam("of"), snapshots.c.id == bindparam("digest"))


def held(connection: Connection, owner: str, digests: Sequence[str]) -> dict[str, int]:
    """Those of ``digests`` that this owner has sent before, with the size that each has."""
    found: dict[str, int] = {}
    query = select(blobs.c.digest, blobs.c.size).where(
        blobs.c.owner == owner, blobs.c.digest.in_(bindparam("digests", expanding=True))
    )
    for start in range(0, len(digests), _AT_ONCE):
        rows = connection.execute(query, {"digests": digests[start : start + _AT_ONCE]})
        found.update((row.digest, row.size) for row in rows)
    return found


def hold(connection: Connection, owner: str, sizes: Iterable[tuple[str, int]]) -> None:
    """Notes that this owner has shown these bytes."""
    rows = [
        {"owner": owner, "digest": digest, "size": size, "created_us": now_us()} for digest, size in sizes
    ]
    if rows:
        connection.execute(insert_or(blobs).on_conflict_do_nothing(), rows)


class Held(NamedTuple):
    """What one owner has sent, in bytes as they were before compression."""

    owner: str
    name: str
    jobs: int
    bytes: int


def held_by_owner(connection: Connection, limit: int) -> list[Held]:
    """The largest first."""
    count = select(func.count()).where(jobs.c.owner == blobs.c.owner).correlate(blobs).scalar_subquery()
    name = (
        select(users.c.name).where(blobs.c.owner == "user:" + users.c.id).correlate(blobs).scalar_subquery()
    )
    query = (
        select(blobs.c.owner, func.sum(blobs.c.size).label("bytes"), count.label("jobs"), name.label("name"))
        .group_by(blobs.c.owner)
        .order_by(func.sum(blobs.c.size).desc())
        .limit(limit)
    )
    return [Held(row.owner, row.name or row.owner, row.jobs, row.bytes) for row in connection.execute(query)]


def get(connection: Connection, owner: str, id: str) -> Snapshot | None:
    row = connection.execute(_ONE, {"of": owner, "digest": id}).first()
    if row is None:
        return None
    return Snapshot(id=row.id, files=row.files, bytes=row.bytes, created_us=row.created_us)


def create(connection: Connection, owner: str, snapshot: Snapshot) -> Snapshot:
    """Stores the snapshot, or returns the one that is there, as fresh as a new one."""
    if found := get(connection, owner, snapshot.id):
        connection.execute(
            update(snapshots)
            .where(snapshots.c.owner == owner, snapshots.c.id == snapshot.id)
            .values(created_us=snapshot.created_us)
        )
        return msgspec.structs.replace(found, created_us=snapshot.created_us)
    connection.execute(
        insert(snapshots).values(
            owner=owner, id=snapshot.id, files=snapshot.files, bytes=snapshot.bytes,
            created_us=snapshot.created_us,
        )
    )  # fmt: skip
    return snapshot
