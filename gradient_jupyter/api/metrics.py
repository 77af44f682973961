"""Metrics over HTTP: a run writes points; people read what there is, a series, or the same made small."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gradient_jupyter.api.routes import Call, Inside, Right, Route
from gradient_jupyter.api.streams import EventStream, message
from gradient_jupyter.control.measuring import metrics
from gradient_jupyter.resources.base import Request
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.log import Ended
from gradient_jupyter.resources.metric import (
    Accepted,
    Buckets,
    Kind,
    LogMetrics,
    MetricKey,
    Metrics,
    Series,
    Step,
    TimeUs,
    samples,
)

Attempt = Annotated[int, msgspec.Meta(ge=1)]
#: ``MOST_AT_ONCE`` points with long names.
_BODY = 4 * 2**20


class SummaryQuery(Request, frozen=True, kw_only=True):
    attempt: Attempt | None = None
    """Default: the newest."""


class PointsQuery(SummaryQuery, frozen=True, kw_only=True):
    key: MetricKey
    kind: Kind | None = None
    """Default: the run's own series of that name, else the platform's."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10_000
    cursor: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class BucketsQuery(SummaryQuery, frozen=True, kw_only=True):
    key: MetricKey
    kind: Kind | None = None
    buckets: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    from_step: Step | None = None
    to_step: Step | None = None
    from_us: TimeUs | None = None
    to_us: TimeUs | None = None


async def log(call: Call) -> Accepted:
    found = samples(call.body.points)
    await metrics.log(call.plane, call.principal, call.path["job_id"], found)
    return Accepted(accepted=len(found))


async def summaries(call: Call) -> Metrics:
    return await metrics.summaries(call.plane, call.principal, call.path["job_id"], call.query.attempt)


async def points(call: Call) -> Series:
    asked = call.query
    return await metrics.points(
        call.plane, call.principal, call.path["job_id"], asked.key, asked.attempt, asked.cursor, asked.limit,
        asked.kind,
    )  # fmt: skip


async def buckets(call: Call) -> Buckets:
    asked = call.query
    return await metrics.buckets(
        call.plane, call.principal, call.path["job_id"], asked.key, asked.buckets, asked.attempt, asked.kind,
        (asked.from_step, asked.to_step), (asked.from_us, asked.to_us),
    )  # fmt: skip


async def follow(call: Call) -> EventStream[Job | Metrics | Ended]:
    source = metrics.follow(call.plane, call.principal, call.path["job_id"])
    return EventStream(call.host, source, _encode)


def _encode(item: Job | Metrics | Ended) -> bytes:
    match item:
        case Job():
            return message("job", msgspec.json.encode(item))
        case Metrics():
            return message("metrics", msgspec.json.encode(item))
        case Ended():
            return message("end", msgspec.json.encode(item))


def routes() -> list[Route]:
    return [
        Route(
            "POST", "/jobs/{job_id}/metrics", Right.WRITE, log, body=LogMetrics, returns=Accepted, status=202,
            inside=Inside.ITS_JOB, body_limit=_BODY, told=False,
            summary="Write points of metrics; what was stored before is not stored twice",
        ),
        Route(
            "GET", "/jobs/{job_id}/metrics", Right.READ, summaries, query=SummaryQuery, returns=Metrics,
            inside=Inside.ITS_JOB,
            summary="Every metric of a job: how many points, the least, the greatest, the last",
        ),
        Route(
            "GET", "/jobs/{job_id}/metrics/points", Right.READ, points, query=PointsQuery, returns=Series,
            inside=Inside.ITS_JOB,
            summary="The points of one metric, by step and time",
        ),
        Route(
            "GET", "/jobs/{job_id}/metrics/buckets", Right.READ, buckets, query=BucketsQuery, returns=Buckets,
            summary="One metric made small: neighbouring points as one bucket",
        ),
        Route(
            "GET", "/jobs/{job_id}/metrics/stream", Right.READ, follow, returns=str,
            media="text/event-stream",
            summary="Summaries as they change: job, metrics, end. Each connection begins with all of them",
        ),
    ]  # fmt: skip
