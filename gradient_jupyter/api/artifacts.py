"""Artifacts over HTTP: list, read with ranges, all in one archive, delete."""

from __future__ import annotations

from gradient_jupyter.api.routes import Call, Right, Route, cursor
from gradient_jupyter.api.streams import Archive, FileAnswer
from gradient_jupyter.control.data import artifacts
from gradient_jupyter.resources.page import Artifacts, PageQuery


async def page(call: Call) -> Artifacts:
    start = cursor(call.query.cursor) or 0
    return await artifacts.page(call.plane, call.principal, call.path["job_id"], call.query.limit, start)


async def read(call: Call) -> FileAnswer:
    file, artifact = await artifacts.open_one(
        call.plane, call.principal, call.path["job_id"], call.path["path"]
    )
    return FileAnswer(call.plane, file, artifact, call.headers.get("Range"))


async def archive(call: Call) -> Archive:
    job, directory, found = await artifacts.open_all(call.plane, call.principal, call.path["job_id"])
    return Archive(call.plane, directory, found, f"{job.name}-{job.id}")


async def delete(call: Call) -> None:
    await artifacts.delete(call.plane, call.principal, call.path["job_id"], call.path["path"])


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/jobs/{job_id}/artifacts", Right.READ, page, query=PageQuery, returns=Artifacts,
            summary="What the job left, or has left so far",
        ),
        Route(
            "GET", "/jobs/{job_id}/artifacts.zip", Right.READ, archive, returns=bytes,
            media="application/zip",
            summary="Every artifact in one zip, made while it is sent",
        ),
        Route(
            "GET", "/jobs/{job_id}/artifacts/{path...}", Right.READ, read, returns=bytes,
            media="application/octet-stream", summary="One artifact",
            headers={"Range": "One range of bytes, for instance bytes=0-1023."},
        ),
        Route(
            "DELETE", "/jobs/{job_id}/artifacts/{path...}", Right.WRITE, delete, status=204,
            summary="Delete one artifact of a job that has ended",
        ),
    ]  # fmt: skip
