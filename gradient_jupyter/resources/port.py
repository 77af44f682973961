"""Port: where a job can be reached while it runs.

Written as Gradient's users write it, ``EXT:INT[:scheme]``: what the job listens on at ``INT`` is reached at
``EXT``. TCP only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from gradient_jupyter.resources.base import Request
from gradient_jupyter.resources.errors import InvalidRequest

#: Where it is reached: ports up to 1023 are the system's own.
Outer = Annotated[int, msgspec.Meta(ge=1024, le=65535)]
Inner = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Scheme = Annotated[str, msgspec.Meta(max_length=20, pattern=r"^[a-z][a-z0-9+.-]*\Z")]

#: What is spoken at a well-known port; at every other http.
_GUESSES = {22: "ssh", 443: "https"}
_WRITTEN = re.compile(r"(\d{1,6}):(\d{1,6})(?::([a-z][a-z0-9+.-]{0,19}))?", re.ASCII)
_HOST = "127.0.0.1"


class Port(Request, frozen=True, kw_only=True):
    """``external`` is reached from outside, ``internal`` is what the job listens on."""

    external: Outer
    internal: Inner
    scheme: Scheme

    @property
    def url(self) -> str:
        """Where it is reached from the machine the server runs on."""
        return f"{self.scheme}://{_HOST}:{self.external}"

    def __str__(self) -> str:
        return f"{self.external}:{self.internal}:{self.scheme}"


Ports = Annotated[tuple[Port, ...], msgspec.Meta(max_length=20)]


def parse(texts: str | Iterable[str]) -> tuple[Port, ...]:
    """Ports from ``EXT:INT[:scheme]``, one or several separated by commas. Raises ``InvalidRequest``."""
    words = [texts] if isinstance(texts, str) else texts
    found = tuple(_one(word.strip()) for text in words for word in text.split(","))
    check(found)
    return found


def check(ports: Sequence[Port]) -> None:
    """Raises ``InvalidRequest`` for ports that cannot be had together: a number stands for one thing only."""
    taken: dict[int, Port] = {}
    for port in ports:
        for number in {port.external, port.internal}:
            if number in taken:
                raise _invalid(f"The port {number} is named by {taken[number]} and by {port}.")
            taken[number] = port


def _one(text: str) -> Port:
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise _invalid(f"{text[:60]!r} names no port.")
    external, internal = int(match[1]), int(match[2])
    if not 1024 <= external <= 65535:
        raise _invalid(f"The port {external} cannot be reached from outside: it is not from 1024 to 65535.")
    if not 1 <= internal <= 65535:
        raise _invalid(f"There is no port {internal}.")
    return Port(external=external, internal=internal, scheme=match[3] or _GUESSES.get(internal, "http"))


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(
        message,
        next="A port looks like EXT:INT or EXT:INT:scheme, such as 8080:8888; EXT is above 1023.",
        code="bad-ports",
    )
