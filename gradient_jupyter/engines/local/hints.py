"""Where supervisors knock: a Unix datagram socket, fanned out to whoever waits in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from gradient_jupyter.engines.base import Hint, HintKind
from gradient_jupyter.engines.local import private

_DATAGRAM = 1024
_UNSEEN = 10_000  # nobody may be watching


class Hints:
    """Of one event loop. Between ``open`` and ``close``; without a socket it is merely silent."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / private.SOCKET
        self._socket: socket.socket | None = None
        self._inode = 0
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._unseen: dict[Hint, None] = {}
        self._news = asyncio.Event()
        self._closed = False

    def open(self) -> None:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listening.setblocking(False)
        self._path.unlink(missing_ok=True)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A socket's address has room for 108 bytes; a path through an open directory is short.
            linux = sys.platform.startswith("linux")
            address = f"/proc/self/fd/{directory}/{private.SOCKET}" if linux else str(self._path)
            listening.bind(address)
            self._inode = self._path.stat().st_ino
        except OSError:
            listening.close()
            return
        finally:
            os.close(directory)
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._receive)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            # A successor may have put its own there meanwhile.
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
        self._closed = True
        self._news.set()
        for events in self._waiting.values():
            for event in events:
                event.set()

    def _receive(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            while True:
                kind, _, key = self._socket.recv(_DATAGRAM).decode(errors="replace").partition(" ")
                if kind in ("log", "state") and key:
                    self.give(Hint(key=key, kind=HintKind(kind)))

    def give(self, hint: Hint) -> None:
        for event in self._waiting.get(hint.key, ()):
            event.set()
        if len(self._unseen) < _UNSEEN:
            self._unseen[hint] = None  # the same hint twice says no more than once
        self._news.set()

    async def watch(self) -> AsyncIterator[Hint]:
        while not self._closed:
            await self._news.wait()
            self._news.clear()
            hints, self._unseen = self._unseen, {}
            for hint in hints:
                yield hint

    @contextlib.contextmanager
    def of(self, key: str) -> Iterator[asyncio.Event]:
        """An event that is set by every hint about one task. It is the waiter who clears it."""
        event = asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]
