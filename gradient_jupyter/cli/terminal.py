"""Where words go: colours where they are wanted, tables, JSON, and one line that changes in place."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_CODES = {
    "dim": "2",
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


_COLOURS = "\x1b\\[[0-9;]*m"  # compiled when a line is shown, not when help is


def colours(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that wants colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """``text`` in a colour or weight, where ``stream`` (standard output) shows them."""
    if not style or not colours(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def say(text: str = "") -> None:
    """One line of what was asked for, on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str = "") -> None:
    """One line about what happens, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """One value on standard output, as it goes over the wire, indented."""
    import msgspec

    say(msgspec.json.format(msgspec.json.encode(value)).decode())


class Column(NamedTuple):
    """A column of a table. ``right`` is for numbers; one that ``gives`` is cut where space is short."""

    title: str
    right: bool = False
    gives: bool = False


Row = Sequence["str | tuple[str, str]"]
"""Cells: texts, or texts with their style."""

_GAP = 3
_LEAST = 8


def table(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """Prints a plain table: a dim head, a thin rule, aligned columns."""
    print_rich(made_table(columns, rows))


def side_by_side(*tables: tuple[Sequence[Column], Sequence[Row]]) -> None:
    """Prints tables in one row where the terminal is wide enough, else one below the other."""
    from rich.table import Table

    filled = [(columns, rows) for columns, rows in tables if rows]
    if width() < 100:
        for number, (columns, rows) in enumerate(filled):
            if number:
                say()
            table(columns, rows)
        return
    row = Table.grid(padding=(0, 5, 0, 0))
    row.add_row(*(made_table(columns, rows, (width() - 15) // 2) for columns, rows in filled))
    print_rich(row)


def made_table(columns: Sequence[Column], rows: Iterable[Row], most: int | None = None) -> Table:
    """A table that is at most ``most`` wide (the terminal's), if its giving columns have that to give."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(*cell) if isinstance(cell, tuple) else Text(cell) for cell in row] for row in rows]
    made = Table(
        box=box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n"),
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),
        border_style="dim",
    )
    for column in columns:
        made.add_column(Text(column.title, "dim"), justify="right" if column.right else "left", no_wrap=True)
    widths = _fitted(columns, cells, (most or width()) - 2)
    for row in cells:
        for cell, fitting in zip(row, widths, strict=True):
            cell.truncate(fitting, overflow="ellipsis")
        made.add_row(*row)
    return made


def _fitted(columns: Sequence[Column], cells: Sequence[Sequence[Text]], width: int) -> list[int]:
    """How wide each column may be: those that give share what is too much, the widest first."""
    widths = [
        max(len(column.title), *(row[at].cell_len for row in cells), 0) for at, column in enumerate(columns)
    ]
    giving = [at for at, column in enumerate(columns) if column.gives]
    for _ in range(sum(widths) + _GAP * (len(widths) - 1) - width):
        widest = max(giving, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    return widths


def width() -> int:
    """Of the terminal; where there is none nothing is cut."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 10_000


def print_rich(thing: Any) -> None:
    """Prints something of rich's, indented by two, without spaces at the ends of lines."""
    from rich.console import Console
    from rich.padding import Padding

    on_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=10_000,  # tables have fitted themselves
        force_terminal=on_terminal,
        no_color=not colours(sys.stdout),
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(Padding(thing, (0, 0, 0, 2), expand=False))
    for line in captured.get().splitlines():
        say(line.rstrip())


class Live:
    """One line on standard error that changes in place; where that is not a terminal it is not shown."""

    _EVERY_S = 0.1

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False
        self._last = 0.0

    def show(self, text: str, *, now: bool = False) -> None:
        if self._on_terminal and (now or time.monotonic() - self._last >= self._EVERY_S):
            room = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            bare = re.sub(_COLOURS, "", text)
            sys.stderr.write(f"\r\x1b[2K{text if len(bare) <= room else bare[:room]}")
            sys.stderr.flush()
            self._shown, self._last = True, time.monotonic()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._shown = False
