"""Takes away what runs and models beside jobs have left on the disk, together with their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from gradient_jupyter.control.leftovers import Leftover, directories
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.store import tracking as rows
from gradient_jupyter.workspace.inside import remove_tree

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

_DIRECTORY = re.compile(r"(rn|m-)[0-9a-z]{12}")
#: The directory comes before the row; what is older than this and has none will get none.
_OLD_S = 3600.0
_MOST = 1000


async def clear(plane: Plane, run_ids: Iterable[str]) -> int:
    """Removes their directories, and returns the bytes freed. Their rows are the caller's."""
    freed = 0
    for run_id in run_ids:
        where = plane.layout.run(run_id)
        await plane.points.release(where)
        freed += await plane.on_files(remove_tree, where)
    return freed


async def purge(plane: Plane, grace_s: float) -> tuple[int, int]:
    """Removes runs that were deleted longer ago. Returns how many, and the bytes freed."""
    before = now_us() - int(grace_s * 1_000_000)
    gone = await plane.database.read(lambda connection: rows.deleted_before(connection, before, _MOST))
    freed = 0
    for run_id in gone:
        freed += await clear(plane, [run_id])
        await plane.database.write(partial(rows.erase, run_id=run_id))
    if gone:
        plane.run_space.forget()
    return len(gone), freed


async def leftovers(plane: Plane, now_s: float) -> list[Leftover]:
    """Directories without a row: a server was killed between the two, or the database is an older one."""

    def old() -> list[Leftover]:
        return [
            Leftover(path, "no run of this name is known")
            for path in directories(plane.layout.runs)
            if _DIRECTORY.fullmatch(path.name) and now_s - path.lstat().st_mtime > _OLD_S
        ]

    found = await plane.on_files(old)
    known = await plane.database.read(rows.all_directories)
    return [each for each in found if each.path.name not in known]
