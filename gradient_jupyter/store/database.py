"""The database: one writer thread with group commit, readers beside it.

A write is a function over a connection. All writes that wait when the writer becomes free run in one
transaction, each in a savepoint of its own (one that is alone has the transaction to itself), so that a
commit (one ``fsync``) is paid once for all of them and a failing write undoes only itself. A write's future
resolves after the commit: what it returned is on disk, also after a power loss (WAL with
``synchronous=FULL``).

Changes recorded during a write are handed to ``on_commit`` in the order in which they were stored.

When the disk is full ``on_full`` is asked for some space; where it had any to give, the writes are run once
more. So a write may be run twice before it is committed, and never after that.


A database whose damage shows, at the start or while it is used, is not written to any more: what is there can
still be read where it is whole, and every write is refused with the reason (promise P13).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError

from gradient_jupyter.resources.base import Resource
from gradient_jupyter.resources.errors import NoSpace, ReadOnly, ServerError
from gradient_jupyter.resources.event import Event
from gradient_jupyter.store import condition

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How many writes one commit carries at most; beyond it the first of them would wait too long.
_GROUP = 256
_READERS = 3
_PATIENCE_MS = 30_000
_CHANGES = "gradient.changes"


class Change(msgspec.Struct, frozen=True):
    """A change that is stored: the event, and the thing itself, so that nobody here need decode it."""

    event: Event
    resource: Resource | None
    place: int | None
    """Of a new thing, its row's sequence number."""


class DiskFull(NoSpace):
    """The database itself found no space, also none that it could be given."""


