"""What every noun shares: a frozen struct, an id of our own making, a time in UTC.

Ids are a short prefix (Gradient's: ``pr`` project, ``j`` job, ``sn`` snapshot) and 12 random
characters of lower-case base 32, 60 bits. They are ours and never change, whatever a thing or its
owner is called.
"""

from __future__ import annotations

import secrets
import time

import msgspec

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """The base of every noun's wire form. Unknown fields are ignored, so a newer server can add some."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of what a caller sends. An unknown field is the caller's mistake and is refused."""


def new_id(prefix: str) -> str:
    """A new identity: ``prefix`` and 60 random bits."""
    bits = secrets.randbits(60)
    return prefix + "".join(_ALPHABET[bits >> shift & 31] for shift in range(0, 60, 5))


def now_us() -> int:
    """The wall clock in integer microseconds since the epoch, UTC. For showing, never for ordering."""
    return time.time_ns() // 1000
