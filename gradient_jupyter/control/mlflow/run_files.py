"""Artifacts of runs and of logged models, by MLflow's paths: ``<project>/<run>/artifacts/…`` and
``<project>/models/<model>/artifacts/…``.

A job's own run has the job's artifacts: while it runs, what comes in is put into its ``/artifacts``; once it
has ended they are collected and nothing comes in any more. A tracking run has a directory of its own. The
files of a logged model lie in its run's, below ``models/<model>/``. Job code may do to its directory what it
wants: every name goes through ``workspace.inside``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sqlalchemy import Connection

from gradient_jupyter.control.data import artifacts
from gradient_jupyter.control.data.collection import modified_us, open_directory, opened
from gradient_jupyter.control.mlflow import logged_models, run_removal, tracking
from gradient_jupyter.control.mlflow.run_space import Room, Used, used
from gradient_jupyter.control.people import audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running import attempts
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import Conflict, InvalidRequest, NotFound, TooLarge
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.tracking import Run
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import tracking as run_rows
from gradient_jupyter.workspace.incoming import Incoming
from gradient_jupyter.workspace.inside import Entry, list_inside, open_inside, remove_inside
from gradient_jupyter.workspace.wording import decimal

#: Of one directory as many are listed.
_MOST_LISTED = 100_000
_PIECE = 1 << 20
#: How much comes in between two looks at the disk's free space.
_LOOK = 64 * 2**20


class Place(NamedTuple):
    """Where a path of MLflow's leads."""

    root: Path
    """The run's directory, or the model's; ``artifacts`` in it is what is shown."""
    prefix: str
    """Below ``artifacts``; empty or ended by a slash."""
    name: str
    """The rest of the path; empty: the whole of it."""
    job: Job | None
    """Whose artifacts they are, when they are a job's."""
    run: Run | None
    """The run's; None for a model that no run has made."""

    @property
    def path(self) -> str:
        return (self.prefix + self.name).rstrip("/")

    @property
    def group(self) -> str:
        """With what it shares the room there is: see ``run_space``."""
        return self.root.name if self.run is None else self.run.job_id or self.run.id

    @property
    def directory(self) -> Path:
        return self.root / "artifacts"


async def place_of(plane: Plane, principal: Principal, path: str, role: Role) -> Place:
    """Raises ``NotFound`` for what is not theirs, and for what leads nowhere."""
    return await plane.database.read(lambda connection: _place(plane, connection, principal, path, role))


async def place_of_run(plane: Plane, principal: Principal, run_id: str, path: str) -> Place:
    return await plane.database.read(
        lambda connection: _of_run(plane, connection, principal, run_id, Role.VIEWER, "", path)
    )


async def place_of_model(plane: Plane, principal: Principal, model_id: str, path: str) -> Place:
    return await plane.database.read(
        lambda connection: _of_model(plane, connection, principal, model_id, Role.VIEWER, path)
    )


async def entries(plane: Plane, place: Place) -> list[Entry]:
    """What lies directly in the directory the path leads to; nothing where there is none."""
    job = place.job
    if job is not None and job.final:
        there = await plane.database.read(
            lambda connection: job_rows.artifacts_below(connection, job.id, place.path)
        )
        return _children(there, place.path)
    return await plane.on_files(_list, place)


async def open_one(plane: Plane, principal: Principal, place: Place) -> tuple[BinaryIO, Artifact]:
    """The file, open for reading, and what is known of it. The caller closes it."""
    if place.job is not None:
        return await artifacts.open_one(plane, principal, place.job.id, place.path)
    file = await plane.on_files(_open, place)
    status = os.fstat(file.fileno())
    return file, Artifact(path=place.path, size=status.st_size, modified_us=modified_us(status))


async def delete(plane: Plane, principal: Principal, place: Place) -> None:
    if not place.name:
        raise InvalidRequest("Artifacts are deleted by their names.", code="bad-path")
    if place.job is not None:
        await artifacts.delete(plane, principal, place.job.id, place.path)
    else:
        await plane.on_files(remove, place)
        plane.run_space.forget(place.group)
        if principal.attempt is None:
            noted = partial(audit.record, action="artifact.delete", noun="run", detail=place.path)
            await plane.database.write(partial(noted, id=place.root.name))


