"""``gradient version``."""

from __future__ import annotations

import click

from gradient_jupyter.cli.options import json_option


@click.command()
@json_option
def version(*, as_json: bool) -> int:
    """The version of this program."""
    from gradient_jupyter import __version__
    from gradient_jupyter.cli.terminal import print_json

    if as_json:
        print_json({"version": __version__})
    else:
        click.echo(f"gradient {__version__}")
    return 0
