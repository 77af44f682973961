"""What a submit is about to send, said before it is sent. Plain data for a screen or as JSON."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from gradient_jupyter.workspace.leftout import LeftOut
from gradient_jupyter.workspace.scan import Scan

_LARGEST = 5


class PreflightFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that belongs to the snapshot. ``new``: its bytes have to be sent."""

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
    """A snapshot before it is sent. ``bytes`` and ``count`` are of all files; ``new_bytes`` counts content
    that several files share once, because it is sent once."""

    root: str
    snapshot: str
    count: int
    bytes: int
    new_bytes: int
    files: tuple[PreflightFile, ...]
    largest: tuple[PreflightFile, ...]
    left_out: tuple[LeftOutSummary, ...]
    warnings: tuple[str, ...]


def preflight(scan: Scan, missing: Collection[str] | None) -> Preflight:
    """The summary of ``scan``. ``missing`` are the digests that the server lacks; None when nobody asked it,
    and then everything counts as new."""
    lacking = None if missing is None else frozenset(missing)
    files = tuple(
        PreflightFile(path=file.path, size=file.size, new=lacking is None or file.digest in lacking)
        for file in scan.manifest.files
    )
    sent = {
        file.digest: file.size for file in scan.manifest.files if lacking is None or file.digest in lacking
    }
    return Preflight(
        root=str(scan.root),
        snapshot=scan.manifest.digest(),
        count=len(files),
        bytes=scan.manifest.size,
        new_bytes=sum(sent.values()),
        files=files,
        largest=tuple(sorted(files, key=lambda file: (-file.size, file.path))[:_LARGEST]),
        left_out=tuple(_summary(row) for row in scan.left_out),
        warnings=scan.warnings,
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
