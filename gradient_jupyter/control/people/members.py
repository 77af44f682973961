"""Who shares a project, and as what.

Its owner is always its admin and stands in no list that could be changed, so no project is ever left without
one. A person is named by their id or by their name here; a group by its name, and only by somebody who is in
it: nobody else knows that it exists."""

from __future__ import annotations

from sqlalchemy import Connection

from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.errors import Conflict, NotFound
from gradient_jupyter.resources.owner import Membership, Role
from gradient_jupyter.resources.page import Members
from gradient_jupyter.resources.project import Project
from gradient_jupyter.store import projects as rows
from gradient_jupyter.store import users

#: Of one project; its members are part of each of its events.
_MOST = 500


async def page(plane: Plane, principal: Principal, project_id: str) -> Members:
    """The owner first, then everybody else by principal."""

    def work(connection: Connection) -> Members:
        project = access.project(connection, principal, project_id, Role.VIEWER)
        others = sorted(project.members, key=lambda member: member.principal)
        listed = [(project.owner, Role.ADMIN), *((each.principal, each.role) for each in others)]
        names = users.names(connection, [who.removeprefix("user:") for who, _ in listed])
        return Members(
            items=tuple(
                Membership(
                    principal=who, role=role, owner=who == project.owner,
                    name=names.get(who.removeprefix("user:"), "") or who.partition(":")[2],
                )
                for who, role in listed
            )
        )  # fmt: skip

    return await plane.database.read(work)


async def put(plane: Plane, principal: Principal, project_id: str, who: str, role: Role) -> Project:
    """Makes somebody a member, or changes what a member may do."""

    def work(connection: Connection) -> Project:
        project = access.project(connection, principal, project_id, Role.ADMIN)
        member = _resolve(connection, principal, project, who)
        _refuse_owner(project, member)
        known = {each.principal: each.role for each in project.members}
        if known.get(member) is role:
            return project
        if member not in known and len(known) >= _MOST:
            raise Conflict(
                f"A project has at most {_MOST} members.", next="Add a group.", code="too-many-members"
            )
        rows.set_member(connection, project_id, member, role)
        audit.record(connection, "member.set", "project", project_id, detail=f"{member} as {role}")
        return access.project(connection, principal, project_id, Role.ADMIN)

    return await plane.database.write(work)


async def remove(plane: Plane, principal: Principal, project_id: str, who: str) -> Members:
    """Ends a membership. Raises ``NotFound`` where there is none."""

    def work(connection: Connection) -> None:
        project = access.project(connection, principal, project_id, Role.ADMIN)
        member = _resolve(connection, principal, project, who)
        _refuse_owner(project, member)
        if all(each.principal != member for each in project.members):
            raise _no_member(who)
        rows.remove_member(connection, project_id, member)
        audit.record(connection, "member.remove", "project", project_id, detail=member)

    await plane.database.write(work)
    try:
        return await page(plane, principal, project_id)
    except NotFound:
        return Members(items=())  # who took themselves out sees it no more


def _resolve(connection: Connection, principal: Principal, project: Project, who: str) -> str:
    """The principal that ``who`` names: ``user:<id>``, ``group:<name>`` or a person's name."""
    known = {project.owner, *(each.principal for each in project.members)}
    if who in known:
        return who
    kind, _, rest = who.partition(":")
    if kind == "group" and rest:
        if who in principal.all:
            return who
        raise NotFound(
            f"There is no group {rest[:80]!r} that you are in.",
            next="Only a group of yours can be made a member.",
            code="no-such-group",
        )
    if kind == "user" and rest:
        if not users.names(connection, [rest]):
            raise _no_person(who)
        return who
    found = users.named(connection, who)
    if not found:
        raise _no_person(who)
    if len(found) > 1:
        listed = ", ".join(f"user:{user.id}" for user in found[:10])
        raise Conflict(
            f"Several people are called {who[:80]!r} here.",
            next=f"Name one by their id: {listed}.",
            code="ambiguous-name",
        )
    return f"user:{found[0].id}"


def _refuse_owner(project: Project, member: str) -> None:
    if member == project.owner:
        raise Conflict(
            f"{member} owns the project, and stays its admin.",
            next="Name somebody else.",
            code="owner-stays",
        )


def _no_person(who: str) -> NotFound:
    return NotFound(
        f"This server knows nobody called {who[:80]!r}.",
        next="People are known here once they have used it; user:ID and group:NAME name others.",
        code="no-such-user",
    )


def _no_member(who: str) -> NotFound:
    return NotFound(
        f"{who[:80]!r} is no member of this project.",
        next="gradient projects members list PROJECT shows who is.",
        code="no-such-member",
    )
