"""What a run has measured, over MLflow's HTTP: whole, or a sample of several runs side by side."""

from __future__ import annotations

from gradient_jupyter.api.mlflow.face import count, everywhere, who
from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control import tracking
from gradient_jupyter.resources import metric
from gradient_jupyter.resources import mlflow as wire
from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.metric import Kind, Series, Stored, parse_cursor
from gradient_jupyter.resources.tracking import Run

_PAGE = 25_000
_MOST_RUNS = 100
_MOST_POINTS = 2500


async def history(call: Call) -> wire.MetricsAnswer:
    asked: wire.History = call.query
    found = await tracking.get(*who(call), asked.run)
    limit = count(asked.max_results, _PAGE)
    series = await _read(call, found.run, asked.metric_key, asked.page_token or None, limit)
    if series is None:
        return wire.MetricsAnswer()
    return wire.MetricsAnswer(
        metrics=tuple(_shape(asked.metric_key, point) for point in series.points),
        next_page_token=series.next,
    )


async def bulk(call: Call) -> wire.MetricsAnswer:
    """Of each run at most so many points, evenly chosen, its last among them."""
    asked: wire.BulkHistory = call.query
    ids = (asked.run_ids,) if isinstance(asked.run_ids, str) else asked.run_ids
    if len(ids) > _MOST_RUNS:
        raise InvalidRequest(f"At most {_MOST_RUNS} runs are compared at once.", code="too-many")
    most = count(asked.max_results, 320, _MOST_POINTS)
    answer: list[wire.MetricAnswer] = []
    for run_id in ids:
        found = await tracking.get(*who(call), run_id)
        points: list[Stored] = []
        after: str | None = None
        while True:
            series = await _read(call, found.run, asked.metric_key, after, _PAGE)
            if series is None:
                break
            points += [each for each in series.points if _within(each.step, asked)]
            after = series.next
            if after is None:
                break
        answer += [_shape(asked.metric_key, each, run_id) for each in sample(points, most)]
    return wire.MetricsAnswer(metrics=tuple(answer))


def sample(points: list[Stored], most: int) -> list[Stored]:
    """At most so many, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return points
    if most == 1:
        return points[-1:]
    return [points[n * (len(points) - 1) // (most - 1)] for n in range(most)]


async def _read(call: Call, run: Run, key: str, after: str | None, limit: int) -> Series | None:
    try:
        return await call.plane.points.read(
            tracking.directory_of(call.plane, run), key, parse_cursor(after), limit, Kind.CUSTOM
        )
    except NotFound:
        return None  # to MLflow a metric that nobody has logged has no points


def _within(step: int, asked: wire.BulkHistory) -> bool:
    return (asked.start_step is None or step >= asked.start_step) and (
        asked.end_step is None or step <= asked.end_step
    )


def _shape(key: str, point: Stored, run_id: str | None = None) -> wire.MetricAnswer:
    return wire.MetricAnswer(
        key=key, value=wire.number(metric.number(point.value)), timestamp=point.time_us // 1000,
        step=point.step, run_id=run_id,
    )  # fmt: skip


def routes() -> list[Route]:
    at = "/mlflow/metrics"
    return list(everywhere([
        Route("GET", f"{at}/get-history", Right.READ, history, query=wire.History,
              returns=wire.MetricsAnswer, summary="Every point of one metric of one run"),
        Route("GET", f"{at}/get-history-bulk-interval", Right.READ, bulk, query=wire.BulkHistory,
              returns=wire.MetricsAnswer, summary="A sample of one metric of several runs"),
    ]))  # fmt: skip
