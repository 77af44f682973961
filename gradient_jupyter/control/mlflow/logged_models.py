"""MLflow's logged models: named, tagged and found. Their files are ``run_files``'s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection, select

from gradient_jupyter.control.mlflow import experiments, run_search, tracking
from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running import attempts
from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.mlflow import LONGEST_PARAM, LONGEST_TAG
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.run_filter import Condition, Kind, Order, Vocabulary, fulfils
from gradient_jupyter.resources.tracking import LoggedModel
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import logged_models as rows
from gradient_jupyter.store import tracking as run_rows
from gradient_jupyter.store.tables import logged_models, runs

MODEL_WORDS = Vocabulary(
    attributes={
        "name": False, "model_id": False, "model_type": False, "status": False, "source_run_id": False,
        "experiment_id": False, "creation_timestamp": True, "last_updated_timestamp": True,
    },
    kinds=frozenset({Kind.ATTRIBUTE, Kind.PARAM, Kind.TAG}),
    aliases={
        "creation_time": "creation_timestamp", "creation_timestamp_ms": "creation_timestamp",
        "last_updated_timestamp_ms": "last_updated_timestamp", "run_id": "source_run_id",
    },
)  # fmt: skip
_MOST = 1000
#: Of one project.
MOST_MODELS = 10_000
Pairs = Sequence[tuple[str, str]]


def find(connection: Connection, principal: Principal, model_id: str, role: Role) -> LoggedModel:
    """The model, if it exists for whoever asks: as its run does, or, where there is none, its project."""
    model = rows.get(connection, model_id)
    if model is None:
        raise _no_model(model_id)
    try:
        if model.run_id is not None:
            tracking.find(connection, principal, model.run_id, role)
        elif principal.attempt is not None:
            raise _no_model(model_id)
        else:
            access.place(connection, principal, model.project_id, role)
    except NotFound:
        raise _no_model(model_id) from None
    return model


async def create(
    plane: Plane,
    principal: Principal,
    experiment_id: str,
    name: str,
    model_type: str,
    run_id: str | None,
    params: Pairs,
    tags: Pairs,
) -> LoggedModel:
    """Of a run, or of nobody in particular. Inside a job always of a run: of its own where none is named."""
    _check(params, tags)
    plane.check_space()
    shown = tracking.shown_name(name)
    if principal.attempt is not None:
        run_id = run_id or principal.attempt[0]
    model_id = f"m-{new_id('')}"
    where = plane.layout.run(model_id)
    if run_id is None:
        await plane.on_files(lambda: where.mkdir(parents=True, mode=0o700))

    def work(connection: Connection) -> LoggedModel:
        if run_id is None:
            project_id = experiments.place_for_run(connection, principal, experiment_id).id
        else:
            run = tracking.find(connection, principal, run_id, Role.MEMBER)
            project_id = run.project_id
            tracking.check_open(connection, run)
            if run.own:
                job = job_rows.find(connection, run.id)
                assert job is not None
                run_rows.open_own(connection, job)
        model = LoggedModel(
            id=model_id, project_id=project_id, run_id=run_id, name=shown or "model",
            model_type=model_type[:500], status="LOGGED_MODEL_PENDING", params=dict(params), tags=dict(tags),
            created_us=now_us(), updated_us=now_us(),
        )  # fmt: skip
        if rows.count(connection, project_id) >= MOST_MODELS:
            raise InvalidRequest(
                f"The experiment {project_id} has {MOST_MODELS:,} logged models, which is as many as one may "
                "have.",
                next="Delete some: MlflowClient().delete_logged_model(model_id)",
                code="too-many-models",
            )
        rows.create(connection, model)
        return model

    try:
        return await plane.database.write(work)
    except BaseException:
        if run_id is None:
            await asyncio.shield(plane.on_files(where.rmdir))
        raise


async def get(plane: Plane, principal: Principal, model_id: str) -> LoggedModel:
    return await plane.database.read(lambda connection: find(connection, principal, model_id, Role.VIEWER))


async def finalize(plane: Plane, principal: Principal, model_id: str, status: str) -> LoggedModel:
    return await _change(
        plane, principal, model_id,
        lambda connection, model: rows.change(connection, model, status=status), recorded=True,
    )  # fmt: skip


async def set_tags(plane: Plane, principal: Principal, model_id: str, tags: Pairs) -> LoggedModel:
    _check((), tags)

    def work(connection: Connection, model: LoggedModel) -> LoggedModel:
        return rows.change(connection, model, tags=_bounded({**model.tags, **dict(tags)}))

    plane.check_space()
    return await _change(plane, principal, model_id, work)


async def delete_tag(plane: Plane, principal: Principal, model_id: str, key: str) -> LoggedModel:
    def work(connection: Connection, model: LoggedModel) -> LoggedModel:
        if key not in model.tags:
            raise NotFound(f"The model {model_id} has no tag {key[:100]!r}.", code="no-such-tag")
        left = {name: value for name, value in model.tags.items() if name != key}
        return rows.change(connection, model, tags=left)

    return await _change(plane, principal, model_id, work)


async def add_params(plane: Plane, principal: Principal, model_id: str, params: Pairs) -> LoggedModel:
    _check(params, ())

    def work(connection: Connection, model: LoggedModel) -> LoggedModel:
        return rows.change(connection, model, params=_bounded({**model.params, **dict(params)}))

    plane.check_space()
    return await _change(plane, principal, model_id, work, recorded=True)


async def check_may_change(plane: Plane, principal: Principal, model_id: str) -> LoggedModel:
    return await plane.database.read(lambda connection: find(connection, principal, model_id, Role.MEMBER))


async def erase(plane: Plane, principal: Principal, model_id: str) -> LoggedModel:
    """The row. Whoever calls removes the files before."""

    def work(connection: Connection, model: LoggedModel) -> LoggedModel:
        rows.erase(connection, model.id)
        if principal.attempt is None:
            told = f"in {model.project_id}: {model.name}"
            audit.record(connection, "model.delete", "model", model.id, detail=told)
        return model

    return await _change(plane, principal, model_id, work)


async def search(
    plane: Plane,
    principal: Principal,
    experiment_ids: Sequence[str],
    conditions: Sequence[Condition],
    orders: Sequence[Order],
) -> list[LoggedModel]:
    """Newest first where no order is asked for."""

    def work(connection: Connection) -> Sequence[LoggedModel]:
        if principal.attempt is not None:
            job = attempts.living(connection, *principal.attempt)
            if job.project_id not in experiment_ids:
                return []
            within = logged_models.c.run_id.in_(select(runs.c.id).where(runs.c.job_id == job.id))
        else:
            within = logged_models.c.project_id.in_(access.seen(connection, principal, experiment_ids))
        return rows.of_runs_or_projects(connection, within)

    found = [
        model
        for model in await plane.database.read(work)
        if all(fulfils(_value(model, each.kind, each.key), each) for each in conditions)
    ]
    for order in reversed(orders):
        found = run_search.sort(found, partial(_value, kind=order.kind, key=order.key), order.ascending)
    return found


def _value(model: LoggedModel, kind: Kind, key: str) -> str | float | None:
    if kind is Kind.PARAM:
        return model.params.get(key)
    if kind is Kind.TAG:
        return model.tags.get(key)
    values: dict[str, str | float | None] = {
        "name": model.name, "model_id": model.id, "model_type": model.model_type,
        "status": model.status.removeprefix("LOGGED_MODEL_"), "source_run_id": model.run_id,
        "experiment_id": model.project_id, "creation_timestamp": model.created_us // 1000,
        "last_updated_timestamp": model.updated_us // 1000,
    }  # fmt: skip
    return values[key]


async def _change(
    plane: Plane,
    principal: Principal,
    model_id: str,
    work: Callable[[Connection, LoggedModel], LoggedModel],
    *,
    recorded: bool = False,
) -> LoggedModel:
    """``recorded``: it is part of what its run has made, and stays with the run's end."""

    def all_of_it(connection: Connection) -> LoggedModel:
        model = find(connection, principal, model_id, Role.MEMBER)
        if recorded and model.run_id is not None:
            tracking.check_open(connection, tracking.find(connection, principal, model.run_id, Role.MEMBER))
        return work(connection, model)

    return await plane.database.write(all_of_it)


def _check(params: Pairs, tags: Pairs) -> None:
    for pairs, longest, what in ((params, LONGEST_PARAM, "parameter"), (tags, LONGEST_TAG, "tag")):
        for key, value in pairs:
            if not 1 <= len(key) <= 250 or len(value) > longest:
                raise InvalidRequest(
                    f"A {what} of a model has a key of 1 to 250 and a value of at most {longest:,} "
                    "characters.",
                    code="value-too-long",
                )


def _bounded(pairs: dict[str, str]) -> dict[str, str]:
    if len(pairs) > _MOST:
        raise InvalidRequest(
            f"A model has at most {_MOST:,} parameters, and as many tags.", code="too-many-words"
        )
    return pairs


def _no_model(model_id: str) -> NotFound:
    return NotFound(f"There is no logged model {model_id[:100]!r}.", code="no-such-model")
