"""Datasets, their versions and the jobs that have them. Whoever asks says for whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, and_, case, delete, func, insert, select, update
from sqlalchemy.engine import Row

from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.dataset import Dataset, JobDataset, Version
from gradient_jupyter.resources.snapshot import Snapshot
from gradient_jupyter.store.tables import dataset_versions as versions
from gradient_jupyter.store.tables import datasets, job_datasets, jobs


def create(connection: Connection, owner: str, name: str, description: str, created_by: str) -> Dataset:
    dataset = Dataset(
        id=new_id("dst"), name=name, owner=owner, description=description, created_by=created_by,
        created_us=now_us(),
    )  # fmt: skip
    connection.execute(
        insert(datasets).values(
            id=dataset.id, owner=owner, name=name, description=description, created_by=created_by,
            created_us=dataset.created_us, last_number=0,
        )
    )  # fmt: skip
    return dataset


def describe(connection: Connection, dataset_id: str, description: str) -> None:
    connection.execute(update(datasets).where(datasets.c.id == dataset_id).values(description=description))


def get(connection: Connection, owners: Sequence[str], dataset_id: str) -> Dataset | None:
    row = connection.execute(
        select(datasets).where(datasets.c.owner.in_(owners), datasets.c.id == dataset_id)
    ).first()
    return _dataset(connection, row) if row else None


def named(connection: Connection, owners: Sequence[str], name: str) -> Dataset | None:
    """The one of that name; of several owners' the one whose owner is named first."""
    order = case({owner: number for number, owner in enumerate(owners)}, value=datasets.c.owner)
    row = connection.execute(
        select(datasets).where(datasets.c.owner.in_(owners), datasets.c.name == name).order_by(order).limit(1)
    ).first()
    return _dataset(connection, row) if row else None


