"""How an installation does, line by line, each with what to do about it.

Reads files only and changes none, so it also works beside a running server and where none can start. What
only a program knows (how its engine makes worlds) is handed in.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from gradient_jupyter import __version__
from gradient_jupyter.control.keeping import leftovers
from gradient_jupyter.control.keeping.clock import is_synchronised
from gradient_jupyter.control.keeping.floors import below
from gradient_jupyter.control.keeping.integrity import (
    Looked,
    check_artifacts,
    check_files,
    check_logs,
    check_metrics,
)
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.vault.keyring import look
from gradient_jupyter.resources.admin import Check, Diagnosis, Level
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.store.schema import HEAD
from gradient_jupyter.workspace.space import NETWORK, file_system
from gradient_jupyter.workspace.wording import decimal

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

_FEW_DESCRIPTORS = 1024
_FEW_INODES = 10_000
_AHEAD_S = 600
_SHOWN = 5
_CHECKS = (
    ("sent files", check_files),
    ("artifacts", check_artifacts),
    ("logs", check_logs),
    ("runs' metrics", check_metrics),
)

Line = tuple[Level, str, str]
"""Level, what there is, what to do."""


@dataclass(frozen=True)
class Known:
    """What the program around knows."""

    reserve_bytes: int
    ballast_bytes: int
    isolation: str
    """How a job's world is made here, in one sentence."""
    contained: bool
    """Whether it is by bubblewrap, or something better."""
    gpus: tuple[str, ...]
    running: bool = False
    jumped_s: float = 0.0
    keyring: Path | None = None
    """Where the keys of secrets are; None: not known."""


async def examine_plane(plane: Plane, *, full: bool) -> Diagnosis:
    """Of a running server."""
    nodes = await plane.engine.nodes()
    engine = plane.engine.capabilities()
    known = Known(
        reserve_bytes=plane.settings.reserve_bytes,
        ballast_bytes=plane.settings.ballast_bytes,
        isolation=engine.isolation,
        contained=engine.contained,
        gpus=tuple(gpu.name for node in nodes for gpu in node.gpus),
        running=True,
        jumped_s=plane.keeper.clock.jumped_s(),
        keyring=plane.keyring.path,
    )
    # Not on the pool for files: with ``full`` it may take long.
    return await asyncio.to_thread(examine, plane.layout, known, full=full)


def examine(layout: Layout, known: Known, *, full: bool = False) -> Diagnosis:
    """Blocks; with ``full`` it reads every stored file."""
    held, holder = _lock(layout.lock)
    checks: list[Check] = []

    def add(name: str, look: Callable[[], Iterator[Line]]) -> None:
        try:
            checks.extend(Check(name=name, level=line[0], message=line[1], next=line[2]) for line in look())
        except (OSError, sqlite3.Error) as error:
            checks.append(
                Check(
                    name=name,
                    level=Level.FAIL,
                    message=f"It cannot be looked at: {str(error).rstrip('.').lower()}.",
                    next=f"Look after {layout.root} by hand.",
                )
            )

    add("program", _program)
    add("packages", _packages)
    add("data root", lambda: _root(layout))
    if layout.root.is_dir():
        add("server", lambda: _server(held or known.running, holder))
        add("disk", lambda: _disk(layout, known))
        add("database", lambda: _database(layout))
        add("clock", lambda: _clock(layout, known))
        add("secrets", lambda: _secrets(layout, known))
        add("files", lambda: _files(layout, full=full))
        add("leftovers", lambda: _leftovers(layout))
    add("descriptors", _descriptors)
    add("isolation", lambda: _isolation(known))
    add("GPUs", lambda: _gpus(known))
    return Diagnosis(data=str(layout.root), running=held or known.running, checks=tuple(checks))


def _program() -> Iterator[Line]:
    yield (
        Level.OK,
        f"gradient-jupyter {__version__}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {platform.system()} {platform.release()}.",
        "",
    )


def _packages() -> Iterator[Line]:
    found = list(below())
    for package, version, floor, why in found:
        yield (
            Level.WARN,
            f"{package} {version} is older than upstream's fix ({floor}): {why}.",
            f"pip install '{package}>={floor}', or check your distribution's advisory: it may have the fix.",
        )
    if not found:
        yield Level.OK, "None is older than a fix that concerns us.", ""


def _root(layout: Layout) -> Iterator[Line]:
    root = layout.root
    if not root.exists():
        yield Level.OK, f"{root} is not there yet; the first command makes it.", ""
        return
    status = root.stat()
    kind = file_system(root)
    if status.st_uid != os.geteuid():
        yield (
            Level.FAIL,
            f"{root} belongs to another user (uid {status.st_uid}).",
            "Choose another with GRADIENT_DATA_DIR.",
        )
    elif status.st_mode & 0o077:
        yield (
            Level.WARN,
            f"Others may look into {root} (mode {status.st_mode & 0o777:04o}).",
            f"chmod 700 {root}",
        )
    else:
        yield Level.OK, f"{root}, mode 0700, on {kind or 'an unknown file system'}.", ""
    if kind in NETWORK:
        yield (
            Level.FAIL,
            f"{root} lies on {kind}, over the network; SQLite's write-ahead log does not work there.",
            "Move it to a local disk and set GRADIENT_DATA_DIR.",
        )


