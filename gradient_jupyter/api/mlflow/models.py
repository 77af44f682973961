"""Logged models over MLflow's HTTP. The registry is something else, and not here."""

from __future__ import annotations

from gradient_jupyter.api.mlflow.artifacts import files
from gradient_jupyter.api.mlflow.face import count, everywhere, ids, offset, pairs, shown, who
from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.mlflow import logged_models, run_files
from gradient_jupyter.control.mlflow.logged_models import MODEL_WORDS
from gradient_jupyter.resources import mlflow as wire
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.run_filter import MOST_ORDERS, Order, parse, parse_order
from gradient_jupyter.resources.tracking import LoggedModel

_STATUSES = ("LOGGED_MODEL_PENDING", "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED")


async def create(call: Call) -> wire.LoggedModelAnswer:
    body: wire.CreateLoggedModel = call.body
    made = await logged_models.create(
        *who(call),
        body.experiment_id or "",
        body.name or "",
        body.model_type or "",
        body.source_run_id or None,
        pairs(body.params, wire.MOST_METRICS, "params"),
        pairs(body.tags, wire.MOST_TAGS, "tags"),
    )
    return _answer(made)


async def get(call: Call) -> wire.LoggedModelAnswer:
    return _answer(await logged_models.get(*who(call), call.path["model_id"]))


async def finalize(call: Call) -> wire.LoggedModelAnswer:
    status = call.body.status
    if isinstance(status, int):
        status = _STATUSES[status - 1] if 1 <= status <= len(_STATUSES) else str(status)
    if status not in _STATUSES:
        raise InvalidRequest(f"{status[:100]!r} is no status of a model.", code="bad-status")
    return _answer(await logged_models.finalize(*who(call), call.path["model_id"], status))


async def delete(call: Call) -> wire.Nothing:
    """The files it has in a run that can still lose some, then what is known of it."""
    model_id = call.path["model_id"]
    await logged_models.check_may_change(*who(call), model_id)
    await run_files.clear_model(*who(call), model_id)
    await logged_models.erase(*who(call), model_id)
    return wire.Nothing()


async def set_tags(call: Call) -> wire.LoggedModelAnswer:
    tags = pairs(call.body.tags, wire.MOST_TAGS, "tags")
    return _answer(await logged_models.set_tags(*who(call), call.path["model_id"], tags))


async def delete_tag(call: Call) -> wire.Nothing:
    await logged_models.delete_tag(*who(call), call.path["model_id"], call.path["key"])
    return wire.Nothing()


async def add_params(call: Call) -> wire.LoggedModelAnswer:
    params = pairs(call.body.params, wire.MOST_METRICS, "params")
    return _answer(await logged_models.add_params(*who(call), call.path["model_id"], params))


async def search(call: Call) -> wire.LoggedModelsAnswer:
    body: wire.SearchLoggedModels = call.body
    limit, start = count(body.max_results, 100), offset(body.page_token)
    asked = body.order_by or ()
    if len(asked) > MOST_ORDERS:
        raise InvalidRequest(f"Models are ordered by at most {MOST_ORDERS} keys.", code="bad-filter")
    orders: list[Order] = []
    for each in asked:
        order = parse_order(each.field_name, MODEL_WORDS)
        orders.append(order._replace(ascending=each.ascending is not False))
    found = await logged_models.search(
        *who(call), ids(body.experiment_ids, "experiments"), parse(body.filter, MODEL_WORDS), orders
    )
    return wire.LoggedModelsAnswer(
        models=tuple(_shape(each) for each in found[start : start + limit]),
        next_page_token=str(start + limit) if len(found) > start + limit else None,
    )


async def listing(call: Call) -> wire.FilesAnswer:
    model = await logged_models.get(*who(call), call.path["model_id"])
    directory = (call.query.artifact_directory_path or "").strip("/")
    place = await run_files.place_of_model(*who(call), model.id, directory)
    return wire.FilesAnswer(
        root_uri=_uri(model), files=files(await run_files.entries(call.plane, place), directory)
    )


def _answer(model: LoggedModel) -> wire.LoggedModelAnswer:
    return wire.LoggedModelAnswer(model=_shape(model))


def _shape(model: LoggedModel) -> wire.LoggedModel:
    return wire.LoggedModel(
        info=wire.LoggedModelInfo(
            model_id=model.id, experiment_id=model.project_id, name=model.name,
            creation_timestamp_ms=model.created_us // 1000,
            last_updated_timestamp_ms=model.updated_us // 1000, artifact_uri=_uri(model),
            status=model.status, model_type=model.model_type, source_run_id=model.run_id,
            tags=shown(model.tags.items()),
        ),
        data=wire.LoggedModelData(params=shown(model.params.items())),
    )  # fmt: skip


def _uri(model: LoggedModel) -> str:
    return f"mlflow-artifacts:/{model.project_id}/models/{model.id}/artifacts"


def routes() -> list[Route]:
    at, one, write = "/mlflow/logged-models", "/mlflow/logged-models/{model_id}", Right.WRITE
    model = wire.LoggedModelAnswer
    return list(everywhere([
        Route("POST", at, write, create, body=wire.CreateLoggedModel, returns=model,
              summary="Begin a logged model"),
        Route("POST", f"{at}/search", Right.READ, search, body=wire.SearchLoggedModels,
              returns=wire.LoggedModelsAnswer, summary="Logged models that fulfil a filter"),
        Route("GET", one, Right.READ, get, query=wire.AllowDeleted, returns=model,
              summary="One logged model"),
        Route("PATCH", one, write, finalize, body=wire.FinalizeLoggedModel, returns=model,
              summary="Say that a logged model is whole"),
        Route("DELETE", one, write, delete, body=wire.Nothing, returns=wire.Nothing,
              summary="Delete a logged model"),
        Route("PATCH", f"{one}/tags", write, set_tags, body=wire.LoggedModelTags, returns=model,
              summary="Tag a logged model"),
        Route("DELETE", f"{one}/tags/{{key...}}", write, delete_tag, body=wire.Nothing, returns=wire.Nothing,
              summary="Take a logged model's tag away"),
        Route("POST", f"{one}/params", write, add_params, body=wire.LoggedModelParams, returns=model,
              summary="Say more of a logged model's parameters"),
        Route("GET", f"{one}/artifacts/directories", Right.READ, listing, query=wire.ModelFiles,
              returns=wire.FilesAnswer, summary="What lies in a directory of a logged model"),
    ]))  # fmt: skip
