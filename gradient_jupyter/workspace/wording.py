"""How this room shows names and sizes to people. Not for parsing, and never used to open a file."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size: int) -> str:
    """``size`` bytes in the largest binary unit that leaves a number of at least one."""
    value = float(size)
    unit = _UNITS[0]
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def decimal(size: int) -> str:
    """``size`` bytes in decimal units, as disks and people count: ``1.2 GB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:,.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"


def shown(name: bytes | str) -> str:
    """A file name as one printable line: bytes that are not UTF-8 and control characters are escaped."""
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: Sequence[bytes | str], most: int = 5) -> str:
    """The first ``most`` names, and how many more there are."""
    first = ", ".join(shown(name) for name in names[:most])
    return f"{first} and {len(names) - most} more" if len(names) > most else first
