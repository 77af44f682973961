"""Tokens that people make for programs of theirs: what each opens, until when, and what became of it.

A token is ``gru_<id>_<256 random bits>``. It is shown once, when it is made; only its SHA-256 is kept. What
it opens is a set of scopes, within what its maker may do themselves, and on request one project alone.
"""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Annotated

import msgspec

from gradient_jupyter.resources.base import Request, Resource

PREFIX = "gru_"
_TOKEN = re.compile(r"gru_(tk[0-9a-z]{12})_[A-Za-z0-9_-]{43}")
#: How long a token lasts whose maker does not say.
DEFAULT_S = 90 * 86400.0
_LONGEST_S = 100 * 366 * 86400.0


class Scope(enum.StrEnum):
    """What a token opens. ``write`` opens what ``read`` does, too; every other one stands for itself."""

    READ = "read"
    """See jobs, logs, artifacts, projects."""
    WRITE = "write"
    """Send, change, stop and delete them."""
    ACCESS = "access"
    """Make and revoke tokens, and say who may do what."""
    OPERATE = "operate"
    """Look after the server: its disk, its record of what was done, its end."""
    METRICS = "metrics"
    """Only ``/metrics``: the server's own figures, for Prometheus."""


class Token(Resource, frozen=True, kw_only=True):
    """A token as it can be listed: never what opens anything."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    project_id: str | None = None
    """The one project it opens; None: everything of its maker's."""
    created_us: int
    created_by: str
    """The person, or the token (``tk…``) it was made with."""
    expires_us: int | None = None
    last_used_us: int | None = None
    """Not finer than an hour."""
    revoked_us: int | None = None


class CreatedToken(Resource, frozen=True, kw_only=True):
    """A token that has just been made. ``token`` is told this once."""

    info: Token
    token: str


class CreateToken(Request, frozen=True, kw_only=True):
    name: Annotated[
        str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]+\Z")
    ]
    scopes: Annotated[tuple[Scope, ...], msgspec.Meta(min_length=1, max_length=len(Scope))] = (Scope.READ,)
    project_id: Annotated[str, msgspec.Meta(max_length=100)] | None = None
    expires_s: Annotated[float, msgspec.Meta(gt=0, le=_LONGEST_S)] | None = DEFAULT_S
    """Seconds from now; null: it never ends by itself."""


class Tokens(Resource, frozen=True, kw_only=True):
    items: tuple[Token, ...]


def digest(token: str) -> str:
    """What is kept of a token: its SHA-256, hexadecimal. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def token_id(token: str) -> str | None:
    """The id that a token bears, if it has the form of one that a person made."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def proof_key(token: str) -> str:
    """What a server that knows the token proves itself with: of one that a person made it knows the digest
    only (see ``resources.server.proof``)."""
    return digest(token) if token_id(token) else token
