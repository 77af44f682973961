"""Experiments over MLflow's HTTP: our projects."""

from __future__ import annotations

from gradient_jupyter.api.mlflow.face import count, deleted, everywhere, offset, pairs, shown, who
from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.mlflow import experiments
from gradient_jupyter.resources import mlflow as wire
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.run_filter import Kind, parse, parse_orders
from gradient_jupyter.store.experiments import EXPERIMENT_WORDS, Experiment

_ORDER_WORDS = EXPERIMENT_WORDS._replace(kinds=frozenset({Kind.ATTRIBUTE}))


async def create(call: Call) -> wire.ExperimentIdAnswer:
    body: wire.CreateExperiment = call.body
    tags = pairs(body.tags, wire.MOST_TAGS, "tags")
    made = await experiments.create(*who(call), body.name, body.artifact_location, tags)
    return wire.ExperimentIdAnswer(experiment_id=made.id)


async def get(call: Call) -> wire.ExperimentAnswer:
    return wire.ExperimentAnswer(
        experiment=_shape(await experiments.get(*who(call), call.query.experiment_id))
    )


async def by_name(call: Call) -> wire.ExperimentAnswer:
    return wire.ExperimentAnswer(
        experiment=_shape(await experiments.by_name(*who(call), call.query.experiment_name))
    )


async def search(call: Call) -> wire.ExperimentsAnswer:
    return await _search(call, call.body)


async def search_by_query(call: Call) -> wire.ExperimentsAnswer:
    return await _search(call, call.query)


async def _search(call: Call, asked: wire.SearchExperiments) -> wire.ExperimentsAnswer:
    limit, start = count(asked.max_results, 1000), offset(asked.page_token)
    order_by = (asked.order_by,) if isinstance(asked.order_by, str) else asked.order_by or ()
    found = await experiments.search(
        *who(call),
        parse(asked.filter, EXPERIMENT_WORDS),
        parse_orders(order_by, _ORDER_WORDS),
        deleted(asked.view_type),
        limit + 1,
        start,
    )
    return wire.ExperimentsAnswer(
        experiments=tuple(_shape(each) for each in found[:limit]),
        next_page_token=str(start + limit) if len(found) > limit else None,
    )


async def update(call: Call) -> wire.Nothing:
    body: wire.UpdateExperiment = call.body
    if not body.new_name:
        raise InvalidRequest("An experiment can be given a new_name, and nothing else.", code="bad-body")
    await experiments.rename(*who(call), body.experiment_id, body.new_name)
    return wire.Nothing()


async def delete(call: Call) -> wire.Nothing:
    await experiments.delete(*who(call), call.body.experiment_id)
    return wire.Nothing()


async def set_tag(call: Call) -> wire.Nothing:
    body: wire.SetExperimentTag = call.body
    await experiments.set_tag(*who(call), body.experiment_id, body.key, body.value or "")
    return wire.Nothing()


async def delete_tag(call: Call) -> wire.Nothing:
    await experiments.delete_tag(*who(call), call.body.experiment_id, call.body.key)
    return wire.Nothing()


def _shape(found: Experiment) -> wire.Experiment:
    return wire.Experiment(
        experiment_id=found.id, name=found.name, artifact_location=f"mlflow-artifacts:/{found.id}",
        lifecycle_stage="deleted" if found.deleted else "active", creation_time=found.created_us // 1000,
        last_update_time=found.created_us // 1000, tags=shown(found.tags),
    )  # fmt: skip


def routes() -> list[Route]:
    at = "/mlflow/experiments"
    read, write = Right.READ, Right.WRITE
    nothing = wire.Nothing
    return list(everywhere([
        Route("POST", f"{at}/create", write, create, body=wire.CreateExperiment,
              returns=wire.ExperimentIdAnswer, summary="Make a project"),
        Route("GET", f"{at}/get", read, get, query=wire.OfExperiment, returns=wire.ExperimentAnswer,
              summary="A project as an experiment"),
        Route("GET", f"{at}/get-by-name", read, by_name, query=wire.ExperimentByName,
              returns=wire.ExperimentAnswer, summary="A project by its name"),
        Route("POST", f"{at}/search", read, search, body=wire.SearchExperiments,
              returns=wire.ExperimentsAnswer, summary="Projects that fulfil a filter"),
        Route("GET", f"{at}/search", read, search_by_query, query=wire.SearchExperiments,
              returns=wire.ExperimentsAnswer, summary="Projects that fulfil a filter"),
        Route("POST", f"{at}/update", write, update, body=wire.UpdateExperiment, returns=nothing,
              summary="Rename a project"),
        Route("POST", f"{at}/delete", write, delete, body=wire.OfExperiment, returns=nothing,
              summary="Delete an empty project"),
        Route("POST", f"{at}/set-experiment-tag", write, set_tag, body=wire.SetExperimentTag,
              returns=nothing, summary="Tag a project"),
        Route("POST", f"{at}/delete-experiment-tag", write, delete_tag, body=wire.DeleteExperimentTag,
              returns=nothing, summary="Take a project's tag away"),
    ]))  # fmt: skip
