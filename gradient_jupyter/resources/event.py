"""Event: one change, in the order in which the changes were stored.

``seq`` is durable and grows by one per change; a client that remembers the last one it saw can go on
from there after any interruption. ``reset`` tells it that what it missed is no longer kept and that it
should read its lists anew.
"""

from __future__ import annotations

import enum

import msgspec

from gradient_jupyter.resources.base import Resource


class Action(enum.StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"


class Event(Resource, frozen=True, kw_only=True):
    seq: int
    time_us: int
    noun: str
    """``project`` or ``job``."""
    id: str
    action: Action
    project_id: str
    resource: msgspec.Raw = msgspec.Raw(b"null")
    """The thing itself as it was after the change, in its wire form; null once it is deleted."""
