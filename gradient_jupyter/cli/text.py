"""How values read: sizes, durations, times, and names that others chose."""

from __future__ import annotations

import datetime
import re
import unicodedata

_ESCAPES = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x9c|\x1b\\\\)?"
    "|\x1b[ -/]*[0-~]?"
)


def clean(text: str) -> str:
    """One line without anything a terminal would obey: no escapes, no control or invisible characters."""
    bare = _ESCAPES.sub("", text)
    return "".join(
        letter if letter.isprintable() else " " if letter in "\t\r\n" or _is_space(letter) else ""
        for letter in bare
    )


def _is_space(letter: str) -> bool:
    return unicodedata.category(letter) in ("Zs", "Zl", "Zp")


def size(count: int) -> str:
    """Bytes in decimal units: ``640 B``, ``2.9 MB``, ``212 kB``."""
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, iter(("kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while round(value) >= 1000 and (larger := next(units, "")):
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def memory(count: int) -> str:
    """Memory in binary units with the names they are sold under: ``30 GB``."""
    value = count / 2**30
    return f"{value:.1f} GB" if value < 9.95 and value != int(value) else f"{value:.0f} GB"


def duration(us: int) -> str:
    """``1.2 s``, ``0:41``, ``12:48``, ``1 h 24``, ``3 d 4 h``."""
    if us < 10_000_000:
        return f"{max(0, us) / 1e6:.1f} s"
    seconds = us // 1_000_000
    if seconds < 3600:
        return f"{seconds // 60}:{seconds % 60:02}"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02}"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def moment(us: int, now_us: int) -> str:
    """Local time; with the date when it is not today's. A file may bear any time: of one that no calendar
    knows, nothing."""
    try:
        then, now = (datetime.datetime.fromtimestamp(at / 1e6).astimezone() for at in (us, now_us))
    except (ValueError, OverflowError, OSError):
        return ""
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%Y-%m-%d %H:%M")


def count(number: int, noun: str) -> str:
    """``1 file``, ``1,151 files``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def command_line(words: tuple[str, ...]) -> str:
    """A command as it could be typed."""
    import shlex

    return clean(shlex.join(words))