def names(connection: Connection, owners: Sequence[str], limit: int) -> list[str]:
    """Some of what there is, newest first."""
    query = (
        select(datasets.c.name)
        .where(datasets.c.owner.in_(owners))
        .order_by(datasets.c.seq.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def page(
    connection: Connection, owners: Sequence[str], limit: int, before: int | None, name: str | None
) -> tuple[list[Dataset], int | None]:
    """Newest first, and the cursor of what follows."""
    query = (
        select(datasets).where(datasets.c.owner.in_(owners)).order_by(datasets.c.seq.desc()).limit(limit + 1)
    )
    if before is not None:
        query = query.where(datasets.c.seq < before)
    if name is not None:
        query = query.where(datasets.c.name == name)
    rows = connection.execute(query).all()
    following = rows[limit - 1].seq if len(rows) > limit else None
    return [_dataset(connection, row) for row in rows[:limit]], following


def add_version(
    connection: Connection, dataset_id: str, snapshot: Snapshot, source: str, created_by: str
) -> Version:
    number = connection.execute(
        update(datasets)
        .where(datasets.c.id == dataset_id)
        .values(last_number=datasets.c.last_number + 1)
        .returning(datasets.c.last_number)
    ).scalar_one()
    version = Version(
        number=number, snapshot=snapshot.id, files=snapshot.files, bytes=snapshot.bytes, source=source,
        created_by=created_by, created_us=now_us(),
    )  # fmt: skip
    connection.execute(
        insert(versions).values(
            dataset_id=dataset_id, number=number, snapshot=version.snapshot, files=version.files,
            bytes=version.bytes, source=source, created_by=created_by, created_us=version.created_us,
        )
    )  # fmt: skip
    return version


def version(connection: Connection, dataset_id: str, number: int | None) -> Version | None:
    """The one of that number, or the newest."""
    query = select(versions).where(versions.c.dataset_id == dataset_id).order_by(versions.c.number.desc())
    if number is not None:
        query = query.where(versions.c.number == number)
    row = connection.execute(query.limit(1)).first()
    return _version(row) if row else None


def version_page(
    connection: Connection, dataset_id: str, limit: int, before: int | None
) -> tuple[list[Version], int | None]:
    """Newest first, and the cursor of what follows."""
    query = (
        select(versions)
        .where(versions.c.dataset_id == dataset_id)
        .order_by(versions.c.number.desc())
        .limit(limit + 1)
    )
    if before is not None:
        query = query.where(versions.c.number < before)
    rows = connection.execute(query).all()
    following = rows[limit - 1].number if len(rows) > limit else None
    return [_version(row) for row in rows[:limit]], following


def numbers(connection: Connection, dataset_id: str) -> list[int]:
    query = select(versions.c.number).where(versions.c.dataset_id == dataset_id).order_by(versions.c.number)
    return list(connection.execute(query).scalars())


def snapshots_of(connection: Connection, dataset_id: str, number: int | None) -> set[str]:
    """Of one version, or of all."""
    query = select(versions.c.snapshot).where(versions.c.dataset_id == dataset_id)
    if number is not None:
        query = query.where(versions.c.number == number)
    return set(connection.execute(query).scalars())


def delete_version(connection: Connection, dataset_id: str, number: int) -> None:
    connection.execute(
        delete(versions).where(versions.c.dataset_id == dataset_id, versions.c.number == number)
    )


def erase(connection: Connection, dataset_id: str) -> None:
    """With all its versions."""
    connection.execute(delete(datasets).where(datasets.c.id == dataset_id))


class User(NamedTuple):
    """A job that is not over and has a version."""

    job_id: str
    owner: str


def users(connection: Connection, dataset_id: str, number: int | None, live: Iterable[str]) -> list[User]:
    """The jobs in one of the states ``live`` that have the version, or any of the dataset's."""
    query = (
        select(jobs.c.id, jobs.c.owner)
        .join(job_datasets, job_datasets.c.job_id == jobs.c.id)
        .where(job_datasets.c.dataset_id == dataset_id, jobs.c.state.in_(tuple(live)))
        .order_by(jobs.c.seq)
    )
    if number is not None:
        query = query.where(job_datasets.c.version == number)
    return [User(row.id, row.owner) for row in connection.execute(query)]


def pin(connection: Connection, job_id: str, given: Iterable[JobDataset]) -> None:
    """What the job has keeps its files for as long as the job is there."""
    rows = [
        {
            "job_id": job_id, "name": one.name, "dataset_id": one.dataset_id, "version": one.version,
            "snapshot": one.snapshot,
        }
        for one in given
        if one.snapshot
    ]  # fmt: skip
    if rows:
        connection.execute(insert(job_datasets), rows)


def in_use(connection: Connection, snapshot: str, states: Iterable[str]) -> bool:
    """Whether a job in one of these states has it."""
    query = (
        select(job_datasets.c.job_id)
        .join(jobs, jobs.c.id == job_datasets.c.job_id)
        .where(job_datasets.c.snapshot == snapshot, jobs.c.state.in_(tuple(states)))
        .limit(1)
    )
    return connection.execute(query).first() is not None


def named_snapshots(connection: Connection, states: Iterable[str]) -> set[str]:
    """Those that are a version, or that a job in one of these states has."""
    found = set(connection.execute(select(versions.c.snapshot).distinct()).scalars())
    query = (
        select(job_datasets.c.snapshot)
        .join(jobs, jobs.c.id == job_datasets.c.job_id)
        .where(jobs.c.state.in_(tuple(states)))
        .distinct()
    )
    return found | set(connection.execute(query).scalars())


def _dataset(connection: Connection, row: Row[tuple[object, ...]]) -> Dataset:
    count = connection.execute(select(func.count()).where(and_(versions.c.dataset_id == row.id))).scalar_one()
    return Dataset(
        id=row.id, name=row.name, owner=row.owner, description=row.description, created_by=row.created_by,
        created_us=row.created_us, versions=count, latest=version(connection, row.id, None),
    )  # fmt: skip


def _version(row: Row[tuple[object, ...]]) -> Version:
    return Version(
        number=row.number, snapshot=row.snapshot, files=row.files, bytes=row.bytes, source=row.source,
        created_by=row.created_by, created_us=row.created_us,
    )  # fmt: skip
