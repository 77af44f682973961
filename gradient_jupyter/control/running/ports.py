"""Ports: what a job listens on, reached at the number that was asked for.

Where tasks use the machine's own network, a job that listens at ``internal`` is there already; where another
``external`` was asked for, a forwarder on loopback carries each connection over while the command runs. A
forwarder is nothing that is kept: it follows from the rows, and is made again by the next server. It opens
nothing that was closed: whoever reaches this machine's loopback reaches ``internal`` as well.

No two jobs that are not over may name the same number, because the second would find it taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection

from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources import port as wire
from gradient_jupyter.resources.errors import Conflict
from gradient_jupyter.resources.job import Job, Phase, State
from gradient_jupyter.resources.port import Port
from gradient_jupyter.store import jobs as rows

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_PIECE = 65536
#: How long a port that something else has is left alone.
_AGAIN_S = 60.0
#: Connections that one job may have at a time; each takes two descriptors. More are closed at once.
MOST = 100


def check(connection: Connection, principal: Principal, plane: Plane, ports: Sequence[Port]) -> None:
    """Raises where a new job cannot be reached at ``ports``."""
    if not ports:
        return
    wire.check(ports)
    if not plane.engine.capabilities().host_network:
        raise Conflict(
            "The engine here cannot let a job be reached at a port.",
            next="Send the job without --ports.",
            code="ports-not-here",
        )
    wanted = {number for port in ports for number in (port.external, port.internal)}
    for other in rows.with_ports(connection):
        for port in other.ports:
            if both := wanted & {port.external, port.internal}:
                yours = other.created_by == principal.user_id
                raise Conflict(
                    f"The port {min(both)} is taken by "
                    + (f"your job {other.id}, which is not over." if yours else "another job."),
                    next="Name another with --ports EXT:INT, or wait until that job is over.",
                    code="port-taken",
                )


class _Open(NamedTuple):
    """What is open for one attempt."""

    attempt: int
    servers: list[asyncio.Server]
    visitors: set[asyncio.Task[None]]
    refused: dict[int, str]
    """What does not lead to the job, by the number that was asked for, in words."""


class Forwarders:
    """All forwarders of this server. Lives on its loop."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._wanted: dict[str, Job] = {}
        self._open: dict[str, _Open] = {}
        self._bell = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._plane.changes.of_jobs = self.heard
        for job in await self._plane.database.read(rows.with_ports):
            self.heard(job.id, job)
        self._task = asyncio.create_task(self._follow(), name="ports")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for job_id in list(self._open):
            await self._shut(job_id)

    def heard(self, job_id: str, job: Job | None) -> None:
        """A job has changed; None: it is gone."""
        if job is not None and job.ports and (job.state, job.phase) == (State.RUNNING, Phase.RUNNING):
            self._wanted[job_id] = job
        elif self._wanted.pop(job_id, None) is None:
            return
        self._bell.set()

    async def _follow(self) -> None:
        while True:
            again = any(open_.refused for open_ in self._open.values())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), _AGAIN_S if again else None)
            self._bell.clear()
            for job_id, open_ in list(self._open.items()):
                wanted = self._wanted.get(job_id)
                if wanted is None or wanted.attempt != open_.attempt:
                    await self._shut(job_id)
            for job_id, job in list(self._wanted.items()):
                if job_id not in self._open or self._open[job_id].refused:
                    try:
                        await self._start(job)
                    except Exception:
                        log.exception("the ports of %s", job_id)

    async def _start(self, job: Job) -> None:
        """Opens what is not open yet, and has the job say what cannot be."""
        opened = self._open.get(job.id)
        if opened is None:
            opened = self._open[job.id] = _Open(job.attempt, [], set(), {})
            ports = [port for port in job.ports if port.external != port.internal]
        else:
            ports = [port for port in job.ports if port.external in opened.refused]
        for port in ports:
            try:
                opened.servers.append(await self._serve(port, opened.visitors))
                opened.refused.pop(port.external, None)
            except OSError as error:
                why = "something else uses it" if error.errno == errno.EADDRINUSE else error.strerror
                opened.refused[port.external] = f"{_begins(port)} {why}. It is tried again by itself."
        said = [text for text in job.warnings if text.startswith(tuple(map(_begins, ports)))]
        if said != list(opened.refused.values()):
            await self._plane.database.write(lambda connection: _warn(connection, job, opened.refused))

    async def _serve(self, port: Port, visitors: set[asyncio.Task[None]]) -> asyncio.Server:
        async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            with contextlib.closing(writer):
                if len(visitors) >= MOST:
                    return
                visitors.add(task)
                try:
                    # The job may not listen yet, or one side may be gone: the other sees it close.
                    with contextlib.suppress(OSError):
                        await _carry(port.internal, reader, writer)
                finally:
                    visitors.discard(task)

        return await asyncio.start_server(visit, _HOST, port.external, limit=_PIECE)

    async def _shut(self, job_id: str) -> None:
        opened = self._open.pop(job_id)
        for server in opened.servers:
            server.close()
        visitors = [*opened.visitors]
        for task in visitors:
            task.cancel()
        await asyncio.gather(*visitors, return_exceptions=True)


async def _carry(internal: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries bytes both ways until both sides have said all."""
    there_reader, there_writer = await asyncio.open_connection(_HOST, internal, limit=_PIECE)
    with contextlib.closing(there_writer):
        both = [
            asyncio.ensure_future(_pour(reader, there_writer)),
            asyncio.ensure_future(_pour(there_reader, writer)),
        ]
        try:
            await asyncio.gather(*both)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _begins(port: Port) -> str:
    return f"Port {port.external} does not lead to the job:"


def _warn(connection: Connection, job: Job, refused: dict[int, str]) -> None:
    """Has the job say what does not lead to it, once, and no longer than it is so."""
    fresh = rows.find(connection, job.id)
    if fresh is not None and not fresh.final and fresh.attempt == job.attempt:
        theirs = tuple(map(_begins, job.ports))
        others = [text for text in fresh.warnings if not text.startswith(theirs)]
        warnings = (*others, *refused.values())
        if warnings != fresh.warnings:
            rows.change(connection, fresh, warnings=warnings)
