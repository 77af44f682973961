"""How much may be sent at once: the person's own limit, which is there to catch a dataset that nobody meant
to send. It is theirs to raise. The server has another one, which is its administrator's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from gradient_jupyter.resources.errors import InvalidRequest, WorkspaceError
from gradient_jupyter.workspace.wording import shown, size_text

DEFAULT_LIMIT = 512 << 20
VARIABLE = "GRADIENT_WORKSPACE_LIMIT"
_LARGEST = 5
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_size(text: str, *, of: str) -> int | None:
    """``600MiB``, ``2G``, ``1.5 GB``, plain bytes; None for ``none``. Only units without an ``i`` that end in
    ``B`` are powers of 1000. ``of`` names what was given, for the error."""
    if text.strip().lower() == "none":
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            f"{of} is {text!r}, which is no size.",
            next="A size looks like 600MiB or 2GiB; none lifts the limit.",
        )
    number, unit, binary = match.groups()
    decimal = unit and not binary and text.strip().lower().endswith("b")
    return int(float(number) * (1000 if decimal else 1024) ** _POWERS[unit.lower()])


def default_limit() -> int | None:
    """``$GRADIENT_WORKSPACE_LIMIT``, or 512 MiB; None: no limit."""
    text = os.environ.get(VARIABLE)
    return parse_size(text, of=VARIABLE) if text else DEFAULT_LIMIT


def largest_of(sizes: Iterable[tuple[str | bytes, int]]) -> list[tuple[str | bytes, int]]:
    """The five largest files."""
    return sorted(sizes, key=lambda one: -one[1])[:_LARGEST]


def named(sizes: Iterable[tuple[str | bytes, int]]) -> str:
    """Files with their sizes, as they stand in a sentence."""
    return ", ".join(f"{shown(path)} ({size_text(size)})" for path, size in sizes)


def too_much(
    what: str, sizes: Iterable[tuple[str | bytes, int]], total: int, limit: int, *, leave_out: str
) -> WorkspaceError:
    """The error for ``what`` (``The directory``) whose files have ``sizes``. ``leave_out`` ends the next step
    with how to send less."""
    return WorkspaceError(
        f"{what} holds {size_text(total)} to send, more than the limit of {size_text(limit)}. "
        f"The largest files are: {named(largest_of(sizes))}.",
        next=f"Raise the limit with --max-size {-(-total // 2**20)}MiB (max_size= in Python, {VARIABLE} for "
        f"good), or {leave_out}",
        code="workspace-too-large",
    )
