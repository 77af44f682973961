"""One file as a snapshot of its own: a directory that holds nothing else."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import File, Manifest, check_path
from gradient_jupyter.workspace.contents import Progress
from gradient_jupyter.workspace.descent import Descent
from gradient_jupyter.workspace.digest import hash_file, unreadable
from gradient_jupyter.workspace.leftout import LeftOut
from gradient_jupyter.workspace.limit import DEFAULT_LIMIT, too_much
from gradient_jupyter.workspace.scan import make_file, open_at
from gradient_jupyter.workspace.wording import shown


@dataclass(frozen=True, slots=True)
class Single:
    """A file at one moment: ``contents.Contents``."""

    root: Path
    manifest: Manifest
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def read_bytes(self) -> int:
        return self.manifest.size

    def open_file(self, file: File, offset: int = 0) -> BinaryIO:
        return open_at(os.fsencode(self.root), file.path, offset)


def single(
    path: Path, *, progress: Progress | None = None, limit_bytes: int | None = DEFAULT_LIMIT
) -> Single:
    """The snapshot of the file at ``path`` (or that a link there leads to), under the name it has there.

    No ignore rule is asked: the person named it. Raises ``WorkspaceError`` when it cannot be sent.
    """
    name = os.fsencode(path.name)
    try:
        problem = check_path(name.decode())
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    if problem is not None:
        raise WorkspaceError(f"The name '{shown(name)}' {problem}, so it cannot be sent.", next="Rename it.")
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else OSError(0, "a circle of links")
        raise unreadable(name, reason) from None
    if not stat.S_ISREG(status.st_mode):
        raise WorkspaceError(
            f"'{shown(name)}' is neither a directory nor a regular file, so it cannot be sent.",
            next="Name the directory that the job needs.",
        )
    if limit_bytes is not None and status.st_size > limit_bytes:
        raise too_much(
            "The workspace",
            [(name, status.st_size)],
            status.st_size,
            limit_bytes,
            leave_out="keep large data on /storage.",
        )
    try:
        with Descent(os.fsencode(real.parent)) as below:
            hashed = hash_file(below, os.fsencode(real.name))
    except OSError as error:
        raise unreadable(name, error) from None
    if hashed is None:
        raise WorkspaceError(f"The file '{shown(name)}' is gone.", next="Check the path for a typing error.")
    if progress is not None:
        progress(hashed.stat.st_size, hashed.stat.st_size)
    executable = bool(hashed.stat.st_mode & stat.S_IXUSR)
    file = make_file(name.decode(), hashed.stat.st_size, hashed.digest, b"".join(hashed.chunks), executable)
    return Single(real, Manifest(entries=(file,)))
