"""``gradient completion``: the script a shell needs to complete our commands."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(*, shell: str) -> int:
    """Print the completion script for a shell.

    \b
    bash: eval "$(gradient completion bash)"         in ~/.bashrc
    zsh:  eval "$(gradient completion zsh)"          in ~/.zshrc
    fish: gradient completion fish | source          in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from gradient_jupyter.cli.program import gradient

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(gradient, {}, "gradient", "_GRADIENT_COMPLETE")
    click.echo(made.source_template % made.source_vars())
    return 0
