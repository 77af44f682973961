"""Taking in connections: as many as this system allows, also when descriptors run out.

A connection that cannot be taken waits in the kernel's queue until there is room again, in place of an accept
that fails over and over. Some descriptors are always left to those who are served already: they have files to
open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import Sequence

from tornado import httputil

from gradient_jupyter.resources.errors import ServerUnavailable
from gradient_jupyter.server import descriptors
from gradient_jupyter.server.connection import Connection, closing

log = logging.getLogger(__name__)

_AT_ONCE = 128
_WAIT_S = 0.2
_RESERVE = 64
_END_S = 2.0
_BUFFER = 256 * 1024
#: What says that there is no room now. Everything else concerns the one connection.
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Serves ``application`` to whoever comes to ``sockets``, from now until ``close``. Of one event loop."""

    def __init__(
        self, application: httputil.HTTPServerConnectionDelegate, sockets: Sequence[socket.socket]
    ) -> None:
        self._application = application
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(_BUFFER))
        self.connections: set[Connection] = set()
        self._coming: set[asyncio.Task[None]] = set()
        self._pausing: asyncio.TimerHandle | None = None
        self._no_room = self._full = False
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._highest = (1 << 30) if limit == resource.RLIM_INFINITY else limit - min(_RESERVE, limit // 4)
        self._listen()

    async def close(self) -> None:
        """Takes in nobody else. What is open ends now, streams without their ``end``: clients come back to
        the next server."""
        if self._pausing is not None:
            self._pausing.cancel()
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()
        for task in self._coming:
            task.cancel()
        await asyncio.gather(*self._coming, return_exceptions=True)
        for end in (Connection.close, Connection.cut):  # the second for those whose reader takes nothing
            if self.connections:
                for connection in self.connections:
                    end(connection)
                await asyncio.wait([each.lost for each in self.connections], timeout=_END_S)

    def _listen(self) -> None:
        for each in self._sockets:
            self._loop.add_reader(each, self._accept, each)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except BlockingIOError:
                self._no_room = False
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause()
                    return
                continue  # it was over before we came to it
            accepted.setblocking(False)
            last = accepted.fileno() >= self._highest
            if self._has_room(accepted):
                connection = Connection(self._application, self.connections, self._buffer)
                self.connections.add(connection)
                task = self._loop.create_task(self._take(accepted, connection))
                self._coming.add(task)
                task.add_done_callback(self._coming.discard)
            if last:
                self._pause()
                return

    async def _take(self, accepted: socket.socket, connection: Connection) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except BaseException as error:
            self.connections.discard(connection)
            accepted.close()
            if not isinstance(error, OSError):  # it was over before it began
                raise

    def _has_room(self, accepted: socket.socket) -> bool:
        """Whether there may be one more. Who is one too many is told to come back later."""
        most = descriptors.connections()
        if len(self.connections) < most:
            self._full = False
            return True
        if not self._full:
            self._full = True
            log.warning("there are %d connections, and that is all this system allows", most)
        # What was not read of a request may keep the answer from arriving; the end of the connection does.
        with accepted, contextlib.suppress(OSError):
            accepted.send(_full())
        return False

    def _pause(self) -> None:
        if not self._no_room:
            self._no_room = True
            log.warning("no room for more connections (too many open files); those that come wait")
        for each in self._sockets:
            self._loop.remove_reader(each)
        self._pausing = self._loop.call_later(_WAIT_S, self._resume)

    def _resume(self) -> None:
        try:
            # The kernel always gives the lowest descriptor that is free.
            lowest = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            os.close(lowest)
        except OSError:
            lowest = self._highest
        if lowest >= self._highest:
            self._pause()
        else:
            self._pausing = None
            self._listen()


def _full() -> bytes:
    error = ServerUnavailable(
        "The server has as many connections as this system allows.",
        next="Close some of those that follow jobs, or raise the limit of open files (ulimit -n).",
        code="too-many-connections",
    )
    return closing(503, "Service Unavailable", error, "Retry-After: 5")
