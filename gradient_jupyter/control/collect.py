"""Collecting what an attempt left: every artifact hashed and on disk before the job becomes final.

The directory belongs to job code: names are walked from its descriptor, links are never followed, and
only regular files count. What is left out is named in a warning on the job.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import blake3

from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.workspace.inside import open_inside, walk_inside

_PIECE = 1 << 20


def collect(directory: Path) -> tuple[list[Artifact], list[str]]:
    """Every artifact with its digest, on disk when this returns, and what was left out and why. Blocks."""
    warnings: list[str] = []
    found: list[Artifact] = []
    with opened(directory) as fd:
        if fd is None:
            return [], []
        skipped: list[str] = []
        for file in walk_inside(fd, skipped.append):
            try:
                inside = open_inside(fd, file.path)
            except (GradientError, OSError) as error:
                skipped.append(f"{file.path}: {error}")
                continue
            with os.fdopen(inside, "rb") as content:
                hasher = blake3.blake3()
                size = 0
                while piece := content.read(_PIECE):
                    hasher.update(piece)
                    size += len(piece)
                os.fsync(content.fileno())
            found.append(
                Artifact(path=file.path, size=size, modified_us=file.modified_us, digest=hasher.hexdigest())
            )
        if skipped:
            shown = "; ".join(skipped[:5]) + (f"; and {len(skipped) - 5} more" if len(skipped) > 5 else "")
            warnings.append(f"Left out of the artifacts: {shown}")
    return found, warnings


@contextmanager
def opened(directory: Path) -> Iterator[int | None]:
    """A descriptor of the directory; None when it is not there."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)
