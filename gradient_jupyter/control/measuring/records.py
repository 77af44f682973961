"""TensorFlow's record files, as far as they can be trusted: records one after the other, each with its length
and two check sums.

Format (tensorflow/core/lib/io/record_writer.h): ``uint64 length, uint32 crc(length), byte data[length],
uint32 crc(data)``, little-endian; the sums are CRC-32C, masked. There is no mark at which reading could be
taken up again, so behind a damaged length nothing is believed. The file may be written meanwhile, and by
whom we do not trust.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

_HEAD = struct.Struct("<QI")
_SUM = struct.Struct("<I")
_PIECE = 1 << 18
MOST_RECORD = 2**20
"""What is larger (a picture, a graph) is passed over unread. Of scalars that is some 50,000."""


class Damaged(Exception):
    """From here on nothing in this file can be believed."""


class Record(NamedTuple):
    end: int
    """Where in the file the next one begins."""
    data: bytes | None
    """None: passed over, because it is too large or its sum is wrong."""


def masked_sum(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(fd: int, position: int) -> Iterator[Record]:
    """The whole records from ``position`` on. One that is only half there ends it, as it may be whole later.

    Raises ``Damaged``, and ``OSError`` when the file cannot be read.
    """
    size = os.fstat(fd).st_size
    held, at = b"", position
    while True:
        # ``held`` is what stands in the file from ``at`` on.
        if len(held) < _HEAD.size:
            held += os.pread(fd, _PIECE, at + len(held))
            if len(held) < _HEAD.size:
                return
        length, check = _HEAD.unpack_from(held)
        if masked_sum(held[:8]) != check:
            raise Damaged
        whole = _HEAD.size + length + _SUM.size
        if at + whole > size:
            return
        if length > MOST_RECORD:
            held, at = b"", at + whole
            yield Record(at, None)
            continue
        while len(held) < whole:
            more = os.pread(fd, max(_PIECE, whole - len(held)), at + len(held))
            if not more:
                return  # it became shorter
            held += more
        data = held[_HEAD.size : _HEAD.size + length]
        (check,) = _SUM.unpack_from(held, _HEAD.size + length)
        held, at = held[whole:], at + whole
        yield Record(at, data if masked_sum(data) == check else None)
