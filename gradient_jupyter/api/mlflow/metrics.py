"""What a run has measured, over MLflow's HTTP: whole, or a sample of several runs side by side."""

from __future__ import annotations

from gradient_jupyter.api.mlflow.face import count, everywhere, ids, who
from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.mlflow import tracking
from gradient_jupyter.resources import metric
from gradient_jupyter.resources import mlflow as wire
from gradient_jupyter.resources.errors import NotFound
from gradient_jupyter.resources.metric import Kind, Series, Stored, parse_cursor
from gradient_jupyter.resources.tracking import Run

_PAGE = 25_000
_SAMPLED_PAGE = 5_000
_MOST_RUNS = 100
_MOST_POINTS = 2500


async def history(call: Call) -> wire.MetricsAnswer:
    asked: wire.History = call.query
    run = await tracking.run(*who(call), asked.run)
    limit = count(asked.max_results, _PAGE)
    series = await _read(call, run, asked.metric_key, asked.page_token or None, limit)
    if series is None:
        return wire.MetricsAnswer()
    return wire.MetricsAnswer(
        metrics=tuple(_shape(asked.metric_key, point) for point in series.points),
        next_page_token=series.next,
    )


async def bulk(call: Call) -> wire.MetricsAnswer:
    """Of each run at most so many points, evenly chosen, its last among them."""
    asked: wire.BulkHistory = call.query
    given = (asked.run_ids,) if isinstance(asked.run_ids, str) else asked.run_ids
    most = count(asked.max_results, 320, _MOST_POINTS)
    answer: list[wire.MetricAnswer] = []
    for run_id in ids(given, "runs", _MOST_RUNS):
        run = await tracking.run(*who(call), run_id)
        points = await _sampled(call, run, asked, most)
        answer += [_shape(asked.metric_key, each, run_id) for each in points]
    return wire.MetricsAnswer(metrics=tuple(answer))


async def _sampled(call: Call, run: Run, asked: wire.BulkHistory, most: int) -> list[Stored]:
    sample = Sample(most)
    # A cursor as a reader of our own would have it who has come that far.
    after = None if asked.start_step is None else f"{asked.start_step},0,0"
    while True:
        series = await _read(call, run, asked.metric_key, after, _SAMPLED_PAGE)
        if series is None:
            break
        for each in series.points:
            if asked.end_step is not None and each.step > asked.end_step:
                return sample.chosen()
            sample.add(each)
        after = series.next
        if after is None:
            break
    return sample.chosen()


class Sample:
    """At most so many of the points that pass by, evenly chosen, the first and the last among them. However
    many pass, it holds two to four times as many as it will choose."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._stride = 1
        self._seen = 0
        self._kept: list[Stored] = []
        self._last: Stored | None = None

    def add(self, point: Stored) -> None:
        if self._seen % self._stride == 0:
            if len(self._kept) >= 4 * self._most:
                del self._kept[1::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self._kept.append(point)
        self._last = point
        self._seen += 1

    def chosen(self) -> list[Stored]:
        if self._last is None or self._most == 1:
            return [] if self._last is None else [self._last]
        points = self._kept if self._kept[-1] is self._last else [*self._kept, self._last]
        if len(points) <= self._most:
            return points
        return [points[n * (len(points) - 1) // (self._most - 1)] for n in range(self._most)]


async def _read(call: Call, run: Run, key: str, after: str | None, limit: int) -> Series | None:
    try:
        return await call.plane.points.read(
            tracking.directory_of(call.plane, run), key, parse_cursor(after), limit, Kind.CUSTOM
        )
    except NotFound:
        return None  # to MLflow a metric that nobody has logged has no points


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
