"""The server itself: who it is, how it does, its document, its end."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated, Any

import msgspec

from gradient_jupyter import __version__
from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control import secrets
from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.errors import ServerError
from gradient_jupyter.resources.owner import User
from gradient_jupyter.resources.server import API, Hello, ServerInfo, proof
from gradient_jupyter.store import jobs as job_rows


class HelloQuery(Request, frozen=True, kw_only=True):
    nonce: Annotated[str, msgspec.Meta(min_length=16, max_length=128, pattern=r"^[A-Za-z0-9_-]+\Z")]


class Stopping(Resource, frozen=True, kw_only=True):
    stopping: bool = True


async def hello(call: Call) -> Hello:
    return Hello(version=__version__, api=API, proof=proof(call.host.token, call.query.nonce, call.host.url))


async def show(call: Call) -> ServerInfo:
    plane, host = call.plane, call.host
    engine = plane.engine.capabilities()
    jobs: int | None = None
    with contextlib.suppress(ServerError):  # this is where people look when something is wrong
        jobs = await plane.database.read(job_rows.live)
    isolation = "Nothing is started while it is read-only." if plane.read_only else engine.isolation
    return ServerInfo(
        version=__version__, api=API, mode=host.mode, pid=os.getpid(), install=plane.install,
        engine=engine.name, isolation=isolation, started_us=host.started_us,
        jobs=jobs, streams=host.streams, data=str(plane.layout.root),
        read_only=plane.read_only, warnings=await secrets.trouble(plane),
    )  # fmt: skip


async def whoami(call: Call) -> User:
    return User(id=call.principal.user_id, name=call.principal.name)


async def stop(call: Call) -> Stopping:
    call.host.stop()
    return Stopping()


def routes(document: Any) -> list[Route]:
    """``document`` is called for the OpenAPI document, which knows all routes."""

    async def openapi(call: Call) -> dict[str, Any]:
        found: dict[str, Any] = document()
        return found

    return [
        Route(
            "GET", "/hello", Right.PUBLIC, hello, query=HelloQuery, returns=Hello,
            summary="Proof that this is the server which wrote the runtime file",
        ),
        Route(
            "GET", "/server", Right.READ, show, returns=ServerInfo, summary="What the server says of itself"
        ),
        Route("GET", "/whoami", Right.READ, whoami, returns=User, summary="Who asks"),
        Route(
            "POST", "/server/stop", Right.OPERATE, stop, returns=Stopping, status=202,
            summary="Stop the server; jobs go on and are taken up by the next one",
        ),
        Route("GET", "/openapi.json", Right.READ, openapi, returns=dict[str, Any], summary="This document"),
    ]  # fmt: skip
