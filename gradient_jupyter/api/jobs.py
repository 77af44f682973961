"""Jobs over HTTP: submit, read, stop, delete."""

from __future__ import annotations

import re

from gradient_jupyter.api.routes import Call, Inside, Right, Route, cursor
from gradient_jupyter.control import jobs
from gradient_jupyter.control.running import progress
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.job import CreateJob, Job, Progress, RerunJob, UpdateJob
from gradient_jupyter.resources.page import Attempts, JobQuery, Jobs


async def page(call: Call) -> Jobs:
    return await jobs.page(call.plane, call.principal, call.query, cursor(call.query.cursor))


async def create(call: Call) -> Job:
    return await jobs.submit(call.plane, call.principal, call.body, _idempotency_key(call))


async def rerun(call: Call) -> Job:
    return await jobs.rerun(
        call.plane, call.principal, call.path["job_id"], call.body, _idempotency_key(call)
    )


async def attempts(call: Call) -> Attempts:
    return await jobs.attempts(call.plane, call.principal, call.path["job_id"])


async def update(call: Call) -> Job:
    return await jobs.update(call.plane, call.principal, call.path["job_id"], call.body)


async def report(call: Call) -> Progress:
    return await progress.report(call.plane, call.principal, call.path["job_id"], call.body)


async def show(call: Call) -> Job:
    return await jobs.get(call.plane, call.principal, call.path["job_id"])


async def stop(call: Call) -> Job:
    return await jobs.stop(call.plane, call.principal, call.path["job_id"])


async def delete(call: Call) -> Job:
    return await jobs.delete(call.plane, call.principal, call.path["job_id"])


def _idempotency_key(call: Call) -> str | None:
    key = call.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x21-\x7e]{1,200}", key):
        raise InvalidRequest(
            "An Idempotency-Key has 1 to 200 visible ASCII characters.", code="bad-idempotency-key"
        )
    return key


_KEY = {"Idempotency-Key": "The same key never makes a second job."}


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/jobs", Right.READ, page, query=JobQuery, returns=Jobs,
            summary="Jobs you may see, newest first",
        ),
        Route(
            "POST", "/jobs", Right.WRITE, create, body=CreateJob, returns=Job, status=201,
            summary="Submit a job",
            headers=_KEY,
        ),
        Route(
            "GET", "/jobs/{job_id}", Right.READ, show, returns=Job, summary="One job", inside=Inside.ITS_JOB
        ),
        Route(
            "PATCH", "/jobs/{job_id}", Right.WRITE, update, body=UpdateJob, returns=Job,
            summary="Change a job's name or tags, or the priority of one that waits",
        ),
        Route(
            "POST", "/jobs/{job_id}/rerun", Right.WRITE, rerun, body=RerunJob, returns=Job, status=201,
            summary="Run a job's files once more, with what the body changes", headers=_KEY,
        ),
        Route(
            "GET", "/jobs/{job_id}/attempts", Right.READ, attempts, returns=Attempts,
            summary="Every run of a job's command, oldest first",
        ),
        Route(
            "PUT", "/jobs/{job_id}/progress", Right.WRITE, report, body=Progress, returns=Progress,
            status=202, inside=Inside.ITS_JOB,
            summary="How far a run is, as it says itself with its GRADIENT_JOB_TOKEN",
        ),
        Route(
            "POST", "/jobs/{job_id}/stop", Right.WRITE, stop, returns=Job, status=202,
            summary="Cancel a job; of one that has ended this changes nothing",
        ),
        Route(
            "DELETE", "/jobs/{job_id}", Right.WRITE, delete, returns=Job, status=202,
            summary="Delete a job and everything it left; a running one is stopped first",
        ),
    ]  # fmt: skip
