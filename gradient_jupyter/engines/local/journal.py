"""The supervisor's side of a task's log: writes it, syncs it, tells the engine, and outlives a full disk.

Standard library only: part of the supervisor.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

STDOUT, STDERR, PLATFORM = 1, 2, 3

SYNC_AFTER_S = 0.5
"""From a write to its ``fdatasync``. The promise (P7) is one second; the sync itself takes time too."""
HINT_EVERY_S = 0.005
HINT_AGAIN_S = 1.0
"""At most this long between two tries while the engine's queue is full: it is stopped, or has much to do."""
RETRY_EVERY_S = 1.0


class Log(Protocol):
    """What is needed of ``framedlog.Writer``."""

    def append(self, stream: int, data: bytes, time_us: int) -> int: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class Hints:
    """Datagrams to the engine: ``<kind> <key>``. Nobody may be listening, and nothing waits for them."""

    def __init__(self, directory: str, name: str, key: str) -> None:
        self._key = key.encode()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        # A socket's address has room for 108 bytes; a path through an open directory is short.
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if sys.platform.startswith("linux"):
            self._address = f"/proc/self/fd/{self._directory}/{name}"
        else:
            self._address = os.path.join(directory, name)
        self._last = 0.0
        self.waiting = False
        self.every_s = HINT_EVERY_S
        """How long after the last one the one that waits may go out."""

    def log(self) -> None:
        """At once when the last one is a while ago, else with the next ``flush``."""
        now = time.monotonic()
        if now - self._last >= self.every_s:
            self._last = now
            self.waiting = not self._send(b"log")
            self.every_s = min(2 * self.every_s, HINT_AGAIN_S) if self.waiting else HINT_EVERY_S
        else:
            self.waiting = True

    def flush(self) -> None:
        if self.waiting:
            self.log()

    def state(self, patience_s: float = 0.0) -> None:
        """``patience_s``: how long to try while the engine's queue is full."""
        until = time.monotonic() + patience_s
        while not self._send(b"state") and time.monotonic() < until:
            time.sleep(0.01)

    def _send(self, kind: bytes) -> bool:
        """False when the engine's queue is full. The system lets ten datagrams wait, all tasks' together."""
        try:
            self._socket.sendto(kind + b" " + self._key, self._address)
        except BlockingIOError:
            return False
        except OSError:
            pass  # nobody listens
        return True


class Journal:
    """Appends to a log. Never raises for what a disk may do: what was not written is counted and said."""

    def __init__(self, log: Log, hints: Hints, hide: Callable[[str], str] = str) -> None:
        """``hide`` masks secrets in what the platform says; what is appended comes masked."""
        self._log = log
        self._hide = hide
        self._hints = hints
        self.lost = 0
        """Bytes that are not in the log."""
        self._unsaid = 0
        self._retry_at = 0.0
        self._unsure = ""
        """Why what a sync should have brought to the disk may not be there. No later sync says so: the system
        forgets what it could not write."""
        self._ended = True
        """Whether what was written last ends a line."""
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start_syncing(self) -> None:
        """In a thread of its own: a slow disk must not keep us from emptying the pipes."""
        self._thread = threading.Thread(target=self._sync_loop, daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """A line of the platform's own."""
        self._catch_up()  # what that writes may end the line
        self.append(PLATFORM, self._line(self._hide(text)))

    def append(self, stream: int, data: bytes) -> None:
        if not (self._catch_up() and self._write(stream, data)):
            self._lose(len(data))

    def _catch_up(self) -> bool:
        """Says what is missing, if anything is. Whether that is said now."""
        if self._unsaid:
            if time.monotonic() < self._retry_at or not self._write(PLATFORM, self._gap()):
                return False
            self._unsaid = 0
        return True

    def _gap(self) -> bytes:
        return self._line(f"{self._unsaid} bytes of output are missing here: no space was left.")

    def _line(self, text: str) -> bytes:
        """What the command has not ended is not continued by us."""
        line = f"gradient: {text}\n"
        return (line if self._ended else f"\n{line}").encode(errors="replace")

    def _lose(self, count: int) -> None:
        if time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + RETRY_EVERY_S
        self.lost += count
        self._unsaid += count

    def _write(self, stream: int, data: bytes) -> bool:
        try:
            self._log.append(stream, data, time.time_ns() // 1000)
        except OSError:
            return False
        self._ended = data.endswith(b"\n")
        if not self._dirty.is_set():
            self._dirty.set()
        self._hints.log()
        return True

    def _sync_loop(self) -> None:
        while True:
            self._dirty.wait()
            if self._closing.wait(SYNC_AFTER_S):
                return
            self._dirty.clear()
            if self._closing.is_set():
                return  # it was set since we looked, and what we have just cleared was to wake us for it
            self._sync()

    def _sync(self) -> None:
        try:
            self._log.sync()
        except OSError as error:
            self._unsure = self._unsure or (error.strerror or str(error))

    def close(self) -> str:
        """Everything on disk. Returns what is to be said about it, if anything."""
        if self._unsaid and self._write(PLATFORM, self._gap()):
            self._unsaid = 0
        self._closing.set()
        self._dirty.set()
        if self._thread:
            self._thread.join()
        self._sync()
        trouble = f"Parts of its log may not be on the disk ({self._unsure})." if self._unsure else ""
        self._log.close()
        self._hints.flush()
        if self.lost:
            trouble = (
                f"{self.lost} bytes of its output are not in the log: no space was left. {trouble}".strip()
            )
        return trouble
