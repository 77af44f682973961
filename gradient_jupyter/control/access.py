"""Who asks, and what they may do. A thing that is not theirs does not exist for them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from gradient_jupyter.resources.errors import Forbidden, NotFound
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.project import Project
from gradient_jupyter.store import jobs, projects


@dataclass(frozen=True)
class Principal:
    """A person who was recognised, with everything that may own or share things on their behalf."""

    user_id: str
    name: str
    groups: tuple[str, ...] = ()
    attempt: tuple[str, int] | None = None
    """Job and attempt, when it is not the person who asks but a run of theirs."""

    @property
    def owner(self) -> str:
        """Who owns what this person makes without saying otherwise."""
        return f"user:{self.user_id}"

    @property
    def all(self) -> tuple[str, ...]:
        return (self.owner, *(f"group:{group}" for group in self.groups))


def project(connection: Connection, principal: Principal, project_id: str, role: Role) -> Project:
    found = projects.get(connection, principal.all, project_id)
    if found is None:
        raise _no_project(project_id)
    _require(connection, principal, project_id, role)
    return found


def place(connection: Connection, principal: Principal, project_id: str, role: Role) -> projects.Place:
    """The project as a new job in it needs it."""
    held = projects.role(connection, principal.all, project_id)
    if held is None:
        raise _no_project(project_id)
    _check(held, role)
    return projects.place(connection, project_id)


def job(connection: Connection, principal: Principal, job_id: str, role: Role) -> Job:
    found = jobs.get(connection, principal.all, job_id)
    if found is None:
        raise NotFound(
            f"There is no job {job_id!r}.", next="`gradient jobs list` shows yours.", code="no-such-job"
        )
    _require(connection, principal, found.project_id, role)
    return found


def _require(connection: Connection, principal: Principal, project_id: str, role: Role) -> None:
    _check(projects.role(connection, principal.all, project_id), role)


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
