"""All routes, as one application for whatever speaks tornado's ``HTTPServerConnectionDelegate``."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from typing import Any, cast

from tornado import httputil

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
from gradient_jupyter.api.endpoint import Endpoint, Exchange
from gradient_jupyter.api.routes import NATIVE, ROOT, Face, Host, Resource, Route
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


class Api(httputil.HTTPServerConnectionDelegate):
    """Finds whose turn it is. What lies behind a face's prefix is looked for among that face's routes only;
    an address without a placeholder is found by itself, without going through them."""

    def __init__(self, plane: Plane, host: Host, door: Door) -> None:
        self.plane = plane
        self.host = host
        self.door = door
        self.running: set[asyncio.Task[None]] = set()
        """Requests that are being answered."""
        by_path: dict[str, list[Route]] = {}
        for route in all_routes():
            by_path.setdefault(route.pattern, []).append(route)
        self._fixed: dict[str, Resource] = {}
        self._patterns: dict[Face, list[tuple[re.Pattern[str], Resource]]] = {face: [] for face in FACES}
        for pattern, routes in by_path.items():
            first = routes[0]
            found = Resource(first.face, {route.method: route for route in routes})
            if first.names:
                self._patterns[first.face].append((re.compile(pattern), found))
            else:
                self._fixed[first.address] = found

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        return Endpoint(self, cast("Exchange", request_conn))

    def find(self, path: str) -> tuple[Resource, dict[str, str]]:
        """What is at this address, and the placeholders' values as they stand there, percent-encoded."""
        if (found := self._fixed.get(path)) is not None:
            return found, {}
        for face in FACES:
            if face is not ROOT and not path.startswith(f"{face.prefix}/"):
                continue
            for pattern, found in self._patterns[face]:
                if (match := pattern.fullmatch(path)) is not None:
                    return found, match.groupdict()
            if face is not ROOT:
                return Resource(face, {}), {}
        return Resource(NATIVE, {}), {}
