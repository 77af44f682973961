"""Artifacts: what a run leaves in ``/artifacts``, listed and read while it runs and afterwards.

Job code owns that directory while it runs and may do anything to it, so every name is walked from a
directory descriptor, no link is ever followed, and only the job's own regular files count. Once the job is
final a file is served only as what was collected: one that has changed since is named as damaged.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import blake3
from sqlalchemy import Connection

from gradient_jupyter.control.data.collection import modified_us, open_directory, opened
from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import Conflict, NotFound, ServerError, ServerUnavailable, TooLarge
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.page import Artifacts
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.workspace.inside import SHORTAGE, open_inside, remove_inside, walk_inside
from gradient_jupyter.workspace.wording import decimal


class ArtifactDamaged(ServerError):
    """A collected file is gone or is not any more what it was: damage at rest, or somebody's hand."""

    default_code = "artifact-damaged"

    def __init__(self, path: str, what: str) -> None:
        super().__init__(
            f"The artifact {path!r} {what} since it was collected; it is not passed off as the one that was.",
            next="Its bytes lie in the server's data directory. Run the job again, or delete this artifact.",
        )


_PIECE = 1 << 20


async def page(plane: Plane, principal: Principal, job_id: str, limit: int, start: int) -> Artifacts:
    """The artifacts in the order of their paths, from the ``start``-th on."""
    job, found = await _some(plane, principal, job_id, limit + 1, start)
    following = str(start + limit) if len(found) > limit else None
    return Artifacts(items=tuple(found[:limit]), final=job.final, next=following)


async def open_one(plane: Plane, principal: Principal, job_id: str, path: str) -> tuple[BinaryIO, Artifact]:
    """The file, open for reading, and what is known of it. The caller closes it."""
    job = await _job(plane, principal, job_id, Role.VIEWER)
    known: Artifact | None = None
    if job.final:
        known = await plane.database.read(lambda connection: rows.get_artifact(connection, job_id, path))
        if known is None:
            raise _absent(job_id, path)
    file = await plane.on_files(_open, _directory(plane, job), job_id, path, known)
    if known is not None:
        return file, known
    status = os.fstat(file.fileno())
    return file, Artifact(path=path, size=status.st_size, modified_us=modified_us(status))


async def open_all(plane: Plane, principal: Principal, job_id: str) -> tuple[Job, int, list[Artifact]]:
    """The artifacts' directory (a descriptor the caller closes) and what is in it, for an archive."""
    job, found = await _some(plane, principal, job_id, None, 0)
    most = plane.settings.max_artifact_bytes
    if not job.final and sum(artifact.size for artifact in found) > most:
        raise TooLarge(
            f"What the job has left so far claims more than the limit of {decimal(most)} for one job.",
            next="Download single artifacts by their names.",
            code="artifacts-too-large",
        )
    try:
        directory = open_directory(_directory(plane, job))
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if job.final and found:
            raise ArtifactDamaged(found[0].path, "has gone") from error
        raise NotFound(
            f"The job {job_id} has no artifacts that can be read (yet).", code="no-artifacts-yet"
        ) from error
    if job.final:
        try:
            await plane.on_files(_check_all, directory, found)
        except BaseException:
            os.close(directory)
            raise
    return job, directory, found


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

    def work(connection: Connection) -> None:
        rows.remove_artifact(connection, job_id, path)
        audit.record(connection, "artifact.delete", "job", job_id, detail=path)

    await plane.database.write(work)


def _present(directory: Path, limit: int | None, start: int) -> list[Artifact]:
    with _shortage_told(), opened(directory) as fd:
        if fd is None:
            return []
        files = walk_inside(fd, lambda skipped: None, owner=os.geteuid())
        return [
            Artifact(path=file.path, size=file.size, modified_us=file.modified_us)
            for file in itertools.islice(files, start, None if limit is None else start + limit)
        ]


def _open(directory: Path, job_id: str, path: str, known: Artifact | None) -> BinaryIO:
    with _shortage_told(), opened(directory) as fd:
        if fd is None:
            raise _absent(job_id, path) if known is None else ArtifactDamaged(path, "has gone")
        try:
            return os.fdopen(open_known(fd, path, known), "rb")
        except NotFound as error:
            raise _absent(job_id, path) from error


def open_known(directory: int, path: str, known: Artifact | None) -> int:
    """A descriptor of an artifact: as it was collected (``ArtifactDamaged`` if it no longer is), or, while
    the job runs, the job's own file of that name (``NotFound`` if that is not one now)."""
    if known is None or not known.digest:
        return open_inside(directory, path, owner=os.geteuid())
    try:
        fd = open_inside(directory, path, owner=os.geteuid(), names=None)
    except NotFound as error:
        raise ArtifactDamaged(path, "has gone") from error
    status = os.fstat(fd)
    changed = status.st_size != known.size
    if not changed and modified_us(status) != known.modified_us:
        # A copy of the data root may have kept no times: then the content itself is asked.
        changed = _digest(fd) != known.digest
    if changed:
        os.close(fd)
        raise ArtifactDamaged(path, "has changed")
    return fd


def _digest(fd: int) -> str:
    hasher, at = blake3.blake3(max_threads=blake3.blake3.AUTO), 0
    while piece := os.pread(fd, _PIECE, at):
        hasher.update(piece)
        at += len(piece)
    return hasher.hexdigest()


def _check_all(directory: int, artifacts: list[Artifact]) -> None:
    with _shortage_told():
        for artifact in artifacts:
            os.close(open_known(directory, artifact.path, artifact))


@contextlib.contextmanager
def _shortage_told() -> Iterator[None]:
    """A want of ours is neither the caller's mistake nor an empty answer."""
    try:
        yield
    except OSError as error:
        if error.errno not in SHORTAGE:
            raise
        raise ServerUnavailable(
            f"The server cannot look just now: {(error.strerror or 'too much at once').lower()}.",
            next="Try again in a moment.",
            code="server-busy",
        ) from error


def _remove(directory: Path, path: str) -> None:
    with opened(directory) as fd:
        if fd is not None:
            try:
                remove_inside(fd, path)
            except (FileNotFoundError, NotFound):
                return


async def _some(
    plane: Plane, principal: Principal, job_id: str, limit: int | None, start: int
) -> tuple[Job, list[Artifact]]:
    job = await _job(plane, principal, job_id, Role.VIEWER)
    if job.final:
        return job, await plane.database.read(
            lambda connection: rows.list_artifacts(connection, job_id, limit, start)
        )
    return job, await plane.on_files(_present, _directory(plane, job), limit, start)


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
