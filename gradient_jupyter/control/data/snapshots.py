"""Snapshots: which bytes are missing, taking them in, and the manifest that names them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import blake3
from sqlalchemy import Connection

from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane, decode_manifest
from gradient_jupyter.resources.base import Resource, now_us
from gradient_jupyter.resources.errors import Conflict, InvalidRequest, NotFound, TooLarge
from gradient_jupyter.resources.snapshot import Manifest, MissingBlobs, Snapshot
from gradient_jupyter.store import snapshots as rows
from gradient_jupyter.workspace.limit import largest_of, named
from gradient_jupyter.workspace.tree import check_manifest
from gradient_jupyter.workspace.unpack import StoredBlob, Unpacker
from gradient_jupyter.workspace.wording import size_text

#: So much of a pack is taken to a thread in one go.
_AT_ONCE = 1 << 20


class Received(Resource, frozen=True, kw_only=True):
    """How many blobs of a pack were stored."""

    stored: int


async def missing(plane: Plane, principal: Principal, manifest: Manifest) -> MissingBlobs:
    """Which bytes this owner has yet to send. What somebody else has sent does not count."""
    wanted = await plane.on_files(_checked, plane, manifest)
    # Before it is looked up: what is said to be there stays there for as long as the sending may take.
    plane.garbage.leases.take(principal.owner, wanted)
    # Whoever asks may be back from a connection that was cut: what it had brought is being put away.
    await asyncio.gather(*(intake.settled.wait() for intake in plane.cut_intakes if intake.of(principal)))
    held = await plane.database.read(lambda connection: rows.held(connection, principal.owner, list(wanted)))
    return MissingBlobs(missing=tuple(digest for digest in wanted if digest not in held))


class Intake:
    """Takes in one pack as it arrives. ``finish``, ``cut`` or ``abort`` ends it."""

    def __init__(self, plane: Plane, principal: Principal) -> None:
        self._plane = plane
        self._principal = principal
        self._unpacker = Unpacker(
            plane.blobs,
            max_blob_bytes=plane.settings.max_blob_bytes,
            max_pack_bytes=plane.settings.max_pack_bytes,
        )
        self._waiting: list[bytes] = []
        self._size = 0
        # A cut connection ends it while a piece or the commit may still be under way on a thread.
        self._turn = asyncio.Lock()
        self.settled = asyncio.Event()

    def of(self, principal: Principal) -> bool:
        return self._principal.owner == principal.owner

    async def feed(self, chunk: bytes) -> None:
        async with self._turn:
            self._plane.garbage.leases.sending(self._principal.owner)
            self._waiting.append(chunk)
            self._size += len(chunk)
            if self._size >= _AT_ONCE:
                await self._plane.on_files(self._take)

    async def finish(self) -> Received:
        """Answers once the bytes are on disk and noted as this owner's."""
        async with self._turn:
            await self._plane.on_files(self._take)
            stored = await self._keep(self._unpacker.close)
        return Received(stored=len(stored))

    async def cut(self) -> None:
        """The sender is gone. What had come whole is kept, so that it need not be sent again."""
        self._plane.cut_intakes.add(self)
        try:
            async with self._turn:
                await self._plane.on_files(self._take)
                await self._keep(self._unpacker.cut)
        finally:
            self.settled.set()
            self._plane.cut_intakes.discard(self)

    async def abort(self) -> None:
        async with self._turn:
            await self._plane.on_files(self._unpacker.abort)

    def _take(self) -> None:
        waiting, self._waiting = self._waiting, []
        size, self._size = self._size, 0
        self._plane.check_space(size)
        for chunk in waiting:
            self._unpacker.feed(chunk)

    async def _keep(self, end: Callable[[], tuple[StoredBlob, ...]]) -> tuple[StoredBlob, ...]:
        """What came whole, on disk and noted. Nothing of it is cleared away between its arrival and the row
        that says whose it is."""
        owner, leases = self._principal.owner, self._plane.garbage.leases
        arrived = self._unpacker.digests
        leases.take(owner, arrived)
        with leases.pinned(arrived):
            stored = await self._plane.on_files(end)
            if stored:
                sizes = [(blob.digest, blob.size) for blob in stored]
                await self._plane.database.write(lambda connection: rows.hold(connection, owner, sizes))
        return stored


async def create(plane: Plane, principal: Principal, manifest: Manifest) -> Snapshot:
    wanted = await plane.on_files(_checked, plane, manifest)
    plane.check_space()
    canonical = await plane.on_files(manifest.canonical)
    identity = blake3.blake3(canonical).hexdigest()
    plane.garbage.leases.take(principal.owner, [identity])
    known = await plane.database.read(lambda connection: rows.get(connection, principal.owner, identity))
    if known is not None and await plane.on_files(plane.blobs.has, known.id):
        return known  # as it was stored, with all it names
    snapshot = Snapshot(id=identity, files=len(manifest.files), bytes=manifest.size, created_us=now_us())

    def work(connection: Connection) -> Snapshot:
        held = rows.held(connection, principal.owner, list(wanted))
        absent = wanted.keys() - held.keys()
        if absent:
            raise Conflict(
                f"{len(absent)} of the files it names have not been sent, among them {min(absent)}.",
                next="Ask which are missing (POST /snapshots/missing), send them, and try again.",
                code="missing-blobs",
            )
        for digest, size in wanted.items():
            if held[digest] != size:
                raise InvalidRequest(
                    f"The manifest says that {digest} has {size} bytes; it has {held[digest]}.",
                    next="Send the manifest that a current client makes.",
                    code="bad-manifest",
                )
        plane.garbage.needed(wanted)
        return rows.create(connection, principal.owner, snapshot)

    with plane.garbage.leases.pinned([identity]):
        await plane.on_files(plane.blobs.put_bytes, canonical)
        return await plane.database.write(work)


def _checked(plane: Plane, manifest: Manifest) -> dict[str, int]:
    """The blobs that a manifest needs, in the order of their digests. Raises when it cannot be accepted."""
    check_manifest(manifest, canonical=True)
    limit = plane.settings.max_snapshot_bytes
    if manifest.size > limit:
        largest = largest_of((file.path, file.size) for file in manifest.files)
        raise TooLarge(
            f"Its files have {size_text(manifest.size)} together, more than this server's limit of "
            f"{size_text(limit)}. The largest are: {named(largest)}.",
            next="Keep large data on /storage, or ask the administrator to raise "
            "GradientServer.max_snapshot_bytes.",
            code="snapshot-too-large",
        )
    return dict(sorted(manifest.blobs().items()))


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
