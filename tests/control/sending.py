"""What a client does, against the control plane itself: send files, store a manifest, submit."""

from __future__ import annotations

import io
from pathlib import Path

import blake3
from sqlalchemy import Connection, select

from gradient_jupyter.control import jobs
from gradient_jupyter.control.data import snapshots
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.job import CreateJob, Job
from gradient_jupyter.resources.snapshot import File, Manifest
from gradient_jupyter.store import tables
from gradient_jupyter.workspace.packs import pack

ANN = Principal(user_id="uann", name="ann")
BOB = Principal(user_id="ubob", name="bob")


def manifest(files: dict[str, bytes]) -> Manifest:
    return Manifest(
        entries=tuple(
            File(path=path, size=len(data), digest=blake3.blake3(data).hexdigest())
            for path, data in sorted(files.items())
        )
    )


async def send(plane: Plane, files: dict[str, bytes], who: Principal = ANN) -> str:
    """Sends what is missing and stores the manifest; its id. Raises what the server says."""
    wanted = manifest(files)
    await deliver(plane, files, set((await snapshots.missing(plane, who, wanted)).missing), who)
    return (await snapshots.create(plane, who, wanted)).id


async def deliver(plane: Plane, files: dict[str, bytes], lacking: set[str], who: Principal = ANN) -> None:
    """Sends those of the files whose digests are ``lacking``."""
    contents = {blake3.blake3(data).hexdigest(): data for data in files.values()}
    missing = [file for file in manifest(files).files if file.digest in lacking]
    for one in pack(missing, lambda file, offset: io.BytesIO(contents[file.digest][offset:])):
        intake = snapshots.Intake(plane, who)
        for chunk in one:
            await intake.feed(chunk)
        await intake.finish()


async def submit(plane: Plane, files: dict[str, bytes], who: Principal = ANN) -> tuple[Job, int]:
    """The whole way, as often as the server says that something is missing by now. The job, and how often."""
    for again in range(1000):
        try:
            snapshot = await send(plane, files, who)
            request = CreateJob(command=("true",), snapshot=snapshot, project="p")
            return await jobs.submit(plane, who, request, None), again
        except GradientError as error:
            if error.code not in ("missing-blobs", "no-such-snapshot"):
                raise
    raise AssertionError("it never went through")


async def forget(plane: Plane, job: Job) -> None:
    """Takes the job's row away, as the reconciler does in the end."""
    await plane.database.write(
        lambda connection: connection.execute(tables.jobs.delete().where(tables.jobs.c.id == job.id))
    )


async def check_whole(plane: Plane, scratch: Path) -> int:
    """Every row has its file, and every job's files are what they were. How many jobs there are."""

    def read(connection: Connection) -> tuple[list[str], list[tuple[str, str]]]:
        digests = connection.execute(select(tables.blobs.c.digest)).scalars().all()
        ids = connection.execute(select(tables.snapshots.c.id)).scalars().all()
        rows = connection.execute(select(tables.jobs.c.id, tables.jobs.c.snapshot)).all()
        return [*digests, *ids], [(row.id, row.snapshot) for row in rows]

    named, found = await plane.database.read(read)
    assert all(plane.blobs.has(digest) for digest in named), "a row has no file"
    for job_id, snapshot in found:
        plane.unpack(snapshot, scratch / job_id)
    return len(found)


def on_disk(plane: Plane) -> set[str]:
    return {digest for digest, _ in plane.blobs.names()}
