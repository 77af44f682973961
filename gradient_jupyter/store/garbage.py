"""What nothing refers to any more, as far as the tables can tell.

A job refers to its snapshot by id, and so do a version of a dataset and a job that has one. What a snapshot
refers to stands in its manifest, which is not here: ``control.garbage`` reads it. Everything is asked again
in the write that removes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Exists,
    and_,
    bindparam,
    delete,
    exists,
    or_,
    select,
    union_all,
    update,
)

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.store.tables import blobs, dataset_versions, datasets, job_datasets, jobs, snapshots

_AT_ONCE = 500
#: How far in the future a row may seem to be made: clocks differ a little, and are set back.
_FUTURE_US = 60_000_000
_NAMED: BindParameter[str] = bindparam("digests", expanding=True)
_NAMING = union_all(
    select(blobs.c.digest).where(blobs.c.digest.in_(_NAMED)),
    select(snapshots.c.id).where(snapshots.c.id.in_(_NAMED)),
)


class Key(NamedTuple):
    """A snapshot or a blob of one owner."""

    owner: str
    id: str


def dead_snapshots(connection: Connection, before_us: int) -> list[Key]:
    """Those that no job and no dataset names and that were stored before then."""
    query = select(snapshots.c.owner, snapshots.c.id).where(
        snapshots.c.created_us < before_us, *(~naming for naming in _naming(snapshots.c.id))
    )
    return [Key(row.owner, row.id) for row in connection.execute(query)]


def drop_snapshots(connection: Connection, keys: Iterable[Key], before_us: int) -> list[Key]:
    """Removes those of them that are still dead; returns which."""
    gone = []
    for key in keys:
        found = connection.execute(
            delete(snapshots).where(
                snapshots.c.owner == key.owner, snapshots.c.id == key.id, snapshots.c.created_us < before_us,
                *(~naming for naming in _naming(key.id)),
            )
        )  # fmt: skip
        if found.rowcount:
            gone.append(key)
    return gone


def live_snapshots(connection: Connection, owner: str, dataset_id: str) -> set[str]:
    """Every snapshot that something of this owner's names, or a job that has that dataset."""
    theirs = select(datasets.c.id).where(datasets.c.owner == owner)
    has = or_(jobs.c.owner == owner, job_datasets.c.dataset_id == dataset_id)
    found: set[str] = set()
    for query in (
        select(jobs.c.snapshot).where(jobs.c.owner == owner),
        select(dataset_versions.c.snapshot).where(dataset_versions.c.dataset_id.in_(theirs)),
        select(job_datasets.c.snapshot).join(jobs, jobs.c.id == job_datasets.c.job_id).where(has),
    ):
        found.update(connection.execute(query.distinct()).scalars())
    return found


def _naming(snapshot: ColumnElement[str] | str) -> tuple[Exists, ...]:
    """One for each kind of thing that may name it."""
    return tuple(
        exists().where(column == snapshot)
        for column in (jobs.c.snapshot, dataset_versions.c.snapshot, job_datasets.c.snapshot)
    )


def stored_snapshots(connection: Connection) -> list[Key]:
    """All of them, by owner."""
    query = select(snapshots.c.owner, snapshots.c.id).order_by(snapshots.c.owner, snapshots.c.id)
    return [Key(row.owner, row.id) for row in connection.execute(query)]


def old_blobs(connection: Connection, before_us: int, after: Key, limit: int) -> list[Key]:
    """Blobs noted before then, in the order of owner and digest, from ``after`` on."""
    query = (
        select(blobs.c.owner, blobs.c.digest)
        .where(
            blobs.c.created_us < before_us,
            or_(blobs.c.owner > after.owner, and_(blobs.c.owner == after.owner, blobs.c.digest > after.id)),
        )
        .order_by(blobs.c.owner, blobs.c.digest)
        .limit(limit)
    )
    return [Key(row.owner, row.digest) for row in connection.execute(query)]


def drop_blobs(connection: Connection, keys: Iterable[Key], before_us: int) -> None:
    for key in keys:
        connection.execute(
            delete(blobs).where(
                blobs.c.owner == key.owner, blobs.c.digest == key.id, blobs.c.created_us < before_us
            )
        )


def named(connection: Connection, digests: Sequence[str]) -> set[str]:
    """Those of the digests that any row names, whoever owns it: as a blob or as a manifest."""
    return set(holders(connection, digests))


def holders(connection: Connection, digests: Sequence[str]) -> Counter[str]:
    """How many rows name each of the digests, as ``named`` counts them."""
    found: Counter[str] = Counter()
    for start in range(0, len(digests), _AT_ONCE):
        found.update(connection.execute(_NAMING, {"digests": digests[start : start + _AT_ONCE]}).scalars())
    return found


def from_the_future(connection: Connection) -> None:
    """A row made "later than now" was made under a clock that has been set back since: it counts as made now,
    so that it does not outlive everything else."""
    now = now_us()
    for table in (blobs, snapshots):
        connection.execute(update(table).where(table.c.created_us > now + _FUTURE_US).values(created_us=now))
