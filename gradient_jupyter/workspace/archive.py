"""Which files are archives, as far as their names say."""

from __future__ import annotations

ZIP = ".zip"
#: What the end of a name says of a tar's compression.
TARS = {
    ".tar": "", ".tar.gz": "gz", ".tgz": "gz", ".tar.gz2": "bz2", ".tar.bz2": "bz2", ".tbz": "bz2",
    ".tbz2": "bz2", ".tgz2": "bz2", ".tar.xz": "xz", ".txz": "xz",
}  # fmt: skip


def tar_ending(name: str) -> str:
    """The longest ending of a tar archive that the name has; empty when it is none."""
    lower = name.lower()
    return max((ending for ending in TARS if lower.endswith(ending)), key=len, default="")


def is_archive(name: str) -> bool:
    return name.lower().endswith((ZIP, *TARS))
