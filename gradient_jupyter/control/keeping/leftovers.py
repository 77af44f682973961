"""Files under the data root that nobody will come back for: found, named, and removed when clearly ours.

Clearly ours is what bears a name that only we give, lies where only we put it, belongs to our own user and is
no link. The rest is left alone, and the doctor names it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gradient_jupyter.control.layout import Layout

_JOB = re.compile(r"j[0-9a-z]{12}")
#: Tracking runs, and models that no run has made.
_RUN = re.compile(r"(rn|m-)[0-9a-z]{12}")
_ATTEMPT = re.compile(r"[1-9][0-9]{0,5}")
#: What an engine may keep in an attempt's directory until it has forgotten the task (``engines.base.Task``).
_SCRATCH = re.compile(r"workspace(\..+)?|home|tmp|datasets|sdk|spool")
#: How that is called which is just being removed; what is older than this was left by somebody killed.
TRASH = ".trash-"
_OLD_S = 3600.0


class Leftover(NamedTuple):
    path: Path
    why: str


def directories_of_jobs(layout: Layout) -> Iterator[Path]:
    """One per job. A job's row comes before its directory and goes after it, and each id is given once; so
    one without a row comes from another database, for instance from after a backup that was restored."""
    return (path for path in directories(layout.jobs) if _JOB.fullmatch(path.name))


def scratch(jobs: Iterable[Path], busy: Container[tuple[str, int]]) -> Iterator[Leftover]:
    """Workspaces of runs that no engine knows any more, of jobs that are over. ``busy`` are those that one
    knows."""
    for job in jobs:
        for attempt in directories(job):
            if not _ATTEMPT.fullmatch(attempt.name) or (job.name, int(attempt.name)) in busy:
                continue
            for path in directories(attempt):
                if _SCRATCH.fullmatch(path.name):
                    yield Leftover(path, "its run is over")


def directories_of_runs(layout: Layout, now_s: float) -> Iterator[Path]:
    """One per tracking run, or model of its own. It comes before its row, so only those are told that are
    older than a row may take: one without a row will get none."""
    for path in directories(layout.runs):
        if _RUN.fullmatch(path.name) and _is_old(path, now_s):
            yield path


def trash(layout: Layout, now_s: float) -> Iterator[Leftover]:
    for place in (*directories(layout.engines), layout.runs):
        yield from trash_in(place, now_s)


def trash_in(place: Path, now_s: float) -> Iterator[Leftover]:
    for path in directories(place):
        if path.name.startswith(TRASH) and _is_old(path, now_s):
            yield Leftover(path, "it was being removed when the server was killed")


def _is_old(path: Path, now_s: float) -> bool:
    try:
        return now_s - path.lstat().st_mtime > _OLD_S
    except FileNotFoundError:
        return False


def directories(parent: Path) -> Iterator[Path]:
    """Real directories of our own user, in order."""
    try:
        names = sorted(os.listdir(parent))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = parent / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            yield path
