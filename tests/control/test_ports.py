"""A port that something else has: said once, tried again, and said no longer than it is so."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sending import ANN, send

from gradient_jupyter.control import jobs
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running import ports
from gradient_jupyter.control.running.ports import Forwarders
from gradient_jupyter.resources.job import CreateJob, Job, Phase, State
from gradient_jupyter.resources.port import Port
from gradient_jupyter.store import jobs as rows

PATIENCE_S = 60


async def running(plane: Plane, *external: int) -> Job:
    wanted = tuple(Port(external=number, internal=n, scheme="http") for n, number in enumerate(external, 1))
    asked = CreateJob(command=("true",), snapshot=await send(plane, {}), project="p", ports=wanted)
    made = await jobs.submit(plane, ANN, asked, None)

    def work(connection):
        placed = rows.change(
            connection, made, state=State.PROVISIONING, phase=Phase.STARTING, attempt=1,
            warnings=("Something else.",),
        )  # fmt: skip
        return rows.change(connection, placed, state=State.RUNNING, phase=Phase.RUNNING)

    return await plane.database.write(work)


async def warnings(plane: Plane, job: Job) -> tuple[str, ...]:
    found = await plane.database.read(lambda connection: rows.find(connection, job.id))
    assert found is not None
    return found.warnings


@pytest.mark.parametrize("stays", [True, False])
def test_each_server_finds_it_taken_and_the_job_says_so_once(with_plane, stays: bool) -> None:
    async def work(plane: Plane) -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        job = await running(plane, number)
        for start in range(3):
            if start == 2 and not stays:
                taken.close()
            forwarders = Forwarders(plane)
            found = await plane.database.read(rows.with_ports)
            (job,) = found
            await forwarders._start(job)
            await forwarders._start(job)
            await forwarders.close()
        said = await warnings(plane, job)
        told = f"Port {number} does not lead to the job: something else uses it. It is tried again by itself."
        assert said == ("Something else.", *((told,) if stays else ()))
        taken.close()

    with_plane(work)


def test_one_that_becomes_free_leads_to_the_job_from_then_on(with_plane, monkeypatch) -> None:
    monkeypatch.setattr(ports, "_AGAIN_S", 0.01)

    async def work(plane: Plane) -> None:
        taken, other = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        numbers = [one.getsockname()[1] for one in (taken, other)]
        job = await running(plane, *numbers)
        await plane.forwarders.start()
        while len(await warnings(plane, job)) < 3:
            await asyncio.sleep(0.005)
        taken.close()
        while len(said := await warnings(plane, job)) == 3:
            await asyncio.sleep(0.005)
        assert said[0] == "Something else." and str(numbers[1]) in said[1] and len(said) == 2
        socket.create_connection(("127.0.0.1", numbers[0]), PATIENCE_S).close()
        other.close()

    with_plane(work)
