"""What stands in a database file and whether it can be trusted, found out without changing a byte of it.

Not a repair and no proof: SQLite has no checksums, so a bit that flips inside a stored text and leaves a text
cannot be seen by anybody. What is seen is everything that breaks the file's structure, as far as the check
gets within its time.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

CHECK_S = 1.0
"""How long the check of a database may keep a start waiting. 100 MB take about this long."""
#: Instructions of SQLite's machine between two looks at the clock.
_STEPS = 10_000


class Condition(NamedTuple):
    """``version`` and ``install`` are empty when the file does not say them."""

    version: str
    install: str
    damage: str
    """What is wrong with it, in SQLite's words; empty when nothing was found."""


def look(path: Path, budget_s: float = CHECK_S) -> Condition:
    """Raises ``sqlite3.DatabaseError`` when not even these two facts can be read."""
    with contextlib.closing(open_read_only(path)) as connection:
        version = _one(connection, "alembic_version", "SELECT version_num FROM alembic_version")
        install = _one(connection, "facts", "SELECT value FROM facts WHERE name = 'install'")
        return Condition(version, install, _damage(connection, budget_s))


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes neither the database nor its log. Raises ``sqlite3.DatabaseError``."""
    # What says where the log's pages lie is shared through a file beside it, and has to be written.
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro",
        uri=True,
        timeout=30,
        check_same_thread=False,
        isolation_level=None,
    )
    try:
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def readable(path: Path) -> Iterator[Path]:
    """``path``, or a copy of it and its log: where nothing can be written beside them, SQLite cannot read a
    log that nobody has open."""
    try:
        open_read_only(path).close()
    except sqlite3.OperationalError:
        with tempfile.TemporaryDirectory(prefix="gradient-read-only-") as directory:
            for name in (path.name, f"{path.name}-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path.with_name(name), Path(directory) / name)
            yield Path(directory) / path.name
    else:
        yield path


def backups(path: Path) -> list[Path]:
    """The copies that were made before migrations, newest first."""
    found = [(each.stat().st_mtime_ns, each) for each in path.parent.glob(f"{path.name}.before-*")]
    return [each for _, each in sorted(found, reverse=True)]


def sentence(path: Path, why: str) -> str:
    """Why a damaged database is read-only, and the way out."""
    copies = backups(path)
    beside = f"{copies[0].name} beside it is a copy from before the last upgrade. " if copies else ""
    return (
        f"{path} is damaged ({why.rstrip('.')}). What can be read of it is shown, and nothing is written. "
        f"{beside}`gradient admin doctor` says what is affected; restore the file from a backup, or move it "
        "away to start empty."
    )


def _one(connection: sqlite3.Connection, table: str, query: str) -> str:
    there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    row = connection.execute(query).fetchone() if there else None
    return str(row[0]) if row else ""


def _damage(connection: sqlite3.Connection, budget_s: float) -> str:
    until = time.monotonic() + budget_s
    over: Callable[[], int] = lambda: time.monotonic() > until  # noqa: E731
    connection.set_progress_handler(over, _STEPS)
    try:
        said = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return ""  # as far as it got, it is sound
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        connection.set_progress_handler(None, 0)
    return "" if said == ["ok"] else "; ".join(said).replace("\n", " ")
