"""Tokens that people make: given out, looked up at every request, taken back.

A token is looked up in the database whenever it is used, so what is revoked, what has expired and whoever
left a project is refused from the next request on; what is under way is looked at again by ``api.watch``.

A token opens less than its maker does, never more: not more scopes, not another project, not for longer; it
ends with the token it was made with.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.errors import Conflict, Forbidden, NotFound, Unauthenticated
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.token import PREFIX, CreatedToken, CreateToken, Scope, Token, Tokens, digest
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store import tokens as rows
from gradient_jupyter.store.database import Database

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

#: How many tokens that open something one person may have.
MOST = 200
_COARSE_US = 3_600_000_000
#: What only those who look after the server may do, and give on.
OPERATORS_ONLY = frozenset({Scope.OPERATE, Scope.METRICS})


class TokenEnded(Unauthenticated):
    """A token that was ours and opens nothing any more."""

    def __init__(self, message: str, code: str, token_id: str, user_id: str) -> None:
        super().__init__(message, next="Make another one: gradient tokens create NAME", code=code)
        self.token_id = token_id
        self.user_id = user_id


class Granted:
    """The door's view of them. Of one event loop. ``operators`` are the ids of those who look after the
    server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.operators: frozenset[str] = frozenset()
        self._noting: dict[str, asyncio.Task[None]] = {}

    async def principal(self, token: str) -> Principal | None:
        """Whom the token stands for, and what it opens; None when it is not one of ours. ``TokenEnded`` when
        it was."""
        found = await self._database.read(partial(_look_up, digest=digest(token)))
        if found is None:
            return None
        bearer, role = found
        known, now = bearer.token, now_us()
        if known.revoked_us is not None:
            raise TokenEnded("This token was revoked.", "token-revoked", known.id, bearer.user_id)
        if known.expires_us is not None and known.expires_us <= now:
            raise TokenEnded("This token has expired.", "token-expired", known.id, bearer.user_id)
        if known.project_id is not None and role is None:
            raise TokenEnded(
                "The person who made this token is no longer in the project that it opens.",
                "token-revoked", known.id, bearer.user_id,
            )  # fmt: skip
        if known.last_used_us is None or now - known.last_used_us > _COARSE_US:
            self._note_use(known.id, now)
        scopes = frozenset(known.scopes)
        if bearer.user_id not in self.operators:
            scopes -= OPERATORS_ONLY
        return Principal(
            user_id=bearer.user_id, name=bearer.user_name, scopes=scopes, token_id=known.id,
            bound=known.project_id,
        )  # fmt: skip

    async def close(self) -> None:
        await asyncio.gather(*self._noting.values(), return_exceptions=True)

    def _note_use(self, token_id: str, now: int) -> None:
        """Beside the request: nobody waits for it, and it may fail."""
        if token_id in self._noting or self._database.read_only:
            return
        self._noting[token_id] = asyncio.create_task(self._used(token_id, now), name=f"used-{token_id}")

    async def _used(self, token_id: str, now: int) -> None:
        try:
            await self._database.write(partial(rows.used, token_id=token_id, now_us=now))
        except Exception as error:
            log.warning("that the token %s was used is not noted: %s", token_id, error)
        finally:
            del self._noting[token_id]


def _look_up(connection: Connection, digest: str) -> tuple[rows.Bearer, Role | None] | None:
    bearer = rows.bearer(connection, digest)
    if bearer is None:
        return None
    role = None
    if bearer.token.project_id is not None:
        persons = Principal(user_id=bearer.user_id, name="").persons
        role = project_rows.role(connection, persons, bearer.token.project_id)
    return bearer, role


async def create(plane: Plane, principal: Principal, request: CreateToken) -> CreatedToken:
    """Makes a token and tells it, this once. Raises ``Forbidden`` for what the maker may not do
    themselves."""
    scopes = tuple(scope for scope in Scope if scope in request.scopes)
    if lacking := [scope for scope in scopes if scope not in principal.scopes]:
        raise Forbidden(
            f"A token opens no more than its maker may do, and you may not {', '.join(lacking)}.",
            next=f"Yours are: {', '.join(sorted(principal.scopes))}.",
            code="scope-too-wide",
        )
    if principal.bound is not None and request.project_id is None:
        raise Forbidden(
            f"The token you use opens the project {principal.bound} alone, and so does what is made with it.",
            next=f"Give project_id: {principal.bound}.",
            code="scope-too-wide",
        )
    if request.project_id is not None and OPERATORS_ONLY & set(scopes):
        raise Forbidden(
            "The server itself is in no project.",
            next="Leave out the project, or the scopes operate and metrics.",
            code="scope-too-wide",
        )
    now = now_us()
    token = Token(
        id=new_id("tk"), name=request.name, scopes=scopes, project_id=request.project_id, created_us=now,
        created_by=principal.token_id or principal.user_id,
        expires_us=None if request.expires_s is None else now + round(request.expires_s * 1e6),
    )  # fmt: skip
    secret = f"{PREFIX}{token.id}_{secrets.token_urlsafe(32)}"

    def work(connection: Connection) -> Token:
        if token.project_id is not None:
            access.project(connection, principal, token.project_id, Role.VIEWER)
        if rows.count_live(connection, principal.user_id, now) >= MOST:
            raise Conflict(
                f"You have {MOST} tokens, as many as one person may have.",
                next="Revoke those that nobody needs: gradient tokens list",
                code="too-many-tokens",
            )
        made = _not_longer(connection, principal, token)
        rows.create(
            connection, made, user_id=principal.user_id, digest=digest(secret), parent=principal.token_id
        )
        detail = f"{' '.join(made.scopes)}; {made.project_id or 'everything'}; {made.name}"
        audit.record(connection, "token.create", "token", made.id, detail=detail)
        return made

    return CreatedToken(info=await plane.database.write(work), token=secret)


def _not_longer(connection: Connection, principal: Principal, token: Token) -> Token:
    """The token, ending no later than the one it is made with. Raises when that one has ended just now."""
    if principal.token_id is None:
        return token
    parent = next(
        each for each in rows.of_user(connection, principal.user_id, None) if each.id == principal.token_id
    )
    if parent.revoked_us is not None:
        raise TokenEnded("This token was revoked.", "token-revoked", parent.id, principal.user_id)
    if parent.expires_us is None or (token.expires_us is not None and token.expires_us <= parent.expires_us):
        return token
    return msgspec.structs.replace(token, expires_us=parent.expires_us)


async def page(plane: Plane, principal: Principal) -> Tokens:
    """A person's own, newest first, those that have ended too; through a token that opens one project, those
    that open it."""
    found = await plane.database.read(
        partial(rows.of_user, user_id=principal.user_id, project_id=principal.bound)
    )
    return Tokens(items=tuple(found))


async def revoke(plane: Plane, principal: Principal, token_id: str) -> None:
    """The token opens nothing from now on, nor do those that were made with it. Again: changes nothing."""

    def work(connection: Connection) -> None:
        own = rows.of_user(connection, principal.user_id, principal.bound)
        if all(token.id != token_id for token in own):
            raise NotFound(
                f"There is no token {token_id!r}.",
                next="gradient tokens list shows yours.",
                code="no-such-token",
            )
        for ended in rows.revoke(connection, token_id, now_us()):
            detail = "" if ended == token_id else f"with {token_id}, which it was made with"
            audit.record(connection, "token.revoke", "token", ended, detail=detail)

    await plane.database.write(work)
