"""Secrets over HTTP: names go out, values only come in."""

from __future__ import annotations

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.vault import secrets
from gradient_jupyter.resources.secret import Rotated, Scope, Secret, Secrets, SetSecret, check_value


def _of(call: Call) -> tuple[Scope, str]:
    if (project_id := call.path.get("project_id")) is not None:
        return Scope.PROJECT, project_id
    if (team := call.path.get("team")) is not None:
        return Scope.TEAM, team
    return Scope.USER, ""


async def page(call: Call) -> Secrets:
    return await secrets.page(call.plane, call.principal, *_of(call))


async def put(call: Call) -> Secret:
    value = check_value(call.body.value)
    call.body = None
    return await secrets.put(call.plane, call.principal, *_of(call), call.path["name"], value)


async def delete(call: Call) -> None:
    await secrets.delete(call.plane, call.principal, *_of(call), call.path["name"])


async def rotate(call: Call) -> Rotated:
    return await secrets.rotate(call.plane)


def routes() -> list[Route]:
    found = []
    for base, whose in (
        ("/secrets/user", "your own"),
        ("/projects/{project_id}/secrets", "of a project"),
        ("/teams/{team}/secrets", "of a team of yours"),
    ):
        found += [
            Route(
                "GET", base, Right.READ, page, returns=Secrets,
                summary=f"The names of the secrets {whose}; no value ever comes out again",
            ),
            Route(
                "PUT", base + "/{name}", Right.WRITE, put, body=SetSecret, returns=Secret,
                summary=f"Set a secret {whose}, in place of the one of that name",
            ),
            Route(
                "DELETE", base + "/{name}", Right.WRITE, delete, status=204,
                summary=f"Delete a secret {whose}; jobs that wait for it fail",
            ),
        ]  # fmt: skip
    found.append(
        Route(
            "POST", "/admin/secrets/rotate", Right.OPERATE, rotate, returns=Rotated,
            summary="Make a new key and encrypt every secret under it",
        )
    )  # fmt: skip
    return found
