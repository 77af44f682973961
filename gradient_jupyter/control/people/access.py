"""Who asks, and what they may do. A thing that is not theirs does not exist for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from gradient_jupyter.resources.errors import Forbidden, NotFound
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.project import Project
from gradient_jupyter.resources.token import Scope
from gradient_jupyter.store import jobs, projects
from gradient_jupyter.store.sight import BOUND


@dataclass(frozen=True)
class Principal:
    """Whoever was recognised, with everything that may own or share things on their behalf, and what the
    token they came with lets them do."""

    user_id: str
    name: str
    groups: tuple[str, ...] = ()
    attempt: tuple[str, int] | None = None
    """Job and attempt, when it is not the person who asks but a run of theirs."""
    scopes: frozenset[Scope] = frozenset()
    """What the dispatcher lets them do. Of a run, routes say themselves what they open
    (``api.routes.Inside``)."""
    token_id: str | None = None
    """The token they came with, where it is one that a person made."""
    bound: str | None = None
    """The one project that token opens: for whoever bears it nothing else exists."""

    @property
    def owner(self) -> str:
        """Who owns what this person makes without saying otherwise.

        Through a token that opens one project that is the project: what is sent for it is compared with
        nothing else that the person has sent.
        """
        return f"user:{self.user_id}" if self.bound is None else f"{BOUND}{self.bound}"

    @property
    def all(self) -> tuple[str, ...]:
        """For whom things exist here: what none of these owns or shares is absent."""
        return self.persons if self.bound is None else (f"{BOUND}{self.bound}",)

    @property
    def persons(self) -> tuple[str, ...]:
        """Who has roles in projects. For what exists, ask ``all``."""
        return (f"user:{self.user_id}", *(f"group:{group}" for group in self.groups))


def project(connection: Connection, principal: Principal, project_id: str, role: Role) -> Project:
    found = projects.get(connection, principal.all, project_id)
    if found is None:
        raise _no_project(project_id)
    _require(connection, principal, project_id, role)
    return found


def place(connection: Connection, principal: Principal, project_id: str, role: Role) -> projects.Place:
    """The project as a new job in it needs it."""
    held = role_in(connection, principal, project_id)
    if held is None:
        raise _no_project(project_id)
    _check(held, role)
    return projects.place(connection, project_id)


def place_named(connection: Connection, principal: Principal, name: str, role: Role) -> projects.Place | None:
    """The project that this principal calls so; None when there is none and they may make it."""
    if principal.bound is None:
        return projects.place_named(connection, principal.owner, name)
    found = place(connection, principal, principal.bound, role)
    if found.name != name:
        raise _no_project(name)
    return found


def through(connection: Connection, principal: Principal, project_id: str, role: Role) -> str:
    """As whom somebody who has that role in the project has it: as themselves, or as a group they are in."""
    for person in principal.persons:
        held = projects.role(connection, [person], project_id)
        if held is not None and held.includes(role):
            return person
    raise _no_project(project_id)


def check_unbound(principal: Principal) -> None:
    """Raises for whoever may see one project only: nothing is made beside it."""
    if principal.bound is not None:
        raise Forbidden(
            f"This token opens the project {principal.bound} and nothing beside it.",
            next="Use a token that is not bound to a project.",
            code="token-bound",
        )


def job(connection: Connection, principal: Principal, job_id: str, role: Role) -> Job:
    found = jobs.get(connection, principal.all, job_id)
    if found is None:
        raise NotFound(
            f"There is no job {job_id!r}.", next="`gradient jobs list` shows yours.", code="no-such-job"
        )
    _require(connection, principal, found.project_id, role)
    return found


def _require(connection: Connection, principal: Principal, project_id: str, role: Role) -> None:
    _check(role_in(connection, principal, project_id), role)


def seen(connection: Connection, principal: Principal, project_ids: Sequence[str]) -> list[str]:
    """Those of the projects that exist for them: one look at the database, however many."""
    asked = [each for each in project_ids if principal.bound in (None, each)]
    return projects.of_these(connection, principal.persons, asked) if asked else []


def role_in(connection: Connection, principal: Principal, project_id: str) -> Role | None:
    """What they may do in the project; None when it does not exist for them."""
    if principal.bound not in (None, project_id):
        return None
    return projects.role(connection, principal.persons, project_id)


def _check(held: Role | None, role: Role) -> None:
    if held is None or not held.includes(role):
        raise Forbidden(
            f"That takes the role {role} in this project; yours is {held}.",
            next="Ask one of the project's admins.",
        )


def _no_project(project_id: str) -> NotFound:
    return NotFound(
        f"There is no project {project_id!r}.",
        next="`gradient projects list` shows yours.",
        code="no-such-project",
    )
