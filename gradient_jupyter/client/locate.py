"""Which server a client speaks to: the one it was told, the one its environment names, or the user's own."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import msgspec

from gradient_jupyter.client.connection import Address
from gradient_jupyter.resources.errors import InvalidRequest, ServerUnavailable

if TYPE_CHECKING:
    from gradient_jupyter.client.solo import Solo


class Locator(Protocol):
    def find(self) -> Address:
        """The server to speak to now. Asked again when the one before is gone."""


class Named:
    """A server somebody else keeps."""

    def __init__(self, url: str, token: str, how: str = "") -> None:
        self._address = Address(url=url.rstrip("/"), token=token)
        self.how = how
        """Where address and token were found, in words."""

    def find(self) -> Address:
        return self._address


class Keyed:
    """The user's own server, asked with another token than its own."""

    how = "your own server, with the key that was given"

    def __init__(self, solo: Solo, key: str) -> None:
        self.solo = solo
        self._key = key

    def find(self) -> Address:
        return msgspec.structs.replace(self.solo.find(), key=self._key)


#: The token of one call of the command line (``--apiKey``).
TOKEN_OF_CALL: ContextVar[str | None] = ContextVar("gradient_token_of_call", default=None)

#: The tokens that the environment may name, strongest first. Those of Paperspace's names are used only when
#: they are tokens of ours: a key of theirs is nobody else's business.
_TOKENS = ("GRADIENT_TOKEN", "PAPERSPACE_API_KEY", "PS_API_KEY")


def locate(url: str | None = None, token: str | None = None, *, start: bool = True) -> Locator:
    """Which server, and with which token.

    The server: ``url``, ``GRADIENT_URL``, the one of ``gradient login``, the user's own. The token:
    ``token``, ``--apiKey``, ``GRADIENT_TOKEN``, ``PAPERSPACE_API_KEY``, ``PS_API_KEY`` (these two only when
    they are tokens of ours), the one of ``gradient login``, ``~/.paperspace/config.json`` (again only ours).
    What was remembered for one server goes to no other, and the user's own server needs no token from
    anybody.

    Inside a JupyterHub a solo server would be the wrong place for a job: it would die with the notebook's
    container. There the environment has to name the Hub's service, and it is an error when it does not.
    """
    named = url or os.environ.get("GRADIENT_URL") or None
    of_call = token or TOKEN_OF_CALL.get() or None
    token, how = (of_call, "the key that was given") if of_call else _of_environment()
    if named and token:
        return Named(named, token, f"{'GRADIENT_URL' if not url else 'the address that was given'}, {how}")
    from gradient_jupyter.client import login

    if kept := login.read():
        if named is None:
            return Named(kept.url, token or kept.token, f"gradient login{f', {how}' if token else ''}")
        if kept.url == named.rstrip("/"):
            return Named(named, kept.token, "gradient login")
    if named and (key := login.paperspace_key()):
        return Named(named, key, "~/.paperspace/config.json")
    if named or (token and how == "GRADIENT_TOKEN"):
        known, lacking = ("an address", "GRADIENT_TOKEN") if named else ("a token", "GRADIENT_URL")
        raise InvalidRequest(
            f"A Gradient server needs both an address and a token, and there is only {known}.",
            next=f"Set {lacking} as well, or neither to use your own server.",
        )
    if os.environ.get("JUPYTERHUB_API_URL"):
        raise ServerUnavailable(
            "This JupyterHub has no Gradient service.",
            next="Ask its administrator to add it: it sets GRADIENT_URL and GRADIENT_TOKEN for your server.",
            code="hub-without-service",
        )
    if os.environ.get("GRADIENT_JOB_TOKEN"):
        raise ServerUnavailable(
            "This is a running job, and its own token opens nothing but the job itself.",
            next="Give it an address and a token of yours: GRADIENT_URL and GRADIENT_TOKEN.",
            code="inside-a-job",
        )
    from gradient_jupyter.client.solo import Solo

    solo = Solo(start=start)
    return Keyed(solo, of_call) if of_call else solo


def _of_environment() -> tuple[str | None, str]:
    """The token that the environment names, and by which name."""
    for name in _TOKENS:
        if value := os.environ.get(name):
            if name == "GRADIENT_TOKEN":
                return value, name
            from gradient_jupyter.client.login import is_ours

            if is_ours(value):
                return value, name
    return None, ""
