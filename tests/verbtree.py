"""The verb tree of the command line, walked."""

from __future__ import annotations

from collections.abc import Iterator

import click

from gradient_jupyter.cli.program import gradient as program


def verbs(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command of the tree that does something, by what is typed."""
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from verbs(below, click.Context(below, info_name=name, parent=ctx))
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield ctx.command_path, command


ALL = dict(verbs(program, click.Context(program, info_name="gradient")))
