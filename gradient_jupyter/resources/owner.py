"""Who owns a thing, and what others may do with it.

``owner`` is ``user:<id>`` or ``group:<id>`` and stands on the Project; everything inside inherits it.
The id is ours: a person who is renamed keeps what is theirs, and whoever gets the old name does not
inherit it.
"""

from __future__ import annotations

import enum

from gradient_jupyter.resources.base import Request, Resource


class Role(enum.StrEnum):
    """What a member of a project may do; each includes the one before."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        return _ORDER[self] >= _ORDER[other]


_ORDER = {Role.VIEWER: 0, Role.MEMBER: 1, Role.ADMIN: 2}


class User(Resource, frozen=True, kw_only=True):
    """A person, as this server knows them. ``name`` is for showing and may change."""

    id: str
    name: str


class Member(Resource, frozen=True, kw_only=True):
    """One principal's (``user:…`` or ``group:…``) role in a project."""

    principal: str
    role: Role


class Membership(Resource, frozen=True, kw_only=True):
    """A member as a list shows them."""

    principal: str
    role: Role
    name: str
    """What a person calls them; may change."""
    owner: bool = False


class SetMember(Request, frozen=True, kw_only=True):
    role: Role = Role.MEMBER
