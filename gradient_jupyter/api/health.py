"""For those who watch the server itself: is it there, can it work, its figures.

``/health/live`` and ``/health/ready`` need no token and tell one word. They are two routes among all others:
what lies beside or below them is refused like any other address.
"""

from __future__ import annotations

import asyncio
import shutil

from gradient_jupyter import __version__
from gradient_jupyter.api.meter import Now
from gradient_jupyter.api.routes import ROOT, Call, Connection, Right, Route
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.store import jobs as job_rows

#: An answer is good for so long: these addresses are open to everybody, and asking costs something.
_KEPT_S = 5.0
_PATIENCE_S = 10.0


class Word:
    """A short text with a status."""

    def __init__(self, status: int, text: str | bytes, media: str = "text/plain; charset=utf-8") -> None:
        self._status = status
        self._text = text if isinstance(text, bytes) else f"{text}\n".encode()
        self._media = media

    async def write(self, to: Connection) -> None:
        await to.begin(self._status, {"Content-Type": self._media, "Content-Length": str(len(self._text))})
        await to.send(self._text)


class Readiness:
    """Whether work can be done now: the database takes writes, the engine answers. Asked once for all."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._known: tuple[float, bool] | None = None
        self._turn = asyncio.Lock()

    async def ready(self) -> bool:
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if self._known is None or now >= self._known[0] + _KEPT_S:
                self._known = now, await self._look()
            return self._known[1]

    async def _look(self) -> bool:
        if self._plane.read_only:
            return False
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._plane.database.write(lambda connection: None)  # takes the lock, writes nothing
                return bool(await self._plane.engine.nodes())
        except Exception:
            return False


async def live(call: Call) -> Word:
    return Word(200, "live")


async def ready(call: Call) -> Word:
    return Word(200, "ready") if await call.host.readiness.ready() else Word(503, "not ready")


async def metrics(call: Call) -> Word:
    plane, host = call.plane, call.host
    use = shutil.disk_usage(plane.layout.root)
    try:
        engine_up = bool(await plane.nodes())
    except Exception:  # whatever it is: it does not answer
        engine_up = False
    try:
        jobs = await plane.database.read(job_rows.by_state)
    except Exception:  # a damaged database: the other figures are wanted all the more
        jobs = {}
    now = Now(
        version=__version__, jobs=jobs, queue=len(plane.queue), engine_up=engine_up, streams=host.streams,
        open_requests=len(host.watch), disk_free=use.free, disk_total=use.total,
        writes_waiting=plane.database.waiting, refused_tokens=plane.refusals.total,
        read_only=bool(plane.read_only),
    )  # fmt: skip
    text, media = host.meter.exposition(now)
    return Word(200, text, media)


def routes() -> list[Route]:
    return [
        Route(
            "GET", "/health/live", Right.PUBLIC, live, returns=str, media="text/plain", face=ROOT,
            summary="The server is there: one word",
        ),
        Route(
            "GET", "/health/ready", Right.PUBLIC, ready, returns=str, media="text/plain", face=ROOT,
            summary="It can work: the database takes writes and the engine answers; 503 otherwise",
        ),
        Route(
            "GET", "/metrics", Right.OBSERVE, metrics, returns=str, media="text/plain", face=ROOT,
            summary="The server's own figures, for Prometheus",
        ),
    ]  # fmt: skip
