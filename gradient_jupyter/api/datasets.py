"""Datasets over HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gradient_jupyter.api.routes import Call, Right, Route, cursor
from gradient_jupyter.control.data import datasets
from gradient_jupyter.resources.base import Request
from gradient_jupyter.resources.dataset import (
    AddedVersion,
    AddVersion,
    CreateDataset,
    Dataset,
    DatasetFiles,
    DatasetName,
    Datasets,
    DeletedDataset,
    FetchDataset,
    FetchProgress,
    UpdateDataset,
    Versions,
)
from gradient_jupyter.resources.page import PageQuery

Number = Annotated[int, msgspec.Meta(ge=1, le=10**9)]


class ListQuery(PageQuery, frozen=True, kw_only=True):
    name: DatasetName | None = None


class FilesQuery(PageQuery, frozen=True, kw_only=True):
    version: Number | None = None
    """None: the newest."""


class DeleteQuery(Request, frozen=True, kw_only=True):
    version: Number | None = None
    """None: the dataset with all its versions."""


async def page(call: Call) -> Datasets:
    query = call.query
    return await datasets.page(call.plane, call.principal, query.limit, cursor(query.cursor), query.name)


async def create(call: Call) -> Dataset:
    return await datasets.create(call.plane, call.principal, call.body)


async def show(call: Call) -> Dataset:
    return await datasets.get(call.plane, call.principal, call.path["dataset_id"])


async def update(call: Call) -> Dataset:
    return await datasets.update(call.plane, call.principal, call.path["dataset_id"], call.body)


async def delete(call: Call) -> DeletedDataset:
    return await datasets.delete(call.plane, call.principal, call.path["dataset_id"], call.query.version)


async def versions(call: Call) -> Versions:
    return await datasets.versions(
        call.plane, call.principal, call.path["dataset_id"], call.query.limit, cursor(call.query.cursor)
    )


async def add_version(call: Call) -> AddedVersion:
    return await datasets.add_version(call.plane, call.principal, call.path["dataset_id"], call.body)


async def files(call: Call) -> DatasetFiles:
    query = call.query
    return await datasets.files(
        call.plane, call.principal, call.path["dataset_id"], query.version, query.limit,
        cursor(query.cursor) or 0,
    )  # fmt: skip


async def fetch(call: Call) -> AddedVersion:
    call.host.streams += 1  # the server stays as long as somebody waits for this
    try:
        return await call.plane.downloads.fetch(call.principal, call.body)
    finally:
        call.host.streams -= 1


async def progress(call: Call) -> FetchProgress:
    return call.plane.downloads.progress(call.principal, call.path["tag"])


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/datasets", Right.READ, page, query=ListQuery, returns=Datasets,
            summary="Your datasets, newest first, and the public ones",
        ),
        Route(
            "POST", "/datasets", Right.WRITE, create, body=CreateDataset, returns=Dataset, status=201,
            summary="Make a dataset, with a first version if its files have been sent",
        ),
        Route(
            "POST", "/datasets/fetch", Right.WRITE, fetch, body=FetchDataset, returns=AddedVersion,
            status=201, ends_with_caller=True,
            summary="Have the server fetch a URL as a dataset's next version; hanging up cancels it",
        ),
        Route(
            "GET", "/datasets/fetches/{tag}", Right.READ, progress, returns=FetchProgress,
            summary="How far a fetch of yours is, by the tag that it was given",
        ),
        Route("GET", "/datasets/{dataset_id}", Right.READ, show, returns=Dataset, summary="One dataset"),
        Route(
            "PATCH", "/datasets/{dataset_id}", Right.WRITE, update, body=UpdateDataset, returns=Dataset,
            summary="Change a dataset's description",
        ),
        Route(
            "DELETE", "/datasets/{dataset_id}", Right.WRITE, delete, query=DeleteQuery,
            returns=DeletedDataset, summary="Delete a dataset, or one version of it",
        ),
        Route(
            "GET", "/datasets/{dataset_id}/versions", Right.READ, versions, query=PageQuery, returns=Versions,
            summary="A dataset's versions, newest first",
        ),
        Route(
            "POST", "/datasets/{dataset_id}/versions", Right.WRITE, add_version, body=AddVersion,
            returns=AddedVersion, status=201,
            summary="Make a snapshot the next version, unless the newest is the same",
        ),
        Route(
            "GET", "/datasets/{dataset_id}/files", Right.READ, files, query=FilesQuery, returns=DatasetFiles,
            summary="What a version holds, by name, size and digest",
        ),
    ]  # fmt: skip
