"""Datasets as people see them: made, given versions, listed, deleted; and which one a job means.

They belong to a user or a group, and all that may act for it may do everything with them. For everybody else
they do not exist; nor does what they hold, since files are noted for each owner by itself. The public ones
are a line of the configuration and have no rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.dataset import (
    PUBLIC,
    AddedVersion,
    AddVersion,
    CreateDataset,
    Dataset,
    DatasetFiles,
    Datasets,
    DeletedDataset,
    JobDataset,
    UpdateDataset,
    Version,
    Versions,
    parse,
)
from gradient_jupyter.resources.errors import Conflict, Forbidden, GradientError, InvalidRequest, NotFound
from gradient_jupyter.resources.snapshot import Manifest, Snapshot
from gradient_jupyter.store import datasets as rows
from gradient_jupyter.store import garbage
from gradient_jupyter.store import snapshots as snapshot_rows
from gradient_jupyter.store.jobs import LIVE

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

_PUBLIC_ID = "public-"
_TOLD = 10
_LIST = "`gradient datasets list` shows what there is."


# --------------------------------------------------------------------------------------------- what a job has


def resolve(
    connection: Connection, plane: Plane, principal: Principal, wanted: tuple[str, ...]
) -> tuple[JobDataset, ...]:
    """The versions that a job which is submitted now has. Raises when one of them is not there."""
    given: dict[str, JobDataset] = {}
    for text in wanted:
        one = _resolve_one(connection, plane, principal, text)
        if one.name in given:
            raise InvalidRequest(
                f"A job has the dataset {one.name!r} once.",
                next="Name one version of it.",
                code="dataset-twice",
            )
        given[one.name] = one
    return tuple(given.values())


def _resolve_one(connection: Connection, plane: Plane, principal: Principal, text: str) -> JobDataset:
    asked = parse(text)
    if asked is None:
        raise InvalidRequest(
            f"{text[:100]!r} names no dataset.", next="It looks like mnist, or mnist:3.", code="bad-dataset"
        )
    dataset = rows.named(connection, principal.all, asked.name) or rows.get(
        connection, principal.all, asked.name
    )
    if dataset is None:
        if asked.name not in plane.settings.public_datasets:
            raise _absent(connection, plane, principal, asked.name)
        if asked.version is not None:
            raise NotFound(
                f"The public dataset {asked.name!r} has no versions.",
                next=f"Ask for it by its name alone: {asked.name}.",
                code="no-such-version",
            )
        return JobDataset(name=asked.name, dataset_id=_PUBLIC_ID + asked.name)
    version = _version(connection, dataset, asked.version)
    return JobDataset(
        name=dataset.name, dataset_id=dataset.id, version=version.number, snapshot=version.snapshot
    )


def check_public(plane: Plane, given: Iterable[JobDataset]) -> None:
    """Raises where the administrator has taken away a public dataset that a job asked for: without it the job
    would run on other data than it was meant for, or on none."""
    for one in given:
        if not one.snapshot and one.name not in plane.settings.public_datasets:
            raise NotFound(
                f"The public dataset {one.name!r} is not there any more.",
                next="Ask the administrator, or choose other data: gradient jobs rerun JOB --dataset NAME",
                code="no-such-dataset",
            )


# ------------------------------------------------------------------------------------------------- made,
# changed


async def create(plane: Plane, principal: Principal, request: CreateDataset) -> Dataset:
    owner = owner_of(principal, request.owner)
    blobs = await _to_share(plane, principal, owner, request.snapshot)

    def work(connection: Connection) -> Dataset:
        if rows.named(connection, [owner], request.name):
            raise Conflict(
                f"There is a dataset {request.name!r} already.",
                next=f"Make its next version: gradient datasets update {request.name} --from …",
                code="name-taken",
            )
        dataset = rows.create(connection, owner, request.name, request.description, principal.user_id)
        if request.snapshot is not None:
            snapshot = _sent(connection, plane, principal, owner, request.snapshot, blobs)
            add(connection, dataset, snapshot, request.source, principal)
        return found(connection, [owner], dataset.id)

    return await plane.database.write(work)


async def add_version(
    plane: Plane, principal: Principal, dataset_id: str, request: AddVersion
) -> AddedVersion:
    """The next version; none when the newest holds the same."""
    dataset = await get(plane, principal, dataset_id)
    _check_ours(dataset)
    blobs = await _to_share(plane, principal, dataset.owner, request.snapshot)

    def work(connection: Connection) -> AddedVersion:
        dataset = found(connection, principal.all, dataset_id)
        snapshot = _sent(connection, plane, principal, dataset.owner, request.snapshot, blobs)
        version, new = add(connection, dataset, snapshot, request.source, principal)
        return AddedVersion(dataset=found(connection, principal.all, dataset_id), version=version, new=new)

    return await plane.database.write(work)


def add(
    connection: Connection, dataset: Dataset, snapshot: Snapshot, source: str, principal: Principal
) -> tuple[Version, bool]:
    """Stores a version, in the caller's transaction, of a snapshot that the dataset's owner holds; whether it
    is a new one."""
    latest = rows.version(connection, dataset.id, None)
    if latest is not None and latest.snapshot == snapshot.id:
        return latest, False
    return rows.add_version(connection, dataset.id, snapshot, source, principal.user_id), True


async def _to_share(plane: Plane, principal: Principal, owner: str, snapshot: str | None) -> dict[str, int]:
    """What a group is to hold as well, where a person gives it what they sent."""
    if snapshot is None or owner == principal.owner:
        return {}
    held = await plane.database.read(
        lambda connection: snapshot_rows.get(connection, principal.owner, snapshot)
    )
    if held is None:
        raise _no_snapshot(snapshot)
    manifest = await plane.on_files(plane.manifest, snapshot)
    return manifest.blobs()


def _sent(
    connection: Connection,
    plane: Plane,
    principal: Principal,
    owner: str,
    snapshot_id: str,
    blobs: dict[str, int],
) -> Snapshot:
    """What this person has sent, as the owner's."""
    snapshot = snapshot_rows.get(connection, principal.owner, snapshot_id)
    if snapshot is None:
        raise _no_snapshot(snapshot_id)
    if owner != principal.owner:
        plane.garbage.needed(blobs)
        snapshot_rows.hold(connection, owner, blobs.items())
        snapshot_rows.create(connection, owner, snapshot)
    return snapshot


