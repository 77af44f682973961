"""How much a tree takes on the disk, and of what kind the file system is. Only directories are opened."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from gradient_jupyter.workspace.descent import DIRECTORY

#: Where SQLite's shared memory, and our locks, do not hold between machines.
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "fuse.sshfs", "fuse.s3fs"})
_LOOK = 1000


class Space(NamedTuple):
    bytes: int
    """Blocks, as the file system counts them; a file with holes takes less than its size."""
    files: int
    complete: bool
    """False: time ran out, and there is more."""


def space_of(path: str | os.PathLike[str], until_s: float | None = None) -> Space:
    """What ``path`` takes, without following links or leaving its file system. ``until_s`` is a time of the
    monotonic clock. What cannot be read, or vanishes meanwhile, counts for nothing. Blocks."""
    try:
        first = os.lstat(path)
    except OSError:
        return Space(0, 0, True)
    total, files = first.st_blocks * 512, 1
    waiting = [os.fspath(path)] if os.path.isdir(path) and not os.path.islink(path) else []
    while waiting:
        if until_s is not None and time.monotonic() > until_s:
            return Space(total, files, False)
        place = waiting.pop()
        try:
            fd = os.open(place, DIRECTORY)
        except OSError:
            continue
        try:
            with os.scandir(fd) as listing:
                for entry in listing:
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    if status.st_dev != first.st_dev:
                        continue
                    total, files = total + status.st_blocks * 512, files + 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{place}/{entry.name}")
                    if files % _LOOK == 0 and until_s is not None and time.monotonic() > until_s:
                        return Space(total, files, False)
        except OSError:
            continue
        finally:
            os.close(fd)
    return Space(total, files, True)


def file_system(path: str | os.PathLike[str], mounts: str | None = None) -> str:
    """The kind of file system ``path`` lies on, as Linux names it; empty where nobody tells. ``mounts`` is
    the text of ``/proc/self/mountinfo``."""
    if mounts is None:
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                mounts = file.read()
        except OSError:
            return ""
    here = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n")
        point = point.replace("\\134", "\\")
        inside = here == point or here.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on the same place the later one is seen
            best, kind = point, after.split(" ")[0]
    return kind
