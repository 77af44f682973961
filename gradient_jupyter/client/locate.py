"""Which server a client speaks to: the one it was told, the one its environment names, or the user's own."""

from __future__ import annotations

import os
from typing import Protocol

from gradient_jupyter.client.connection import Address
from gradient_jupyter.resources.errors import InvalidRequest, ServerUnavailable


class Locator(Protocol):
    def find(self) -> Address:
        """The server to speak to now. Asked again when the one before is gone."""


class Named:
    """A server somebody else keeps."""

    def __init__(self, url: str, token: str) -> None:
        self._address = Address(url=url.rstrip("/"), token=token)

    def find(self) -> Address:
        return self._address


def locate(url: str | None = None, token: str | None = None, *, start: bool = True) -> Locator:
    """``url`` and ``token``, else ``GRADIENT_URL`` and ``GRADIENT_TOKEN``, else the user's solo server.

    Inside a JupyterHub a solo server would be the wrong place for a job: it would die with the notebook's
    container. There the environment has to name the Hub's service, and it is an error when it does not.
    """
    url = url or os.environ.get("GRADIENT_URL") or None
    token = token or os.environ.get("GRADIENT_TOKEN") or None
    if url and token:
        return Named(url, token)
    if url or token:
        named, lacking = ("an address", "GRADIENT_TOKEN") if url else ("a token", "GRADIENT_URL")
        raise InvalidRequest(
            f"A Gradient server needs both an address and a token, and there is only {named}.",
            next=f"Set {lacking} as well, or neither to use your own server.",
        )
    if os.environ.get("JUPYTERHUB_API_URL"):
        raise ServerUnavailable(
            "This JupyterHub has no Gradient service.",
            next="Ask its administrator to add it: it sets GRADIENT_URL and GRADIENT_TOKEN for your server.",
            code="hub-without-service",
        )
    from gradient_jupyter.client.solo import Solo

    return Solo(start=start)
