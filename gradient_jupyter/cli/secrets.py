"""``gradient secrets``: passwords, keys and tokens that jobs are given and nobody is shown again.

Both ways of saying it are understood: ``secrets set NAME --project P`` and, as Gradient's users type it,
``secrets set project --id P --name NAME --value V``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gradient_jupyter.cli.options import json_option
from gradient_jupyter.cli.terminal import note

if TYPE_CHECKING:
    from gradient_jupyter.client import Client

_SCOPES = ("user", "project", "team")
_MOST = 1 << 20


class Whose(NamedTuple):
    """Whose secrets are spoken of, as it was said. None of them: one's own."""

    project: str | None
    project_id: str | None
    team: str | None

    def keywords(self, client: Client) -> dict[str, Any]:
        """The same for ``client.secrets``."""
        project_id = self.project_id
        if self.project is not None:
            project_id = client.projects.find(self.project).id
        return {"project_id": project_id, "team": self.team}

    @property
    def words(self) -> str:
        """In words for people."""
        if self.project or self.project_id:
            return f"of the project {self.project or self.project_id}"
        return f"of the team {self.team}" if self.team else "of yours"


def _whose(*, named: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options that say whose, passed on as ``whose``; ``named``: and which one, as ``name``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("word", metavar="NAME" if named else "[user|project|team]", required=False)
        @click.option("--name", "name", hidden=True)
        @click.option("--id", "identity", hidden=True)
        @click.option("--project", metavar="NAME", help="A project's, by its name.  [your own]")
        @click.option(
            "--projectId", "--project-id", "project_id", metavar="ID", help="A project's, by its id."
        )
        @click.option("--team", "--teamId", "--team-id", "team", metavar="ID", help="A team's.")
        @functools.wraps(command)
        def with_whose(
            *args: Any,
            word: str | None,
            name: str | None,
            identity: str | None,
            project: str | None,
            project_id: str | None,
            team: str | None,
            **more: Any,
        ) -> Any:
            scope = None
            if named and name is None:
                name = word
                if name is None:
                    raise click.UsageError("Name the secret.")
            else:
                scope = word
            if scope == "cluster":
                raise click.UsageError(
                    "There are no clusters here: a secret is yours, a project's or a team's."
                )
            if scope not in (None, *_SCOPES):
                raise click.UsageError(f"{scope!r} is not whose it can be: user, project or team.")
            if identity is not None:
                if scope == "project":
                    project_id = identity
                elif scope == "team":
                    team = identity
                else:
                    raise click.UsageError(
                        "--id belongs to `project` or `team`: secrets set project --id ID …"
                    )
            if sum(each is not None for each in (project, project_id, team)) > 1:
                raise click.UsageError("A secret is one project's or one team's: say only whose.")
            if scope == "project" and project is None and project_id is None:
                raise click.UsageError("Which project? --project NAME, or --id ID.")
            if scope == "team" and team is None:
                raise click.UsageError("Which team? --id ID.")
            if scope == "user" and (project or project_id or team):
                raise click.UsageError("`user` means your own secrets: leave the project or the team out.")
            if named:
                more["name"] = name
            return command(*args, whose=Whose(project, project_id, team), **more)

        return with_whose

    return decorate


@click.group()
def secrets() -> None:
    """Passwords and tokens for jobs: gradient run --env HF_TOKEN=secret:hf train.py"""


@secrets.command("list")
@_whose(named=False)
@json_option
def list_secrets(*, whose: Whose, as_json: bool) -> int:
    """The names of your secrets, or of a project's or a team's. No value is ever shown."""
    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    with Client() as client:
        found = client.secrets.list(**whose.keywords(client))
    if as_json:
        print_json(found)
    elif not found:
        note(f"  No secrets {clean(whose.words)} yet. To set one: gradient secrets set NAME")
    else:
        now = now_us()
        table(
            (Column("Secret", gives=True), Column("Changed"), Column("")),
            (
                (
                    clean(one.name),
                    (moment(one.changed_us, now), "dim"),
                    ("cannot be read: set it anew", "red")
                    if not one.readable
                    else ("" if one.masked else "too short to be hidden in logs", "dim"),
                )
                for one in found
            ),
        )
    return 0


@secrets.command("set")
@_whose(named=True)
@click.option("--value", metavar="TEXT", help="The value. It stays in your shell's history: better not.")
@click.option("--fromFile", "--from-file", "file", metavar="FILE", help="The value is what FILE holds.")
@json_option
def set_secret(*, name: str, whose: Whose, value: str | None, file: str | None, as_json: bool) -> int:
    """Set a secret, in place of the one of that name.

    The value is asked for without showing it, or read from standard input where that is no terminal. One
    newline at its end is left out.

    \b
    gradient secrets set hf
    gradient secrets set hf < token.txt
    gradient secrets set --project leaf-health --from-file key.pem deploy-key
    """
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.secret import SHORTEST_MASKED, check_name, check_value

    check_name(name)
    if value is not None and file is not None:
        raise click.UsageError("--value and --from-file say the same thing: give one of them.")
    if value is not None:
        note("  ! A value on the command line stays in the shell's history, and others can see it while the")
        note(f"    command runs. Without --value it is asked for: gradient secrets set {clean(name)}")
    secret = check_value(value if value is not None else _read(name, file))
    with Client() as client:
        stored = client.secrets.set(name, secret, **whose.keywords(client))
    if as_json:
        print_json(stored)
    else:
        note(f"  ✓ set       {clean(name)}, a secret {clean(whose.words)}")
    if not stored.masked:
        note(f"  ! It is shorter than {SHORTEST_MASKED} bytes, so it is not hidden in logs.")
    return 0


@secrets.command()
@_whose(named=True)
@json_option
def delete(*, name: str, whose: Whose, as_json: bool) -> int:
    """Delete a secret. Jobs that still wait for it will fail."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client

    with Client() as client:
        client.secrets.delete(name, **whose.keywords(client))
    if as_json:
        print_json({"deleted": name})
    else:
        note(f"  ✓ deleted   {clean(name)}, a secret {clean(whose.words)}")
    return 0


def _read(name: str, file: str | None) -> str:
    """The value, from wherever it comes but the command line."""
    if file is None and sys.stdin.isatty():
        answer: str = click.prompt(f"Value of {name}", hide_input=True, err=True)
        return answer
    try:
        if file is None:
            data = sys.stdin.buffer.read(_MOST)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_MOST)
        text = data.decode()
    except UnicodeDecodeError as error:
        where = "standard input" if file is None else file
        raise click.UsageError(
            f"{where} is not UTF-8 text. A file of bytes: encode it, e.g. base64."
        ) from error
    if not text.strip("\r\n"):
        raise click.UsageError(
            "There is no value: pipe it in, or name a file with --from-file."
            if file is None
            else f"{file} is empty."
        )
    return text.removesuffix("\n").removesuffix("\r")
