"""Brings what a task left to the disk, before its end is written down.

Once the end stands on the disk, a power loss must not take away what belongs to it: the next server would
collect empty files and call them the run's artifacts (promise P9). The command has ended, but what it left is
still its own making: links are not followed and only regular files are opened.

Standard library only: part of the supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat

#: From here on one ``syncfs`` is cheaper than an ``fsync`` for each.
_FEW = 4


def sync(directory: str) -> str:
    """Returns what is to be said about it, if anything. Nothing there, or nothing in it, costs nothing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        top = os.open(directory, flags)
    except OSError:
        return ""  # job code has removed it, or put something else in its place: nothing will be collected
    try:
        files: list[int] = []
        try:
            if _few(top, files):
                for fd in files:
                    os.fsync(fd)
            elif not _sync_file_system(top):
                os.sync()
        finally:
            for fd in files:
                os.close(fd)
    except OSError as error:
        return f"What it left may not be on the disk ({error.strerror})."
    finally:
        os.close(top)
    return ""


def _few(top: int, found: list[int]) -> bool:
    """Opens the files and the directories below, as long as there are few. False: there are more."""
    waiting = [(".", top)]
    while waiting:
        name, parent = waiting.pop()
        with contextlib.suppress(PermissionError, FileNotFoundError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            found.append(fd)
            if len(found) > _FEW + 1:
                return False
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                with os.scandir(fd) as listing:
                    waiting += [
                        (entry.name, fd)
                        for entry in listing
                        if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
                    ]
    if len(found) == 1:
        os.close(found.pop())  # an empty directory
    return True


def _sync_file_system(fd: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        return False
    if libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return True
