"""Searches over runs: typed conditions to SQL, and what SQL does not know (metrics) handed back.

Values are always bound, never written into a statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, exists, func, select

from gradient_jupyter.resources.run_filter import COMPARED, Condition, Kind, Operator, Order, Vocabulary, glob
from gradient_jupyter.resources.tracking import Run
from gradient_jupyter.store.tables import run_inputs, run_params, run_tags
from gradient_jupyter.store.tracking import ALL, run_of

RUN_WORDS = Vocabulary(
    attributes={
        "run_id": False, "run_name": False, "status": False, "user_id": False, "artifact_uri": False,
        "start_time": True, "end_time": True,
    },
    kinds=frozenset(Kind),
    aliases={
        "created": "start_time", "Created": "start_time", "run name": "run_name", "Run name": "run_name",
        "Run Name": "run_name", "run_uuid": "run_id",
    },
)  # fmt: skip

_ATTRIBUTES: dict[str, ColumnElement[Any]] = {
    "run_id": ALL.c.id,
    "run_name": ALL.c.name,
    "status": ALL.c.status,
    "user_id": ALL.c.user,
    "artifact_uri": ALL.c.id,
    # MLflow's times are milliseconds.
    "start_time": ALL.c.start_us / 1000,
    "end_time": ALL.c.end_us / 1000,
}


class Found(NamedTuple):
    run: Run
    keys: tuple[object, ...]
    """What each ``Order`` that is no metric's compares, in their order."""


def find(
    connection: Connection,
    scope: Sequence[ColumnElement[bool]],
    conditions: Sequence[Condition],
    orders: Sequence[Order],
    deleted: bool | None,
    limit: int | None,
    offset: int,
) -> list[Found]:
    """The runs in ``scope`` that fulfil the conditions, save those on metrics; in the order asked for, save
    by metrics."""
    keys = [_key(order) for order in orders if order.kind is not Kind.METRIC]
    query = select(ALL, *(key.label(f"key{n}") for n, key in enumerate(keys))).where(*scope)
    for condition in conditions:
        if condition.kind is not Kind.METRIC:
            query = query.where(_sql(condition))
    if deleted is not None:
        query = query.where(ALL.c.deleted.is_(deleted))
    for key, order in zip(keys, (each for each in orders if each.kind is not Kind.METRIC), strict=True):
        query = query.order_by((key.asc() if order.ascending else key.desc()).nulls_last())
    query = query.order_by(ALL.c.start_us.desc(), ALL.c.id)
    if limit is not None:
        query = query.limit(limit).offset(offset)
    return [
        Found(run_of(row), tuple(getattr(row, f"key{n}") for n in range(len(keys))))
        for row in connection.execute(query)
    ]


def text_condition(column: ColumnElement[Any], condition: Condition) -> ColumnElement[bool]:
    """A comparison with text, or with numbers where the column has numbers."""
    value = condition.value
    match condition.operator:
        case Operator.LIKE:
            # SQLite's own LIKE does not tell upper from lower case; its GLOB does.
            return column.op("GLOB", is_comparison=True)(glob(str(value)))
        case Operator.ILIKE:
            return column.like(value)
        case Operator.IN:
            assert isinstance(value, tuple)
            return column.in_(value)
        case Operator.NOT_IN:
            assert isinstance(value, tuple)
            return column.not_in(value)
        case _:
            return COMPARED[condition.operator](column, value)  # type: ignore[no-any-return]


def _sql(condition: Condition) -> ColumnElement[bool]:
    if condition.kind is Kind.ATTRIBUTE:
        return text_condition(_ATTRIBUTES[condition.key], condition)
    if condition.kind is Kind.DATASET:
        return _dataset(condition)
    table = run_params if condition.kind is Kind.PARAM else run_tags
    there = exists().where(table.c.run_id == ALL.c.id, table.c.key == condition.key)
    if condition.operator is Operator.IS_NULL:
        return ~(there & ALL.c.spoken)
    if condition.operator is not Operator.IS_NOT_NULL:
        there = there.where(text_condition(table.c.value, condition))
    return there & ALL.c.spoken


def _dataset(condition: Condition) -> ColumnElement[bool]:
    there = exists().where(run_inputs.c.run_id == ALL.c.id)
    if condition.key == "context":
        # Its tags are pairs: [["mlflow.data.context", "train"], …]
        pairs = func.json_each(run_inputs.c.tags).table_valued("value")
        value = func.json_extract(pairs.c.value, "$[1]")
        there = there.where(
            exists()
            .select_from(pairs)
            .where(
                func.json_extract(pairs.c.value, "$[0]") == "mlflow.data.context",
                text_condition(value, condition),
            )
        )
    else:
        there = there.where(text_condition(run_inputs.c[condition.key], condition))
    return there & ALL.c.spoken


def _key(order: Order) -> ColumnElement[Any]:
    match order.kind:
        case Kind.ATTRIBUTE:
            return _ATTRIBUTES[order.key]
        case Kind.PARAM | Kind.TAG:
            table = run_params if order.kind is Kind.PARAM else run_tags
            return (
                select(table.c.value)
                .where(table.c.run_id == ALL.c.id, table.c.key == order.key, ALL.c.spoken)
                .scalar_subquery()
            )
        case _:
            return (
                select(func.min(run_inputs.c[order.key]))
                .where(run_inputs.c.run_id == ALL.c.id, ALL.c.spoken)
                .scalar_subquery()
            )
