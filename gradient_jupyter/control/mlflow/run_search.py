"""Searches over runs. What stands in rows is searched by the database. Metrics stand in the runs' own files:
where a filter or an order names one, the runs that are left are looked at one by one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection

from gradient_jupyter.control.mlflow import tracking
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources import metric
from gradient_jupyter.resources.metric import Kind as MetricKind
from gradient_jupyter.resources.metric import Summary
from gradient_jupyter.resources.run_filter import Condition, Kind, Order, fulfils
from gradient_jupyter.resources.tracking import Run
from gradient_jupyter.store import tracking as rows
from gradient_jupyter.store import tracking_search
from gradient_jupyter.store.tracking import Said
from gradient_jupyter.store.tracking_search import Found

T = TypeVar("T")

#: How many runs' files are looked at before others are heard.
_AT_ONCE = 32


class Page(NamedTuple):
    runs: list[tuple[Said, Sequence[Summary]]]
    more: bool


async def search(
    plane: Plane,
    principal: Principal,
    experiment_ids: Sequence[str],
    conditions: Sequence[Condition],
    orders: Sequence[Order],
    deleted: bool | None,
    limit: int,
    offset: int,
) -> Page:
    """Newest first where no order is asked for."""
    wanted = [each for each in conditions if each.kind is Kind.METRIC]
    measured = bool(wanted) or any(order.kind is Kind.METRIC for order in orders)

    def candidates(connection: Connection) -> list[Found]:
        within = [tracking.scope(connection, principal, experiment_ids)]
        most = None if measured else limit + 1
        return tracking_search.find(connection, within, conditions, orders, deleted, most, offset)

    found = await plane.database.read(candidates)
    known: dict[str, Sequence[Summary]] = {}
    if measured:
        known = await summaries(plane, [each.run for each in found])
        last = {run_id: _last(each) for run_id, each in known.items()}
        found = [
            each for each in found if all(fulfils(last[each.run.id].get(one.key), one) for one in wanted)
        ]
        if any(order.kind is Kind.METRIC for order in orders):
            found = _ordered(found, orders, last)
        found = found[offset : offset + limit + 1]
    more, runs = len(found) > limit, [each.run for each in found[:limit]]
    missing = [run for run in runs if run.id not in known]
    known |= await summaries(plane, missing)
    said = await plane.database.read(functools.partial(rows.said, found=runs))
    return Page([(each, known[each.run.id]) for each in said], more)


async def summaries(plane: Plane, runs: Sequence[Run]) -> dict[str, Sequence[Summary]]:
    """What each has written of its own; the platform's measurements are not among them."""
    found: dict[str, Sequence[Summary]] = {}
    for start in range(0, len(runs), _AT_ONCE):
        some = runs[start : start + _AT_ONCE]
        read = await asyncio.gather(
            *(plane.points.summaries(tracking.directory_of(plane, run)) for run in some)
        )
        for run, all_of_it in zip(some, read, strict=True):
            found[run.id] = [each for each in all_of_it if each.kind is MetricKind.CUSTOM]
    return found


def _last(found: Iterable[Summary]) -> dict[str, float]:
    return {each.key: metric.number(each.last) for each in found}


def _ordered(found: list[Found], orders: Sequence[Order], last: dict[str, dict[str, float]]) -> list[Found]:
    """By each key in turn, the last first: sorting keeps what is equal in its order."""
    plain = [order for order in orders if order.kind is not Kind.METRIC]
    for order in reversed(orders):
        if order.kind is Kind.METRIC:
            found = sort(found, lambda each: last[each.run.id].get(order.key), order.ascending)  # noqa: B023
        else:
            at = plain.index(order)
            found = sort(found, lambda each: each.keys[at], order.ascending)  # noqa: B023
    return found


def sort(found: list[T], key: Callable[[T], object], ascending: bool) -> list[T]:
    """What has no value, or one that is no number, comes last either way."""
    pairs = [(key(each), each) for each in found]
    there = [pair for pair in pairs if pair[0] is not None and pair[0] == pair[0]]
    absent = [each for value, each in pairs if value is None or value != value]  # noqa: PLR0124
    there.sort(key=lambda pair: pair[0], reverse=not ascending)  # type: ignore[arg-type, return-value]
    return [each for _, each in there] + absent
