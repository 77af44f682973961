"""What a fault left behind (technique T14): nothing may be, once all jobs have ended.

A server at rest is compared with what it is *meant* to hold, so that a leftover shows however it came: its
processes and threads, descriptors, sockets, mounts, files under the data root and everywhere it may write,
the ledger, and the attempts that nobody ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from solo import PATIENCE_S, SoloServer

_IN_ALL = 0x0000_03C6  # modify, attributes, moved from and to, created, deleted
_IN_NONBLOCK = 0o4000

#: What may lie under the data root of a server whose jobs have all ended. ``J``: a job that still has a row.
_FILES = re.compile(
    r"gradient\.sqlite(-wal|-shm|\.before-\d{4})?|lock|install|ballast|port|server\.log"
    r"|blobs/[0-9a-f]{2}/[0-9a-f]{64}"
    r"|engines/local/\.hints"
    r"|jobs/(?P<job>j[0-9a-z]{12})/[0-9]+/(log|log\.index|metrics\.sqlite|artifacts/.*)"
    r"|storage/.*|trees/[0-9a-f]{64}/.*"
)
_DESCRIPTORS = re.compile(
    r"/dev/null|/dev/shm/faketime_|pipe:|socket:|anon_inode:|.*/data/(gradient\.sqlite(-wal|-shm)?|lock|blobs/tmp)$|.*/server\.log$|.*\.so.*"
)
#: Pools and their bounds; the loop, the writer, and the interpreter's own come to a few more.
_THREADS = 4 + 3 + 4 + 8 + 2 + 4 + 2 + 6


class Inotify:
    """Wakes when something under a few directories changes."""

    def __init__(self, *directories: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_IN_NONBLOCK)
        for directory in directories:
            libc.inotify_add_watch(self._fd, os.fsencode(directory), _IN_ALL)

    def wait(self, timeout_s: float) -> None:
        if select.select([self._fd], [], [], timeout_s)[0]:
            os.read(self._fd, 1 << 16)

    def close(self) -> None:
        os.close(self._fd)


def until(true: Callable[[], bool], *directories: Path, what: str = "it never came true") -> None:
    """Looks again whenever one of the directories changes. Its patience is for what never comes."""
    watch = Inotify(*directories)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not true():
            assert time.monotonic() < deadline, what
            watch.wait(1.0)
    finally:
        watch.close()


def at_rest(server: SoloServer) -> None:
    """Until the engine of a server whose jobs have all ended has forgotten the last of them."""
    engine = server.data / "engines" / "local"

    def forgotten() -> bool:
        return all(path.name == ".hints" for path in engine.iterdir())

    until(forgotten, engine, what=f"the engine still holds {[path.name for path in engine.iterdir()]}")


def of(server: SoloServer) -> list[str]:
    """Everything that should not be there, in words. Empty when all is well.

    A supervisor lets go of its lock just before it ends, so processes are given time to end.
    """
    assert server.process is not None
    for pid in processes(server):
        _ended(pid)
    # What was just read to its end is closed a moment after its reader has it.
    until_s = time.monotonic() + PATIENCE_S
    while any(text.startswith("descriptor") for text in _of_server(server.process.pid)):
        if time.monotonic() > until_s:
            break
        time.sleep(0.01)
    return [
        *_processes(server),
        *_of_server(server.process.pid),
        *_files(server),
        *_rows(server.data / "gradient.sqlite"),
        *(f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines()
          if str(server.root) in line),
    ]  # fmt: skip


def processes(server: SoloServer) -> dict[int, str]:
    """Every process of its session tree or its jobs, the server apart: those that bear its data root."""
    mine = os.fsencode(server.data)
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or (server.process is not None and int(name) == server.process.pid):
            continue
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            environment = Path(f"/proc/{name}/environ").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state in "ZX" or int(name) == os.getpid():
            continue
        if mine in command or mine in environment:
            found[int(name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _ended(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            select.select([fd], [], [], PATIENCE_S)
        finally:
            os.close(fd)


def _processes(server: SoloServer) -> list[str]:
    return [f"process {pid}: {command}" for pid, command in processes(server).items()]


def _of_server(pid: int) -> list[str]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if not _DESCRIPTORS.match(target) or target.endswith("(deleted)"):
            found.append(f"descriptor {fd}: {target}")
    threads = len(os.listdir(f"/proc/{pid}/task"))
    if threads > _THREADS:
        found.append(f"{threads} threads")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found.extend(f"child {child}" for child in children)
    return found


def _files(server: SoloServer) -> list[str]:
    found = []
    with sqlite3.connect(f"file:{server.data}/gradient.sqlite?mode=ro", uri=True) as connection:
        jobs = {row[0] for row in connection.execute("SELECT id FROM jobs")}
        snapshots = {row[0] for row in connection.execute("SELECT id FROM snapshots")}
    connection.close()
    for directory, _, names in os.walk(server.data):
        for name in names:
            path = (Path(directory) / name).relative_to(server.data).as_posix()
            match = _FILES.fullmatch(path)
            if match is None or (match["job"] and match["job"] not in jobs):
                found.append(f"file {path}")
    found.extend(
        f"directory {directory.name}, whose job has no row"
        for directory in (server.data / "jobs").glob("*")
        if directory.name not in jobs
    )
    found.extend(
        f"snapshot {identity}, whose manifest is not there"
        for identity in snapshots
        if not (server.data / "blobs" / identity[:2] / identity).exists()
    )
    (runtime,) = (server.root / "runtime").glob("gradient-*.json")
    allowed = {runtime.name, f"{runtime.name}.start"}
    found.extend(f"runtime file {path.name}" for path in runtime.parent.iterdir() if path.name not in allowed)
    found.extend(f"temporary file {path.name}" for path in (server.root / "tmp").glob("*"))
    return found


def _rows(database: Path) -> list[str]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return [
            *(f"claim of {row[0]}" for row in connection.execute("SELECT job_id FROM claims")),
            *(
                f"attempt of {row[0]} without an end"
                for row in connection.execute("SELECT job_id FROM attempts WHERE ended_us IS NULL")
            ),
            *(
                f"row of {row[0]} that is {row[1]}"
                for row in connection.execute(
                    "SELECT id, state FROM jobs WHERE state IN ('Pending', 'Provisioning', 'Running')"
                )
            ),
        ]
    finally:
        connection.close()
