"""Tokens for programs of yours: make, list, revoke. ``client.tokens``."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.token import DEFAULT_S, CreatedToken, CreateToken, Scope, Token
from gradient_jupyter.resources.token import Tokens as Page


class Tokens:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        scopes: Iterable[Scope | str] = (Scope.READ,),
        *,
        project_id: str | None = None,
        expires_s: float | None = DEFAULT_S,
    ) -> CreatedToken:
        """Makes a token; its ``token`` is told this once. ``project_id``: it opens that project alone.
        ``expires_s``: seconds until it ends; None: never."""
        body = CreateToken(
            name=name,
            scopes=tuple(Scope(each) for each in scopes),
            project_id=project_id,
            expires_s=expires_s,
        )
        return self._transport.request("POST", "/tokens", CreatedToken, body=body)

    def list(self) -> tuple[Token, ...]:
        """Yours, newest first; those that have ended, too."""
        return self._transport.request("GET", "/tokens", Page).items

    def revoke(self, token_id: str) -> None:
        """It opens nothing any more, nor does what was made with it; what they have open is cut."""
        self._transport.request("DELETE", f"/tokens/{quote(token_id, safe='')}", type(None))
