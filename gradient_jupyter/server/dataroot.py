"""Whether a data root may be served, and how: whole, read-only, or not at all.

Read-only is for what can still be shown but must not be changed: a damaged database, a disk that takes no
writes. Not at all is for what cannot be understood, and for what would be served *empty*: a database that is
gone, or another one's, while the files of the runs are there (promise P13).

``<root>/install`` says whose files these are. It is written once, after the database was made, and compared
at every start.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from gradient_jupyter.control.layout import Layout
from gradient_jupyter.server import claimed
from gradient_jupyter.store import condition, schema
from gradient_jupyter.store.ballast import Ballast
from gradient_jupyter.workspace import durable

log = logging.getLogger(__name__)

#: Bytes below which a start is not to be expected to succeed: the database's log grows to about this.
_TO_START = 4 << 20


class DataRootRefused(Exception):
    """It cannot be served. The text says why and what to do."""


class Opened(NamedTuple):
    lock: int
    """A descriptor that holds the lock for this process's life."""
    install: str
    read_only: str
    """Why nothing may be changed, and the way out; empty when all is well."""


def open_data_root(layout: Layout) -> Opened:
    """Raises ``DataRootRefused``, ``claimed.DataRootTaken`` and ``claimed.DataRootUnsafe``, and has changed
    nothing then but the lock and, on a full disk, the ballast."""
    try:
        lock, writable = claimed.claim(layout.root, layout.lock)
    except OSError as error:
        raise _unusable(layout.root, error) from error
    try:
        _refuse_other_kinds(layout)
        _refuse_empty(layout)
        if writable:
            _make_room(layout)
        install, read_only = _prepared(layout, writable)
        _check_mark(layout, install, writable and not read_only)
    except schema.SchemaRefused as error:
        os.close(lock)
        raise DataRootRefused(str(error)) from error
    except OSError as error:
        os.close(lock)
        raise _unusable(layout.root, error) from error
    except BaseException:
        os.close(lock)
        raise
    return Opened(lock, install, read_only)


def _prepared(layout: Layout, writable: bool) -> tuple[str, str]:
    if writable:
        try:
            return schema.prepare(layout.database), ""
        except schema.Damaged as damage:
            return damage.install, condition.sentence(layout.database, str(damage))
    found = schema.read(layout.database)
    if found.version != schema.HEAD:
        raise DataRootRefused(
            f"{layout.database} is of another version (schema {found.version or 'unknown'}, this one writes "
            f"{schema.HEAD}), and its disk is read-only. Make the disk writable, or use the version it is of."
        )
    if found.damage:
        return found.install, condition.sentence(layout.database, found.damage)
    return found.install, (
        f"The disk under {layout.root} takes no writes. What is there is shown. Make it writable "
        "(the system's log says why it is not), then stop this server: gradient server stop."
    )


def _make_room(layout: Layout) -> None:
    """On a full disk gives up the ballast, so that there is a server by which things can be deleted."""
    if shutil.disk_usage(layout.root).free < _TO_START and Ballast(layout.ballast).drop():
        log.warning("%s: the disk is full; its ballast was thrown off", layout.root)


def _refuse_other_kinds(layout: Layout) -> None:
    """Something else in the place of what we keep there. A link to a directory is a way to use another disk;
    when that disk is not mounted, nothing may be made in its place."""
    for path in (
        layout.blobs, layout.engines, layout.trees, layout.jobs, layout.runs, layout.root / "storage",
    ):  # fmt: skip
        if os.path.lexists(path) and not path.is_dir():
            what = "is a link that leads to no directory" if path.is_symlink() else "is no directory"
            raise DataRootRefused(f"{path} {what}. Mount the disk it is on, restore it, or move it away.")
    for path in (layout.database, layout.install):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            # Through a link two servers could write one database, each with a lock of its own.
            raise DataRootRefused(f"{path} is no regular file. Restore it, or move it away.")


def _refuse_empty(layout: Layout) -> None:
    """No database, while something says that there was one: a new one would hide all that is there."""
    if layout.database.exists() and layout.database.stat().st_size:
        return
    # Directories alone may be mount points that somebody has prepared.
    left = [path for path in (layout.jobs, layout.runs, layout.blobs) if any(path.glob("*/*"))]
    left += [layout.install] if layout.install.exists() else []
    if left:
        what = "is empty" if layout.database.exists() else "is missing"
        copies = condition.backups(layout.database)
        beside = f" ({copies[0].name} beside it is one)" if copies else ""
        raise DataRootRefused(
            f"{layout.database} {what}, but {left[-1].name} beside it is there. Restore the database from a "
            f"backup{beside}, or move {layout.root} away to start anew."
        )


def _check_mark(layout: Layout, install: str, may_write: bool) -> None:
    """Refuses a database that is not the one these files belong to: another one's log beside it, say."""
    marked = read_mark(layout.install)
    if not marked:
        if may_write and install:
            write_mark(layout.install, install)
    elif marked != install:
        raise DataRootRefused(
            f"{layout.database} is that of the installation {install or '(none)'}, but {layout.install} says "
            f"that these files belong to {marked[:40]!r}. Put back the database that belongs here (with its "
            "-wal file, if it has one). If it is the right one, remove the file install."
        )


def read_mark(path: Path) -> str:
    """Empty when there is none."""
    try:
        return path.read_bytes().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def write_mark(path: Path, install: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        durable.write_all(fd, f"{install}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(path)
    durable.sync_path(path.parent)


def _unusable(root: Path, error: OSError) -> DataRootRefused:
    if error.errno in durable.NO_SPACE:
        return DataRootRefused(
            f"The disk under {root} is full, so the server cannot start. Make a little room on it; then "
            "gradient jobs delete removes old runs."
        )
    if error.errno == errno.EROFS:
        return DataRootRefused(f"The disk under {root} takes no writes, and there is nothing on it to show.")
    return DataRootRefused(f"The data root {root} cannot be used: {error}.")
