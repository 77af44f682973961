"""The wire form of many blobs in one request. ``packs`` writes it, ``unpack`` reads it.

A pack is ``GRPACK1\\n`` and then, for each blob, a header (raw digest, encoding, decoded size, encoded
size; 49 bytes, little-endian) and its payload. The encodings:

==  ==========================================================================================
0   raw
1   zstd, in one payload of the encoded size
2   zstd in pieces, for a file that is compressed while it is sent: each piece has its length before it
    (4 bytes), a length of 0 ends it; the header's encoded size is 0
==  ==========================================================================================

It ends with a header of encoding 255 and a digest of zeros, whose sizes are the number of blobs and the sum
of their decoded sizes. Without it a pack has been cut off.
"""

from __future__ import annotations

import struct

MAGIC = b"GRPACK1\n"
HEADER = struct.Struct("<32sBQQ")
LENGTH = struct.Struct("<I")
RAW, ZSTD, ZSTD_PIECES, END = 0, 1, 2, 255

#: A pack is full with this much content, or with so many blobs. A larger file has a pack of its own.
PACK_BYTES = 16 << 20
PACK_BLOBS = 10_000
