"""Processes: which one is meant, which belong together, and how to signal them without hitting another.

A pid alone says nothing once its process may have gone: it is used again. A process here is its pid *and* its
start time (and the boot, when it was written to disk). On Linux from ``/proc``; elsewhere from ``ps``, which
is slower and knows less.

Standard library only: part of the supervisor.
"""
# ruff: noqa: PTH123, PTH208  # part of the supervisor, which starts in milliseconds: no pathlib

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import NamedTuple

LINUX = sys.platform.startswith("linux")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Identity(NamedTuple):
    """One process, told apart from every other on this host, across reboots."""

    pid: int
    start: str
    """When it started, in the system's own words: only ever compared."""
    boot: str


class Entry(NamedTuple):
    parent: int
    start: str
    zombie: bool


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def identity(pid: int) -> Identity | None:
    """Who has this pid now; None when nobody that runs."""
    entry = _entry(pid)
    return Identity(pid, entry.start, boot_id()) if entry and not entry.zombie else None


def alive(who: Identity) -> bool:
    return identity(who.pid) == who


def send(who: Identity, signum: int) -> bool:
    """Signals exactly this process. False when it is gone (or not ours)."""
    try:
        # With a pidfd in hand, "it is this process" cannot turn false between the look and the signal.
        fd = os.pidfd_open(who.pid) if hasattr(os, "pidfd_open") else -1
    except OSError:
        return False
    try:
        if not alive(who):
            return False
        if fd >= 0:
            signal.pidfd_send_signal(fd, signum)
        else:
            os.kill(who.pid, signum)
    except OSError:
        return False
    finally:
        if fd >= 0:
            os.close(fd)
    return True


def signal_pid(pid: int, signum: int) -> None:
    """For a descendant just seen: its pid is not used again before its parent or we have waited for it."""
    with contextlib.suppress(OSError):
        os.kill(pid, signum)


def table() -> dict[int, Entry]:
    """Every process this one can see."""
    if not LINUX:
        return _table_of_ps()
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (entry := _entry(int(name))):
            found[int(name)] = entry
    return found


def descendants(pid: int, processes: dict[int, Entry] | None = None) -> dict[int, Entry]:
    """Children, their children and so on, without zombies."""
    processes = table() if processes is None else processes
    children: dict[int, list[int]] = {}
    for child, entry in processes.items():
        children.setdefault(entry.parent, []).append(child)
    found: dict[int, Entry] = {}
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found and child != pid:
                found[child] = processes[child]
                waiting.append(child)
    return {child: entry for child, entry in found.items() if not entry.zombie}


def marked(name: str, value: str) -> list[Identity]:
    """Processes with this variable in the environment they were started with. Linux only; elsewhere none."""
    if not LINUX:
        return []
    wanted = f"{name}={value}".encode()
    boot = boot_id()
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                hit = wanted in file.read().split(b"\0")
        except OSError:
            continue
        if hit and (entry := _entry(int(pid))) and not entry.zombie:
            found.append(Identity(int(pid), entry.start, boot))
    return found


def become_subreaper() -> None:
    """Orphans among our descendants become our children, so that none is lost. Linux only."""
    if LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """This process is killed when its parent ends. Linux only; holds across ``exec``."""
    if LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before we could ask for that
            os._exit(1)


def _entry(pid: int) -> Entry | None:
    if not LINUX:
        return _table_of_ps(pid).get(pid)
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The second field is the name, in parentheses, and may itself hold blanks and parentheses.
        fields = os.read(fd, 2048).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(fields) < 20:
        return None
    return Entry(int(fields[1]), fields[19].decode(), fields[0] in (b"Z", b"X"))


def _table_of_ps(pid: int | None = None) -> dict[int, Entry]:
    import subprocess

    which = ["-A"] if pid is None else ["-p", str(pid)]
    # ``ps`` prints start times in the user's language and zone: pin both, they are compared.
    listing = subprocess.run(
        ["ps", *which, "-o", "pid=,ppid=,state=,lstart="],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
    ).stdout
    found = {}
    for line in listing.splitlines():
        fields = line.split(None, 3)
        if len(fields) == 4:
            found[int(fields[0])] = Entry(int(fields[1]), fields[3], fields[2].startswith("Z"))
    return found
