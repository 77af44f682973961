"""Where words go: colours where they are wanted, tables, JSON, and one line that changes in place."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.table import Table

_CODES = {
    "dim": "2",
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


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


class Column:
    """A column of a table. ``right`` is for numbers; one that ``gives`` is cut first when space is short."""

    def __init__(self, title: str, *, right: bool = False, gives: bool = False) -> None:
        self.title = title
        self.right = right
        self.gives = gives


def table(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
    """A plain table: a dim head, a thin rule, aligned columns. Cells are strings or (text, style)."""
    made = new_table(columns)
    for row in rows:
        fill(made, row)
    print_rich(made)


def fill(made: Table, row: Sequence[Any]) -> None:
    """Adds a row; cells are strings or (text, style)."""
    from rich.text import Text

    made.add_row(*(Text(*cell) if isinstance(cell, tuple) else Text(cell) for cell in row))


def side_by_side(tables: Sequence[Table]) -> None:
    """Tables in one row where the terminal is wide enough, else one below the other."""
    from rich.table import Table

    width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 120
    if width < 100:
        for one in tables:
            print_rich(one)
            say()
        return
    row = Table.grid(padding=(0, 5, 0, 0))
    row.add_row(*tables)
    print_rich(row)


def new_table(columns: Sequence[Column]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rule = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
    made = Table(
        box=rule,
        show_edge=False,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        border_style="dim",
        header_style="dim",
    )
    for column in columns:
        made.add_column(
            Text(column.title, "dim"),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if column.gives else len(column.title),
            ratio=None,
        )
    return made


def print_rich(thing: Any) -> None:
    """Prints something of rich's, indented by two, without spaces at the ends of lines."""
    from rich.console import Console
    from rich.padding import Padding

    on_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if on_terminal else 10_000,
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
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            sys.stderr.write(f"\r\x1b[2K{text[: width - 1]}")
            sys.stderr.flush()
            self._shown, self._last = True, time.monotonic()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._shown = False
