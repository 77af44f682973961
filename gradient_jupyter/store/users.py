"""The people this server knows, under ids of its own."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.owner import User
from gradient_jupyter.store.tables import users


def ensure(connection: Connection, external: str, name: str) -> User:
    """The user whom the login calls ``external``, made when first seen; the name follows a rename."""
    row = connection.execute(select(users).where(users.c.external == external)).first()
    if row is None:
        user = User(id=new_id("u"), name=name)
        connection.execute(
            insert(users).values(id=user.id, name=name, external=external, created_us=now_us())
        )
        return user
    if row.name != name:
        connection.execute(update(users).where(users.c.id == row.id).values(name=name))
    return User(id=row.id, name=name)


def names(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """What those of these people are called whom this server knows, by their ids."""
    rows = connection.execute(select(users.c.id, users.c.name).where(users.c.id.in_(ids)))
    return {row.id: row.name for row in rows}


def named(connection: Connection, name: str) -> list[User]:
    """Everybody of that name."""
    rows = connection.execute(select(users).where(users.c.name == name).order_by(users.c.id))
    return [User(id=row.id, name=row.name) for row in rows]


def find(connection: Connection, external: str) -> User | None:
    """The user whom the login calls ``external``, if they were ever seen."""
    row = connection.execute(select(users).where(users.c.external == external)).first()
    return User(id=row.id, name=row.name) if row else None
