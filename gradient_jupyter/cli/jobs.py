"""``gradient jobs``: the group."""

from __future__ import annotations

import click

from gradient_jupyter.cli.program import JobVerbs


@click.command(cls=JobVerbs)
def jobs() -> None:
    """Jobs: create them, watch them, end them, fetch what they left."""
