"""For whom a row exists: its owner, those its project is shared with, and whoever is bound to that
project."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, select

from gradient_jupyter.store.tables import members

#: How a principal begins that is no person: whoever may see that one project, and nothing else.
BOUND = "project:"


def shown(
    owner: ColumnElement[str], project_id: ColumnElement[str], principals: Sequence[str]
) -> ColumnElement[bool]:
    """The condition under which what bears this owner and belongs to this project exists for the
    principals."""
    bound = [each.removeprefix(BOUND) for each in principals if each.startswith(BOUND)]
    if bound:
        return project_id.in_(bound)
    shared = select(members.c.project_id).where(members.c.principal.in_(principals))
    return or_(owner.in_(principals), project_id.in_(shared))
