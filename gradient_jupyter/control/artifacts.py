"""Artifacts: what a run leaves in ``/artifacts``, listed and read while it runs and afterwards.

Job code owns that directory while it runs and may do anything to it, so every name is walked from a
directory descriptor, no link is ever followed, and only regular files count.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from gradient_jupyter.control import access
from gradient_jupyter.control.access import Principal
from gradient_jupyter.control.collect import open_directory, opened
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import Conflict, NotFound
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.page import Artifacts
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.workspace.inside import open_inside, remove_inside, walk_inside


async def page(plane: Plane, principal: Principal, job_id: str, limit: int, start: int) -> Artifacts:
    """The artifacts in the order of their paths, from the ``start``-th on."""
    job, found = await _all(plane, principal, job_id)
    following = str(start + limit) if len(found) > start + limit else None
    return Artifacts(items=tuple(found[start : start + limit]), final=job.final, next=following)


async def open_one(plane: Plane, principal: Principal, job_id: str, path: str) -> tuple[BinaryIO, Artifact]:
    """The file, open for reading, and what is known of it. The caller closes it."""
    job = await _job(plane, principal, job_id, Role.VIEWER)
    known: Artifact | None = None
    if job.final:
        known = await plane.database.read(lambda connection: rows.get_artifact(connection, job_id, path))
        if known is None:
            raise _absent(job_id, path)
    file = await plane.on_files(_open, _directory(plane, job), job_id, path)
    status = os.fstat(file.fileno())
    return file, known or Artifact(path=path, size=status.st_size, modified_us=status.st_mtime_ns // 1000)


async def open_all(plane: Plane, principal: Principal, job_id: str) -> tuple[Job, int, list[Artifact]]:
    """The artifacts' directory (a descriptor the caller closes) and what is in it, for an archive."""
    job, found = await _all(plane, principal, job_id)
    try:
        return job, open_directory(_directory(plane, job)), found
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise NotFound(
            f"The job {job_id} has no artifacts that can be read (yet).", code="no-artifacts-yet"
        ) from error


async def delete(plane: Plane, principal: Principal, job_id: str, path: str) -> None:
    job = await _job(plane, principal, job_id, Role.MEMBER)
    if not job.final:
        raise Conflict(
            f"The job {job_id} still runs and may be writing it.",
            next=f"Wait for its end (gradient jobs waitfor {job_id}), or stop it first.",
            code="job-not-final",
        )
    if await plane.database.read(lambda connection: rows.get_artifact(connection, job_id, path)) is None:
        raise _absent(job_id, path)
    # The file first: a crash in between leaves a row whose file is gone, and deleting it again succeeds.
    await plane.on_files(_remove, _directory(plane, job), path)
    await plane.database.write(lambda connection: rows.remove_artifact(connection, job_id, path))


def _present(directory: Path) -> list[Artifact]:
    with opened(directory) as fd:
        if fd is None:
            return []
        found = [
            Artifact(path=file.path, size=file.size, modified_us=file.modified_us)
            for file in walk_inside(fd, lambda skipped: None)
        ]
    return sorted(found, key=lambda artifact: artifact.path)


def _open(directory: Path, job_id: str, path: str) -> BinaryIO:
    with opened(directory) as fd:
        if fd is None:
            raise _absent(job_id, path)
        try:
            return os.fdopen(open_inside(fd, path), "rb")
        except FileNotFoundError as error:
            raise _absent(job_id, path) from error


def _remove(directory: Path, path: str) -> None:
    with opened(directory) as fd:
        if fd is not None:
            try:
                remove_inside(fd, path)
            except (FileNotFoundError, NotFound):
                return


async def _all(plane: Plane, principal: Principal, job_id: str) -> tuple[Job, list[Artifact]]:
    job = await _job(plane, principal, job_id, Role.VIEWER)
    if job.final:
        return job, await plane.database.read(lambda connection: rows.list_artifacts(connection, job_id))
    return job, await plane.on_files(_present, _directory(plane, job))


async def _job(plane: Plane, principal: Principal, job_id: str, role: Role) -> Job:
    return await plane.database.read(lambda connection: access.job(connection, principal, job_id, role))


def _directory(plane: Plane, job: Job) -> Path:
    return plane.layout.attempt(job.id, job.attempt) / "artifacts"


def _absent(job_id: str, path: str) -> NotFound:
    return NotFound(
        f"The job {job_id} has no artifact {path!r}.",
        next=f"`gradient jobs artifacts list {job_id}` shows what it has.",
        code="no-such-artifact",
    )
