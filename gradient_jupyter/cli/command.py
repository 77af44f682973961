"""What every verb of the tree has, given to it in one place: where options may come from, and who asks.

``equip`` is called on each command when it is loaded. ``--optionsFile`` and ``--createOptionsFile`` are
``optionsfile``'s, ``--apiKey`` is the token of this one call. They are the same everywhere, so help names
them in one line at its end."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import click

_MARK = "options_file"
_EPILOG = "Also, as every command: --optionsFile FILE, --createOptionsFile FILE, --apiKey KEY."


def normal(word: str) -> str:
    """An option's name whichever way it is spelt: ``machineType``, ``machine-type``, ``machine_type``."""
    return word if len(word) == 1 else word.lower().replace("-", "").replace("_", "")


class Words(click.Group):
    """A group whose verbs Gradient's users may call by the names they know."""

    #: By the group's name: what was said, and what it is here.
    ALIASES: ClassVar[dict[str, dict[str, str]]] = {
        "artifacts": {"get": "download", "destroy": "delete"},
        "projects": {"details": "show", "destroy": "delete", "update": "rename"},
    }

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.ALIASES.get(self.name or "", {})
        return super().resolve_command(ctx, [known.get(args[0], args[0]), *args[1:]])


def equip(command: click.Command) -> click.Command:
    """Gives a command, and those below it, the options that all have. Doing it twice is doing it once."""
    if any(param.name == _MARK for param in command.params):
        return command
    if isinstance(command, click.Group):
        for below in command.commands.values():
            equip(below)
        if not command.invoke_without_command:
            return command
    command.params += [
        click.Option(
            ["--optionsFile", _MARK], is_eager=True, expose_value=False, hidden=True, callback=_read_options
        ),
        click.Option(
            ["--createOptionsFile", "create_options_file"],
            is_eager=True, expose_value=False, hidden=True, callback=_ask_for_template,
        ),
        click.Option(
            ["--apiKey", "api_key"], is_eager=True, expose_value=False, hidden=True, callback=_take_key
        ),
    ]  # fmt: skip
    if command.epilog is None:
        command.epilog = _EPILOG
    command.callback = _or_template(command.callback)
    return command


def _read_options(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        from gradient_jupyter.cli.optionsfile import read

        ctx.default_map = read(ctx.command, value)


_TEMPLATE = "gradient.create_options_file"


def _ask_for_template(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    ctx.meta[_TEMPLATE] = value
    # What must be said to do it need not be said to write down how it is done.
    for param in ctx.command.params:
        if param.required:
            param.required = False
            ctx.call_on_close(functools.partial(setattr, param, "required", True))


def _take_key(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None and not ctx.resilient_parsing:
        from gradient_jupyter.client.locate import TOKEN_OF_CALL

        before = TOKEN_OF_CALL.set(value)
        ctx.call_on_close(lambda: TOKEN_OF_CALL.reset(before))


def _or_template(callback: Any) -> Any:
    """Does what the command does, or writes down the options it was given and does nothing."""

    @functools.wraps(callback)
    def either(*args: Any, **more: Any) -> Any:
        ctx = click.get_current_context()
        if (path := ctx.meta.get(_TEMPLATE)) is not None and ctx.invoked_subcommand is None:
            from gradient_jupyter.cli.optionsfile import write

            write(ctx, path)
            return 0
        return callback(*args, **more)

    return either
