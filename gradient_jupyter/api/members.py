"""Who shares a project, over HTTP."""

from __future__ import annotations

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.people import members
from gradient_jupyter.resources.owner import SetMember
from gradient_jupyter.resources.page import Members
from gradient_jupyter.resources.project import Project


async def page(call: Call) -> Members:
    return await members.page(call.plane, call.principal, call.path["project_id"])


async def put(call: Call) -> Project:
    project = await members.put(
        call.plane, call.principal, call.path["project_id"], call.path["principal"], call.body.role
    )
    call.host.watch.look_now()  # a lesser role than before may be no role for what is open
    return project


async def remove(call: Call) -> Members:
    left = await members.remove(call.plane, call.principal, call.path["project_id"], call.path["principal"])
    call.host.watch.look_now()
    return left


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/projects/{project_id}/members", Right.READ, page, returns=Members,
            summary="Who shares a project, its owner first",
        ),
        Route(
            "PUT", "/projects/{project_id}/members/{principal}", Right.ACCESS, put, body=SetMember,
            returns=Project,
            summary="Make user:ID, group:NAME or a person by their name a member, or change their role",
        ),
        Route(
            "DELETE", "/projects/{project_id}/members/{principal}", Right.ACCESS, remove, returns=Members,
            summary="End a membership; the owner's cannot be ended",
        ),
    ]  # fmt: skip
