"""The OpenAPI 3.1 document of our own face, generated from the routes and their types.

What is spoken in other dialects is described where those come from: MLflow's REST API in its documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gradient_jupyter import __version__
from gradient_jupyter.api.routes import NATIVE, Right, Route
from gradient_jupyter.resources.errors import ErrorAnswer

_REF = "#/components/schemas/{name}"


def document(all_routes: Sequence[Route]) -> dict[str, Any]:
    routes = [route for route in all_routes if route.face is NATIVE]
    types: list[Any] = [ErrorAnswer]
    for route in routes:
        types += [each for each in (route.query, route.body) if each is not None]
        if route.media == "application/json" and route.returns is not None:
            types.append(route.returns)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.address, {})[route.method.lower()] = _operation(route, by_type, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gradient for Jupyter",
            "version": __version__,
            "description": "Send the directory you are in away as a job, watch it, keep what it left. "
            f"This document covers {NATIVE.prefix}. /mlflow speaks MLflow's own REST API, /pushgateway takes "
            "Prometheus' text form; /health/live, /health/ready and /metrics stand at the root.",
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, by_type: dict[int, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{''.join(part.title() for part in _words(route.path))}",
        "summary": route.summary,
        "tags": [_words(route.path)[0]],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in route.names
        ],
        "responses": {str(route.status): _success(route, by_type), "default": _refusal(by_type)},
    }
    if route.right is Right.PUBLIC:
        operation["security"] = []
    for name, meaning in route.headers.items():
        operation["parameters"].append(
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": meaning,
                "schema": {"type": "string"},
            }
        )
    if route.query is not None:
        schema = components[by_type[id(route.query)]["$ref"].rpartition("/")[2]]
        for name, each in schema["properties"].items():
            operation["parameters"].append(
                {"name": name, "in": "query", "required": name in schema.get("required", []), "schema": each}
            )
    if route.body is not None:
        operation["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": by_type[id(route.body)]}},
        }  # fmt: skip
    elif route.sink is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/x-gradient-pack": {"schema": {"type": "string", "format": "binary"}}},
        }
    return operation


def _success(route: Route, by_type: dict[int, Any]) -> dict[str, Any]:
    if route.status == 204:
        return {"description": "Done."}
    if route.media != "application/json":
        schema: Any = {"type": "string"}
        if route.returns is bytes:
            schema["format"] = "binary"
    else:
        schema = by_type[id(route.returns)]
    return {"description": route.summary, "content": {route.media: {"schema": schema}}}


def _refusal(by_type: dict[int, Any]) -> dict[str, Any]:
    return {
        "description": "What went wrong, under a stable code, and the next step.",
        "content": {"application/json": {"schema": by_type[id(ErrorAnswer)]}},
    }


def _words(path: str) -> list[str]:
    cleaned = "".join(letter if letter.isalnum() else " " for letter in path)
    return cleaned.split()