async def clear_model(plane: Plane, principal: Principal, model_id: str) -> None:
    """Removes its files; those that were collected with a job stay the job's."""
    place = await place_of_model(plane, principal, model_id, "")
    if place.job is None:
        if place.prefix:
            with contextlib.suppress(NotFound):
                await plane.on_files(remove, place)
            plane.run_space.forget(place.group)
        else:
            await run_removal.clear(plane, [model_id])


class Upload:
    """One file on its way into a run's artifacts. ``begin`` before anything else; ends with ``finish`` or
    ``discard``."""

    def __init__(self, plane: Plane, principal: Principal, path: str, declared: int) -> None:
        self._plane = plane
        self._principal = principal
        self._path = path
        self._declared = declared
        self._held: list[bytes] = []
        self._size = 0
        self._looked = 0
        self._place: Place | None = None
        self._file: Incoming | None = None
        self._room: Room | None = None

    async def begin(self) -> None:
        plane = self._plane
        self._check_size(self._declared)
        place = await self._where()
        if not place.name:
            raise InvalidRequest("An artifact is put under a name.", code="bad-path")
        plane.check_space(self._declared)
        if place.job is None:
            # Of a job's own artifacts so much is kept as it may leave, wherever they came from.
            self._room = await plane.run_space.reserve(
                place.group, self._declared, partial(_used, plane, place)
            )
        self._place = place
        self._file = await plane.on_files(Incoming, place.root)

    async def feed(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._size += len(chunk)
        self._check_size(self._size)
        if self._room is not None:
            self._room.grow(self._size)
        if self._size - self._looked >= _LOOK:
            self._looked = self._size
            self._plane.check_space()
        if sum(map(len, self._held)) >= _PIECE:
            await self._write()

    async def finish(self) -> None:
        """Puts it into its place, whole, in place of what has been there. Raises ``Conflict`` when the run is
        over by now."""
        assert self._place is not None and self._file is not None
        await self._write()
        # The last bytes may have come late: after the run's end, or from whom it does not exist for any more.
        await self._where()
        put = partial(self._plane.on_files, _put, self._place, self._file)
        if self._room is not None:
            await self._room.put(self._size, put)
        else:
            assert self._place.job is not None
            await attempts.lately(self._plane, self._place.job.id, self._place.job.attempt)
            await put()

    async def discard(self) -> None:
        if self._room is not None:
            self._room.leave()
        if self._file is not None:
            await self._plane.on_files(self._file.discard)

    async def _write(self) -> None:
        assert self._file is not None
        data = b"".join(self._held)
        self._held.clear()
        await self._plane.on_files(self._file.write, data)

    async def _where(self) -> Place:
        """Where it goes, if it may: what a job leaves stays as it is once the job is over."""

        def work(connection: Connection) -> Place:
            place = _place(self._plane, connection, self._principal, self._path, Role.MEMBER)
            if place.job is None and place.run is not None:
                tracking.check_open(connection, place.run)
            return place

        place = await self._plane.database.read(work)
        if place.job is not None:
            await attempts.lately(self._plane, place.job.id, place.job.attempt)
        return place

    def _check_size(self, size: int) -> None:
        most = self._plane.settings.max_artifact_bytes
        if size > most:
            raise TooLarge(
                f"The artifact has more than the {decimal(most)} that one run may leave.",
                next="/storage takes what is larger.",
                code="artifact-too-large",
            )


def _place(plane: Plane, connection: Connection, principal: Principal, path: str, role: Role) -> Place:
    match path.strip("/").split("/", 3):
        case [project_id, "models", model_id, rest] if rest == "artifacts" or rest.startswith("artifacts/"):
            place = _of_model(plane, connection, principal, model_id, role, rest.partition("/")[2])
            known = logged_models.find(connection, principal, model_id, Role.VIEWER).project_id
        case [project_id, run_id, "artifacts", *rest]:
            place = _of_run(plane, connection, principal, run_id, role, "", "/".join(rest))
            known = tracking.find(connection, principal, run_id, Role.VIEWER).project_id
        case _:
            raise _nowhere(path)
    if known != project_id:
        raise _nowhere(path)
    return place


def _of_run(
    plane: Plane,
    connection: Connection,
    principal: Principal,
    run_id: str,
    role: Role,
    prefix: str,
    name: str,
) -> Place:
    run = tracking.find(connection, principal, run_id, role)
    job = job_rows.find(connection, run.id) if run.own else None
    return Place(tracking.directory_of(plane, run), prefix, name, job, run)


def _of_model(
    plane: Plane, connection: Connection, principal: Principal, model_id: str, role: Role, name: str
) -> Place:
    model = logged_models.find(connection, principal, model_id, role)
    if model.run_id is None:
        return Place(plane.layout.run(model.id), "", name, None, None)
    return _of_run(plane, connection, principal, model.run_id, role, f"models/{model.id}/", name)


async def _used(plane: Plane, place: Place) -> Used:
    """What lies in the run, or in all those begun in the same job."""
    job_id = None if place.run is None else place.run.job_id
    if job_id is None:
        return await plane.on_files(used, [place.root])
    ids = await plane.database.read(partial(run_rows.directories_of_job, job_id=job_id))
    return await plane.on_files(used, [plane.layout.run(each) for each in ids])


def _children(there: list[Artifact], directory: str) -> list[Entry]:
    start = len(directory) + 1 if directory else 0
    found: dict[str, Entry] = {}
    for artifact in there:
        name, slash, _ = artifact.path[start:].partition("/")
        if name not in found and len(found) < _MOST_LISTED:
            found[name] = Entry(name, bool(slash), 0 if slash else artifact.size)
    return list(found.values())


def _list(place: Place) -> list[Entry]:
    with opened(place.directory) as fd:
        return [] if fd is None else list_inside(fd, place.path, _MOST_LISTED)


def _open(place: Place) -> BinaryIO:
    with opened(place.directory) as fd:
        if fd is None:
            raise _no_file(place)
        try:
            return os.fdopen(open_inside(fd, place.path, owner=os.geteuid()), "rb")
        except NotFound as error:
            raise _no_file(place) from error


def _put(place: Place, file: Incoming) -> int | None:
    """Returns the size of the file it has replaced in a tracking run, if there was one."""
    # What a job leaves is synced when it is collected; of other runs nobody comes to collect.
    if place.job is None:
        place.directory.mkdir(exist_ok=True, mode=0o700)
    try:
        fd = open_directory(place.directory)
    except OSError as error:
        file.discard()
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            raise
        raise Conflict(
            "The run has removed or locked its own artifacts directory, so nothing can be put there.",
            code="no-artifacts-directory",
        ) from error
    try:
        replaced = _size(fd, place.path) if place.job is None else None
        file.place(fd, place.path, durable=place.job is None)
        return replaced
    finally:
        os.close(fd)


def _size(fd: int, path: str) -> int | None:
    try:
        file = open_inside(fd, path, owner=os.geteuid())
    except NotFound:
        return None
    try:
        return os.fstat(file).st_size
    finally:
        os.close(file)


def remove(place: Place) -> None:
    """Blocks. Nothing where nothing is."""
    with opened(place.directory) as fd:
        if fd is None:
            raise _no_file(place)
        try:
            remove_inside(fd, place.path)
        except (FileNotFoundError, NotFound) as error:
            raise _no_file(place) from error


def _no_file(place: Place) -> NotFound:
    return NotFound(f"There is no artifact {place.name[:200]!r}.", code="no-such-artifact")


def _nowhere(path: str) -> NotFound:
    return NotFound(
        f"There are no artifacts at {path[:200]!r}.",
        next="A run's artifact_uri says where its are.",
        code="no-such-artifact",
    )
