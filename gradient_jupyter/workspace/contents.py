"""What a submit sends, wherever it comes from: a directory, one file, an archive.

``scan`` reads a directory, ``single`` a file and ``zipped`` an archive; each yields something of this shape,
and whoever packs, shows or sends it knows no more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from gradient_jupyter.resources.snapshot import File, Manifest
from gradient_jupyter.workspace.leftout import LeftOut

#: Called with (bytes done, bytes in all) while content is read.
Progress = Callable[[int, int], None]


class Contents(Protocol):
    """What was read, at one moment."""

    @property
    def root(self) -> Path:
        """What was read. Absolute, without links."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def read_bytes(self) -> int:
        """How much had to be read, because nothing was known of it."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the person who sends it."""

    def open_file(self, file: File, offset: int = 0) -> BinaryIO:
        """The bytes of one of the manifest's files from ``offset`` on. They are verified by whoever reads
        them. Several threads may call this. ``WorkspaceError`` when it is gone."""
