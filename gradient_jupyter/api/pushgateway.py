"""The push-gateway of old scripts: ``gradient_utils.metrics`` and whoever else speaks to Prometheus' one.

Such programs know an address and send no token, so each run has an address of its own that holds one
(``PAPERSPACE_METRIC_PUSHGATEWAY``). It opens nothing but adding points to that attempt, while it runs, and is
kept out of logs and answers.
"""

from __future__ import annotations

from gradient_jupyter.api.routes import Call, Face, Inside, Right, Route, by_its_sink
from gradient_jupyter.control.measuring import pushed
from gradient_jupyter.resources.errors import GradientError, TooLarge
from gradient_jupyter.resources.metric import Accepted


def _refusal(error: GradientError) -> bytes:
    return f"{error.code}: {error}\n".encode()


FACE = Face("/pushgateway", _refusal, media="text/plain; charset=utf-8", token_in="token")  # noqa: S106


class Push:
    """A pushed text, until it is whole."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._group = pushed.grouping(call.path["labels"])
        self._body = bytearray()

    async def feed(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > pushed.MOST_BYTES:
            raise TooLarge(
                f"A push has at most {pushed.MOST_BYTES // 2**10} KiB.",
                next="Push less at once.",
                code="body-too-large",
            )
        self._body += chunk

    async def finish(self) -> Accepted:
        call = self._call
        return Accepted(
            accepted=await pushed.push(call.plane, call.principal, self._group, bytes(self._body))
        )

    async def cut(self) -> None:
        """What did not come whole is not stored."""

    async def abort(self) -> None:
        self._body.clear()


async def delete(call: Call) -> Accepted:
    """A gateway forgets what it would show next; what was taken in stays, there as here."""
    pushed.grouping(call.path["labels"])
    return Accepted(accepted=0)


def routes() -> list[Route]:
    path = "/{token}/metrics/{labels...}"
    return [
        *(
            Route(
                method, path, Right.WRITE, by_its_sink, sink=Push,
                returns=Accepted, status=202, inside=Inside.HANDLER, face=FACE, told=False,
                summary=summary,
            )
            for method, summary in (
                ("PUT", "Push metrics in Prometheus' text form; each series becomes a point of the run"),
                ("POST", "The same: nothing that was pushed before is replaced"),
            )
        ),
        Route(
            "DELETE", path, Right.WRITE, delete, returns=Accepted, status=202, inside=Inside.HANDLER,
            face=FACE, summary="Accepted and without effect: points that were stored stay",
        ),
    ]  # fmt: skip
