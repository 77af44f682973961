"""A database as another version has it."""

from __future__ import annotations

from pathlib import Path

from alembic import command

from gradient_jupyter.store.database import connect
from gradient_jupyter.store.schema import steps


def to_version(path: Path, version: str) -> None:
    """Down to that version, or up to it where there is nothing yet."""
    engine = connect(path)
    try:
        with engine.connect().execution_options(immediate=True) as connection, connection.begin():
            found = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").first()
            (command.downgrade if found else command.upgrade)(steps(connection), version)
    finally:
        engine.dispose()
