"""All routes, as one tornado application."""

from __future__ import annotations

from functools import cache
from typing import Any

from tornado import web

from gradient_jupyter.api import (
    admin,
    artifacts,
    events,
    jobs,
    logs,
    machine_types,
    openapi,
    projects,
    server,
    snapshots,
)
from gradient_jupyter.api.endpoint import Door, Endpoint
from gradient_jupyter.api.routes import Host, Route
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.resources.server import API

PREFIX = f"/api/{API}"


def all_routes() -> list[Route]:
    """Every route there is. Nothing is served that is not in this list."""
    found: list[Route] = []

    @cache
    def document() -> dict[str, Any]:
        return openapi.document(found, PREFIX)

    for noun in (projects, jobs, logs, artifacts, snapshots, machine_types, events, admin):
        found += noun.routes()
    found += server.routes(document)
    return found


def application(plane: Plane, host: Host, door: Door) -> web.Application:
    by_path: dict[str, list[Route]] = {}
    for route in all_routes():
        by_path.setdefault(route.pattern, []).append(route)
    parts = {"plane": plane, "host": host, "door": door}
    return web.Application(
        [(PREFIX + pattern, Endpoint, {**parts, "routes": routes}) for pattern, routes in by_path.items()],
        default_handler_class=Endpoint,
        default_handler_args={**parts, "routes": ()},
        log_function=lambda handler: None,
    )
