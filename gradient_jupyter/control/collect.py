"""Collecting what an attempt left: every artifact hashed and on disk before the job becomes final.

The directory belongs to job code: names are walked from its descriptor, links are never followed, and
only regular files count. What is left out is named in a warning on the job.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3

from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.workspace.inside import open_inside, walk_inside

_PIECE = 1 << 20
#: What job code can do to its own directory: remove it, put something else in its place, lock it. Asking
#: again does not change the answer.
_THEIR_DOING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM})
#: As much as the database holds: a file may bear any time.
_LATEST = (1 << 63) - 1


def collect(directory: Path) -> tuple[list[Artifact], list[str]]:
    """Every artifact with its digest, on disk when this returns, and what was left out and why. Blocks."""
    found: list[Artifact] = []
    skipped: list[str] = []
    with opened(directory, skipped.append) as fd:
        if fd is None:
            return [], _left_out(skipped)
        for file in walk_inside(fd, skipped.append):
            try:
                with os.fdopen(open_inside(fd, file.path), "rb") as content:
                    hasher = blake3.blake3()
                    size = 0
                    while piece := content.read(_PIECE):
                        hasher.update(piece)
                        size += len(piece)
                    os.fsync(content.fileno())
            except (GradientError, OSError) as error:
                skipped.append(f"{file.path}: {error}")
                continue
            modified_us = max(-_LATEST, min(file.modified_us, _LATEST))
            found.append(
                Artifact(path=file.path, size=size, modified_us=modified_us, digest=hasher.hexdigest())
            )
    return found, _left_out(skipped)


def _left_out(skipped: list[str]) -> list[str]:
    if not skipped:
        return []
    shown = "; ".join(skipped[:5]) + (f"; and {len(skipped) - 5} more" if len(skipped) > 5 else "")
    return [f"Left out of the artifacts: {shown}"]


def open_directory(directory: Path) -> int:
    """A descriptor that names can be walked from. Raises ``OSError``; a link in its place is not followed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.stat(".", dir_fd=fd)  # to list a directory is one right, to go through it another
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def opened(directory: Path, told: Callable[[str], None] = lambda why: None) -> Iterator[int | None]:
    """A descriptor of the directory; None when there is none that can be walked: then ``told`` hears why,
    unless it just is not there."""
    try:
        fd = open_directory(directory)
    except OSError as error:
        if error.errno not in _THEIR_DOING:
            raise
        if error.errno != errno.ENOENT:
            told(f"everything: {(error.strerror or 'unreadable').lower()}")
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