def _lock(path: Path) -> tuple[bool, str]:
    """Whether a server holds the data root, and its process id."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False, ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True, os.pread(fd, 100, 0).decode(errors="replace").strip()
    finally:
        os.close(fd)
    return False, ""


def _server(held: bool, holder: str) -> Iterator[Line]:
    yield Level.OK, f"It runs (process {holder})." if held else "None runs; the next command starts one.", ""


def _disk(layout: Layout, known: Known) -> Iterator[Line]:
    disk = shutil.disk_usage(layout.root)
    if disk.free < known.reserve_bytes:
        yield (
            Level.FAIL,
            f"{decimal(disk.free)} are free, less than the {decimal(known.reserve_bytes)} kept in reserve: "
            "nothing is taken in and nothing is started.",
            "Free some space: gradient admin df shows what takes it, gradient jobs delete removes old runs.",
        )
    elif disk.free < 4 * known.reserve_bytes:
        yield (
            Level.WARN,
            f"{decimal(disk.free)} of {decimal(disk.total)} are free; at {decimal(known.reserve_bytes)} "
            "nothing is taken in any more.",
            "gradient admin gc clears away what nothing refers to; gradient admin df shows what takes space.",
        )
    else:
        yield Level.OK, f"{decimal(disk.free)} of {decimal(disk.total)} are free.", ""
    inodes = os.statvfs(layout.root)
    if inodes.f_files and inodes.f_favail < _FEW_INODES:
        yield (
            Level.WARN if inodes.f_favail else Level.FAIL,
            f"The file system has room for {inodes.f_favail:,} more files.",
            "Delete jobs with many artifacts.",
        )
    if known.ballast_bytes and layout.database.exists() and not layout.ballast.exists():
        yield (
            Level.WARN,
            "The ballast, by which things can be deleted on a full disk, is used up or was never made.",
            "It is made anew by itself when there is space.",
        )


def _database(layout: Layout) -> Iterator[Line]:
    if not layout.database.exists():
        yield Level.OK, "There is none yet.", ""
        return
    backups = sorted(layout.root.glob(f"{layout.database.name}.before-*"))
    restore = (
        f"Nothing was changed. Restore it from a backup ({backups[-1]}), or move it away to start empty."
        if backups
        else "Nothing was changed. Restore it from a backup, or move it away to start empty."
    )
    try:
        with closing(_open(layout.database)) as database:
            version = database.execute("SELECT version_num FROM alembic_version").fetchone()
            problems = [row[0] for row in database.execute("PRAGMA quick_check(5)")]
    except sqlite3.DatabaseError as error:
        yield Level.FAIL, f"{layout.database} cannot be read: {error}.", restore
        return
    if problems != ["ok"]:
        yield Level.FAIL, f"{layout.database} is damaged: {'; '.join(map(str, problems))}.", restore
    elif version is None or version[0] > HEAD:
        yield (
            Level.FAIL,
            f"{layout.database} has the schema {version[0] if version else 'of nobody'}; this version "
            f"knows {HEAD}.",
            "Upgrade gradient-jupyter, or restore a backup from beside it.",
        )
    elif version[0] < HEAD:
        yield Level.OK, f"Whole. Its schema {version[0]} is migrated to {HEAD} by the next server.", ""
    else:
        yield Level.OK, f"Whole; schema {version[0]}; {decimal(layout.database.stat().st_size)}.", ""


def _secrets(layout: Layout, known: Known) -> Iterator[Line]:
    if not layout.database.exists() or known.keyring is None:
        return
    try:
        with closing(_open(layout.database)) as database:
            used = dict(database.execute("SELECT key_id, count(*) FROM secrets GROUP BY key_id").fetchall())
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            return  # of an older schema, which the next server brings up to date
        yield Level.WARN, f"They cannot be counted: {error}.", "The line about the database says why."
        return
    there, trouble = look(known.keyring)
    for sentence in trouble:
        yield Level.WARN, sentence, "It holds keys of secrets: keep it to yourself, and as it was."
    many = sum(used.values())
    lost = {key_id: count for key_id, count in used.items() if key_id not in there}
    if lost:
        yield (
            Level.FAIL,
            f"{sum(lost.values()):,} of {many:,} cannot be read: the key {', '.join(sorted(lost))} is not in "
            f"{known.keyring}.",
            "Put it back from a backup. If it is lost: gradient admin rotate-key, and set those anew.",
        )
    elif many:
        where = f"{known.keyring}: keep a copy of it, but not with copies of the data"
        yield Level.OK, f"{many:,}, encrypted; the key is in {where}.", ""
    else:
        yield Level.OK, "None.", ""


def _clock(layout: Layout, known: Known) -> Iterator[Line]:
    kept = "kept by a time server" if is_synchronised() else "not kept by a time server, as far as is known"
    newest = None
    if layout.database.exists():
        try:
            with closing(_open(layout.database)) as database:
                newest = database.execute("SELECT time_us FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        except sqlite3.Error:
            newest = None  # the line about the database says why
    if newest is not None and newest[0] - now_us() > _AHEAD_S * 1e6:
        yield (
            Level.WARN,
            f"The newest event is {(newest[0] - now_us()) / 3.6e9:,.1f} hours ahead of the clock ({kept}).",
            "Set the clock right. Orders and time-outs do not depend on it.",
        )
    elif abs(known.jumped_s) > _AHEAD_S:
        yield (
            Level.WARN,
            f"The clock was set by {known.jumped_s / 3600:+,.1f} hours while the server ran ({kept}).",
            "Until the server is restarted no job is deleted for its age.",
        )
    else:
        what = "It agrees with the newest event" if newest else "There is no event to hold it against"
        yield Level.OK, f"{what}; {kept}.", ""


def _files(layout: Layout, *, full: bool) -> Iterator[Line]:
    if not layout.database.exists():
        return
    for what, check in _CHECKS:
        try:
            with closing(_open(layout.database)) as database:
                result = check(layout, database, full=full)
        except sqlite3.DatabaseError:
            yield Level.WARN, f"The {what} were not looked at: the database does not say which.", ""
        else:
            yield _looked(what, result, full)


def _looked(what: str, result: Looked, full: bool) -> Line:
    looked = f"{result.looked:,} of {result.there:,} {what}"
    if result.damaged:
        names = "; ".join(result.damaged[:_SHOWN])
        more = f"; and {len(result.damaged) - _SHOWN:,} more" if len(result.damaged) > _SHOWN else ""
        return Level.FAIL, f"Damaged or missing, of {looked}: {names}{more}.", result.next
    how = "" if full or result.looked == result.there else ", chosen at random; --full reads all"
    return Level.OK, f"{looked} were read and are right{how}.", ""


def _leftovers(layout: Layout) -> Iterator[Line]:
    found = [str(left.path) for left in leftovers.trash(layout, time.time())]
    if layout.database.exists():
        try:
            there = list(leftovers.directories_of_jobs(layout))
            with closing(_open(layout.database)) as database:
                known = {row[0] for row in database.execute("SELECT id FROM jobs")}
            found += [str(path) for path in there if path.name not in known]
            found += _unknown_runs(layout)
        except sqlite3.DatabaseError:
            pass  # the line about the database says why
    if found:
        more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
        yield (
            Level.WARN,
            f"Nobody knows {', '.join(found[:_SHOWN])}{more}.",
            "If no other database is to be restored: gradient admin gc removes them.",
        )
    else:
        yield Level.OK, "None.", ""


def _unknown_runs(layout: Layout) -> list[str]:
    there = list(leftovers.directories_of_runs(layout, time.time()))
    if not there:
        return []  # and perhaps no table of them: the database may be of an older version
    with closing(_open(layout.database)) as database:
        known = {row[0] for row in database.execute("SELECT id FROM runs UNION SELECT id FROM logged_models")}
    return [str(path) for path in there if path.name not in known]


def _descriptors() -> Iterator[Line]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_DESCRIPTORS:
        yield (
            Level.WARN,
            f"A process may open {soft:,} files; many streams and large directories want more.",
            f"ulimit -n {min(hard, 4096) if hard > 0 else 4096} before the server is started.",
        )
    else:
        yield Level.OK, f"A process may open {soft:,} files.", ""


def _isolation(known: Known) -> Iterator[Line]:
    if known.contained:
        yield Level.OK, known.isolation, ""
    else:
        yield (
            Level.WARN,
            known.isolation,
            "apt install bubblewrap, where it may be used; else use $GRADIENT_ARTIFACTS_DIR and its like.",
        )


def _gpus(known: Known) -> Iterator[Line]:
    if known.gpus:
        yield Level.OK, f"{len(known.gpus)}: {', '.join(known.gpus)}.", ""
    else:
        yield Level.OK, "None is seen. With an NVIDIA card in this machine: does nvidia-smi show it?", ""


def _open(path: Path) -> sqlite3.Connection:
    """The database to read from; nothing of it is changed, also when its log has yet to be taken in."""
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10)
    database.execute("PRAGMA query_only=ON")
    return database
