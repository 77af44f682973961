"""Machine types over HTTP."""

from __future__ import annotations

from gradient_jupyter.api.routes import Call, Right, Route
from gradient_jupyter.control import jobs
from gradient_jupyter.resources.page import MachineTypes


async def page(call: Call) -> MachineTypes:
    return MachineTypes(items=await jobs.machine_types(call.plane))


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/machine-types", Right.READ, page, returns=MachineTypes,
            summary="The sizes a job can ask for, and what is free of each",
        )
    ]  # fmt: skip
