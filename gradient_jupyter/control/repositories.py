"""Repositories as workspaces: fetched by the server, kept as snapshots of whoever asked.

What a commit holds never changes, so a commit that its owner has had from the same place is not fetched
again. What somebody else has had does not count: not even the time it takes may tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gradient_jupyter.control.access import Principal
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.snapshot import GitSnapshot, Snapshot
from gradient_jupyter.store import checkouts
from gradient_jupyter.store import snapshots as rows
from gradient_jupyter.workspace.repository import Repository, parse

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane


async def fetch(plane: Plane, principal: Principal, url: str) -> GitSnapshot:
    """The snapshot of what ``url`` (``git+https://…@ref``) leads to now.

    Returns when it is durable. Cancelled, it leaves nothing behind.
    """
    repository = parse(url)
    owner = principal.owner
    if repository.commit and (known := await _known(plane, owner, repository.at(repository.commit))):
        return known
    plane.check_space()
    async with plane.visits.visit(repository, owner) as visit:
        commit = repository.commit or await visit.commit()
        if not repository.commit and (known := await _known(plane, owner, repository.at(commit))):
            return known
        commit = await visit.fetch(commit)
        checkout = await visit.checkout()
        source = str(repository.at(commit))
        manifest = checkout.manifest
        identity = await plane.on_files(plane.blobs.put_bytes, await plane.on_files(manifest.canonical))
        snapshot = Snapshot(id=identity, files=len(manifest.files), bytes=manifest.size, created_us=now_us())

        def work(connection: Connection) -> GitSnapshot:
            rows.hold(connection, owner, checkout.blobs)
            stored = rows.create(connection, owner, snapshot)
            checkouts.remember(connection, owner, source, stored.id, checkout.warnings)
            return GitSnapshot(snapshot=stored, commit=commit, source=source, warnings=checkout.warnings)

        return await plane.database.write(work)


async def _known(plane: Plane, owner: str, repository: Repository) -> GitSnapshot | None:
    source = str(repository)

    def work(connection: Connection) -> GitSnapshot | None:
        found = checkouts.recall(connection, owner, source)
        if found is None:
            return None
        # As a client that sends the same manifest again: whatever that renews is renewed.
        stored = rows.create(connection, owner, found.snapshot)
        return GitSnapshot(snapshot=stored, commit=repository.ref, source=source, warnings=found.warnings)

    return await plane.database.write(work)
