"""The housekeeper: clears away what nothing refers to, by itself and when a person asks.

By itself: soon after a job was deleted, and once in a while; bounded in what it does at once, never twice at
the same time. On demand: everything, at once, or only told (``dry_run``). It never touches what a job,
a snapshot or an upload under way needs; ``garbage`` and ``leases`` see to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

from gradient_jupyter.control.keeping import leftovers
from gradient_jupyter.control.keeping.clock import Clock
from gradient_jupyter.control.keeping.leftovers import Leftover
from gradient_jupyter.control.keeping.retention import Retention, Retired
from gradient_jupyter.control.mlflow import run_removal
from gradient_jupyter.control.people import audit
from gradient_jupyter.control.running import tasks
from gradient_jupyter.engines.base import Unreachable
from gradient_jupyter.resources.admin import Collected, Freed
from gradient_jupyter.store import events as event_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store.database import refusal
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.space import space_of
from gradient_jupyter.workspace.wording import decimal

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_SETTLE_S = 60.0
"""After the start, before anything is cleared away by itself: clients come back first."""
_SOON_S = 2.0
_EVERY_S = 3600.0
_WHOLE_S = 24 * 3600.0
_MOST = 20_000
_MOST_RUNS = 1000
_REST = 10
"""For each second of work so many of rest."""
_NAMED = 20


class Keeper:
    def __init__(self, plane: Plane, clock: Clock | None = None) -> None:
        self._plane = plane
        self.clock = clock or Clock()
        self._retention = Retention(plane, None, self.clock)
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        newest = await self._plane.database.read(event_rows.newest_us)
        self._retention = Retention(self._plane, newest, self.clock)
        await self._plane.on_files(self._load_ballast)
        self._task = asyncio.create_task(self._run(), name="keeper")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look_soon(self) -> None:
        """Something was deleted."""
        self._soon.set()

    async def collect(self, *, dry_run: bool = False, trust_clock: bool = False) -> Collected:
        """Everything there is to clear away, at a person's word."""
        plane = self._plane
        if plane.read_only:
            raise refusal(plane.read_only)
        if not dry_run:
            await plane.database.write(partial(audit.record, action="server.collect", noun="server"))
        async with self._turn:
            before = shutil.disk_usage(plane.layout.root).free
            retired = await self._retention.apply(dry_run=dry_run, trust_clock=trust_clock)
            swept = await plane.garbage.sweep(dry_run=dry_run, whole=True)
            trees = await plane.trees.tidy(dry_run=dry_run)
            grace_s = plane.settings.garbage_grace_s
            runs, run_bytes = await run_removal.purge(plane, grace_s, dry_run=dry_run)
            found = [*await self._leftovers(), *await run_removal.leftovers(plane, time.time())]
            left = await plane.on_files(_remove, found, dry_run)
            uploads, upload_bytes = await plane.on_files(plane.blobs.remove_leftovers, dry_run=dry_run)
            await plane.on_files(self._load_ballast)
            items = (
                Freed(
                    kind="jobs", count=len(retired.jobs), bytes=await self._bytes_of(retired.jobs),
                    names=retired.jobs[:_NAMED],
                ),
                Freed(kind="snapshots", count=swept.snapshots, bytes=0),
                Freed(kind="runs", count=runs, bytes=run_bytes),
                Freed(kind="files", count=swept.blobs, bytes=swept.bytes),
                Freed(kind="trees", count=len(trees), bytes=sum(tree.bytes for tree in trees)),
                Freed(kind="uploads", count=uploads, bytes=upload_bytes),
                Freed(
                    kind="leftovers", count=len(left), bytes=sum(left),
                    names=tuple(f"{each.path}: {each.why}" for each in found[:_NAMED]),
                ),
            )  # fmt: skip
            warnings = [
                f"The manifest of snapshot {each} cannot be read, so none of its owner's files were removed."
                for each in swept.unreadable
            ]
            if retired.doubt:
                warnings.append(f"No job was deleted for its age: {retired.doubt}.")
            return Collected(
                dry_run=dry_run, items=items, bytes=sum(item.bytes for item in items), free_before=before,
                free_after=shutil.disk_usage(plane.layout.root).free, warnings=tuple(warnings),
            )  # fmt: skip

    async def _run(self) -> None:
        whole_due = 0.0
        await asyncio.sleep(_SETTLE_S)
        while not self._plane.read_only:
            began = time.monotonic()
            try:
                async with self._turn:
                    whole = began >= whole_due
                    more = await self._round(whole)
                    if whole:
                        whole_due = began + _WHOLE_S
            except Exception:
                more = False
                log.exception("clearing away failed; again later")
            await asyncio.sleep(max(_SOON_S, _REST * (time.monotonic() - began)))
            if more:
                continue
            self._soon.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), _EVERY_S)
                await asyncio.sleep(_SOON_S)  # deletes come in flocks

    async def _round(self, whole: bool) -> bool:
        """Whether there is more to do."""
        plane = self._plane
        await plane.on_files(self._load_ballast)
        retired = await self._retention.apply()
        self._tell(retired)
        runs, run_bytes = await run_removal.purge(plane, plane.settings.garbage_grace_s, most=_MOST_RUNS)
        run_bytes += await run_removal.finish(plane)
        if runs or run_bytes:
            log.info("cleared away %d deleted runs: %s", runs, decimal(run_bytes))
        swept = await plane.garbage.sweep(whole=whole, most=_MOST)
        if swept.blobs:
            log.info("cleared away %d files that no snapshot names: %s", swept.blobs, decimal(swept.bytes))
        await plane.trees.tidy()
        if whole:
            await plane.on_files(plane.blobs.remove_leftovers)
        keep = plane.settings
        await plane.database.write(
            partial(audit.trim, keep_days=keep.audit_keep_days, keep_most=keep.audit_keep_entries)
        )
        return swept.more or runs == _MOST_RUNS

    def _tell(self, retired: Retired) -> None:
        if retired.doubt:
            log.warning("no job is deleted for its age: %s", retired.doubt)
        for job_id in retired.jobs:
            log.info(
                "deleting %s: it ended more than %g days ago", job_id, self._plane.settings.keep_jobs_days
            )

    async def _leftovers(self) -> list[Leftover]:
        plane = self._plane
        try:
            present = await plane.engine.observe()
        except Unreachable:
            return []  # nothing is known, nothing may be concluded
        # Directories first and rows then: a job that is submitted meanwhile is not taken for one without.
        layout = plane.layout
        there = await plane.on_files(lambda: list(leftovers.directories_of_jobs(layout)))
        known, unfinished = await plane.database.read(
            lambda connection: (rows.all_ids(connection), rows.unfinished(connection))
        )
        attempts = {found for key in present if (found := tasks.attempt_of(plane.install, key))}
        idle = [path for path in there if path.name in known and path.name not in set(unfinished)]

        def look() -> list[Leftover]:
            return [
                *(Leftover(path, "no job of this name is known") for path in there if path.name not in known),
                *leftovers.scratch(idle, attempts),
                *leftovers.trash(layout, time.time()),
            ]

        return await plane.on_files(look)

    async def _bytes_of(self, job_ids: tuple[str, ...]) -> int:
        paths = [self._plane.layout.job(job_id) for job_id in job_ids]
        return await self._plane.on_files(lambda: sum(space_of(path).bytes for path in paths))

    def _load_ballast(self) -> None:
        self._plane.ballast.load(self._plane.settings.reserve_bytes)


def _remove(found: list[Leftover], dry_run: bool) -> list[int]:
    freed = []
    for each in found:
        size = space_of(each.path).bytes
        try:
            if not dry_run:
                remove_tree(each.path)
        except OSError as error:
            log.warning("%s cannot be removed: %s", each.path, error)
        else:
            freed.append(size)
    return freed
