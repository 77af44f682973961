"""Snapshots: which bytes are missing, taking them in, and the manifest that names them."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from gradient_jupyter.control.access import Principal
from gradient_jupyter.control.plane import Plane, decode_manifest
from gradient_jupyter.resources.base import Resource, now_us
from gradient_jupyter.resources.errors import Conflict, NotFound
from gradient_jupyter.resources.snapshot import Manifest, MissingBlobs, Snapshot
from gradient_jupyter.store import snapshots as rows
from gradient_jupyter.workspace.materialise import check_manifest
from gradient_jupyter.workspace.packs import Unpacker


class Received(Resource, frozen=True, kw_only=True):
    """How many blobs of a pack were stored."""

    stored: int


async def missing(plane: Plane, principal: Principal, manifest: Manifest) -> MissingBlobs:
    """Which bytes this owner has yet to send. What somebody else has sent does not count."""
    await plane.on_files(check_manifest, manifest)
    wanted = sorted({file.digest for file in manifest.files})
    held = await plane.database.read(lambda connection: rows.held(connection, principal.owner, wanted))
    return MissingBlobs(missing=tuple(digest for digest in wanted if digest not in held))


class Intake:
    """Takes in one pack as it arrives. ``finish`` or ``abort`` ends it."""

    def __init__(self, plane: Plane, principal: Principal) -> None:
        self._plane = plane
        self._principal = principal
        self._unpacker = Unpacker(
            plane.blobs,
            max_blob_bytes=plane.settings.max_blob_bytes,
            max_pack_bytes=plane.settings.max_pack_bytes,
        )

        # A cut connection aborts while a piece or the commit may still be under way on a thread.
        self._turn = asyncio.Lock()

    async def feed(self, chunk: bytes) -> None:
        async with self._turn:
            self._plane.check_space(len(chunk))
            await self._plane.on_files(self._unpacker.feed, chunk)

    async def finish(self) -> Received:
        """Answers once the bytes are on disk and noted as this owner's."""
        async with self._turn:
            stored = await self._plane.on_files(self._unpacker.close)
        sizes = [(blob.digest, blob.size) for blob in stored]
        await self._plane.database.write(
            lambda connection: rows.hold(connection, self._principal.owner, sizes)
        )
        return Received(stored=len(sizes))

    async def abort(self) -> None:
        async with self._turn:
            await self._plane.on_files(self._unpacker.abort)


async def create(plane: Plane, principal: Principal, manifest: Manifest) -> Snapshot:
    await plane.on_files(check_manifest, manifest)
    digests = sorted({file.digest for file in manifest.files})
    plane.check_space()
    canonical = await plane.on_files(manifest.canonical)
    identity = await plane.on_files(plane.blobs.put_bytes, canonical)
    snapshot = Snapshot(id=identity, files=len(manifest.files), bytes=manifest.size, created_us=now_us())

    def work(connection: Connection) -> Snapshot:
        absent = set(digests) - rows.held(connection, principal.owner, digests)
        if absent:
            raise Conflict(
                f"{len(absent)} of the files it names have not been sent, among them {min(absent)}.",
                next="Ask which are missing (POST /snapshots/missing), send them, and try again.",
                code="missing-blobs",
            )
        return rows.create(connection, principal.owner, snapshot)

    return await plane.database.write(work)


async def get(plane: Plane, principal: Principal, snapshot_id: str) -> Snapshot:
    found = await plane.database.read(lambda connection: rows.get(connection, principal.owner, snapshot_id))
    if found is None:
        raise NotFound(f"There is no snapshot {snapshot_id!r}.", code="no-such-snapshot")
    return found


async def manifest(plane: Plane, principal: Principal, snapshot_id: str) -> Manifest:
    """What it holds, by name, size and digest."""
    found = await get(plane, principal, snapshot_id)

    def read() -> Manifest:
        with plane.blobs.open(found.id) as file:
            return decode_manifest(file.read())

    return await plane.on_files(read)
