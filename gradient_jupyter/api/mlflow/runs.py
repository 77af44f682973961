"""Runs over MLflow's HTTP: jobs, and tracking runs beside them."""

from __future__ import annotations

from collections.abc import Sequence

from gradient_jupyter.api.mlflow.face import count, deleted, everywhere, ids, offset, pairs, shown, who
from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.mlflow import run_search, tracking
from gradient_jupyter.resources import metric
from gradient_jupyter.resources import mlflow as wire
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.metric import Sample, Summary
from gradient_jupyter.resources.run_filter import parse, parse_orders
from gradient_jupyter.resources.tracking import Dataset, ModelLink, Run, RunStatus
from gradient_jupyter.store.tracking import Said
from gradient_jupyter.store.tracking_search import RUN_WORDS


async def create(call: Call) -> wire.RunAnswer:
    body: wire.CreateRun = call.body
    made = await tracking.create(
        *who(call),
        body.experiment_id or "",
        body.run_name,
        body.user_id or "",
        None if body.start_time is None else body.start_time * 1000,
        pairs(body.tags, wire.MOST_TAGS, "tags"),
    )
    return wire.RunAnswer(run=shape(made, ()))


async def get(call: Call) -> wire.RunAnswer:
    found = await tracking.get(*who(call), call.query.run)
    known = await run_search.summaries(call.plane, [found.run])
    return wire.RunAnswer(run=shape(found, known[found.run.id]))


async def update(call: Call) -> wire.RunInfoAnswer:
    body: wire.UpdateRun = call.body
    changed = await tracking.update(
        *who(call),
        body.run,
        _status(body.status),
        None if body.end_time is None else body.end_time * 1000,
        body.run_name,
    )
    return wire.RunInfoAnswer(run_info=info(changed))


async def delete(call: Call) -> wire.Nothing:
    await tracking.delete(*who(call), call.body.run)
    return wire.Nothing()


async def restore(call: Call) -> wire.Nothing:
    await tracking.restore(*who(call), call.body.run)
    return wire.Nothing()


async def search(call: Call) -> wire.RunsAnswer:
    body: wire.SearchRuns = call.body
    limit, start = count(body.max_results, 1000), offset(body.page_token)
    page = await run_search.search(
        *who(call),
        ids(body.experiment_ids, "experiments"),
        parse(body.filter, RUN_WORDS),
        parse_orders(body.order_by, RUN_WORDS),
        deleted(body.run_view_type),
        limit,
        start,
    )
    return wire.RunsAnswer(
        runs=tuple(shape(said, known) for said, known in page.runs),
        next_page_token=str(start + limit) if page.more else None,
    )


async def log_metric(call: Call) -> wire.Nothing:
    body: wire.LogMetric = call.body
    moment = now_us() if body.timestamp is None else body.timestamp * 1000
    await tracking.log(*who(call), body.run, [Sample(body.key, body.value, body.step or 0, moment)])
    return wire.Nothing()


async def log_param(call: Call) -> wire.Nothing:
    body: wire.LogParam = call.body
    await tracking.log(*who(call), body.run, params=[(body.key, body.value or "")])
    return wire.Nothing()


async def set_tag(call: Call) -> wire.Nothing:
    body: wire.SetTag = call.body
    await tracking.log(*who(call), body.run, tags=[(body.key, body.value or "")])
    return wire.Nothing()


async def delete_tag(call: Call) -> wire.Nothing:
    await tracking.delete_tag(*who(call), call.body.run, call.body.key)
    return wire.Nothing()


async def log_batch(call: Call) -> wire.Nothing:
    body: wire.LogBatch = call.body
    metrics = body.metrics or ()
    if len(metrics) > wire.MOST_METRICS:
        raise InvalidRequest(
            f"A request carries at most {wire.MOST_METRICS} metrics; this one has {len(metrics)}.",
            code="too-many",
        )
    now = now_us()
    samples = [
        Sample(each.key, each.value, each.step or 0, now if each.timestamp is None else each.timestamp * 1000)
        for each in metrics
    ]
    await tracking.log(
        *who(call),
        body.run,
        samples,
        _once(pairs(body.params, wire.MOST_PARAMS, "params")),
        pairs(body.tags, wire.MOST_TAGS, "tags"),
    )
    return wire.Nothing()


async def log_inputs(call: Call) -> wire.Nothing:
    body: wire.LogInputs = call.body
    datasets = [
        Dataset(
            name=each.dataset.name, digest=each.dataset.digest, source_type=each.dataset.source_type,
            source=each.dataset.source, schema=each.dataset.schema, profile=each.dataset.profile,
            tags=tuple(pairs(each.tags, wire.MOST_TAGS, "tags")),
        )
        for each in body.datasets or ()
    ]  # fmt: skip
    links = [ModelLink(model_id=each.model_id, direction="in") for each in body.models or ()]
    _few(datasets, links)
    await tracking.log_inputs(*who(call), body.run, datasets, links)
    return wire.Nothing()


async def log_outputs(call: Call) -> wire.Nothing:
    body: wire.LogOutputs = call.body
    links = [
        ModelLink(model_id=each.model_id, direction="out", step=each.step or 0) for each in body.models or ()
    ]
    _few(links)
    await tracking.log_inputs(*who(call), body.run, [], links)
    return wire.Nothing()


