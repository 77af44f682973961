"""The tokens that people made. What opens a door is never here, only its digest."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.engine import Row

from gradient_jupyter.resources.token import Scope, Token
from gradient_jupyter.store.tables import tokens, users


class Bearer(msgspec.Struct, frozen=True):
    """A token together with the person it stands for."""

    token: Token
    user_id: str
    user_name: str


def create(
    connection: Connection, token: Token, *, user_id: str, digest: str, parent: str | None = None
) -> Token:
    connection.execute(
        insert(tokens).values(
            id=token.id, user_id=user_id, name=token.name, digest=digest, scopes=" ".join(token.scopes),
            project_id=token.project_id, parent=parent, created_us=token.created_us,
            expires_us=token.expires_us, revoked_us=token.revoked_us,
        )
    )  # fmt: skip
    return token


def bearer(connection: Connection, digest: str) -> Bearer | None:
    """Whoever bears the token with this digest, whatever has become of the token."""
    row = connection.execute(_BEARER, {"of": digest}).first()
    return Bearer(_token(row), row.user_id, row.user_name) if row else None


def digest_of(connection: Connection, token_id: str) -> str | None:
    return connection.execute(select(tokens.c.digest).where(tokens.c.id == token_id)).scalar()


def of_user(connection: Connection, user_id: str, project_id: str | None) -> list[Token]:
    """All of a person's, newest first; with ``project_id`` only those that open that project alone."""
    query = select(tokens).where(tokens.c.user_id == user_id).order_by(tokens.c.seq.desc())
    if project_id is not None:
        query = query.where(tokens.c.project_id == project_id)
    return [_token(row) for row in connection.execute(query)]


def count_live(connection: Connection, user_id: str, now_us: int) -> int:
    query = select(func.count()).where(
        tokens.c.user_id == user_id,
        tokens.c.revoked_us.is_(None),
        or_(tokens.c.expires_us.is_(None), tokens.c.expires_us > now_us),
    )
    return int(connection.execute(query).scalar_one())


def revoke(connection: Connection, token_id: str, now_us: int) -> list[str]:
    """The token and all that were made with it, and with those, end now. Returns those that had not yet."""
    family = select(tokens.c.id).where(tokens.c.id == token_id).cte("family", recursive=True)
    family = family.union(select(tokens.c.id).join(family, tokens.c.parent == family.c.id))
    ended = connection.execute(
        update(tokens)
        .where(tokens.c.id.in_(select(family.c.id)), tokens.c.revoked_us.is_(None))
        .values(revoked_us=now_us)
        .returning(tokens.c.id)
    )
    return list(ended.scalars())


def used(connection: Connection, token_id: str, now_us: int) -> None:
    connection.execute(update(tokens).where(tokens.c.id == token_id).values(last_used_us=now_us))


def forget(connection: Connection, before_us: int) -> None:
    """Removes those that ended before then. What was done with them stands in the audit record."""
    connection.execute(
        delete(tokens).where(or_(tokens.c.revoked_us < before_us, tokens.c.expires_us < before_us))
    )


_BEARER = (
    select(tokens, users.c.name.label("user_name"))
    .join(users, users.c.id == tokens.c.user_id)
    .where(tokens.c.digest == bindparam("of"))
)


def _token(row: Row[Any]) -> Token:
    return Token(
        id=row.id, name=row.name, scopes=tuple(Scope(each) for each in row.scopes.split()),
        project_id=row.project_id, created_us=row.created_us, created_by=row.parent or row.user_id,
        expires_us=row.expires_us, last_used_us=row.last_used_us, revoked_us=row.revoked_us,
    )  # fmt: skip
