"""All routes, as one tornado application."""

from __future__ import annotations

from functools import cache
from typing import Any

from tornado import web

from gradient_jupyter.api import (
    admin,
    artifacts,
    datasets,
    events,
    health,
    jobs,
    logs,
    machine_types,
    members,
    metrics,
    mlflow,
    openapi,
    projects,
    pushgateway,
    secrets,
    server,
    snapshots,
    tokens,
)
from gradient_jupyter.api.door import Door
from gradient_jupyter.api.endpoint import Endpoint
from gradient_jupyter.api.routes import NATIVE, ROOT, Face, Host, Route
from gradient_jupyter.control.plane import Plane

#: Every dialect that is spoken here. What lies under a prefix and is no route is refused in its words.
FACES: tuple[Face, ...] = (NATIVE, pushgateway.FACE, mlflow.MLFLOW, ROOT)


def all_routes() -> list[Route]:
    """Every route there is. Nothing is served that is not in this list."""
    found: list[Route] = []

    @cache
    def document() -> dict[str, Any]:
        return openapi.document(found)

    nouns = (
        projects, members, jobs, logs, artifacts, metrics, snapshots, machine_types, events, admin, secrets,
        datasets, tokens, health, pushgateway,
    )  # fmt: skip
    for noun in nouns:
        found += noun.routes()
    found += server.routes(document)
    found += mlflow.routes()
    return found


def application(plane: Plane, host: Host, door: Door) -> web.Application:
    by_path: dict[str, list[Route]] = {}
    for route in all_routes():
        by_path.setdefault(route.pattern, []).append(route)
    parts = {"plane": plane, "host": host, "door": door}
    # A face's paths lie behind its prefix: none is looked for among those of another.
    handlers: list[Any] = []
    for face in FACES:
        behind: list[Any] = [
            (pattern, Endpoint, {**parts, "routes": routes, "face": face})
            for pattern, routes in by_path.items()
            if routes[0].face is face
        ]
        if face is ROOT:  # it has no prefix: nothing is its own but these very paths
            handlers += behind
            continue
        if face is not NATIVE:
            behind.append((f"{face.prefix}/.*", Endpoint, {**parts, "routes": (), "face": face}))
        handlers.append((f"{face.prefix}/.*", behind))
    return web.Application(
        handlers,
        default_handler_class=Endpoint,
        default_handler_args={**parts, "routes": (), "face": NATIVE},
        log_function=lambda handler: None,
    )
