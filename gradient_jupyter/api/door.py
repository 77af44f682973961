"""The door: which names this server answers to, from which pages, and what a token stands for and opens.

Everything is refused that nobody has allowed: an unknown Host, a foreign Origin, a request another site made
a browser send, a token that is not known, a right that no scope opens.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from tornado.httputil import HTTPHeaders

from gradient_jupyter.api.routes import Right
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.running import attempts, tokens
from gradient_jupyter.resources.errors import Forbidden, Unauthenticated
from gradient_jupyter.resources.token import Scope

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

#: Which scopes open a right. One that is not here is opened by none.
OPENS: dict[Right, frozenset[Scope]] = {
    Right.READ: frozenset({Scope.READ, Scope.WRITE}),
    Right.WRITE: frozenset({Scope.WRITE}),
    Right.ACCESS: frozenset({Scope.ACCESS}),
    Right.OPERATE: frozenset({Scope.OPERATE}),
    Right.OBSERVE: frozenset({Scope.METRICS, Scope.OPERATE}),
}
#: What a browser says of a request that a page of ours, or nobody's page, made it send.
_OWN_SITES = frozenset({"same-origin", "none"})


class Door:
    """Who may come in: solo's one user by the token in their runtime file, which opens everything; runs by
    theirs; and whoever bears a token that a person made."""

    def __init__(self, token: str, principal: Principal, hosts: frozenset[str]) -> None:
        self._token = token.encode()
        self._principal = principal
        self._hosts = hosts
        # Compared whole: nothing that merely begins or ends like ours, or holds it, is ours.
        self._origins = frozenset(f"http://{host}" for host in hosts)

    def check_host(self, headers: HTTPHeaders) -> None:
        """Loopback is no boundary: a page that rebinds its name to 127.0.0.1 still sends that name."""
        hosts = headers.get_list("Host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            raise Forbidden(
                "This server does not answer to that Host.",
                next="Use the address it printed: gradient server status",
                code="wrong-host",
            )
        if any(origin.lower() not in self._origins for origin in headers.get_list("Origin")):
            raise _other_site()
        if any(each.strip().lower() not in _OWN_SITES for each in headers.get_list("Sec-Fetch-Site")):
            raise _other_site()

    async def principal(self, plane: Plane, token: str) -> Principal:
        """Whom this token stands for. Raises ``Unauthenticated``; ``Conflict`` for that of a run that is
        over."""
        if token.startswith(tokens.PREFIX):
            return await attempts.principal(plane, token)
        if hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            return self._principal
        if token and (found := await plane.granted.principal(token)) is not None:
            return found
        raise Unauthenticated(
            "A token is needed: none was sent, or not this server's.",
            next="Send Authorization: Bearer <token>; the client finds it by itself.",
            code="no-token" if not token else "wrong-token",
        )


def check_right(principal: Principal, right: Right) -> None:
    """Raises ``Forbidden`` unless one of the principal's scopes opens the right. Not for a run's own token:
    what that opens stands on the route."""
    wanted = OPENS.get(right, frozenset())
    if not wanted & principal.scopes:
        raise Forbidden(
            f"That takes a token with the scope {' or '.join(sorted(wanted)) or '(none opens it)'}.",
            next="`gradient tokens list` shows what yours open; `gradient tokens create` makes another one.",
            code="scope-missing",
        )


def bearer(headers: HTTPHeaders) -> str:
    """The token. Tokens travel in this header only, and once; empty when there is none."""
    sent = headers.get_list("Authorization")
    if len(sent) != 1:
        return ""
    kind, _, token = sent[0].partition(" ")
    return token.strip() if kind.lower() in ("bearer", "token") else ""


def _other_site() -> Forbidden:
    return Forbidden(
        "Requests from other sites are refused.", next="Use the client or curl.", code="foreign-origin"
    )
