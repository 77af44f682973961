"""The file of one run's metrics: SQLite, with columns of points in it rather than a row for each.

``chunks`` hold a series in order: about ``CHUNK`` points each, never overlapping, with what a summary needs
beside them, and with what each few of their points come to (``blocks``). ``recent`` holds what came since, a
row for each arrival; now and then that becomes chunks. A point is three integers, (step, time in µs, the bits
of its double), so all of them have one order and NaN is equal to itself.

It lies beside the run's log and goes with it. It is written in WAL mode without waiting for the disk at each
commit: what was acknowledged survives the death of the server at once, and a power loss once it is synced, a
second later (``guarded.sync``).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sqlite3
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gradient_jupyter.resources.errors import GradientError, NoSpace, ServerError
from gradient_jupyter.store.guarded import Guarded, connect, look, schema

NAME = "metrics.sqlite"
#: Points in a chunk: few enough to be rewritten when one comes late, enough that a chunk's own cost is small.
CHUNK = 512
WITHIN_S = 10.0
"""What a file may take of our time at once. Longer is only one that was made for it, or is much too large."""
_CHECK_S = 600.0
#: A lock that is not ours holds up every run's points.
_LOCKED_WRITE_S = 1.0
_LOCKED_READ_S = 5.0

Point = tuple[int, int, int]
"""Step, time in µs, bits of the value."""

T = TypeVar("T", int, float)

_BIG = sys.byteorder == "big"
_VERSION = 2
_SCHEMA = f"""
CREATE TABLE series (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, UNIQUE (kind, key));
CREATE TABLE chunks (
  id INTEGER PRIMARY KEY, series INTEGER NOT NULL,
  first_step INTEGER NOT NULL, first_time INTEGER NOT NULL, first_bits INTEGER NOT NULL,
  last_step INTEGER NOT NULL, last_time INTEGER NOT NULL, last_bits INTEGER NOT NULL,
  count INTEGER NOT NULL, nans INTEGER NOT NULL, min REAL, max REAL, total REAL, data BLOB NOT NULL,
  blocks BLOB NOT NULL
);
CREATE INDEX chunks_in_order ON chunks (series, first_step, first_time, first_bits);
CREATE TABLE recent (id INTEGER PRIMARY KEY, series INTEGER NOT NULL, data BLOB NOT NULL);
CREATE INDEX recent_of ON recent (series);
PRAGMA user_version = {_VERSION};
"""


def open_to_write(path: Path) -> Guarded:
    """For the one thread that writes it. Makes it where it is not there."""
    look(path)
    connection = connect(f"{path.absolute().as_uri()}?mode=rwc", _LOCKED_WRITE_S)
    try:
        connection.within(WITHIN_S)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")
        if not schema(connection):
            with transaction(connection):
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
        _check(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def reading(path: Path, within_s: float = WITHIN_S) -> Iterator[Guarded | None]:
    """A connection with one view of the file, beside whoever writes it; None where there is no file. What
    goes wrong inside is told in our words."""
    with told(path):
        if not look(path):
            yield None
            return
        connection = _open_to_read(path)
        try:
            connection.within(within_s)
            connection.execute("BEGIN")
            if not schema(connection):
                yield None  # it is just being made
                return
            _check(path, connection)
            yield connection
        finally:
            connection.close()


def in_pieces(path: Path) -> bool:
    """Whether what belongs to it lies beside it: what was written since, or what a change began with."""
    return any(os.path.lexists(f"{path}{ending}") for ending in ("-wal", "-journal"))


def _open_to_read(path: Path) -> Guarded:
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return _opened(address)
    except sqlite3.OperationalError as error:
        if not os.access(path.parent, os.W_OK):
            # A disk that takes no writes: there can be no files for sharing, and nobody to share with.
            return connect(f"{address}&immutable=1", _LOCKED_READ_S)
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
    # Whoever wrote it was killed while it was made, or made whole: what that began with has to go back first.
    _opened(f"{path.absolute().as_uri()}?mode=rw").close()
    return _opened(address)


def _opened(address: str) -> Guarded:
    connection = connect(address, _LOCKED_READ_S)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: Path, connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        raise ServerError(
            f"The metrics in {path} are of a version ({version}) that this server does not know.",
            next="Upgrade gradient-jupyter."
            if version > _VERSION
            else "It is of before the first release; the version that wrote it reads it.",
            code="metrics-unknown",
        )
    if not version or schema(connection) != _schema():
        raise sqlite3.DatabaseError("it holds other tables than this server makes")


@functools.cache
def _schema() -> set[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return schema(connection)


def problem(path: Path) -> str:
    """What is wrong with the file; empty when nothing is, or there is none."""
    with reading(path, _CHECK_S) as connection:
        if connection is None:
            return ""
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        return "" if found == "ok" else f"its metrics are damaged: {found}"


@contextlib.contextmanager
def transaction(connection: Guarded) -> Iterator[None]:
    connection.within(WITHIN_S)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _told(path, error) from error


def _told(path: Path, error: sqlite3.Error) -> GradientError:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return NoSpace(
                "There is no space left for this run's metrics; these points were not stored.",
                next="Free some space: gradient jobs delete removes old runs.",
            )
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return ServerError(
                f"The disk that holds {path} refuses to work: {error}.",
                next="Look at the disk and its quota, then try again.",
                code="disk-error",
            )
        case sqlite3.SQLITE_BUSY:
            return ServerError(
                f"Another program holds {path} locked.",
                next="Try again. Only this server has business with that file.",
                code="metrics-locked",
            )
        case sqlite3.SQLITE_INTERRUPT:
            return ServerError(
                f"The metrics in {path} take too long to be read, and were given up.",
                next="Ask for fewer points. If that does not help, the file is damaged; its log and "
                "artifacts are not concerned.",
                code="metrics-damaged",
            )
    return ServerError(
        f"The metrics in {path} are damaged: {error}.",
        next="Its log and artifacts are not concerned. Restore the file from a backup, or do without it.",
        code="metrics-damaged",
    )


# How points stand in the file: little-endian, whatever this machine is.


def bits_of(values: Iterable[float]) -> array[int]:
    """The doubles as integers of the same bits."""
    bits = array("q")
    bits.frombytes(memoryview(array("d", values)).cast("B"))
    return bits


def values_of(bits: array[int]) -> array[float]:
    values = array("d")
    values.frombytes(memoryview(bits).cast("B"))
    return values


def numbers_of(bits: array[int]) -> list[float]:
    """The values, without NaN."""
    return [each for each in values_of(bits) if not math.isnan(each)]


class Columns:
    """Neighbouring points of a series, in order, as three arrays."""

    __slots__ = ("bits", "steps", "times")

    def __init__(self, points: Sequence[Point] = ()) -> None:
        columns = zip(*points, strict=True) if points else ((), (), ())
        self.steps, self.times, self.bits = (array("q", column) for column in columns)

    def __len__(self) -> int:
        return len(self.steps)

    def points(self) -> zip[Point]:
        return zip(self.steps, self.times, self.bits, strict=True)

    def pack(self) -> bytes:
        return b"".join(little(column).tobytes() for column in (self.steps, self.times, self.bits))

    @classmethod
    def unpacked(cls, packed: Iterable[bytes]) -> Columns:
        """What ``pack`` made of some, one behind the other. ``sqlite3.DatabaseError`` when one is nothing of
        the kind."""
        columns = cls()
        for data in packed:
            third, odd = divmod(len(data), 3)
            if odd or third % 8:
                raise sqlite3.DatabaseError("a chunk has an impossible length")
            view = memoryview(data)
            for number, column in enumerate((columns.steps, columns.times, columns.bits)):
                add_little(column, view[number * third : (number + 1) * third])
        return columns


def add_little(column: array[Any], data: memoryview) -> None:
    """Appends what stands so in the file."""
    if _BIG:
        part = array(column.typecode, data.tobytes())
        part.byteswap()
        column.extend(part)
    else:
        column.frombytes(data)


def little(column: array[T]) -> array[T]:
    """As it stands in the file."""
    if _BIG:
        column = column[:]
        column.byteswap()
    return column
