"""Whether a request is let in, and looked at again while it lasts.

In this order, and before anything else is looked at: the Host names us, the Origin is ours, the token is
known (``door``), the route exists, the token allows it, its address and parameters are of their types.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import unquote

from sqlalchemy import Connection
from tornado.httputil import HTTPHeaders

from gradient_jupyter.api import values
from gradient_jupyter.api.door import Door, bearer, check_right
from gradient_jupyter.api.routes import Call, Host, Inside, Resource, Right, Route
from gradient_jupyter.control import context
from gradient_jupyter.control.context import Asking
from gradient_jupyter.control.people import access
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.people.granted import TokenEnded
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running import attempts, tokens
from gradient_jupyter.resources.errors import Forbidden, NotAllowed, Unauthenticated
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store.database import refusal

#: What these open changes rows, so it is refused while nothing may be changed.
_CHANGING = frozenset({Right.WRITE, Right.ACCESS})


class Addresses(Protocol):
    """What all requests have in common."""

    plane: Plane
    host: Host
    door: Door
    running: set[asyncio.Task[None]]

    def find(self, path: str) -> tuple[Resource, dict[str, str]]: ...


@dataclass(slots=True)
class Asked:
    """A request's head."""

    method: str
    path: str
    parameters: str
    headers: HTTPHeaders
    found: Resource
    placeholders: dict[str, str]
    """Their values as they stand in the address."""
    asking: Asking
    """Who asks: until somebody is known, where it comes from."""


async def admit(api: Addresses, asked: Asked) -> tuple[Route, Call]:
    """What is to be done, for whom. Raises what speaks against it."""
    headers, routes = asked.headers, asked.found.routes
    api.door.check_host(headers)
    route = routes.get(asked.method)
    if route is not None and route.right is Right.PUBLIC:
        principal = Principal(user_id="", name="anonymous")
    else:
        principal = await _recognise(api, asked)
    if not routes:
        raise asked.found.face.unknown(asked.path)
    if route is None:
        raise NotAllowed(
            f"{asked.method} does not exist here.", next=f"Here are: {', '.join(sorted(routes))}."
        )
    if principal.attempt is None and route.right is not Right.PUBLIC:
        check_right(principal, route.right)
    if route.method != "GET" and route.right in _CHANGING and api.plane.read_only:
        raise refusal(api.plane.read_only)
    path = values.of_placeholders(asked.placeholders)
    if principal.attempt is not None and not (
        route.inside is Inside.HANDLER
        or (route.inside is Inside.ITS_JOB and path.get("job_id") == principal.attempt[0])
    ):
        raise Forbidden(
            "A running job's own token does not open this.",
            next=f"It opens $GRADIENT_JOB_URL, the job {principal.attempt[0]} itself.",
            code="attempt-token",
        )
    call = Call(
        plane=api.plane,
        host=api.host,
        principal=principal,
        path=path,
        headers=headers,
        query=values.of_parameters(route, asked.parameters),
    )
    return route, call


async def check_still(api: Addresses, asked: Asked, route: Route, call: Call) -> None:
    """Raises when whoever asked would not be let in any more."""
    principal = await _whose(api, asked)
    if principal.attempt is not None:
        return
    check_right(principal, route.right)
    if route.still is not None:
        await route.still(replace(call, principal=principal))
    path = call.path

    def look(connection: Connection) -> None:
        # What was deleted meanwhile ends in its own way.
        if (job_id := path.get("job_id")) and job_rows.find(connection, job_id) is not None:
            access.job(connection, principal, job_id, Role.VIEWER)
        if (project_id := path.get("project_id")) and project_rows.exists(connection, project_id):
            access.project(connection, principal, project_id, Role.VIEWER)

    await api.plane.database.read(look)


async def _recognise(api: Addresses, asked: Asked) -> Principal:
    """Whose request it is. From now on whatever is logged and recorded says so."""
    try:
        principal = await _whose(api, asked)
    except Unauthenticated as error:
        known = asked.asking
        if isinstance(error, TokenEnded):
            _ask_as(asked, user_id=error.user_id, token_id=error.token_id)
            known = asked.asking
        if error.code != "no-token":
            api.plane.refusals.count(known, error.code)
        raise
    job_id, attempt = principal.attempt or ("", 0)
    _ask_as(
        asked,
        user_id=principal.user_id,
        token_id=principal.token_id or "",
        attempt=f"{job_id}-{attempt}" if job_id else "",
    )
    return principal


async def _whose(api: Addresses, asked: Asked) -> Principal:
    """Whom the token stands for. It comes in a header, but for the one face whose callers know addresses
    only."""
    if asked.found.face.token_in:
        token = values.of_placeholders(asked.placeholders).get(asked.found.face.token_in, "")
        return await attempts.principal(api.plane, token, tokens.PUSH_PREFIX)
    return await api.door.principal(api.plane, bearer(asked.headers))


def _ask_as(asked: Asked, *, user_id: str, token_id: str, attempt: str = "") -> None:
    asked.asking = Asking(
        request_id=asked.asking.request_id, address=asked.asking.address, user_id=user_id, token_id=token_id,
        attempt=attempt, job_id=unquote(asked.placeholders.get("job_id", "")),
    )  # fmt: skip
    context.enter(asked.asking)
