"""Brings a database to the schema this version knows, or refuses to touch it.

A database of an older version is copied aside before it is migrated; one of a newer version is
refused, because what its writer meant is unknown here.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from gradient_jupyter.resources.base import new_id
from gradient_jupyter.store.database import connect

#: The newest step in ``migrations/versions``; a test holds it there. Known here so that starting on an
#: up-to-date database does not load alembic.
HEAD = "0002"


class SchemaRefused(Exception):
    """The database cannot be used by this version. The text says why and what to do."""


def prepare(path: Path) -> str:
    """Migrates the file if need be. Returns the install id, which is made once and never changes."""
    engine = connect(path)
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
            ).first()
            version = None
            if found:
                row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
                version = str(row[0]) if row else None
            connection.rollback()
        if version != HEAD:
            if version is not None and version > HEAD:
                raise SchemaRefused(
                    f"{path} was written by a newer version of Gradient (schema {version}, this one "
                    f"knows {HEAD}). Upgrade gradient-jupyter, or restore a backup from beside it."
                )
            if version is not None:
                _back_up(path, version)
            _migrate(path)
        with engine.connect() as connection:
            row = connection.exec_driver_sql("SELECT value FROM facts WHERE name = 'install'").first()
            return str(row[0]) if row else ""
    except DatabaseError as error:
        raise SchemaRefused(
            f"{path} cannot be read as a database: {error.orig}. Nothing was changed. Restore it from a "
            f"backup, or move it away to start empty."
        ) from error
    finally:
        engine.dispose()


def _migrate(path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "gradient_jupyter.store:migrations")
    config.set_main_option("path_separator", "os")
    engine = connect(path)
    try:
        with engine.connect().execution_options(immediate=True) as connection, connection.begin():
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)
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
