"""Takes away what runs and models beside jobs have left on the disk, together with their rows.

The row of a run that was deleted goes first, and its directory only if that row did: until then it may be
taken back. A directory is given another name before it is emptied, so that the housekeeper knows it for one
that was being removed when the server was killed, whatever database is there by then.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gradient_jupyter.control.keeping.leftovers import (
    TRASH,
    Leftover,
    directories_of_runs,
    trash_in,
)
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.store import tracking as rows
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.space import space_of

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)


async def clear(plane: Plane, run_ids: Iterable[str]) -> int:
    """Removes their directories, and returns the bytes freed. Their rows are the caller's."""
    freed = 0
    for run_id in run_ids:
        where = plane.layout.run(run_id)
        await plane.points.release(where)
        freed += await plane.on_files(_remove, where)
    return freed


def _remove(where: Path) -> int:
    trash = where.with_name(f"{TRASH}{where.name}")
    freed = remove_tree(trash)
    with contextlib.suppress(FileNotFoundError):
        where.rename(trash)
    return freed + remove_tree(trash)


async def purge(
    plane: Plane, grace_s: float, *, most: int | None = None, dry_run: bool = False
) -> tuple[int, int]:
    """Removes runs that were deleted longer ago, at most so many. Returns how many, and the bytes freed."""
    before = now_us() - int(grace_s * 1_000_000)
    gone = await plane.database.read(partial(rows.deleted_before, before_us=before, most=most))
    if dry_run:
        places = [plane.layout.run(run_id) for run_id in gone]
        return len(gone), await plane.on_files(lambda: sum(space_of(place).bytes for place in places))
    count = freed = 0
    for run_id in gone:
        if await plane.database.write(partial(rows.erase, run_id=run_id, before_us=before)):
            count += 1
            freed += await clear(plane, [run_id])
    if count:
        plane.run_space.forget()
    return count, freed


async def leftovers(plane: Plane, now_s: float) -> list[Leftover]:
    """Directories without a row: a server was killed between the two, or the database is an older one."""
    layout = plane.layout
    found = await plane.on_files(lambda: list(directories_of_runs(layout, now_s)))
    known = await plane.database.read(rows.all_directories)
    return [Leftover(path, "no run of this name is known") for path in found if path.name not in known]


async def finish(plane: Plane) -> int:
    """Removes what a server that was killed was just removing. Returns the bytes freed.

    Not what no row names: after an older database was put back that may be wanted, so a person says when.
    """

    def work() -> int:
        freed = 0
        for each in list(trash_in(plane.layout.runs, time.time())):
            try:
                freed += remove_tree(each.path)
            except OSError as error:
                log.warning("%s cannot be removed: %s", each.path, error)
        return freed

    return await plane.on_files(work)
