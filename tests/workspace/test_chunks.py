"""Large files travel and are stored in chunks: an edit sends what it touched, and no lie about them holds."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import blake3
import msgspec
import pytest

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import CHUNK_BYTES, WHOLE_BYTES, File, Manifest, chunk_count
from gradient_jupyter.workspace.blobs import BlobStore, Damaged
from gradient_jupyter.workspace.materialise import materialise
from gradient_jupyter.workspace.packs import Unpacker, pack
from gradient_jupyter.workspace.scan import Scan, scan
from gradient_jupyter.workspace.tree import check_manifest
from gradient_jupyter.workspace.wire import PACK_BYTES

Make = Callable[[dict[str, object]], Path]
SIZE = WHOLE_BYTES + CHUNK_BYTES // 2
#: Little to store, and every chunk is another.
LARGE = b"".join(bytes((n,)) * CHUNK_BYTES for n in range(9))[:SIZE]


def sent(scanned: Scan, blobs: BlobStore, has: set[str]) -> int:
    """Sends what is not in ``has``, which is then; how many bytes of content that were."""
    wanted = scanned.manifest.blobs().keys() - has
    total = 0
    for one in pack(scanned.manifest.files, scanned.open_file, wanted=wanted):
        assert one.bytes <= PACK_BYTES or one.count == 1
        unpacker = Unpacker(blobs, max_blob_bytes=WHOLE_BYTES, max_pack_bytes=2 * WHOLE_BYTES)
        for part in one:
            unpacker.feed(part)
        has.update(blob.digest for blob in unpacker.close())
        total += one.bytes
    return total


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 0), (1, 0), (WHOLE_BYTES, 0), (WHOLE_BYTES + 1, 9), (WHOLE_BYTES + CHUNK_BYTES, 9), (SIZE, 9)],
)
def test_how_a_file_is_cut_follows_from_its_size_alone(size: int, count: int) -> None:
    assert chunk_count(size) == count
    chunks = tuple(f"{n:064x}" for n in range(count)) or msgspec.UNSET
    pieces = list(File(path="f", size=size, digest="f" * 64, chunks=chunks).blobs())
    assert sum(piece.size for piece in pieces) == size
    assert [piece.offset for piece in pieces] == [n * CHUNK_BYTES for n in range(max(count, 1))]
    assert all(piece.size == CHUNK_BYTES for piece in pieces[:-1])


def test_a_large_file_comes_back_whole_and_is_the_same_snapshot(
    make: Make, blobs: BlobStore, tmp_path: Path
) -> None:
    root = make({"large": LARGE, "small": b"x"})
    before = scan(root)
    (large,) = [file for file in before.manifest.files if file.path == "large"]
    assert large.digest == blake3.blake3(LARGE).hexdigest(), "the digest is that of the content, as ever"
    assert large.chunks == tuple(
        blake3.blake3(LARGE[at : at + CHUNK_BYTES]).hexdigest() for at in range(0, SIZE, CHUNK_BYTES)
    )
    check_manifest(before.manifest, canonical=True)
    assert sent(before, blobs, set()) == SIZE + 1
    materialise(before.manifest, blobs, tmp_path / "copy")
    assert (tmp_path / "copy" / "large").read_bytes() == LARGE
    assert scan(tmp_path / "copy").manifest.digest() == before.manifest.digest()


@pytest.mark.parametrize("edit", ["append", "in place", "shorter", "grown from whole"])
def test_an_edit_of_a_large_file_sends_the_chunks_it_touched(
    make: Make, blobs: BlobStore, tmp_path: Path, edit: str
) -> None:
    root = make({"large": LARGE[:WHOLE_BYTES] if edit == "grown from whole" else LARGE})
    has: set[str] = set()
    first = scan(root)
    sent(first, blobs, has)
    with (root / "large").open("r+b") as file:
        if edit == "append":
            file.seek(0, os.SEEK_END)
            file.write(b"more")
        elif edit == "in place":
            file.seek(3 * CHUNK_BYTES - 1)
            file.write(b"!!")  # across a border
        elif edit == "shorter":
            file.truncate(SIZE - 1)
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\x08")
    second = scan(root)
    expected = {
        "append": SIZE % CHUNK_BYTES + 4,
        "in place": 2 * CHUNK_BYTES,
        "shorter": SIZE % CHUNK_BYTES - 1,
        "grown from whole": WHOLE_BYTES + 1,  # it was one blob and is chunks from now on
    }
    assert sent(second, blobs, has) == expected[edit]
    materialise(second.manifest, blobs, tmp_path / "copy")
    assert (tmp_path / "copy" / "large").read_bytes() == (root / "large").read_bytes()


def test_a_chunk_that_occurs_twice_travels_once(make: Make, blobs: BlobStore, tmp_path: Path) -> None:
    root = make({"zeros": b""})
    with (root / "zeros").open("r+b") as file:
        file.truncate(4 * WHOLE_BYTES)
    scanned = scan(root)
    assert sent(scanned, blobs, set()) == CHUNK_BYTES
    materialise(scanned.manifest, blobs, tmp_path / "copy")
    assert (tmp_path / "copy" / "zeros").stat().st_size == 4 * WHOLE_BYTES


def test_reading_and_packing_hold_a_few_chunks_at_most(make: Make, blobs: BlobStore) -> None:
    root = make({"large": LARGE * 2})
    tracemalloc.start()
    try:
        sent(scan(root), blobs, set())
        assert tracemalloc.get_traced_memory()[1] < 6 * CHUNK_BYTES
    finally:
        tracemalloc.stop()


D = [f"{n:064x}" for n in range(12)]


@pytest.mark.parametrize(
    ("size", "chunks", "says"),
    [
        (SIZE, msgspec.UNSET, "without its chunks"),
        (SIZE, (), "has 0 chunks where"),
        (SIZE, tuple(D[:8]), "has 8 chunks where"),
        (SIZE, tuple(D[:10]), "has 10 chunks where"),
        (WHOLE_BYTES, tuple(D[:8]), "have none"),
        (5, (D[0],), "have none"),
        (5, (), "empty list of chunks"),
        (SIZE, (*D[:8], D[0]), "two different sizes"),
        (SIZE, (*D[:8], "x" * 64), "no digest"),
        (SIZE, (*D[:8], "f" * 64), "two different sizes"),
        (2**53, tuple(D[:9]), "has 9 chunks where"),
    ],
)
def test_chunks_that_cannot_be_are_refused(size: int, chunks: tuple[str, ...], says: str) -> None:
    manifest = Manifest(entries=(File(path="f", size=size, digest="f" * 64, chunks=chunks),))
    with pytest.raises(InvalidRequest, match=says) as caught:
        check_manifest(manifest, canonical=True)
    assert caught.value.code == "bad-manifest"


def test_what_was_stored_whole_can_still_be_made(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put_bytes(LARGE)
    manifest = Manifest(entries=(File(path="large", size=SIZE, digest=digest),))
    materialise(manifest, blobs, tmp_path / "copy")
    assert (tmp_path / "copy" / "large").read_bytes() == LARGE


@pytest.mark.parametrize("lie", ["order", "digest", "size", "damage"])
def test_chunks_that_are_not_the_file_leave_nothing(
    make: Make, blobs: BlobStore, tmp_path: Path, lie: str
) -> None:
    scanned = scan(make({"large": LARGE}))
    sent(scanned, blobs, set())
    (large,) = scanned.manifest.files
    assert large.chunks is not msgspec.UNSET
    if lie == "order":
        large = msgspec.structs.replace(large, chunks=(large.chunks[1], large.chunks[0], *large.chunks[2:]))
    elif lie == "digest":
        large = msgspec.structs.replace(large, digest="0" * 64)
    elif lie == "size":
        large = msgspec.structs.replace(large, size=SIZE + 1)
    else:
        path = blobs.root / large.chunks[4][:2] / large.chunks[4]
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged if lie == "damage" else InvalidRequest):
        materialise(Manifest(entries=(large,)), blobs, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith("copy")]


def test_the_manifest_of_small_files_is_what_it_was_before_there_were_chunks() -> None:
    manifest = Manifest(entries=(File(path="a", size=1, digest="0" * 64),))
    assert manifest.canonical() == (
        b'[{"kind":"file","path":"a","size":1,"digest":"' + b"0" * 64 + b'","executable":false}]'
    )
