"""Projects and their members. Every query says for whom it asks: what is not theirs is absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.engine import Row

from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.event import Action
from gradient_jupyter.resources.owner import Member, Role
from gradient_jupyter.resources.project import Project
from gradient_jupyter.store import events
from gradient_jupyter.store.sight import shown
from gradient_jupyter.store.tables import jobs, members, projects


def visible(principals: Sequence[str]) -> ColumnElement[bool]:
    """The condition under which a row of ``projects`` exists for these principals."""
    return shown(projects.c.owner, projects.c.id, principals)


def create(connection: Connection, owner: str, name: str, created_by: str) -> Project:
    project = Project(id=new_id("pr"), name=name, owner=owner, created_by=created_by, created_us=now_us())
    connection.execute(
        insert(projects).values(
            id=project.id, owner=owner, name=name, created_by=created_by, created_us=project.created_us
        )
    )
    events.append(connection, owner, project.id, "project", project.id, Action.CREATED, project)
    return project


def get(connection: Connection, principals: Sequence[str], project_id: str) -> Project | None:
    row = connection.execute(_select().where(visible(principals), projects.c.id == project_id)).first()
    return _project(connection, row) if row else None


def exists(connection: Connection, project_id: str) -> bool:
    """For whomever."""
    return connection.execute(select(projects.c.seq).where(projects.c.id == project_id)).first() is not None


def named(connection: Connection, owner: str, name: str) -> Project | None:
    row = connection.execute(_select().where(projects.c.owner == owner, projects.c.name == name)).first()
    return _project(connection, row) if row else None


def page(
    connection: Connection, principals: Sequence[str], limit: int, before: int | None
) -> tuple[list[Project], int | None]:
    """Newest first, and the cursor of what follows."""
    query = _select().where(visible(principals)).order_by(projects.c.seq.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(projects.c.seq < before)
    rows = connection.execute(query).all()
    following = rows[limit - 1].seq if len(rows) > limit else None
    return [_project(connection, row) for row in rows[:limit]], following


def role(connection: Connection, principals: Sequence[str], project_id: str) -> Role | None:
    """The strongest role these principals have in the project; None when it does not exist for them."""
    owner = connection.execute(select(projects.c.owner).where(projects.c.id == project_id)).scalar()
    if owner in principals:
        return Role.ADMIN
    found = connection.execute(
        select(members.c.role).where(members.c.project_id == project_id, members.c.principal.in_(principals))
    ).scalars()
    strongest: Role | None = None
    for name in found:
        if strongest is None or Role(name).includes(strongest):
            strongest = Role(name)
    return strongest


def of_these(connection: Connection, principals: Sequence[str], project_ids: Sequence[str]) -> list[str]:
    """Those that exist for the principals."""
    query = select(projects.c.id).where(projects.c.id.in_(project_ids), visible(principals))
    return list(connection.execute(query).scalars())


def rename(connection: Connection, project_id: str, name: str) -> None:
    """The name is free: of one owner's projects no two have the same."""
    connection.execute(update(projects).where(projects.c.id == project_id).values(name=name))
    _changed(connection, project_id)


def mark_deleting(connection: Connection, project_id: str) -> None:
    connection.execute(update(projects).where(projects.c.id == project_id).values(deleting=True))
    _changed(connection, project_id)


def set_member(connection: Connection, project_id: str, principal: str, role: Role) -> None:
    remove = delete(members).where(members.c.project_id == project_id, members.c.principal == principal)
    connection.execute(remove)
    connection.execute(insert(members).values(project_id=project_id, principal=principal, role=role.value))
    _changed(connection, project_id)


def remove_member(connection: Connection, project_id: str, principal: str) -> None:
    connection.execute(
        delete(members).where(members.c.project_id == project_id, members.c.principal == principal)
    )
    _changed(connection, project_id)


def erase_if_empty(connection: Connection, project_id: str) -> bool:
    """Removes a project that is being deleted once its last job is gone."""
    row = connection.execute(
        select(projects.c.owner).where(projects.c.id == project_id, projects.c.deleting.is_(True))
    ).first()
    if row is None or connection.execute(_ANY_JOB, {"project": project_id}).first():
        return False
    connection.execute(delete(projects).where(projects.c.id == project_id))
    events.append(connection, row.owner, project_id, "project", project_id, Action.DELETED, None)
    return True


def deleting(connection: Connection) -> list[str]:
    """The projects whose removal is under way."""
    return list(connection.execute(select(projects.c.id).where(projects.c.deleting.is_(True))).scalars())


def next_number(connection: Connection, project_id: str) -> int:
    """The number of the project's next job; each is given out once."""
    return int(connection.execute(_NUMBER, {"project": project_id}).scalar_one())


class Place(msgspec.Struct, frozen=True):
    """As much of a project as a new job in it needs; what it holds is not counted."""

    id: str
    name: str
    owner: str
    deleting: bool


def place(connection: Connection, project_id: str) -> Place:
    """Of a project that exists."""
    return Place(*connection.execute(_PLACE, {"project": project_id}).one())


def place_named(connection: Connection, owner: str, name: str) -> Place | None:
    row = connection.execute(_PLACE_NAMED, {"of": owner, "called": name}).first()
    return Place(*row) if row else None


_COLUMNS = (projects.c.id, projects.c.name, projects.c.owner, projects.c.deleting)
_PLACE = select(*_COLUMNS).where(projects.c.id == bindparam("project"))
_PLACE_NAMED = select(*_COLUMNS).where(
    projects.c.owner == bindparam("of"), projects.c.name == bindparam("called")
)
_ANY_JOB = select(jobs.c.seq).where(jobs.c.project_id == bindparam("project")).limit(1)
_NUMBER = (
    update(projects)
    .where(projects.c.id == bindparam("project"))
    .values(last_number=projects.c.last_number + 1)
    .returning(projects.c.last_number)
)


def _select() -> Select[Any]:
    count = select(func.count()).where(jobs.c.project_id == projects.c.id).scalar_subquery()
    return select(projects, count.label("jobs"))


def _project(connection: Connection, row: Row[Any]) -> Project:
    found = connection.execute(select(members).where(members.c.project_id == row.id))
    return Project(
        id=row.id, name=row.name, owner=row.owner, created_by=row.created_by, created_us=row.created_us,
        jobs=row.jobs, deleting=row.deleting,
        members=tuple(Member(principal=each.principal, role=Role(each.role)) for each in found),
    )  # fmt: skip


def _changed(connection: Connection, project_id: str) -> None:
    row = connection.execute(_select().where(projects.c.id == project_id)).one()
    events.append(
        connection, row.owner, project_id, "project", project_id, Action.CHANGED, _project(connection, row)
    )
