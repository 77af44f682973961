"""``gradient server``: your own server, which otherwise comes and goes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradient_jupyter.cli.options import json_option
from gradient_jupyter.cli.terminal import note, say

if TYPE_CHECKING:
    from gradient_jupyter.client import Client


@click.group()
def server() -> None:
    """Your own server. It starts with the first command and ends when nothing runs."""


@server.command()
@json_option
def start(*, as_json: bool) -> int:
    """Start it, if it does not run."""
    from gradient_jupyter.client import Client

    with Client() as client:
        _show(client, as_json=as_json)
    return 0


@server.command()
@json_option
def stop(*, as_json: bool) -> int:
    """End it and wait until it is gone. Jobs go on; the next command starts it again."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.errors import ServerUnavailable

    try:
        with Client(start=False) as client:
            client.stop_server()
        stopped = True
    except ServerUnavailable as error:
        if error.code != "not-running":
            raise
        stopped = False
    if as_json:
        print_json({"stopped": stopped})
    else:
        note("  Stopped; its jobs go on." if stopped else "  No server was running.")
    return 0


@server.command()
@json_option
def status(*, as_json: bool) -> int:
    """What it says of itself. Exit code 1 when none runs; never starts one."""
    from gradient_jupyter.client import Client

    with Client(start=False) as client:
        _show(client, as_json=as_json)
    return 0


def _show(client: Client, *, as_json: bool) -> None:
    from gradient_jupyter.cli.sheet import facts
    from gradient_jupyter.cli.terminal import paint, print_json
    from gradient_jupyter.cli.text import clean, count, duration
    from gradient_jupyter.resources.base import now_us

    info = client.server()
    if as_json:
        print_json(info)
        return
    head = f"{info.mode}, version {clean(info.version)}, process {info.pid}"
    live = "not known" if info.jobs is None else f"{info.jobs:,} not over"
    word = paint("● Read-only", "yellow") if info.read_only else paint("● Running", "blue")
    say(f"  {word}    {head:<48}{paint(duration(now_us() - info.started_us), 'dim')}")
    facts(
        [
            *([("Because", clean(info.read_only))] if info.read_only else []),
            *(("Note", clean(warning)) for warning in info.warnings),
            ("Address", client.url),
            ("Engine", f"{clean(info.engine)}: {clean(info.isolation)}"),
            ("Jobs", f"{live}, {count(info.streams, 'open stream')}"),
            ("Data", clean(info.data)),
        ]
    )
