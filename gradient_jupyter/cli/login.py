"""``gradient login``, ``logout`` and ``whoami``."""

from __future__ import annotations

import sys

import click

from gradient_jupyter.cli.options import json_option
from gradient_jupyter.cli.terminal import note

_LONGEST_KEY = 4096


@click.command()
@click.argument("url", required=False)
@json_option
def login(*, url: str | None, as_json: bool) -> int:
    """Remember the server at URL and a token for it, so that every command goes there.

    The token is asked for, or read from standard input, or given as --apiKey KEY
    (which others on this machine can see while it runs). It is tried before it is
    kept. Without URL: GRADIENT_URL, else the server that was logged in to before.

    \b
    gradient login https://hub.example.org/services/gradient
    gradient login https://hub.example.org/services/gradient < token.txt
    """
    import os

    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client
    from gradient_jupyter.client import login as kept
    from gradient_jupyter.client.connection import Address
    from gradient_jupyter.client.locate import TOKEN_OF_CALL

    if url is None:
        before = kept.read() if "GRADIENT_URL" not in os.environ else None
        url = os.environ.get("GRADIENT_URL") or (before.url if before else None)
    if not url:
        raise click.UsageError("Say which server: gradient login https://HOST/...")
    url = url.rstrip("/")
    token = TOKEN_OF_CALL.get() or _token(url)
    if url.startswith("http://") and not Address(url=url, token="").loopback:
        note("  ! The token travels unencrypted to an http:// address; use https:// where you can.")
    with Client(url, token) as client:
        info = client.server()
        who = client.whoami()
    kept.keep(kept.Login(url, token))
    if as_json:
        print_json({"url": url, "user": who, "version": info.version})
    else:
        note(f"  {clean(url)}  as {clean(who.name)}. gradient logout forgets it.")
    return 0


def _token(url: str) -> str:
    """From whoever is there, unseen; from a pipe otherwise."""
    from gradient_jupyter.cli.failures import Failed

    if sys.stdin is not None and sys.stdin.isatty():
        token = click.prompt(f"Token for {url}", hide_input=True, err=True, default="", show_default=False)
    else:
        token = sys.stdin.readline(_LONGEST_KEY) if sys.stdin is not None else ""
    token = token.strip()
    if not token:
        raise Failed("There was no token.", next="Give it on standard input, or as --apiKey.", exit_code=2)
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Failed("This is no token: one is a single word.", exit_code=2)
    return token


@click.command()
@json_option
def logout(*, as_json: bool) -> int:
    """Forget the server and the token that gradient login has kept."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import login as kept

    forgotten = kept.forget()
    if as_json:
        print_json({"forgotten": forgotten})
    else:
        note(f"  {'Forgotten; the token is still good.' if forgotten else 'There was nothing to forget.'}")
    return 0


@click.command()
@json_option
def whoami(*, as_json: bool) -> int:
    """Which server the commands speak to, as whom, and why that one."""
    from gradient_jupyter.cli.sheet import facts
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client

    with Client() as client:
        who, info = client.whoami(), client.server()
    if as_json:
        print_json({"url": client.url, "mode": info.mode, "user": who, "found": client.how})
    else:
        facts(
            [
                ("You", f"{clean(who.name)}  user:{clean(who.id)}"),
                ("Server", f"{clean(client.url)}  {clean(info.mode)}, version {clean(info.version)}"),
                ("Found by", clean(client.how)),
            ]
        )
    return 0
