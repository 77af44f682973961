"""``python -m benchmarks [NAME…] [--json] [--plots DIR]``: runs rows, prints a table or JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import benchmarks
from benchmarks import Row


def main() -> None:
    known = sorted(m.name for m in iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Values beside their yardsticks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(known)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write NAME.svg there, where one is drawn")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")

    measured = [(name, row) for name in options.names or known for row in rows(name)]
    if options.plots:
        draw({name for name, _ in measured}, options.plots)
    if options.json:
        print(json.dumps([{"benchmark": name, **asdict(row), "ratio": row.ratio} for name, row in measured]))
    else:
        print_table(measured)


def rows(name: str) -> Iterator[Row]:
    print(f"measuring {name}", file=sys.stderr)
    yield from import_module(f"benchmarks.{name}").rows()


def draw(names: set[str], directory: Path) -> None:
    """Writes the plots of those that have one: a module's ``plot() -> str``, after its ``rows``."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in sorted(names):
        plot = getattr(import_module(f"benchmarks.{name}"), "plot", None)
        if plot is not None:
            (directory / f"{name}.svg").write_text(plot())
            print(f"drew {directory / f'{name}.svg'}", file=sys.stderr)


def print_table(measured: list[tuple[str, Row]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("benchmark", "what", box=None, header_style="bold", pad_edge=False)
    for heading in ("value", "yardstick", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("against")
    for name, row in measured:
        value, yardstick = (f"{number:.4g} {row.unit}" for number in (row.value, row.yardstick))
        table.add_row(name, row.name, value, yardstick, f"{row.ratio:.2f}", row.against)
    Console().print(table)


if __name__ == "__main__":
    main()
