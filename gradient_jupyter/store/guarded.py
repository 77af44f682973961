"""SQLite files where hostile code may put others: a run's, where nothing keeps it from its directory.

What is no file of our own alone is not opened, as to open a named pipe waits for ever. What a file brings of
its own (views, triggers, tables of another form) is refused, as it may be a query without an end. What takes
too long all the same, in a tree of pages that was made for it, is interrupted. What is found is a
``sqlite3.DatabaseError``, as every other damage to the file.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import stat
import time
from pathlib import Path

#: A file and those SQLite keeps beside it.
_BESIDE = ("", "-wal", "-shm", "-journal")
#: SQLite's instructions between two looks at the clock: well below a millisecond.
_EVERY = 10_000


class Guarded(sqlite3.Connection):
    """Made by ``connect``."""

    limit: _Limit

    def within(self, seconds: float) -> None:
        """What is done from now on fails (``SQLITE_INTERRUPT``) when they have passed."""
        self.limit.until = time.monotonic() + seconds


class _Limit:
    """Apart from its connection, which would otherwise refer to itself."""

    until = math.inf

    def passed(self) -> int:
        return int(time.monotonic() > self.until)


def look(path: Path) -> bool:
    """Whether there is a file. Raises for anything but a regular one of ours with no other name; so for those
    beside it."""
    there = [_look(f"{path}{ending}") for ending in _BESIDE]
    return there[0]


def _look(name: str) -> bool:
    try:
        status = os.lstat(name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if problem := _strange(status):
        raise sqlite3.DatabaseError(f"{os.path.basename(name)} {problem}")
    return True


def _strange(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    return "has a second name" if status.st_nlink > 1 else ""


def connect(address: str, timeout_s: float) -> Guarded:
    """``address`` is a URI whose file was looked at; ``timeout_s`` is the longest wait for somebody else's
    lock."""
    connection = sqlite3.connect(
        address, timeout_s, isolation_level=None, check_same_thread=False, factory=Guarded, uri=True
    )
    connection.limit = _Limit()
    connection.set_progress_handler(connection.limit.passed, _EVERY)
    connection.set_authorizer(_authorized)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _authorized(action: int, one: str | None, two: str | None, base: str | None, source: str | None) -> int:
    """Nothing that a view or a trigger says, also when it came after the schema was looked at."""
    return sqlite3.SQLITE_OK if source is None else sqlite3.SQLITE_DENY


def schema(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    """What stands in the file: type, name, table and text of each, whatever its spaces."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return {(kind, name, table, " ".join((sql or "").split())) for kind, name, table, sql in rows}


def sync(path: Path) -> None:
    """What was committed is on disk when this returns. Another thread may go on writing.

    That stands in the write-ahead log; SQLite itself syncs what goes from there into the file. The file is
    not opened here: closing it again would take SQLite's locks from this whole process, and the next program
    that looks at it would take itself for the last. Raises ``OSError``."""
    name = f"{path}{_BESIDE[1]}"
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if problem := _strange(os.fstat(fd)):
                raise OSError(f"{os.path.basename(name)} {problem}")
            os.fsync(fd)
        finally:
            os.close(fd)
