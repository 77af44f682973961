"""The record of what was done. Rows are added, read, and forgotten when they are old; never changed."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, insert, select

from gradient_jupyter.resources.audit import AuditEntry
from gradient_jupyter.store.tables import audit

#: Forgotten at once at most, so that no write waits long for it.
_PORTION = 5_000


def append(connection: Connection, **values: str | int) -> None:
    """One entry; ``values`` are all columns but ``seq``."""
    connection.execute(insert(audit), values)


def page(
    connection: Connection, limit: int, before: int | None, since_us: int | None
) -> tuple[list[AuditEntry], int | None]:
    """Newest first, and the cursor of what follows."""
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(audit.c.seq < before)
    if since_us is not None:
        query = query.where(audit.c.time_us >= since_us)
    rows = connection.execute(query).mappings().all()
    following = rows[limit - 1]["seq"] if len(rows) > limit else None
    return [AuditEntry(**row) for row in rows[:limit]], following


def trim(connection: Connection, before_us: int, most: int) -> int:
    """Forgets entries older than ``before_us``, and the oldest beyond the newest ``most``; a portion of them.
    Returns how many."""
    oldest, newest = connection.execute(select(func.min(audit.c.seq), func.max(audit.c.seq))).one()
    if newest is None:
        return 0
    portion = audit.c.seq < oldest + _PORTION
    gone = connection.execute(
        delete(audit).where(portion, (audit.c.seq <= newest - most) | (audit.c.time_us < before_us))
    )
    return gone.rowcount
