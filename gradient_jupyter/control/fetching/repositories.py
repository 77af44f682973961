"""Repositories as workspaces: fetched by the server, kept as snapshots of whoever asked.

What a commit holds never changes, so a commit that its owner has had from the same place is not fetched
again. What somebody else has had does not count: not even the time it takes may tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import blake3
from sqlalchemy import Connection

from gradient_jupyter.control.fetching.git import Login
from gradient_jupyter.control.people import access
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.vault import secrets
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.secret import reference
from gradient_jupyter.resources.snapshot import FetchGit, GitSnapshot, Snapshot
from gradient_jupyter.store import checkouts
from gradient_jupyter.store import snapshots as rows
from gradient_jupyter.store.projects import Place
from gradient_jupyter.workspace.repository import Repository, parse

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

_ADVICE = "Set it as a secret (gradient secrets set NAME) and send secret:NAME as the password."
#: GitHub, GitLab and Gitea take any name beside a token.
_ANYBODY = "x-access-token"


async def fetch(plane: Plane, principal: Principal, request: FetchGit) -> GitSnapshot:
    """The snapshot of what ``request.url`` (``git+https://…@ref``) leads to now.

    Returns when it is durable. Cancelled, it leaves nothing behind.
    """
    repository = parse(request.url)
    owner = principal.owner
    login = await _login(plane, principal, request, repository)
    if repository.commit and (known := await _known(plane, owner, repository.at(repository.commit))):
        return known
    plane.check_space()
    async with plane.visits.visit(repository, owner, login) as visit:
        commit = repository.commit or await visit.commit()
        if not repository.commit and (known := await _known(plane, owner, repository.at(commit))):
            return known
        commit = await visit.fetch(commit)
        checkout = await visit.checkout()
        source = str(repository.at(commit))
        manifest = checkout.manifest
        canonical = await plane.on_files(manifest.canonical)
        identity = blake3.blake3(canonical).hexdigest()
        snapshot = Snapshot(id=identity, files=len(manifest.files), bytes=manifest.size, created_us=now_us())

        def work(connection: Connection) -> GitSnapshot:
            plane.garbage.needed(manifest.digests())
            rows.hold(connection, owner, checkout.blobs)
            stored = rows.create(connection, owner, snapshot)
            checkouts.remember(connection, owner, source, stored.id, checkout.warnings)
            return GitSnapshot(snapshot=stored, commit=commit, source=source, warnings=checkout.warnings)

        leases = plane.garbage.leases
        arrived = [*manifest.digests(), identity]
        leases.take(owner, arrived)
        with leases.pinned(arrived):
            # Before they were pinned some may have been cleared away: nobody knew that they are needed.
            if not await plane.on_files(plane.blobs.has_all, manifest.digests()):
                checkout = await visit.checkout()
            await plane.on_files(plane.blobs.put_bytes, canonical)
            return await plane.database.write(work)


async def _login(
    plane: Plane, principal: Principal, request: FetchGit, repository: Repository
) -> Login | None:
    """Who we are to the repository's host, if to anybody."""
    if request.password is None:
        if request.username is not None:
            raise InvalidRequest("A user name alone opens nothing.", next=_ADVICE, code="bad-credentials")
        return None
    name = reference(request.password)
    if name is None:
        raise InvalidRequest(
            "A repository's password is not sent as it is: it would be in histories and logs.",
            next=_ADVICE,
            code="bad-credentials",
        )
    if repository.scheme != "https":
        raise InvalidRequest(
            "A password is sent over https only.", next="Use git+https://…", code="bad-credentials"
        )

    def project(connection: Connection) -> Place | None:
        if request.project_id is not None:
            return access.place(connection, principal, request.project_id, Role.MEMBER)
        if request.project is not None:
            return access.place_named(connection, principal, request.project, Role.MEMBER)
        if principal.bound is not None:
            return access.place(connection, principal, principal.bound, Role.MEMBER)
        return None

    return Login(request.username or _ANYBODY, await secrets.value(plane, principal, name, project))


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
