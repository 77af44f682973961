"""What a submit is about to send, said before it is sent. Plain data for a screen or as JSON."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from gradient_jupyter.resources.snapshot import EMPTY_TREE, File
from gradient_jupyter.workspace.contents import Contents
from gradient_jupyter.workspace.leftout import LeftOut

_LARGEST = 5


class PreflightFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that belongs to the snapshot. ``new``: its bytes, or some of them, have to be sent."""

    path: str
    size: int
    new: bool


class LeftOutSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule keeps back. ``source`` is ``default`` or the ignore file; ``line`` is counted from
    one."""

    rule: str
    source: str
    line: int | None
    examples: tuple[str, ...]
    files: int
    bytes: int
    at_least: bool
    """There was too much to count: files and bytes are a lower bound."""


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot before it is sent. ``root`` is what was read, empty for a job that needs no files. ``bytes``
    and ``count`` are of all files; ``new_bytes`` counts content that several files share once, because it is
    sent once."""

    root: str
    snapshot: str
    count: int
    bytes: int
    new_bytes: int
    files: tuple[PreflightFile, ...]
    largest: tuple[PreflightFile, ...]
    left_out: tuple[LeftOutSummary, ...]
    warnings: tuple[str, ...]


#: Of a job that needs no files.
NOTHING = Preflight(
    root="",
    snapshot=EMPTY_TREE,
    count=0,
    bytes=0,
    new_bytes=0,
    files=(),
    largest=(),
    left_out=(),
    warnings=(),
)


def preflight(contents: Contents, missing: Collection[str] | None) -> Preflight:
    """The summary of ``contents``. ``missing`` are the digests that the server lacks; None when nobody asked
    it, and then everything counts as new."""
    manifest = contents.manifest
    blobs = manifest.blobs()
    lacking = frozenset(blobs) if missing is None else frozenset(missing)

    def is_new(file: File) -> bool:
        return any(piece.digest in lacking for piece in file.blobs())

    files = tuple(PreflightFile(path=file.path, size=file.size, new=is_new(file)) for file in manifest.files)
    return Preflight(
        root=str(contents.root),
        snapshot=manifest.digest(),
        count=len(files),
        bytes=manifest.size,
        new_bytes=sum(size for digest, size in blobs.items() if digest in lacking),
        files=files,
        largest=tuple(sorted(files, key=lambda file: (-file.size, file.path))[:_LARGEST]),
        left_out=tuple(_summary(row) for row in contents.left_out),
        warnings=contents.warnings,
    )


def _summary(row: LeftOut) -> LeftOutSummary:
    return LeftOutSummary(
        rule=row.rule.pattern,
        source=row.rule.source,
        line=row.rule.line,
        examples=row.examples,
        files=row.files,
        bytes=row.bytes,
        at_least=row.at_least,
    )
