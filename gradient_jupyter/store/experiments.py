"""Projects as MLflow sees them: with tags, and searched for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Row

from gradient_jupyter.resources.run_filter import Condition, Kind, Operator, Order, Vocabulary
from gradient_jupyter.store.projects import visible
from gradient_jupyter.store.tables import project_tags, projects
from gradient_jupyter.store.tracking_search import text_condition

EXPERIMENT_WORDS = Vocabulary(
    attributes={
        "name": False, "experiment_id": False, "creation_time": True, "last_update_time": True,
    },
    kinds=frozenset({Kind.ATTRIBUTE, Kind.TAG}),
    aliases={},
)  # fmt: skip

_ATTRIBUTES: dict[str, ColumnElement[Any]] = {
    "name": projects.c.name,
    "experiment_id": projects.c.id,
    "creation_time": projects.c.created_us / 1000,
    "last_update_time": projects.c.created_us / 1000,
}


class Experiment(NamedTuple):
    id: str
    name: str
    created_us: int
    deleted: bool
    tags: tuple[tuple[str, str], ...]


def get(connection: Connection, project_id: str) -> Experiment:
    """Of a project that exists."""
    row = connection.execute(select(projects).where(projects.c.id == project_id)).one()
    return _experiments(connection, [row])[0]


def named(connection: Connection, owner: str, principals: Sequence[str], name: str) -> str | None:
    """The id of one's own of that name, else of the newest that is shared."""
    query = (
        select(projects.c.id)
        .where(visible(principals), projects.c.name == name)
        .order_by((projects.c.owner == owner).desc(), projects.c.seq.desc())
        .limit(1)
    )
    return connection.execute(query).scalar()


def search(
    connection: Connection,
    principals: Sequence[str],
    only: str | None,
    conditions: Sequence[Condition],
    orders: Sequence[Order],
    deleted: bool | None,
    limit: int,
    offset: int,
) -> list[Experiment]:
    query = select(projects).where(visible(principals), *(_sql(each) for each in conditions))
    if only is not None:
        query = query.where(projects.c.id == only)
    if deleted is not None:
        query = query.where(projects.c.deleting.is_(deleted))
    for order in orders:
        key = _ATTRIBUTES[order.key]
        query = query.order_by(key.asc() if order.ascending else key.desc())
    query = query.order_by(projects.c.seq.desc()).limit(limit).offset(offset)
    return _experiments(connection, connection.execute(query).all())


def set_tags(connection: Connection, project_id: str, tags: Sequence[tuple[str, str]]) -> None:
    if tags:
        statement = insert(project_tags)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["project_id", "key"], set_={"value": statement.excluded.value}
            ),
            [{"project_id": project_id, "key": key, "value": value} for key, value in tags],
        )


def count_tags(connection: Connection, project_id: str) -> int:
    return connection.execute(
        select(func.count()).select_from(project_tags).where(project_tags.c.project_id == project_id)
    ).scalar_one()


def delete_tag(connection: Connection, project_id: str, key: str) -> bool:
    where = and_(project_tags.c.project_id == project_id, project_tags.c.key == key)
    return connection.execute(delete(project_tags).where(where)).rowcount > 0


def _sql(condition: Condition) -> ColumnElement[bool]:
    if condition.kind is Kind.ATTRIBUTE:
        return text_condition(_ATTRIBUTES[condition.key], condition)
    there = exists().where(project_tags.c.project_id == projects.c.id, project_tags.c.key == condition.key)
    if condition.operator is Operator.IS_NULL:
        return ~there
    if condition.operator is Operator.IS_NOT_NULL:
        return there
    return there.where(text_condition(project_tags.c.value, condition))


def _experiments(connection: Connection, found: Sequence[Row[Any]]) -> list[Experiment]:
    tags: dict[str, list[tuple[str, str]]] = {}
    for row in connection.execute(
        select(project_tags)
        .where(project_tags.c.project_id.in_([each.id for each in found]))
        .order_by(project_tags.c.key)
    ):
        tags.setdefault(row.project_id, []).append((row.key, row.value))
    return [
        Experiment(row.id, row.name, row.created_us, row.deleting, tuple(tags.get(row.id, ())))
        for row in found
    ]
