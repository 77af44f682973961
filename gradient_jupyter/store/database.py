"""The database: one writer thread with group commit, readers beside it.

A write is a function over a connection. All writes that wait when the writer becomes free run in one
transaction, each in a savepoint of its own (one that is alone has the transaction to itself), so that a
commit (one ``fsync``) is paid once for all of them and a failing write undoes only itself. A write's future
resolves after the commit: what it returned is on disk, also after a power loss (WAL with
``synchronous=FULL``).

Changes recorded during a write are handed to ``on_commit`` in the order in which they were stored.

When the disk is full ``on_full`` is asked for some space; where it had any to give, the writes are run once
more. So a write may be run twice before it is committed, and never after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from gradient_jupyter.resources.base import Resource
from gradient_jupyter.resources.errors import NoSpace
from gradient_jupyter.resources.event import Event

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How many writes one commit carries at most; beyond it the first of them would wait too long.
_GROUP = 256
_READERS = 3
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
    """A SQLite file. ``start`` before use, ``close`` at the end; both block."""

    def __init__(
        self,
        path: Path,
        on_commit: Callable[[list[Change]], None] = lambda changes: None,
        on_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self._on_commit = on_commit
        self._on_full = on_full
        self._engine = connect(path)
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

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction; returns when it is durable. Raises what ``work`` raises."""
        done: Future[T] = Future()
        self._waiting.put(_Write(work, done))
        # A caller that is cancelled must not undo or hide a write that is under way.
        return await asyncio.shield(asyncio.wrap_future(done))

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
        connection = self._reader()
        with connection.begin():
            return work(connection)

    def _write_loop(self) -> None:
        with self._engine.connect().execution_options(immediate=True) as connection:
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
                self._write_group(connection, group)
                if last:
                    return

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
        for write in group:
            write.error = None
        try:
            transaction = connection.begin()
            for write in group:
                recorded = len(changes)
                try:
                    # One that is alone needs no savepoint: the transaction is all its own.
                    with connection.begin_nested() if len(group) > 1 else transaction:
                        write.result = write.work(connection)
                except Exception as error:
                    del changes[recorded:]
                    write.error = _told(error)
            if transaction.is_active:
                transaction.commit()
        except Exception as error:
            _undo(connection)
            for write in group:
                write.error = _told(error)
            changes.clear()
        return changes


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
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _record: object) -> None:
        # We say BEGIN ourselves: the driver's own transactions would begin too late for savepoints.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=30000",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes the write lock at once: taken later, it could be refused half-way.
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _undo(connection: Connection) -> None:
    """Whatever is wrong with the disk: those who wait are told, and the next write begins anew. Where SQLite
    has undone the transaction by itself nothing else knows; then the connection is given up for a new one."""
    with contextlib.suppress(Exception):
        connection.rollback()
    if connection.in_transaction() or connection.in_nested_transaction():
        with contextlib.suppress(Exception):
            connection.invalidate()
        with contextlib.suppress(Exception):
            connection.rollback()


def _told(error: Exception) -> Exception:
    """A full disk in our own words; every other error as it is."""
    if _is_full(error):
        return DiskFull(
            "The disk that holds the server's database is full; nothing was changed.",
            next="Free some space (`gradient jobs delete` removes old runs) and try again.",
        )
    return error


def _is_full(error: BaseException | None) -> bool:
    """Also when SQLite has undone the whole transaction by itself, so that to undo a part of it failed too:
    then the full disk is what that failure came after."""
    while error is not None:
        if isinstance(error, DatabaseError) and "is full" in str(error.orig):
            return True
        error = error.__context__
    return False
