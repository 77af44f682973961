"""The server itself: who it is, how it does, its document, its end."""

from __future__ import annotations

import contextlib
import os
import secrets
from functools import partial
from typing import Annotated, Any

import msgspec

from gradient_jupyter import __version__
from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.people import audit
from gradient_jupyter.control.vault.secrets import trouble
from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.errors import GradientError, ServerError
from gradient_jupyter.resources.owner import User
from gradient_jupyter.resources.server import API, Hello, ServerInfo, proof
from gradient_jupyter.resources.token import Scope
from gradient_jupyter.store import jobs as job_rows
from gradient_jupyter.store import tokens as token_rows


class HelloQuery(Request, frozen=True, kw_only=True):
    nonce: Annotated[str, msgspec.Meta(min_length=16, max_length=128, pattern=r"^[A-Za-z0-9_-]+\Z")]
    token: Annotated[str, msgspec.Meta(max_length=40, pattern=r"^tk[0-9a-z]{12}\Z")] | None = None
    """The id of the token to prove knowledge of. Default: the one in the runtime file."""


class Stopping(Resource, frozen=True, kw_only=True):
    stopping: bool = True


async def hello(call: Call) -> Hello:
    key = call.host.token
    if (named := call.query.token) is not None:
        known = await call.plane.database.read(lambda connection: token_rows.digest_of(connection, named))
        # Of a token that is none there is an answer all the same, which proves nothing and tells nothing.
        key = known or secrets.token_hex(32)
    return Hello(version=__version__, api=API, proof=proof(key, call.query.nonce, call.host.url))


async def show(call: Call) -> ServerInfo:
    plane, host = call.plane, call.host
    engine = plane.engine.capabilities()
    jobs: int | None = None
    with contextlib.suppress(ServerError):  # this is where people look when something is wrong
        jobs = await plane.database.read(job_rows.live)
    isolation = "Nothing is started while it is read-only." if plane.read_only else engine.isolation
    operator = Scope.OPERATE in call.principal.scopes
    return ServerInfo(
        version=__version__, api=API, mode=host.mode, pid=os.getpid() if operator else 0,
        install=plane.install, engine=engine.name, isolation=isolation, started_us=host.started_us,
        jobs=jobs if operator else None, streams=host.streams if operator else 0,
        data=str(plane.layout.root) if operator else "",
        read_only=plane.read_only, warnings=await trouble(plane) if operator else (),
    )  # fmt: skip


async def whoami(call: Call) -> User:
    return User(id=call.principal.user_id, name=call.principal.name)


async def stop(call: Call) -> Stopping:
    if not call.plane.read_only:
        # It ends also when its disk takes nothing any more.
        with contextlib.suppress(GradientError):
            await call.plane.database.write(partial(audit.record, action="server.stop", noun="server"))
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
