"""Snapshots over HTTP: ask what is missing, send it in packs, name it; or have a repository fetched."""

from __future__ import annotations

from gradient_jupyter.api.routes import MANIFEST_BODY, Call, Right, Route, by_its_sink
from gradient_jupyter.control.data import snapshots
from gradient_jupyter.control.fetching import repositories
from gradient_jupyter.resources.snapshot import FetchGit, GitSnapshot, Manifest, MissingBlobs, Snapshot


async def missing(call: Call) -> MissingBlobs:
    return await snapshots.missing(call.plane, call.principal, call.body)


def intake(call: Call) -> snapshots.Intake:
    return snapshots.Intake(call.plane, call.principal)


async def create(call: Call) -> Snapshot:
    return await snapshots.create(call.plane, call.principal, call.body)


async def fetch(call: Call) -> GitSnapshot:
    call.host.streams += 1  # the server stays as long as somebody waits for this
    try:
        return await repositories.fetch(call.plane, call.principal, call.body)
    finally:
        call.host.streams -= 1


async def manifest(call: Call) -> Manifest:
    return await snapshots.manifest(call.plane, call.principal, call.path["snapshot_id"])


async def show(call: Call) -> Snapshot:
    return await snapshots.get(call.plane, call.principal, call.path["snapshot_id"])


def routes() -> list[Route]:
    return [
        Route(
            "POST", "/snapshots/missing", Right.WRITE, missing, body=Manifest, body_limit=MANIFEST_BODY,
            returns=MissingBlobs, summary="Which of a manifest's files have yet to be sent",
        ),
        Route(
            "POST", "/blobs", Right.WRITE, by_its_sink, sink=intake, returns=snapshots.Received, status=201,
            summary="Send files, many in one pack (application/x-gradient-pack)",
        ),
        Route(
            "POST", "/snapshots", Right.WRITE, create, body=Manifest, body_limit=MANIFEST_BODY,
            returns=Snapshot, status=201, summary="Store a manifest whose files have all been sent",
        ),
        Route(
            "POST", "/snapshots/git", Right.WRITE, fetch, body=FetchGit, returns=GitSnapshot, status=201,
            ends_with_caller=True,
            summary="Have the server fetch a repository at a ref; hanging up cancels it",
        ),
        Route("GET", "/snapshots/{snapshot_id}", Right.READ, show, returns=Snapshot, summary="One snapshot"),
        Route(
            "GET", "/snapshots/{snapshot_id}/manifest", Right.READ, manifest, returns=Manifest,
            summary="What a snapshot holds",
        ),
    ]  # fmt: skip
