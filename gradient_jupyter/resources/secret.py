"""Secret: a password, key or token that jobs are given and nobody is shown again.

It belongs to a person (``user``), a project or a team. A job names it (``HF_TOKEN=secret:hf``); its value is
put in only when a run starts. Whatever is stored, answered or logged of the job says ``secret:hf``.

``SecretValue`` is how a value is held between where it comes in and where it goes out. It can be revealed,
and nothing else: what prints it prints ``***``, what would copy or store it fails.
"""

from __future__ import annotations

import enum
import hmac
import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import msgspec

from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.errors import InvalidRequest

LONGEST_NAME = 100
LONGEST_VALUE = 65536
"""Bytes in UTF-8. The system takes no variable of more than 128 KiB."""
SHORTEST_MASKED = 4
"""Bytes. What is shorter stands in ordinary words and numbers, so it is not looked for in logs."""

#: The Gradient client's rule; a name of dots alone is none, because an address cannot hold it.
_NAME = re.compile(r"\.*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
#: ``SECRET:`` is how Gradient's specification files write it.
_REFERENCES = ("secret:", "SECRET:")


class Scope(enum.StrEnum):
    """Whose it is. The order is that of precedence: the more specific one is meant first."""

    PROJECT = "project"
    USER = "user"
    TEAM = "team"


class Secret(Resource, frozen=True, kw_only=True):
    """All that is ever told of one."""

    name: str
    scope: Scope
    of: str
    """The id of the person, the project or the team it belongs to."""
    created_us: int
    created_by: str
    changed_us: int
    changed_by: str
    key_id: str
    """Under which key of this installation it is encrypted."""
    readable: bool = True
    """False: that key is missing or the stored value is damaged, so jobs that need it fail. Set it anew."""
    masked: bool = True
    """False: it is too short to be hidden in logs."""


class Secrets(Resource, frozen=True, kw_only=True):
    items: tuple[Secret, ...]


class SetSecret(Request, frozen=True, kw_only=True):
    """The one place where a value is on the wire: on its way in."""

    value: Annotated[
        str, msgspec.Meta(min_length=1, max_length=LONGEST_VALUE, pattern=r"^[^\x00\ud800-\udfff]*\Z")
    ]

    def __repr__(self) -> str:
        return "SetSecret(value=***)"

    def __rich_repr__(self) -> Any:
        yield "value", ...


class Rotated(Resource, frozen=True, kw_only=True):
    """What a change of the key did."""

    key_id: str
    secrets: int
    """How many are encrypted under it."""
    unreadable: int
    """How many could not be, because their key is missing or they are damaged. They are as they were."""


class SecretValue:
    """One secret text. ``reveal`` is the only way to it."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        return self.__text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(self.__text.encode(), other.__text.encode())

    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret has no state to show")

    def __copy__(self) -> NoReturn:
        raise TypeError("a secret is not copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a secret is not copied")


def check_name(name: str) -> str:
    """``name``, if a secret may be called so. Raises ``InvalidRequest``."""
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        shown = name if len(name) <= 40 and name.isprintable() else "This"
        raise InvalidRequest(
            f"{shown} cannot be the name of a secret.",
            next=f"A name has letters, digits, '_', '-' and '.', and at most {LONGEST_NAME} of them.",
            code="bad-secret-name",
        )
    return name


def check_value(text: str) -> SecretValue:
    """``text`` as a secret's value. Raises ``InvalidRequest``, which says nothing of what it holds."""
    why = ""
    if not text:
        why = "It is empty."
    elif "\0" in text:
        why = "It holds a null byte, which no variable can."
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            why = "It is not UTF-8."
        else:
            if size > LONGEST_VALUE:
                why = f"It has {size:,} bytes; a secret has at most {LONGEST_VALUE:,}."
    if why:
        raise InvalidRequest(
            f"This cannot be a secret. {why}", next="Nothing was stored.", code="bad-secret-value"
        )
    return SecretValue(text)


def reference(value: str) -> str | None:
    """The secret's name, if ``value`` (a variable's, whole) refers to one. Raises ``InvalidRequest`` where it
    looks as if it did."""
    if not value.startswith(_REFERENCES):
        return None
    return check_name(value[len(_REFERENCES[0]) :])


def references(env: Mapping[str, str]) -> dict[str, str]:
    """Which variables are to hold which secrets, by the secrets' names."""
    found = {variable: reference(value) for variable, value in env.items()}
    return {variable: name for variable, name in found.items() if name is not None}


def mentions(env: Mapping[str, str]) -> bool:
    """Whether any variable looks as if it referred to a secret."""
    return any(value.startswith(_REFERENCES) for value in env.values())


def is_masked(value: SecretValue) -> bool:
    """Whether it is looked for in logs."""
    return len(value.reveal().encode()) >= SHORTEST_MASKED
