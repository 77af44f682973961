"""Tokens over HTTP: made, listed, revoked by those they stand for."""

from __future__ import annotations

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control.people import granted
from gradient_jupyter.resources.token import CreatedToken, CreateToken, Tokens


async def page(call: Call) -> Tokens:
    return await granted.page(call.plane, call.principal)


async def create(call: Call) -> CreatedToken:
    return await granted.create(call.plane, call.principal, call.body)


async def revoke(call: Call) -> None:
    await granted.revoke(call.plane, call.principal, call.path["token_id"])
    call.host.watch.look_now()


def routes() -> list[Route]:
    return [
        Route("GET", "/tokens", Right.ACCESS, page, returns=Tokens, summary="Your tokens, newest first"),
        Route(
            "POST", "/tokens", Right.ACCESS, create, body=CreateToken, returns=CreatedToken, status=201,
            summary="Make a token for a program of yours; it is shown in this answer only",
        ),
        Route(
            "DELETE", "/tokens/{token_id}", Right.ACCESS, revoke, status=204,
            summary="Revoke a token and what was made with it; what they have open is cut",
        ),
    ]  # fmt: skip
