"""Projects: made, listed, removed with everything in them."""

from __future__ import annotations

from sqlalchemy import Connection

from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.errors import Conflict
from gradient_jupyter.resources.job import Target
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.page import Projects
from gradient_jupyter.resources.project import Project
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import projects as rows
from gradient_jupyter.store import tracking as run_rows


async def create(plane: Plane, principal: Principal, name: str) -> Project:
    access.check_unbound(principal)

    def work(connection: Connection) -> Project:
        if rows.named(connection, principal.owner, name):
            raise Conflict(
                f"You have a project {name!r} already.", next="Choose another name.", code="name-taken"
            )
        return rows.create(connection, principal.owner, name, principal.user_id)

    return await plane.database.write(work)


async def rename(plane: Plane, principal: Principal, project_id: str, name: str) -> Project:
    """Another name; its id, and everything in it, stays."""

    def work(connection: Connection) -> Project:
        project = access.project(connection, principal, project_id, Role.ADMIN)
        if project.name == name:
            return project
        if rows.named(connection, project.owner, name):
            raise Conflict(
                f"There is a project {name!r} of the same owner.",
                next="Choose another name.",
                code="name-taken",
            )
        rows.rename(connection, project_id, name)
        audit.record(connection, "project.rename", "project", project_id, detail=f"{project.name} → {name}")
        return access.project(connection, principal, project_id, Role.ADMIN)

    return await plane.database.write(work)


async def get(plane: Plane, principal: Principal, project_id: str) -> Project:
    return await plane.database.read(
        lambda connection: access.project(connection, principal, project_id, Role.VIEWER)
    )


async def page(plane: Plane, principal: Principal, limit: int, before: int | None) -> Projects:
    items, following = await plane.database.read(
        lambda connection: rows.page(connection, principal.all, limit, before)
    )
    return Projects(items=tuple(items), next=None if following is None else str(following))


async def delete(plane: Plane, principal: Principal, project_id: str, with_jobs: bool) -> Project:
    """Marks the project, and its jobs when ``with_jobs``; they go one by one, running ones after a stop."""

    def work(connection: Connection) -> tuple[Project, list[str]]:
        project = access.project(connection, principal, project_id, Role.ADMIN)
        found = job_rows.ids_of_project(connection, project_id)
        if found and not with_jobs:
            raise Conflict(
                f"The project {project.name!r} holds {len(found)} {'job' if len(found) == 1 else 'jobs'}.",
                next="Delete them first, or all together: gradient projects delete --jobs",
                code="project-not-empty",
            )
        runs = run_rows.directories_of_project(connection, project_id, deleted=False)
        if runs and not with_jobs:
            raise Conflict(
                f"The project {project.name!r} holds {len(runs)} {'run' if len(runs) == 1 else 'runs'} that "
                "MLflow has logged.",
                next="Delete them all together: gradient projects delete --jobs",
                code="project-not-empty",
            )
        for job_id in found:
            job = job_rows.find(connection, job_id)
            if job is not None and job.target is not Target.DELETED:
                job_rows.change(connection, job, target=Target.DELETED)
        rows.mark_deleting(connection, project_id)
        told = f"{project.name}, with {len(found)} jobs"
        audit.record(connection, "project.delete", "project", project_id, detail=told)
        return access.project(connection, principal, project_id, Role.ADMIN), found

    project, found = await plane.database.write(work)
    for job_id in found:
        plane.reconciler.look_at(job_id)
    plane.reconciler.look_at_projects()
    return project
