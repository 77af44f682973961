"""How the disk is used: by kind, by project, by owner. Measured, file by file, for as long as it may take.

What a run leaves is measured first and what people keep in their storage last: when time runs out it is said
which numbers are only a beginning.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gradient_jupyter.control.keeping.leftovers import TRASH
from gradient_jupyter.resources.admin import DiskUse, Share, Use
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import pointfile
from gradient_jupyter.store import snapshots as snapshot_rows
from gradient_jupyter.store import tracking as run_rows
from gradient_jupyter.workspace.space import Space, space_of

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

_BUDGET_S = 20.0
_TOP = 10
KINDS = (
    "artifacts", "logs", "metrics", "runs", "workspaces", "files", "trees", "storage", "database",
    "engines", "trash", "ballast", "other",
)  # fmt: skip
_SCRATCH = ("workspace", "home", "tmp", "datasets", "sdk", "spool")


async def disk_use(plane: Plane, *, collectable: bool) -> DiskUse:
    """``collectable``: also find out what a collection would free, which reads every manifest."""
    walk = _Walk(plane.layout.root, time.monotonic() + _BUDGET_S)
    uses = await plane.on_files(walk.run)
    projects = await plane.database.read(
        lambda connection: {**job_rows.projects_of_all(connection), **run_rows.projects_of_all(connection)}
    )
    owners = await plane.database.read(partial(snapshot_rows.held_by_owner, limit=_TOP))
    disk = shutil.disk_usage(plane.layout.root)
    would = (await plane.keeper.collect(dry_run=True)).bytes if collectable else None
    return DiskUse(
        data=str(plane.layout.root), total=disk.total, free=disk.free,
        reserve=plane.settings.reserve_bytes, items=uses, projects=_shares(walk.jobs, walk.runs, projects),
        owners=tuple(Share(id=one.owner, name=one.name, jobs=one.jobs, bytes=one.bytes) for one in owners),
        collectable=would,
    )  # fmt: skip


def _shares(
    jobs: dict[str, int], runs: dict[str, int], projects: dict[str, tuple[str, str]]
) -> tuple[Share, ...]:
    """``jobs`` and ``runs``: the bytes of each; ``projects``: id and name of each one's."""
    sizes: dict[tuple[str, str], int] = defaultdict(int)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for one, size in (*jobs.items(), *runs.items()):
        if project := projects.get(one):
            sizes[project] += size
            counts[project] += one in jobs
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    return tuple(Share(id=key[0], name=key[1], jobs=counts[key], bytes=size) for key, size in largest)


class _Walk:
    """One look at everything under the data root."""

    def __init__(self, root: Path, until_s: float) -> None:
        self._root = root
        self._until_s = until_s
        self._uses: dict[str, Space] = dict.fromkeys(KINDS, Space(0, 0, True))
        self.jobs: dict[str, int] = {}
        self.runs: dict[str, int] = {}

    def run(self) -> tuple[Use, ...]:
        known: dict[str, Callable[[Path], None]] = {
            "jobs": self._jobs,
            "runs": self._runs,
            "blobs": partial(self._add, "files"),
            "engines": self._engines,
            "trees": partial(self._add, "trees"),
            "ballast": partial(self._add, "ballast"),
            "storage": partial(self._add, "storage"),
        }
        for path in _entries(self._root):
            if path.name.startswith("gradient.sqlite"):
                self._add("database", path)
            elif path.name not in known:
                self._add("other", path)
        for name, measure in known.items():
            if os.path.lexists(self._root / name):
                measure(self._root / name)
        return tuple(
            Use(kind=kind, bytes=space.bytes, files=space.files, complete=space.complete)
            for kind, space in self._uses.items()
        )

    def _jobs(self, place: Path) -> None:
        for job in _entries(place):
            before = sum(space.bytes for space in self._uses.values())
            for attempt in _entries(job):
                for path in _entries(attempt):
                    self._add(_kind(path.name), path)
            self.jobs[job.name] = sum(space.bytes for space in self._uses.values()) - before

    def _runs(self, place: Path) -> None:
        for run in _entries(place):
            before = self._uses["runs"].bytes
            self._add("trash" if run.name.startswith(TRASH) else "runs", run)
            self.runs[run.name] = self._uses["runs"].bytes - before

    def _engines(self, place: Path) -> None:
        for engine in _entries(place):
            for path in _entries(engine):
                self._add("trash" if path.name.startswith(TRASH) else "engines", path)

    def _add(self, kind: str, path: Path) -> None:
        old, new = self._uses[kind], space_of(path, self._until_s)
        complete = old.complete and new.complete
        self._uses[kind] = Space(old.bytes + new.bytes, old.files + new.files, complete)


def _kind(name: str) -> str:
    """Of what lies in an attempt's directory."""
    if name == "artifacts":
        return name
    for start, kind in (("log", "logs"), (pointfile.NAME, "metrics")):
        if name.startswith(start):
            return kind
    return "workspaces" if name.startswith(_SCRATCH) else "other"


def _entries(place: Path) -> Iterator[Path]:
    try:
        with os.scandir(place) as listing:
            names = sorted(entry.name for entry in listing)
    except OSError:
        return
    for name in names:
        yield place / name
