"""The durable sequence of changes. Writing a change and its event is one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, delete, func, insert, select

from gradient_jupyter.resources.base import Resource, now_us
from gradient_jupyter.resources.event import Action, Event
from gradient_jupyter.store.database import Change, record
from gradient_jupyter.store.sight import shown
from gradient_jupyter.store.tables import events

#: How many events are kept. Whoever missed more reads the lists anew.
KEPT = 100_000

_INSERT = insert(events)


def append(
    connection: Connection,
    owner: str,
    project_id: str,
    noun: str,
    id: str,
    action: Action,
    resource: Resource | None,
    place: int | None = None,
) -> None:
    """``place``: of a new thing, its own sequence number, for those who keep things in order in memory."""
    body = msgspec.json.encode(resource)
    time_us = now_us()
    seq = connection.execute(
        _INSERT,
        dict(
            time_us=time_us,
            owner=owner,
            project_id=project_id,
            noun=noun,
            id=id,
            action=action.value,
            resource=body,
        ),
    ).inserted_primary_key
    assert seq is not None
    event = Event(
        seq=seq[0], time_us=time_us, noun=noun, id=id, action=action, project_id=project_id,
        resource=msgspec.Raw(body),
    )  # fmt: skip
    record(connection, Change(event, resource, place))


def after(connection: Connection, principals: Sequence[str], seq: int, limit: int) -> list[Event]:
    """The events after ``seq`` that these principals may see, oldest first."""
    rows = connection.execute(
        select(events)
        .where(events.c.seq > seq, shown(events.c.owner, events.c.project_id, principals))
        .order_by(events.c.seq)
        .limit(limit)
    )
    return [
        Event(
            seq=row.seq, time_us=row.time_us, noun=row.noun, id=row.id, action=Action(row.action),
            project_id=row.project_id, resource=msgspec.Raw(row.resource),
        )
        for row in rows
    ]  # fmt: skip


def bounds(connection: Connection) -> tuple[int, int]:
    """The oldest sequence number kept and the newest ever given out; (1, 0) before the first."""
    low, high = connection.execute(select(func.min(events.c.seq), func.max(events.c.seq))).one()
    return (low or 1, high or 0)


def newest_us(connection: Connection) -> int | None:
    """When the newest event happened, by the wall clock of then; None before the first."""
    newest = select(events.c.time_us).order_by(events.c.seq.desc()).limit(1)
    return connection.execute(newest).scalar()


def trim(connection: Connection) -> None:
    """Forgets what is older than the newest ``KEPT``."""
    _low, high = bounds(connection)
    connection.execute(delete(events).where(events.c.seq <= high - KEPT))
