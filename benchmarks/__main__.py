"""``python -m benchmarks [NAME…] [--json]``: runs rows and prints them as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pkgutil import iter_modules

import benchmarks
from benchmarks import Row


def main() -> None:
    known = sorted(m.name for m in iter_modules(benchmarks.__path__) if not m.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Values beside their yardsticks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(known)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")

    measured = [(name, row) for name in options.names or known for row in rows(name)]
    if options.json:
        print(json.dumps([{"benchmark": name, **asdict(row), "ratio": row.ratio} for name, row in measured]))
    else:
        print_table(measured)


def rows(name: str) -> Iterator[Row]:
    print(f"measuring {name}", file=sys.stderr)
    yield from import_module(f"benchmarks.{name}").rows()


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