async def update(plane: Plane, principal: Principal, dataset_id: str, changes: UpdateDataset) -> Dataset:
    def work(connection: Connection) -> Dataset:
        dataset = _get(connection, plane, principal, dataset_id)
        _check_ours(dataset)
        if changes.description is not None:
            rows.describe(connection, dataset_id, changes.description)
        return found(connection, principal.all, dataset_id)

    return await plane.database.write(work)


async def delete(plane: Plane, principal: Principal, dataset_id: str, number: int | None) -> DeletedDataset:
    """One version, or the dataset with all of them. Refused while a job that is not over has what would
    go."""

    def work(connection: Connection) -> tuple[Dataset, list[int], set[str], set[str]]:
        dataset = _get(connection, plane, principal, dataset_id)
        _check_ours(dataset)
        if number is not None:
            _version(connection, dataset, number)
        _check_unused(connection, principal, dataset, number)
        snapshots = rows.snapshots_of(connection, dataset_id, number)
        numbers = [number] if number is not None else rows.numbers(connection, dataset_id)
        if number is None:
            rows.erase(connection, dataset_id)
        else:
            rows.delete_version(connection, dataset_id, number)
            dataset = found(connection, principal.all, dataset_id)
        told = dataset.name if number is None else f"{dataset.name}:{number}"
        audit.record(connection, "dataset.delete", "dataset", dataset_id, detail=f"{told} of {dataset.owner}")
        live = garbage.live_snapshots(connection, dataset.owner, dataset_id)
        return dataset, numbers, snapshots - live, live

    dataset, numbers, going, live = await plane.database.write(work)
    freed = await plane.on_files(_freed, plane, going, live)
    plane.keeper.look_soon()
    return DeletedDataset(dataset=dataset, versions=tuple(numbers), gone=number is None, bytes=freed)


def _freed(plane: Plane, going: set[str], live: set[str]) -> int:
    """The bytes of files that only ``going`` names. What cannot be told for certain counts for nothing.

    What others have is not looked at, nor whether a version is unpacked now: it would tell of theirs.
    """
    wanted: set[str] = set()
    try:
        for snapshot in going:
            wanted |= {snapshot, *plane.manifest(snapshot).digests()}
        for snapshot in live:
            if not wanted:
                break
            wanted -= plane.manifest(snapshot).digests()
    except (GradientError, OSError, msgspec.MsgspecError):
        return 0
    return sum(plane.blobs.space(digest) for digest in wanted)


# ------------------------------------------------------------------------------------------------------- read


async def page(
    plane: Plane, principal: Principal, limit: int, before: int | None, name: str | None
) -> Datasets:
    """Yours, newest first; after the last of them the public ones."""
    items, following = await plane.database.read(
        lambda connection: rows.page(connection, principal.all, limit, before, name)
    )
    if following is None:
        items += [_public(one) for one in sorted(plane.settings.public_datasets) if name in (None, one)]
    return Datasets(items=tuple(items), next=None if following is None else str(following))


async def get(plane: Plane, principal: Principal, dataset_id: str) -> Dataset:
    return await plane.database.read(lambda connection: _get(connection, plane, principal, dataset_id))


