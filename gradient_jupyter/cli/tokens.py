"""``gradient tokens``: for CI, Prometheus and other programs of yours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gradient_jupyter.cli.options import Duration, json_option
from gradient_jupyter.cli.terminal import note, say

if TYPE_CHECKING:
    from gradient_jupyter.resources.token import Token

_SCOPES = ("read", "write", "access", "operate", "metrics")


class Lifetime(Duration):
    """A duration, or ``never``."""

    name = "lifetime"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, str) and value.strip().lower() == "never":
            return 0.0
        return super().convert(value, param, ctx)


@click.group()
def tokens() -> None:
    """Tokens for programs of yours: each opens no more than it has to, and ends by itself."""


@tokens.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    help="What it opens; repeatable.  read: see; write: also send, stop, delete; access: make tokens; "
    "operate: look after the server; metrics: /metrics alone.  [read]",
)
@click.option(
    "--project", "--projectId", "--project-id", "project_id", metavar="ID", help="Only this project."
)
@click.option("--expires", type=Lifetime(), metavar="TIME", help="90d, 12h, or never.  [90d]")
@json_option
def create(
    *, name: str, scopes: tuple[str, ...], project_id: str | None, expires: float | None, as_json: bool
) -> int:
    """Make a token called NAME and print it. It is shown this once: keep it where secrets are kept."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us
    from gradient_jupyter.resources.token import DEFAULT_S

    lasts = DEFAULT_S if expires is None else expires or None
    with Client() as client:
        made = client.tokens.create(name, scopes or ("read",), project_id=project_id, expires_s=lasts)
        url = client.url
    if as_json:
        print_json(made)
        return 0
    info = made.info
    ends = f"until {moment(info.expires_us, now_us())}" if info.expires_us else "for ever"
    where = f", the project {clean(info.project_id)} alone" if info.project_id else ""
    note(f"  {clean(info.name)}  {info.id}  opens {', '.join(info.scopes)}{where}, {ends}")
    note(f"  Use it with GRADIENT_URL={url} and, as GRADIENT_TOKEN, this line; it is not shown again:")
    say(made.token)
    return 0


@tokens.command("list")
@click.option("--all", "ended_too", is_flag=True, help="Those that have ended, too.")
@json_option
def list_tokens(*, ended_too: bool, as_json: bool) -> int:
    """Your tokens, newest first. What opens anything is never shown."""
    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    now = now_us()
    with Client() as client:
        found = [token for token in client.tokens.list() if ended_too or not _ended(token, now)]
    if as_json:
        print_json(found)
    elif not found:
        note("  No tokens. Make one: gradient tokens create NAME")
    else:
        table(
            (
                Column("Token", gives=True), Column("Id"), Column("Opens", gives=True), Column("Ends"),
                Column("Last used"),
            ),
            (
                (
                    clean(one.name),
                    (one.id, "dim"),
                    " ".join(one.scopes) + (f" in {clean(one.project_id)}" if one.project_id else ""),
                    _end(one, now),
                    (moment(one.last_used_us, now) if one.last_used_us else "never", "dim"),
                )
                for one in found
            ),
        )  # fmt: skip
    return 0


@tokens.command()
@click.argument("token_ids", metavar="TOKEN...", nargs=-1, required=True)
@json_option
def revoke(*, token_ids: tuple[str, ...], as_json: bool) -> int:
    """End tokens, by their ids, and what was made with them. What they have open is cut."""
    from gradient_jupyter.cli.failures import show
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.errors import GradientError

    revoked, worst = [], 0
    with Client() as client:
        for token_id in token_ids:
            try:
                client.tokens.revoke(token_id)
            except GradientError as error:
                if len(token_ids) == 1:
                    raise
                worst = show(error, as_json=as_json)
                continue
            revoked.append(token_id)
            if not as_json:
                note(f"  {clean(token_id)}  opens nothing any more")
    if as_json:
        print_json({"revoked": revoked})
    return worst


def _ended(token: Token, now_us: int) -> bool:
    return token.revoked_us is not None or (token.expires_us is not None and token.expires_us <= now_us)


def _end(token: Token, now_us: int) -> str:
    from gradient_jupyter.cli.text import moment

    if token.revoked_us is not None:
        return "revoked"
    if token.expires_us is None:
        return "never"
    return "expired" if token.expires_us <= now_us else moment(token.expires_us, now_us)
