"""``gradient machineTypes``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gradient_jupyter.cli.options import json_option

if TYPE_CHECKING:
    from gradient_jupyter.resources.machine_type import MachineType


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def machine_types(ctx: click.Context, *, as_json: bool) -> int:
    """What a job can run on, and what is free."""
    return 0 if ctx.invoked_subcommand else _list(as_json)


@machine_types.command("list")
@json_option
def list_types(*, as_json: bool) -> int:
    """The same: what a job can run on."""
    return _list(as_json)


def _list(as_json: bool) -> int:
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client

    with Client() as client:
        types = client.machine_types.list()
    if as_json:
        print_json(types)
    else:
        machine_table(types, "")
    return 0


def machine_table(types: Sequence[MachineType], chosen: str) -> None:
    """All of them; an arrow before the one that was chosen, if one was."""
    from gradient_jupyter.cli.terminal import Column, Row, table
    from gradient_jupyter.cli.text import clean, memory

    columns = (
        Column(("  " if chosen else "") + "Machine"),
        Column("GPU", right=True),
        Column("CPU", right=True),
        Column("Memory", right=True),
        Column("Free"),
        Column("", gives=True),
    )
    rows: list[Row] = []
    for one in types:
        free = f"{one.free} of {one.capacity}" if one.capacity else "–"
        rows.append(
            (
                ("→ " if one.name == chosen else "  " if chosen else "") + clean(one.name),
                str(one.gpus) if one.gpus else "none",
                f"{one.cpus:g}",
                memory(one.memory_bytes),
                (free, "" if one.free else "red"),
                (clean(one.description), "dim"),
            )
        )
    table(columns, rows)
