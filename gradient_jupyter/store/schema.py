"""Brings a database to the schema this version knows, or refuses to touch it.

A database of an older version is copied aside before it is migrated; one of a newer version is
refused, because what its writer meant is unknown here. A damaged one is left as it is: as far as it can
still be read it may be shown, and nothing is written to it (promise P13).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert
from sqlalchemy.exc import DatabaseError

from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.store import condition
from gradient_jupyter.store.database import connect
from gradient_jupyter.store.tables import facts

if TYPE_CHECKING:
    from alembic.config import Config

#: The newest step in ``migrations/versions``; a test holds it there. Known here so that starting on an
#: up-to-date database does not load alembic.
HEAD = "0008"


class SchemaRefused(Exception):
    """The database cannot be used by this version. The text says why and what to do."""


class Damaged(Exception):
    """The database is damaged, yet not beyond reading. The text says how; ``install`` is its install id."""

    def __init__(self, message: str, install: str) -> None:
        super().__init__(message)
        self.install = install


def prepare(path: Path) -> str:
    """Migrates the file if need be. Returns the install id, which is made once and never changes.

    Raises ``Damaged`` and ``SchemaRefused``, and has changed nothing then.
    """
    version = ""
    if path.exists() and path.stat().st_size:
        found = read(path)
        if found.damage and found.version == HEAD:
            raise Damaged(found.damage, found.install)
        if found.damage:
            raise _unreadable(path, found.damage)
        version = found.version
    if version == HEAD:
        return found.install
    if version > HEAD:
        raise SchemaRefused(
            f"{path} was written by a newer version of Gradient (schema {version}, this one "
            f"knows {HEAD}). Upgrade gradient-jupyter, or restore a backup from beside it."
        )
    try:
        if version:
            _back_up(path, version)
        _migrate(path)
        return read(path).install
    except (DatabaseError, sqlite3.DatabaseError) as error:
        raise _unreadable(path, error.orig if isinstance(error, DatabaseError) else error) from error


def note_start(connection: Connection) -> None:
    """Writes the page that holds the install id once more, so that the database's log bears it from its
    beginning: SQLite cannot tell a log that belongs to another database, and this is how we can."""
    connection.execute(insert(facts).prefix_with("OR REPLACE").values(name="started", value=str(now_us())))


def read(path: Path) -> condition.Condition:
    """What stands in the file. Raises ``SchemaRefused``; changes nothing, and works where nothing can be
    changed."""
    try:
        with condition.readable(path) as copy:
            return condition.look(copy)
    except sqlite3.DatabaseError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, why: object) -> SchemaRefused:
    return SchemaRefused(
        f"{path} cannot be read as a database: {why}. Nothing was changed. Restore it from a "
        f"backup, or move it away to start empty."
    )


def steps(connection: Connection) -> Config:
    """The migrations as alembic takes them, to be carried out on this connection."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "gradient_jupyter.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _migrate(path: Path) -> None:
    from alembic import command

    engine = connect(path)
    try:
        with engine.connect().execution_options(immediate=True) as connection, connection.begin():
            command.upgrade(steps(connection), HEAD)
            connection.exec_driver_sql(
                "INSERT OR IGNORE INTO facts (name, value) VALUES ('install', ?)", (new_id("in"),)
            )
    finally:
        engine.dispose()


def _back_up(path: Path, version: str) -> None:
    """A whole copy beside it, on disk when this returns; until then nothing bears its name."""
    target = path.with_name(f"{path.name}.before-{version}")
    draft = path.with_name(f"{path.name}.backing-up")
    draft.unlink(missing_ok=True)
    try:
        source, copy = sqlite3.connect(path), sqlite3.connect(draft)
        try:
            # What a kill leaves of a draft is thrown away, so it needs no journal of its own.
            copy.execute("PRAGMA journal_mode=OFF")
            source.backup(copy)
        finally:
            source.close()
            copy.close()
        _sync(draft)
        draft.replace(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise SchemaRefused(
            f"{path} cannot be backed up, so it was not brought to the schema of this version: {error}. "
            "Nothing was changed. Is there space for a copy of it?"
        ) from error


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