async def versions(
    plane: Plane, principal: Principal, dataset_id: str, limit: int, before: int | None
) -> Versions:
    def work(connection: Connection) -> tuple[list[Version], int | None]:
        _get(connection, plane, principal, dataset_id)
        return rows.version_page(connection, dataset_id, limit, before)

    items, following = await plane.database.read(work)
    return Versions(items=tuple(items), next=None if following is None else str(following))


async def files(
    plane: Plane, principal: Principal, dataset_id: str, number: int | None, limit: int, start: int
) -> DatasetFiles:
    """What a version holds; the newest without a ``number``."""

    def work(connection: Connection) -> Version:
        dataset = _get(connection, plane, principal, dataset_id)
        if dataset.public:
            raise Conflict(
                f"The public dataset {dataset.name!r} is a directory of the server's, and is not listed.",
                next=f"A job sees what is in it: ls /datasets/{dataset.name}",
                code="dataset-public",
            )
        return _version(connection, dataset, number)

    version = await plane.database.read(work)

    def read() -> DatasetFiles:
        manifest: Manifest = plane.manifest(version.snapshot)
        every = manifest.files
        more = str(start + limit) if start + limit < len(every) else None
        return DatasetFiles(version=version.number, items=every[start : start + limit], next=more)

    return await plane.on_files(read)


def owner_of(principal: Principal, asked: str | None) -> str:
    """Who is to own what is made. Datasets are in no project, so who may see one only makes none."""
    access.check_unbound(principal)
    if asked is None:
        return principal.owner
    if asked not in principal.all:
        raise Forbidden(f"You cannot make anything for {asked}.", next="Name a group that you are in.")
    return asked


# ---------------------------------------------------------------------------------------------------- checked


def _get(connection: Connection, plane: Plane, principal: Principal, dataset_id: str) -> Dataset:
    name = dataset_id.removeprefix(_PUBLIC_ID)
    if name != dataset_id and name in plane.settings.public_datasets:
        return _public(name)
    return found(connection, principal.all, dataset_id)


def found(connection: Connection, owners: tuple[str, ...] | list[str], dataset_id: str) -> Dataset:
    dataset = rows.get(connection, owners, dataset_id)
    if dataset is None:
        raise NotFound(f"There is no dataset {dataset_id!r}.", next=_LIST, code="no-such-dataset")
    return dataset


def _public(name: str) -> Dataset:
    return Dataset(id=_PUBLIC_ID + name, name=name, owner=PUBLIC)


def _check_ours(dataset: Dataset) -> None:
    if dataset.public:
        raise Forbidden(
            f"The dataset {dataset.name!r} is the administrator's.",
            next="One of your own may have the same name; jobs that ask for it get yours.",
            code="dataset-public",
        )


def _check_unused(connection: Connection, principal: Principal, dataset: Dataset, number: int | None) -> None:
    users = rows.users(connection, dataset.id, number, LIVE)
    if not users:
        return
    mine = [user.job_id for user in users if user.owner in principal.all]
    told = ", ".join(mine[:_TOLD]) or "of others"
    what = dataset.name if number is None else f"{dataset.name}:{number}"
    raise Conflict(
        f"{len(users)} {'job that is' if len(users) == 1 else 'jobs that are'} not over "
        f"{'has' if len(users) == 1 else 'have'} {what}: {told}{' …' if len(mine) > _TOLD else ''}.",
        next="Wait for the end, or stop them: gradient jobs stop JOB",
        code="dataset-in-use",
    )


def _version(connection: Connection, dataset: Dataset, number: int | None) -> Version:
    version = rows.version(connection, dataset.id, number)
    if version is not None:
        return version
    if number is None:
        raise Conflict(
            f"The dataset {dataset.name!r} has no version yet.",
            next=f"Give it one: gradient datasets update {dataset.name} --from DIR",
            code="dataset-empty",
        )
    there = rows.numbers(connection, dataset.id)[-_TOLD:]
    raise NotFound(
        f"The dataset {dataset.name!r} has no version {number}.",
        next=f"It has: {', '.join(map(str, there)) or 'none'}.",
        code="no-such-version",
    )


def _absent(connection: Connection, plane: Plane, principal: Principal, name: str) -> NotFound:
    there = [*rows.names(connection, principal.all, _TOLD), *sorted(plane.settings.public_datasets)[:_TOLD]]
    return NotFound(
        f"There is no dataset {name!r}.",
        next=f"There is: {', '.join(there)}. {_LIST}"
        if there
        else "There is none yet. Make it: gradient datasets create NAME --from DIR",
        code="no-such-dataset",
    )


def _no_snapshot(snapshot: str) -> NotFound:
    return NotFound(
        f"There is no snapshot {snapshot!r}.",
        next="Send the files first (POST /snapshots).",
        code="no-such-snapshot",
    )
