"""Projects over HTTP."""

from __future__ import annotations

from typing import Literal

from gradient_jupyter.api.routes import Call, Right, Route, cursor
from gradient_jupyter.control.people import projects
from gradient_jupyter.resources.base import Request
from gradient_jupyter.resources.page import PageQuery, Projects
from gradient_jupyter.resources.project import CreateProject, Project, UpdateProject


class DeleteQuery(Request, frozen=True, kw_only=True):
    jobs: Literal["delete"] | None = None


async def page(call: Call) -> Projects:
    return await projects.page(call.plane, call.principal, call.query.limit, cursor(call.query.cursor))


async def create(call: Call) -> Project:
    return await projects.create(call.plane, call.principal, call.body.name)


async def show(call: Call) -> Project:
    return await projects.get(call.plane, call.principal, call.path["project_id"])


async def update(call: Call) -> Project:
    return await projects.rename(call.plane, call.principal, call.path["project_id"], call.body.name)


async def delete(call: Call) -> Project:
    return await projects.delete(
        call.plane, call.principal, call.path["project_id"], with_jobs=call.query.jobs == "delete"
    )


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/projects", Right.READ, page, query=PageQuery, returns=Projects,
            summary="Projects you own or share, newest first",
        ),
        Route(
            "POST", "/projects", Right.WRITE, create, body=CreateProject, returns=Project, status=201,
            summary="Make a project",
        ),
        Route("GET", "/projects/{project_id}", Right.READ, show, returns=Project, summary="One project"),
        Route(
            "PATCH", "/projects/{project_id}", Right.WRITE, update, body=UpdateProject, returns=Project,
            summary="Give a project another name",
        ),
        Route(
            "DELETE", "/projects/{project_id}", Right.WRITE, delete, query=DeleteQuery, returns=Project,
            status=202, summary="Delete a project; with jobs=delete also every job in it",
        ),
    ]  # fmt: skip
