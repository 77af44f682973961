"""The record of what was done: whatever changed rights, destroyed or revealed something."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.page import Cursor, Limit


class AuditEntry(Resource, frozen=True, kw_only=True):
    """One thing that somebody did, or was refused. Entries are added and never changed."""

    seq: int
    time_us: int
    action: str
    """``noun.verb``, for instance ``token.create``, ``job.delete``, ``server.stop``, ``login``."""
    result: str
    """``done`` or ``refused``."""
    noun: str = ""
    id: str = ""
    """What it was done to."""
    user_id: str = ""
    """Who did it. Empty: the server itself, or somebody it does not know."""
    token_id: str = ""
    """The token it was done with, where it was one that a person had made."""
    attempt: str = ""
    """``<job>-<attempt>``, where a run did it with its own token."""
    address: str = ""
    request_id: str = ""
    detail: str = ""
    """What else there is to say, in a few words. Never a secret."""


class AuditQuery(Request, frozen=True, kw_only=True):
    since_us: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class Audit(Resource, frozen=True, kw_only=True):
    """Newest first."""

    items: tuple[AuditEntry, ...]
    next: str | None = None