async def log_model(call: Call) -> wire.Nothing:
    await tracking.note_model(*who(call), call.body.run, call.body.model_json)
    return wire.Nothing()


def shape(said: Said, known: Sequence[Summary]) -> wire.Run:
    logged = said.logged
    return wire.Run(
        info=info(said.run),
        data=wire.RunData(
            metrics=tuple(
                wire.MetricAnswer(
                    key=each.key, value=wire.number(metric.number(each.last)),
                    timestamp=each.last_time_us // 1000, step=each.last_step,
                )
                for each in known
            ),
            params=shown(logged.params),
            tags=shown(logged.tags),
        ),
        inputs=wire.RunInputs(
            dataset_inputs=tuple(
                wire.DatasetInput(
                    dataset=wire.Dataset(
                        name=each.name, digest=each.digest, source_type=each.source_type, source=each.source,
                        schema=each.schema, profile=each.profile,
                    ),
                    tags=shown(each.tags),
                )
                for each in logged.inputs
            ),
            model_inputs=tuple(
                wire.ModelInput(model_id=each.model_id) for each in logged.models if each.direction == "in"
            ),
        ),
        outputs=wire.RunOutputs(
            model_outputs=tuple(
                wire.ModelOutput(model_id=each.model_id, step=each.step)
                for each in logged.models
                if each.direction == "out"
            )
        ),
    )  # fmt: skip


def info(run: Run) -> wire.RunInfo:
    return wire.RunInfo(
        run_id=run.id, run_uuid=run.id, run_name=run.name, experiment_id=run.project_id, user_id=run.user,
        status=run.status.value, start_time=run.start_us // 1000,
        end_time=None if run.end_us is None else run.end_us // 1000,
        artifact_uri=f"mlflow-artifacts:/{run.project_id}/{run.id}/artifacts",
        lifecycle_stage="deleted" if run.deleted else "active",
    )  # fmt: skip


def _status(given: RunStatus | int | None) -> RunStatus | None:
    if given is None or isinstance(given, RunStatus):
        return given
    numbers = dict(enumerate(RunStatus, 1))
    if given not in numbers:
        raise InvalidRequest(f"{given} is no status of a run.", code="bad-status")
    return numbers[given]


def _once(params: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One request must not say two things of one parameter."""
    said: dict[str, str] = {}
    for key, value in params:
        if said.setdefault(key, value) != value:
            raise InvalidRequest(f"The request says two things of the parameter {key!r}.", code="said-twice")
    return list(said.items())


def _few(*given: Sequence[object]) -> None:
    for each in given:
        if len(each) > wire.MOST_METRICS:
            raise InvalidRequest(
                f"A request carries at most {wire.MOST_METRICS} datasets or models.", code="too-many"
            )


def routes() -> list[Route]:
    at, write, nothing = "/mlflow/runs", Right.WRITE, wire.Nothing
    return list(everywhere([
        # Paths are tried in this order, and these come by the thousand.
        Route("POST", f"{at}/log-metric", write, log_metric, body=wire.LogMetric, returns=nothing, told=False,
              summary="Log one point"),
        Route("POST", f"{at}/log-batch", write, log_batch, body=wire.LogBatch, returns=nothing, told=False,
              summary="Log many things at once", body_limit=wire.BODY),
        Route("POST", f"{at}/create", write, create, body=wire.CreateRun, returns=wire.RunAnswer,
              summary="Begin a tracking run"),
        Route("GET", f"{at}/get", Right.READ, get, query=wire.OfRun, returns=wire.RunAnswer,
              summary="One run"),
        Route("POST", f"{at}/update", write, update, body=wire.UpdateRun, returns=wire.RunInfoAnswer,
              summary="End a tracking run, or rename a run"),
        Route("POST", f"{at}/search", Right.READ, search, body=wire.SearchRuns, returns=wire.RunsAnswer,
              summary="Runs that fulfil a filter"),
        Route("POST", f"{at}/delete", write, delete, body=wire.OfRun, returns=nothing,
              summary="Delete a tracking run"),
        Route("POST", f"{at}/restore", write, restore, body=wire.OfRun, returns=nothing,
              summary="Take a deleted run back"),
        Route("POST", f"{at}/log-parameter", write, log_param, body=wire.LogParam, returns=nothing,
              summary="Log a parameter"),
        Route("POST", f"{at}/set-tag", write, set_tag, body=wire.SetTag, returns=nothing,
              summary="Tag a run"),
        Route("POST", f"{at}/delete-tag", write, delete_tag, body=wire.DeleteTag, returns=nothing,
              summary="Take a run's tag away"),
        Route("POST", f"{at}/log-inputs", write, log_inputs, body=wire.LogInputs, returns=nothing,
              summary="Say which data sets and models a run has read", body_limit=4 * 2**20),
        Route("POST", f"{at}/outputs", write, log_outputs, body=wire.LogOutputs, returns=nothing,
              summary="Say which models a run has made"),
        Route("POST", f"{at}/log-model", write, log_model, body=wire.LogModel, returns=nothing,
              summary="Say which model a run has made, as MLflow 2 does"),
    ]))  # fmt: skip
