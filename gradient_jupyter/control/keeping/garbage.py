"""Clearing away files that nothing refers to: mark and sweep, beside everything that goes on.

A job, or a version of a dataset, refers to a snapshot, a snapshot's manifest to files, each owner's rows to
what that owner has sent; a file on the disk stays for as long as any row names it. A sweep

1. removes the rows of snapshots that nothing names,
2. reads the manifests of the others, and removes the rows of files that none of them names,
3. removes from the disk what no row names any more.

Rows go before files, each step in a write of its own that asks once more. Killed anywhere between, at worst a
file is left that no row names; a whole sweep finds those too. What may be needed although no row says so
yet is leased (``leases``). A manifest stored while the others are read tells which files it needs
(``needed``), in the same turn of the one writer in which its row is stored.

A manifest that cannot be read may name anything, so while there is one nothing of its owner's is removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.keeping.leases import Leases
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.store import garbage as rows
from gradient_jupyter.store.garbage import Key

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

T = TypeVar("T")
log = logging.getLogger(__name__)

_MARKED = 200_000
"""Files looked at in one pass over the manifests: what a sweep holds in memory."""
_SWEPT = 100
"""Removed in one write: how long the writer is kept from others."""


class Swept(msgspec.Struct, kw_only=True):
    """What a sweep removed, or would remove."""

    snapshots: int = 0
    blobs: int = 0
    bytes: int = 0
    """Of what is on the disk."""
    unreadable: list[str] = msgspec.field(default_factory=list)
    """Snapshots whose manifest cannot be read."""
    more: bool = False
    """It stopped at ``most``."""


class Garbage:
    """``grace_s`` is how long what nobody refers to is kept after it came, and how long a lease lasts."""

    def __init__(self, plane: Plane, grace_s: float) -> None:
        self._plane = plane
        self._grace_s = grace_s
        self.leases = Leases(grace_s)
        self._turn = asyncio.Lock()
        # None unless a sweep is reading manifests. Touched by the writer's thread alone.
        self._needed: set[str] | None = None

    def needed(self, digests: Iterable[str]) -> None:
        """A manifest that names these is being stored. To be called in its write."""
        if self._needed is not None:
            self._needed.update(digests)

    async def sweep(self, *, dry_run: bool = False, whole: bool = False, most: int | None = None) -> Swept:
        """Never two at a time. ``whole``: also files that no row has ever named. ``most``: so many files."""
        async with self._turn:
            swept = Swept()
            before_us = now_us() - round(self._grace_s * 1e6)
            if not dry_run:
                await self._plane.database.write(rows.from_the_future)
            with self.leases.watched():
                dead = await self._snapshots(before_us, swept, dry_run)
                await self._blobs(before_us, dead, swept, dry_run, most)
                if whole and not swept.more:
                    await self._files(before_us, swept, dry_run)
            return swept

    async def _snapshots(self, before_us: int, swept: Swept, dry_run: bool) -> set[Key]:
        """Returns those that a dry run would have removed."""
        database = self._plane.database
        dead = await database.read(lambda connection: rows.dead_snapshots(connection, before_us))
        dead = [key for key in dead if not self.leases.holds(key.id)]
        if not dry_run:
            gone: list[Key] = []
            for part in _parts(dead, _SWEPT):

                def work(connection: Connection, part: list[Key] = part) -> list[Key]:
                    going = [key for key in part if not self.leases.holds(key.id)]
                    return rows.drop_snapshots(connection, going, before_us)

                gone += await database.write(work)
            dead = gone
        swept.snapshots = len(dead)
        await self._unlink({key.id for key in dead}, swept, dry_run, set(dead))
        return set(dead) if dry_run else set()

    async def _blobs(
        self, before_us: int, dead: set[Key], swept: Swept, dry_run: bool, most: int | None
    ) -> None:
        after = Key("", "")
        unknown: set[str] = set()
        candidates: set[Key] = set()
        while not swept.more:
            keys = await self._plane.database.read(
                partial(rows.old_blobs, before_us=before_us, after=after, limit=_MARKED)
            )
            if not keys:
                break
            after = keys[-1]
            await self._plane.database.write(lambda connection: self._listen(True))
            try:
                unnamed = await self._unnamed(keys, dead, unknown, swept)
                if dry_run:
                    candidates |= unnamed
                else:
                    await self._drop(sorted(unnamed), before_us, swept, most)
            finally:
                await self._plane.database.write(lambda connection: self._listen(False))
        if dry_run:
            await self._unlink({key.id for key in candidates}, swept, True, candidates | dead)

    def _listen(self, listen: bool) -> None:
        self._needed = set() if listen else None

    async def _unnamed(self, keys: list[Key], dead: set[Key], unknown: set[str], swept: Swept) -> set[Key]:
        """Those of the keys that no manifest of their owner's names, but those in ``dead``."""
        left: dict[str, set[str]] = {}
        for key in keys:
            if not self.leases.holds(key.id):
                left.setdefault(key.owner, set()).add(key.id)
        stored = await self._plane.database.read(rows.stored_snapshots)
        for snapshot in stored:
            wanted = left.get(snapshot.owner)
            if not wanted or snapshot in dead or snapshot.owner in unknown:
                continue
            try:
                wanted -= await self._plane.on_files(self._named_by, snapshot.id)
            except (GradientError, OSError, msgspec.MsgspecError) as error:
                log.error(
                    "the manifest %s cannot be read, so no file of its owner goes: %s", snapshot.id, error
                )
                unknown.add(snapshot.owner)
                swept.unreadable.append(snapshot.id)
        return {Key(owner, digest) for owner, some in left.items() if owner not in unknown for digest in some}

    def _named_by(self, snapshot: str) -> set[str]:
        return self._plane.manifest(snapshot).digests()

    async def _drop(self, keys: list[Key], before_us: int, swept: Swept, most: int | None) -> None:
        for part in _parts(keys, _SWEPT):
            if most is not None and swept.blobs >= most:
                swept.more = True
                return

            def work(connection: Connection, part: list[Key] = part) -> set[str]:
                needed = self._needed or set()
                going = [key for key in part if key.id not in needed and not self.leases.holds(key.id)]
                rows.drop_blobs(connection, going, before_us)
                return {key.id for key in going}

            gone = await self._plane.database.write(work)
            await self._unlink(gone, swept, False, set())

    async def _files(self, before_us: int, swept: Swept, dry_run: bool) -> None:
        """What lies on the disk without a row: a crash came between the two, either way."""
        names = self._plane.blobs.names()

        def some() -> list[str]:
            found = []
            for digest, status in names:
                if status.st_mtime_ns // 1000 < before_us and not self.leases.holds(digest):
                    found.append(digest)
                    if len(found) >= 10 * _SWEPT:
                        break
            return found

        while digests := await self._plane.on_files(some):
            known = await self._plane.database.read(partial(rows.named, digests=digests))
            await self._unlink(set(digests) - known, swept, dry_run, set())

    async def _unlink(self, digests: set[str], swept: Swept, dry_run: bool, going: set[Key]) -> None:
        """Removes the files that no row names. In the writer's turn, so that none comes to name them
        meanwhile. A dry run counts those whose rows are all ``going``."""
        for part in _parts(sorted(digests), _SWEPT):
            if dry_run:
                free = await self._plane.database.read(partial(_would_be_free, digests=part, going=going))
                sizes = await self._plane.on_files(self._sizes, free)
            else:
                sizes = await self._plane.database.write(partial(self._unlink_now, digests=part))
            swept.blobs += len(sizes)
            swept.bytes += sum(sizes)

    def _unlink_now(self, connection: Connection, digests: list[str]) -> list[int]:
        freed = []
        known = rows.named(connection, digests)
        for digest in digests:
            if digest in known or self.leases.holds(digest):
                continue
            try:
                size = self._plane.blobs.delete(digest)
            except OSError as error:
                log.warning("%s cannot be removed yet: %s", digest, error)  # a whole sweep finds it again
                continue
            if size:
                freed.append(size)
        return freed

    def _sizes(self, digests: list[str]) -> list[int]:
        return [size for digest in digests if (size := self._plane.blobs.space(digest))]


def _would_be_free(connection: Connection, digests: list[str], going: set[Key]) -> list[str]:
    """Those that no row would name if the rows ``going`` were gone."""
    leaving = Counter(key.id for key in going)
    held = rows.holders(connection, digests)
    return [digest for digest in digests if held[digest] <= leaving[digest]]


def _parts(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
