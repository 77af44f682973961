"""Taking in connections, also when descriptors run out.

tornado's own accept loop would spin there: the socket stays readable, every try fails, and each failure is
logged. Here a connection that cannot be taken waits in the kernel's queue until there is room again, and some
descriptors are always left to those who are served already: they have files to open.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Sequence

from tornado.httpserver import HTTPServer

from gradient_jupyter.server.patience import Patience, PatientStream

log = logging.getLogger(__name__)

_AT_ONCE = 128
_WAIT_S = 0.2
_RESERVE = 64
#: What says that there is no room now. Everything else concerns the one connection.
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Hands connections of ``sockets`` to ``server``, from now until ``close``. Of one event loop."""

    def __init__(self, server: HTTPServer, sockets: Sequence[socket.socket], patience: Patience) -> None:
        self._server = server
        self._patience = patience
        self._sockets = sockets
        self._loop = asyncio.get_running_loop()
        self._pausing: asyncio.TimerHandle | None = None
        self._said = False
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._highest = (1 << 30) if limit == resource.RLIM_INFINITY else limit - min(_RESERVE, limit // 4)
        self._listen()

    def close(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()

    def _listen(self) -> None:
        for each in self._sockets:
            self._loop.add_reader(each, self._accept, each)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, address = listening.accept()
            except BlockingIOError:
                self._said = False
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause()
                    return
                continue  # it was over before we came to it
            last = connection.fileno() >= self._highest
            stream = PatientStream(
                connection,
                max_buffer_size=self._server.max_buffer_size,
                read_chunk_size=self._server.read_chunk_size,
            )
            self._patience.add(stream)
            self._server.handle_stream(stream, address)
            if last:
                self._pause()
                return

    def _pause(self) -> None:
        if not self._said:
            self._said = True
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
