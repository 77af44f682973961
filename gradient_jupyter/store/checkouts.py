"""Which commit of which repository an owner has had, and the snapshot it became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as insert_or

from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.snapshot import Snapshot
from gradient_jupyter.store import snapshots
from gradient_jupyter.store.tables import checkouts


class Remembered(NamedTuple):
    snapshot: Snapshot
    warnings: tuple[str, ...]


def recall(connection: Connection, owner: str, source: str) -> Remembered | None:
    """What became of ``source``, which names a full commit, for this owner."""
    row = connection.execute(
        select(checkouts).where(checkouts.c.owner == owner, checkouts.c.source == source)
    ).first()
    if row is None:
        return None
    snapshot = snapshots.get(connection, owner, row.snapshot)
    if snapshot is None:
        return None
    return Remembered(snapshot, decode(row.warnings, type=tuple[str, ...]))


def remember(
    connection: Connection, owner: str, source: str, snapshot_id: str, warnings: Sequence[str]
) -> None:
    """Notes what became of it, in place of what was noted before."""
    values = {"snapshot": snapshot_id, "warnings": msgspec.json.encode(warnings).decode()}
    connection.execute(
        insert_or(checkouts)
        .values(owner=owner, source=source, created_us=now_us(), **values)
        .on_conflict_do_update(index_elements=["owner", "source"], set_=values)
    )
