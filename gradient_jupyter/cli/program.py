"""From words to a command and from whatever happens to an exit code: the one place errors are shown.

Exit codes: 2 for what was typed, 1 for everything else that went wrong, 130 for Ctrl-C; ``run`` and
``waitfor`` end with the job's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

import click

from gradient_jupyter.cli.command import equip, normal
from gradient_jupyter.cli.verbs import JOB_VERBS, OLD_JOB_VERBS, VERBS, Verb, overview, resolve

USAGE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141
_JSON = "gradient.json"


class Lazy(click.Group):
    """A group that knows its verbs by name and loads the one that is called."""

    verbs: ClassVar[dict[str, Verb]] = {}
    unlisted: ClassVar[dict[str, Verb]] = {}
    """What Gradient's users may type; help does not name it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self._resolve(cmd_name)
        if found is None:
            return None
        module = import_module(f"gradient_jupyter.cli.{found[1].module}")
        command: click.Command = getattr(module, found[1].name)
        return equip(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = self._resolve(args[0]) if args else None
        if found is None and args and not args[0].startswith("-"):
            from difflib import get_close_matches

            from gradient_jupyter.cli import gradient_words
            from gradient_jupyter.cli.failures import Failed

            if self is gradient and (refusal := gradient_words.VERBS.get(args[0])):
                raise Failed(refusal.message, next=refusal.next, exit_code=USAGE, code="not-here")
            close = get_close_matches(args[0], self.verbs, n=1)
            ctx.fail(f"There is no command {args[0]!r}." + (f" Did you mean {close[0]}?" if close else ""))
        return super().resolve_command(ctx, [found[0], *args[1:]] if found else args)

    def _resolve(self, word: str) -> tuple[str, Verb] | None:
        return resolve(self.verbs, word) or resolve(self.unlisted, word)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in self.verbs.items()])


class Top(Lazy):
    verbs = VERBS

    def get_help(self, ctx: click.Context) -> str:
        return overview().rstrip("\n")


class JobVerbs(Lazy):
    verbs = JOB_VERBS
    unlisted = OLD_JOB_VERBS


@click.command(
    cls=Top, context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": normal}
)
@click.version_option(package_name="gradient_jupyter", prog_name="gradient", message="%(prog)s %(version)s")
def gradient() -> None:
    """Send the directory you are in away as a job."""


def run(words: Sequence[str]) -> int:
    """Runs one command line. Never raises, never shows a traceback (unless GRADIENT_DEBUG is set)."""
    _be_lenient()
    meta: dict[str, Any] = {}
    try:
        if (instruction := os.environ.get("_GRADIENT_COMPLETE")) is not None:
            from click.shell_completion import shell_complete

            return shell_complete(gradient, {}, "gradient", "_GRADIENT_COMPLETE", instruction)
        code = _dispatch(list(words), meta)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has seen enough. Nothing may be flushed there when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("GRADIENT_DEBUG"):
            raise
        from gradient_jupyter.cli.failures import show

        return show(error, as_json=bool(meta.get(_JSON)) or _asks_for_json(words))


def _dispatch(words: list[str], meta: dict[str, Any]) -> int:
    try:
        with gradient.make_context("gradient", words, obj=meta, terminal_width=_help_width()) as ctx:
            result = gradient.invoke(ctx)
            return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.NoSuchOption as error:
        raise _no_option(error, words) from None
    except click.exceptions.NoArgsIsHelpError as error:
        from gradient_jupyter.cli.terminal import note

        note(error.format_message())
        return USAGE


def _no_option(error: click.NoSuchOption, words: Sequence[str]) -> click.ClickException:
    """In the spelling that was typed; what Gradient's own command line knew is recognised."""
    from difflib import get_close_matches

    from gradient_jupyter.cli import gradient_words
    from gradient_jupyter.cli.failures import Failed

    wanted = normal(error.option_name.lstrip("-"))
    heads = (word.partition("=")[0] for word in words if word.startswith("-"))
    typed = next((head for head in heads if normal(head.lstrip("-")) == wanted), error.option_name)
    if refusal := gradient_words.OPTIONS.get(wanted):
        return Failed(f"{typed}: {refusal.message}", next=refusal.next, exit_code=USAGE, code="not-here")
    params = error.ctx.command.params if error.ctx else []
    known = {
        normal(option.lstrip("-")): option
        for param in params
        if isinstance(param, click.Option)
        for option in reversed(param.opts)
    }
    close = get_close_matches(wanted, known, n=1)
    hint = f" Did you mean {known[close[0]]}?" if close else ""
    return click.UsageError(f"There is no option {typed}.{hint}", error.ctx)


def _help_width() -> int:
    """As click reckons it: the terminal's, at most 80. Click would load ``shutil`` for it, and with that all
    its ways to compress."""
    try:
        columns = int(os.environ.get("COLUMNS", "")) or 80
    except ValueError:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1).columns or 80
        except (OSError, ValueError):
            columns = 80
    return max(min(columns, 80) - 2, 50)


def _asks_for_json(words: Sequence[str]) -> bool:
    """Whether a command line that could not be understood asked for JSON."""
    ours = list(words)
    return "--json" in (ours[: ours.index("--")] if "--" in ours else ours)


def _be_lenient() -> None:
    """What a terminal cannot show becomes a question mark, never an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
