"""The scalars in one event of a TensorBoard file.

An event is a protocol buffer (tensorboard/compat/proto/event.proto, summary.proto, tensor.proto). Of its many
fields a dozen are of use here, so they are walked as they come, without a schema and without the library.
What is malformed raises ``ValueError``; what is no scalar is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, MutableSet
from typing import NamedTuple

from gradient_jupyter.resources.metric import MOST_KEY

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
MOST_TAGS = 10_000
"""That are remembered."""

#: DataType → format of one element in ``tensor_content``.
_CONTENT = {
    1: "f",
    2: "d",
    3: "i",
    4: "B",
    5: "h",
    6: "b",
    9: "q",
    10: "?",
    17: "H",
    19: "e",
    22: "I",
    23: "Q",
}
_BFLOAT16, _HALF = 14, 19
#: Field of the elements → their format; None: varints.
_LISTS = {5: "f", 6: "d", 7: None, 10: None, 11: None, 16: None, 17: None}
_HALVES = 13


class Scalar(NamedTuple):
    tag: str
    value: float
    step: int
    wall_time: float
    """Seconds since 1970."""


def scalars(event: bytes, known: MutableSet[str], most: int = MOST_TAGS) -> Iterator[Scalar | None]:
    """``known`` are the tags said to be scalars in the same file; it grows, to ``most`` at the most:
    writers may say it with the first value only. None stands for a scalar whose tag is too long for a name.

    ``ValueError`` comes where the damage is: what was before it is good."""
    wall_time, step = 0.0, 0
    summaries: list[bytes] = []
    for number, value in _fields(event):
        if number == 1 and isinstance(value, bytes) and len(value) == 8:
            (wall_time,) = struct.unpack("<d", value)
        elif number == 2 and isinstance(value, int):
            step = _signed(value)
        elif number == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, value in _fields(summary):
            if number == 1 and isinstance(value, bytes):
                named = _value(value, known, most)
                if named is not None:
                    tag, found = named
                    yield None if tag is None else Scalar(tag, found, step, wall_time)


def _value(data: bytes, known: MutableSet[str], most: int) -> tuple[str | None, float] | None:
    """Tag and number of one ``Summary.Value``."""
    tag: str | None = ""
    simple, tensor, plugin, kind = None, None, None, 0
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            tag = _tag(value)
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            (simple,) = struct.unpack("<f", value)
        elif number == 8 and isinstance(value, bytes):
            tensor = value
        elif number == 9 and isinstance(value, bytes):
            plugin, kind = _metadata(value)
    if simple is not None:
        return tag, simple
    if tensor is None:
        return None
    if plugin == "scalars" or kind == 1:
        if tag is not None and len(known) < most:
            known.add(tag)
    elif plugin is not None or tag not in known:
        return None
    found = _tensor(tensor)
    return None if found is None else (tag, found)


def _tag(data: bytes) -> str | None:
    """None when it is longer than any name: it is not even kept."""
    if len(data) > 4 * MOST_KEY:
        return None
    tag = data.decode()
    return tag if len(tag) <= MOST_KEY else None


def _metadata(data: bytes) -> tuple[str | None, int]:
    """The plugin that shows it, and the class of data: 1 is a scalar."""
    plugin, kind = None, 0
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            for inner, name in _fields(value):
                if inner == 1 and isinstance(name, bytes):
                    plugin = name.decode()
        elif number == 4 and isinstance(value, int):
            kind = value
    return plugin, kind


def _tensor(data: bytes) -> float | None:
    """The one number in a tensor; None when it holds none, or several."""
    kind, content = 0, b""
    numbers: list[float] = []
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 4 and isinstance(value, bytes):
            content = value
        elif number in _LISTS or number == _HALVES:
            if len(numbers) > 1:
                return None
            numbers += _elements(number, kind, value)
    if content:
        if kind == _BFLOAT16 and len(content) == 2:
            return _bfloat16(int.from_bytes(content, "little"))
        form = _CONTENT.get(kind)
        if form is None or struct.calcsize("<" + form) != len(content):
            return None
        return float(struct.unpack("<" + form, content)[0])
    return numbers[0] if len(numbers) == 1 else None


def _elements(number: int, kind: int, value: int | bytes) -> list[float]:
    """Elements of a repeated field: packed, or one at a time. Of more than two it is enough to know that."""
    form = _LISTS.get(number)
    if form is not None:
        size = struct.calcsize("<" + form)
        if not isinstance(value, bytes) or len(value) % size:
            raise ValueError("a list of numbers is cut")
        return [float(one) for (one,) in struct.iter_unpack("<" + form, value[: 2 * size])]
    if isinstance(value, int):
        found = [value]
    else:
        found, at = [], 0
        while at < len(value) and len(found) < 2:
            one, at = _varint(value, at)
            found.append(one)
    if number != _HALVES:
        return [float(one if number in (11, 16, 17) else _signed(one)) for one in found]
    if kind == _HALF:
        return [float(struct.unpack("<e", (one & 0xFFFF).to_bytes(2, "little"))[0]) for one in found]
    return [_bfloat16(one & 0xFFFF) for one in found]


def _bfloat16(bits: int) -> float:
    return float(struct.unpack("<f", (bits << 16).to_bytes(4, "little"))[0])


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers with their values: a whole number of a varint, the bytes of everything else."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("a field is of no kind that exists")
        if length > end - at:
            raise ValueError("a field is longer than what it stands in")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number is cut or too long")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
