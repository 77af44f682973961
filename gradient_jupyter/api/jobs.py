"""Jobs over HTTP: submit, read, stop, delete."""

from __future__ import annotations

import re

from gradient_jupyter.api.routes import Call, Right, Route, cursor
from gradient_jupyter.control import jobs
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.job import CreateJob, Job
from gradient_jupyter.resources.page import JobQuery, Jobs


async def page(call: Call) -> Jobs:
    return await jobs.page(call.plane, call.principal, call.query, cursor(call.query.cursor))


async def create(call: Call) -> Job:
    key = call.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise InvalidRequest(
            "An Idempotency-Key has 1 to 200 visible ASCII characters.", code="bad-idempotency-key"
        )
    return await jobs.submit(call.plane, call.principal, call.body, key)


async def show(call: Call) -> Job:
    return await jobs.get(call.plane, call.principal, call.path["job_id"])


async def stop(call: Call) -> Job:
    return await jobs.stop(call.plane, call.principal, call.path["job_id"])


async def delete(call: Call) -> Job:
    return await jobs.delete(call.plane, call.principal, call.path["job_id"])


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/jobs", Right.READ, page, query=JobQuery, returns=Jobs,
            summary="Jobs you may see, newest first",
        ),
        Route(
            "POST", "/jobs", Right.WRITE, create, body=CreateJob, returns=Job, status=201,
            summary="Submit a job",
            headers={"Idempotency-Key": "The same key never makes a second job."},
        ),
        Route("GET", "/jobs/{job_id}", Right.READ, show, returns=Job, summary="One job"),
        Route(
            "POST", "/jobs/{job_id}/stop", Right.WRITE, stop, returns=Job, status=202,
            summary="Cancel a job; of one that has ended this changes nothing",
        ),
        Route(
            "DELETE", "/jobs/{job_id}", Right.WRITE, delete, returns=Job, status=202,
            summary="Delete a job and everything it left; a running one is stopped first",
        ),
    ]  # fmt: skip