class Database:
    """A SQLite file. ``start`` before use, ``close`` at the end; both block.

    ``read_only`` says why nothing may be written, and the way out; it is empty while things are in order. It
    can come to be said while the database is used.
    """

    def __init__(
        self,
        path: Path,
        on_commit: Callable[[list[Change]], None] = lambda changes: None,
        on_full: Callable[[], bool] = lambda: False,
        read_only: str = "",
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._on_commit = on_commit
        self._on_full = on_full
        self._opened = contextlib.ExitStack()
        self._engine = (
            connect_read_only(self._opened.enter_context(condition.readable(path)))
            if read_only
            else connect(path)
        )
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._readers = ThreadPoolExecutor(_READERS, "store-reader")
        self._local = threading.local()
        self._reading: list[Connection] = []

    def start(self) -> None:
        self._writer.start()

    def close(self) -> None:
        """Finishes the writes that wait, then closes every connection."""
        if self._writer.is_alive():
            self._waiting.put(None)
            self._writer.join()
        self._readers.shutdown()
        for connection in self._reading:
            connection.close()
        self._engine.dispose()
        self._opened.close()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction; returns when it is durable. Raises what ``work`` raises."""
        done: Future[T] = Future()
        # Whoever asks is known there, too: what is recorded says who did it.
        context = contextvars.copy_context()
        self._waiting.put(_Write(lambda connection: context.run(work, connection), done))
        # A caller that is cancelled must not undo or hide a write that is under way.
        return await asyncio.shield(asyncio.wrap_future(done))

    @property
    def waiting(self) -> int:
        """How many writes wait for the writer."""
        return self._waiting.qsize()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` on a reader, in one consistent view of what is committed."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _reader(self) -> Connection:
        """This thread's connection. One that could not be opened, for want of descriptors say, is asked for
        again by the next query."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._engine.connect()
            connection.exec_driver_sql("PRAGMA query_only=ON")
            connection.rollback()
            self._local.connection = connection
            self._reading.append(connection)
        return connection

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            connection = self._reader()
            with connection.begin():
                return work(connection)
        except Exception as error:
            told = self._told(error)
            if told is error:
                raise
            raise told from error

    def _write_loop(self) -> None:
        connection: Connection | None = None
        try:
            while (first := self._waiting.get()) is not None:
                group, last = [first], False
                while len(group) < _GROUP and not last:
                    try:
                        item = self._waiting.get_nowait()
                    except queue.Empty:
                        break
                    if item is None:
                        last = True
                    else:
                        group.append(item)
                try:
                    if self.read_only:
                        raise refusal(self.read_only)
                    if connection is None:
                        connection = self._engine.connect().execution_options(immediate=True)
                except Exception as error:
                    # For want of space or descriptors, say. The next write asks for it again.
                    _tell(group, self._told(error))
                else:
                    self._write_group(connection, group)
                if last:
                    return
        finally:
            if connection is not None:
                connection.close()

    def _write_group(self, connection: Connection, group: list[_Write]) -> None:
        changes = self._try_group(connection, group)
        if any(isinstance(write.error, DiskFull) for write in group) and self._on_full():
            log.warning("%s: the disk is full; its ballast was thrown off", self.path)
            changes = self._try_group(connection, group)
        if changes:
            self._on_commit(changes)
        for write in group:
            if write.error is not None:
                write.done.set_exception(write.error)
            else:
                write.done.set_result(write.result)

    def _try_group(self, connection: Connection, group: list[_Write]) -> list[Change]:
        """Runs the writes in one transaction. Returns the changes that are stored now."""
        changes: list[Change] = []
        connection.info[_CHANGES] = changes
        alone = len(group) == 1  # the transaction is all its own, and no savepoint is needed
        for write in group:
            write.error = None
        try:
            transaction = connection.begin()
            for write in group:
                recorded = len(changes)
                try:
                    with contextlib.nullcontext() if alone else connection.begin_nested():
                        write.result = write.work(connection)
                except Exception as error:
                    if alone:
                        raise
                    if not _raw(connection).in_transaction:
                        # Some errors, a full disk among them, make SQLite undo the whole transaction: what
                        # came before is gone too, and what comes after would be committed on its own.
                        raise _first(error) from error
                    del changes[recorded:]
                    write.error = self._told(error)
            transaction.commit()
        except Exception as error:
            with contextlib.suppress(Exception):  # whatever is wrong with the disk, those who wait are told
                connection.rollback()
                # After a failed commit SQLAlchemy takes its transaction for ended, whatever SQLite thinks.
                _raw(connection).rollback()
            told = self._told(error)
            if isinstance(told, NoSpace):
                _shrink_log(_raw(connection))
            for write in group:
                write.error = write.error or told
            changes.clear()
        return changes

    def _told(self, error: Exception) -> Exception:
        """What the disk did, in our own words; every other error as it is."""
        if isinstance(error, msgspec.DecodeError | ValueError):
            # Nothing else than what we once stored is decoded here.
            log.error("%s: a stored value cannot be read", self.path, exc_info=error)
            return _damaged(self.path, f"a stored value cannot be read ({error})")
        if not isinstance(error, DBAPIError) or not isinstance(error.orig, sqlite3.Error):
            return error
        match getattr(error.orig, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_FULL:
                return DiskFull(
                    "The disk that holds the server's database is full; nothing was changed.",
                    next="Free some space (`gradient jobs delete` removes old runs) and try again.",
                )
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                if not self.read_only:
                    self.read_only = condition.sentence(self.path, str(error.orig))
                    log.error("%s", self.read_only)
                return _damaged(self.path, str(error.orig))
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
                return ServerError(
                    f"The disk that holds the server's database refuses to work: {error.orig}. "
                    "Nothing was changed.",
                    next=f"Look at the disk and the quota of {self.path.parent}, then try again.",
                    code="disk-error",
                )
        return error


def refusal(why: str) -> ReadOnly:
    """What a write is answered while the server is read-only. ``why`` is a reason and the way out."""
    return ReadOnly("The server is read-only, so nothing was changed.", next=why)


def _damaged(path: Path, why: str) -> ServerError:
    return ServerError(
        f"{path} is damaged there: {why}.",
        next="`gradient admin doctor` says what is affected; restore the file from a backup.",
        code="database-damaged",
    )


def _tell(group: list[_Write], error: Exception) -> None:
    for write in group:
        write.done.set_exception(error)


def _shrink_log(raw: sqlite3.Connection) -> None:
    """Brings what stands in the database's log into the database, and gives back the log's space: megabytes,
    where the disk has none. Most of it overwrites pages that are there already."""
    with contextlib.suppress(sqlite3.Error):
        raw.execute("PRAGMA busy_timeout=200")  # a reader that is just reading is not waited for long
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with contextlib.suppress(sqlite3.Error):
        raw.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")


def _first(error: BaseException) -> BaseException:
    """What the database said first: that a savepoint is gone only follows from it."""
    first: BaseException = error
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, DBAPIError):
            first = link
        link = link.__context__
    return first


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


class _Write:
    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[Connection], Any], done: Future[Any]) -> None:
        self.work = work
        self.done = done
        self.result: Any = None
        self.error: BaseException | None = None


def record(connection: Connection, change: Change) -> None:
    """Marks it as stored by the write that is running, to be published after its commit."""
    connection.info[_CHANGES].append(change)


def connect(path: Path) -> Engine:
    """An SQLAlchemy engine for the file, each connection with our settings."""
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": 30, "check_same_thread": False},
        hide_parameters=True,  # an error would tell the log the variables of jobs
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _record: object) -> None:
        # We say BEGIN ourselves: the driver's own transactions would begin too late for savepoints.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={_PATIENCE_MS}",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes the write lock at once: taken later, it could be refused half-way.
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def connect_read_only(path: Path) -> Engine:
    """An engine that changes nothing. ``path`` as ``condition.readable`` gives it."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: condition.open_read_only(path),
        poolclass=QueuePool,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine
