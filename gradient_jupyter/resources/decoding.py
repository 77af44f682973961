"""The one place where msgspec decodes: it must not meet a type in two threads at once.

When msgspec (0.22) first sees a struct it looks into it, and while it does, another thread that sees it too
finds it half known and crashes the interpreter. So here each type is met under a lock, once. What decodes
afterwards takes no lock.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar, overload

import msgspec

T = TypeVar("T")

_met: dict[tuple[Any, bool], msgspec.json.Decoder[Any]] = {}
_meeting = threading.Lock()


@overload
def decode(data: bytes | str | msgspec.Raw, type: type[T]) -> T: ...
@overload
def decode(data: bytes | str | msgspec.Raw, type: Any) -> Any: ...
def decode(data: bytes | str | msgspec.Raw, type: Any) -> Any:
    """JSON. Raises ``msgspec.DecodeError``, of which ``ValidationError`` is one."""
    return _meet(type).decode(data)


def decode_lax(data: bytes, type: Any) -> Any:
    """JSON as others write it: numbers may come as strings. Raises as ``decode`` does."""
    return _meet(type, strict=False).decode(data)


@overload
def convert(value: object, type: type[T], *, strict: bool = True) -> T: ...
@overload
def convert(value: object, type: Any, *, strict: bool = True) -> Any: ...
def convert(value: object, type: Any, *, strict: bool = True) -> Any:
    """From plain values. Raises ``msgspec.ValidationError``."""
    _meet(type)
    return msgspec.convert(value, type, strict=strict)


def unpack(data: bytes, type: type[T]) -> T:
    """MessagePack. Raises ``msgspec.DecodeError``."""
    _meet(type)
    return msgspec.msgpack.decode(data, type=type)


def _meet(type: Any, strict: bool = True) -> msgspec.json.Decoder[Any]:
    decoder = _met.get((type, strict))
    if decoder is None:
        with _meeting:
            decoder = _met[type, strict] = msgspec.json.Decoder(type, strict=strict)
    return decoder
