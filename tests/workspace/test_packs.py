"""Packs: what a client refuses to send, and what a server survives being sent."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Callable
from pathlib import Path

import blake3
import descriptors
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import GradientError, InvalidRequest, TooLarge, WorkspaceError
from gradient_jupyter.resources.snapshot import File
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.packs import Pack, Unpacker, pack
from gradient_jupyter.workspace.scan import scan
from gradient_jupyter.workspace.wire import END, HEADER, LENGTH, MAGIC, RAW, ZSTD, ZSTD_PIECES

Make = Callable[[dict[str, object]], Path]
LIMIT = 8 << 20


def digest_of(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def blob(data: bytes, encoding: int = RAW, encoded: bytes | None = None, **lies: object) -> bytes:
    if encoded is None:
        encoded = data if encoding == RAW else zstandard.ZstdCompressor().compress(data)
    length = 0 if encoding == ZSTD_PIECES else len(encoded)
    if encoding == ZSTD_PIECES:
        encoded = b"".join(LENGTH.pack(1) + encoded[i : i + 1] for i in range(len(encoded))) + LENGTH.pack(0)
    fields = {"digest": digest_of(data), "encoding": encoding, "decoded": len(data), "payload": length} | lies
    return HEADER.pack(*fields.values()) + encoded


def end(count: int, size: int) -> bytes:
    return HEADER.pack(bytes(32), END, count, size)


def a_pack(*blobs: bytes, size: int) -> bytes:
    return MAGIC + b"".join(blobs) + end(len(blobs), size)


def unpacked(
    store: BlobStore, body: bytes, chunk: int = 1 << 16, **limits: int
) -> tuple[tuple[str, int], ...]:
    unpacker = Unpacker(store, **({"max_blob_bytes": LIMIT, "max_pack_bytes": LIMIT} | limits))
    for start in range(0, len(body), chunk):
        unpacker.feed(body[start : start + chunk])
    return unpacker.close()


def refused(store: BlobStore, body: bytes, **limits: int) -> GradientError:
    """It is refused, whatever the pieces it comes in, and nothing of it stays."""
    codes = set()
    for chunk in (1 << 20, 13):
        with pytest.raises(GradientError) as caught:
            unpacked(store, body, chunk, **limits)
        codes.add(caught.value.code)
    assert len(codes) == 1
    assert stored_files(store) == []
    return caught.value


def stored_files(store: BlobStore) -> list[str]:
    return [name for _, _, names in os.walk(store.root) for name in names]


GOOD = a_pack(
    blob(b"hello"),
    blob(b"compressible " * 50, ZSTD),
    blob(b"pieces " * 9, ZSTD_PIECES, zstandard.ZstdCompressor().compress(b"pieces " * 9)),
    blob(b""),
    size=5 + 13 * 50 + 63,
)


@pytest.mark.parametrize("chunk", [1, 2, 48, 49, 50, 10_000])
def test_a_good_pack_is_stored_however_it_is_cut(blobs: BlobStore, chunk: int) -> None:
    stored = dict(unpacked(blobs, GOOD, chunk))
    assert stored[digest_of(b"hello").hex()] == 5
    for content in (b"hello", b"compressible " * 50, b"pieces " * 9, b""):
        with blobs.open(digest_of(content).hex()) as file:
            assert file.read() == content


def test_a_pack_cut_off_anywhere_is_refused(blobs: BlobStore) -> None:
    for length in range(len(GOOD)):
        with pytest.raises(InvalidRequest) as caught:
            unpacked(blobs, GOOD[:length])
        assert caught.value.code == "bad-pack"
    assert stored_files(blobs) == []


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(blobs: BlobStore) -> None:
    for position in range(len(GOOD)):
        for bit in (0x01, 0x80):
            body = GOOD[:position] + bytes((GOOD[position] ^ bit,)) + GOOD[position + 1 :]
            try:
                stored = unpacked(blobs, body)
            except (InvalidRequest, TooLarge) as error:
                assert error.code in ("bad-pack", "digest-mismatch", "too-large")
            else:
                # A zstd frame has bits without meaning. What was stored is what its digest says.
                for digest, size in stored:
                    with blobs.open(digest) as file:
                        assert len(file.read()) == size


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), splice=st.integers(0, len(GOOD)))
def test_garbage_is_refused_with_a_stable_code(blobs: BlobStore, data: bytes, splice: int) -> None:
    for body in (data, GOOD[:splice] + data, MAGIC + data):
        try:
            unpacked(blobs, body)
        except (InvalidRequest, TooLarge) as error:
            assert error.code in ("bad-pack", "digest-mismatch", "too-large")


def test_lies_are_refused(blobs: BlobStore) -> None:
    x, big = b"x" * 100, b"x" * (5 << 20)
    frame = zstandard.ZstdCompressor().compress(x)
    cases = {
        "another digest": (a_pack(blob(x, digest=bytes(32)), size=100), "digest-mismatch"),
        "another digest, zstd": (a_pack(blob(x, ZSTD, digest=bytes(32)), size=100), "digest-mismatch"),
        "decodes to more": (a_pack(blob(x, ZSTD, decoded=99), size=99), "bad-pack"),
        "decodes to less": (a_pack(blob(x, ZSTD, decoded=101), size=101), "bad-pack"),
        "more, in pieces": (a_pack(blob(x, ZSTD_PIECES, frame, decoded=99), size=99), "bad-pack"),
        "less, in pieces": (a_pack(blob(x, ZSTD_PIECES, frame, decoded=101), size=101), "bad-pack"),
        "more, large": (a_pack(blob(big, ZSTD, decoded=(5 << 20) - 1), size=(5 << 20) - 1), "bad-pack"),
        "two raw sizes": (a_pack(blob(x, decoded=99), size=99), "bad-pack"),
        "no zstd": (a_pack(blob(x, ZSTD, b"nonsense"), size=100), "bad-pack"),
        "no zstd, in pieces": (a_pack(blob(x, ZSTD_PIECES, b"nonsense"), size=100), "bad-pack"),
        "unknown encoding": (a_pack(blob(x, encoding=3), size=100), "bad-pack"),
        "twice": (a_pack(blob(x), blob(x), size=200), "bad-pack"),
        "wrong count": (MAGIC + blob(x) + end(2, 100), "bad-pack"),
        "wrong sum": (MAGIC + blob(x) + end(1, 99), "bad-pack"),
        "something after the end": (a_pack(blob(x), size=100) + b"x", "bad-pack"),
        "another magic": (b"GRPACK2\n" + end(0, 0), "bad-pack"),
        "too large": (a_pack(blob(x, decoded=LIMIT + 1), size=LIMIT + 1), "too-large"),
        "enormous": (a_pack(blob(x, decoded=2**64 - 1), size=2**64 - 1), "too-large"),
        "enormous payload": (a_pack(blob(x, ZSTD, encoded=frame, payload=2**64 - 1), size=100), "bad-pack"),
    }  # fmt: skip
    for what, (body, code) in cases.items():
        assert refused(blobs, body).code == code, what


def test_a_decompression_bomb_is_stopped_at_its_declared_size(blobs: BlobStore) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28))
    zero = b"\0" * 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for declared in (1000, LIMIT):
        for encoding in (ZSTD, ZSTD_PIECES):
            for frame in (bomb, unsized):
                body = a_pack(blob(zero, encoding, frame, decoded=declared), size=declared)
                with pytest.raises(InvalidRequest) as caught:
                    unpacked(blobs, body)
                assert caught.value.code == "bad-pack"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB"
    assert stored_files(blobs) == []


def test_a_bomb_is_noticed_long_before_it_has_been_read(blobs: BlobStore) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    body = MAGIC + blob(b"\0" * 1000, ZSTD_PIECES, bomb)
    unpacker = Unpacker(blobs, max_blob_bytes=LIMIT, max_pack_bytes=LIMIT)
    with pytest.raises(InvalidRequest):
        unpacker.feed(body[: len(body) // 100])


def test_a_frame_that_wants_a_huge_window_is_refused(blobs: BlobStore) -> None:
    data = os.urandom(4 << 20) * 2
    for window_log, accepted in ((23, True), (27, False)):
        parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        frame = compressor.compress(data) + compressor.flush()
        body = a_pack(blob(data, ZSTD, frame), size=len(data))
        if accepted:
            unpacked(blobs, body, max_blob_bytes=1 << 30, max_pack_bytes=1 << 30)
            continue
        with pytest.raises(InvalidRequest):
            unpacked(blobs, body, max_blob_bytes=1 << 30, max_pack_bytes=1 << 30)


def test_a_blob_of_several_frames_can_be_read_again(blobs: BlobStore) -> None:
    compress = zstandard.ZstdCompressor().compress
    frames = compress(b"one") + compress(b"two") + b"\x50\x2a\x4d\x18\x02\x00\x00\x00xx" + compress(b"three")
    unpacked(blobs, a_pack(blob(b"onetwothree", ZSTD_PIECES, frames), size=11))
    with blobs.open(digest_of(b"onetwothree").hex()) as file:
        assert file.read() == b"onetwothree"


def test_limits_hold_for_the_pack_as_a_whole(blobs: BlobStore) -> None:
    many = a_pack(*(blob(str(i).encode()) for i in range(10)), size=10)
    assert refused(blobs, many, max_blobs=9).code == "too-large"
    assert refused(blobs, many, max_pack_bytes=100).code == "too-large"
    half = a_pack(blob(b"x" * 600), blob(b"y" * 600), size=1200)
    assert refused(blobs, half, max_pack_bytes=1000, max_blob_bytes=1000).code == "too-large"


def test_abort_leaves_nothing_and_ends_it(blobs: BlobStore) -> None:
    large = a_pack(blob(b"x" * (3 << 20)), size=3 << 20)
    for body in (GOOD, large):
        for length in (0, 10, 60, len(body) // 2, len(body)):
            unpacker = Unpacker(blobs, max_blob_bytes=LIMIT, max_pack_bytes=LIMIT)
            unpacker.feed(body[:length])
            unpacker.abort()
            unpacker.abort()
            assert stored_files(blobs) == []
            with pytest.raises(InvalidRequest):
                unpacker.feed(b"x")
            with pytest.raises(InvalidRequest):
                unpacker.close()


def test_of_a_pack_that_is_cut_what_came_whole_is_kept(blobs: BlobStore) -> None:
    """P9's other half: an upload goes on where it stopped, down to the file."""
    contents = [b"hello", b"compressible " * 50, b"pieces " * 9, b""]
    seen = set()
    for length in (*range(0, len(GOOD), 5), len(GOOD)):
        unpacker = Unpacker(blobs, max_blob_bytes=LIMIT, max_pack_bytes=LIMIT)
        unpacker.feed(GOOD[:length])
        kept = [digest for digest, _ in unpacker.cut()]
        assert kept == [digest_of(data).hex() for data in contents[: len(kept)]], "in their order, and whole"
        assert sorted(stored_files(blobs)) == sorted(kept), "and nothing else"
        for digest in kept:
            with blobs.open(digest) as file:
                assert file.read() == contents[kept.index(digest)]
            assert blobs.delete(digest)
        seen.add(len(kept))
        assert unpacker.cut() == ()
    assert seen == {0, 1, 2, 3, 4}


def test_of_a_refused_pack_nothing_is_kept_when_it_is_cut(blobs: BlobStore) -> None:
    unpacker = Unpacker(blobs, max_blob_bytes=LIMIT, max_pack_bytes=LIMIT)
    with pytest.raises(InvalidRequest):
        unpacker.feed(MAGIC + blob(b"good") + blob(b"bad", digest=bytes(32)))
    assert unpacker.cut() == ()
    assert stored_files(blobs) == []


def test_what_was_appended_since_the_scan_does_not_matter(make: Make, blobs: BlobStore) -> None:
    """A log that grows while its directory is sent: the snapshot is the moment of the scan."""
    for size in (10, 17 << 20, 65 << 20):
        root = make({"log": b"a" * size})
        scanned = scan(root)
        with (root / "log").open("ab") as file:
            file.write(b"b")
        for one in pack(scanned.manifest.files, scanned.open_file):
            unpacked(blobs, b"".join(one), max_blob_bytes=1 << 30, max_pack_bytes=1 << 30)
        assert all(blobs.has(digest) for digest in scanned.manifest.blobs())


def test_no_descriptor_stays_open(blobs: BlobStore) -> None:
    before = descriptors.held()
    unpacked(blobs, GOOD)
    with pytest.raises(InvalidRequest):
        unpacked(blobs, GOOD[:-1])
    with pytest.raises(InvalidRequest):
        unpacked(blobs, a_pack(blob(b"x" * (5 << 20), digest=bytes(32)), size=5 << 20))
    assert descriptors.held() <= before


@pytest.mark.parametrize("size", [10, 17 << 20, 65 << 20])
@pytest.mark.parametrize("edit", ["shorter", "other", "gone", "link"])
def test_a_file_that_changed_since_the_scan_is_named(make: Make, size: int, edit: str) -> None:
    root = make({"dir/file": b"a" * size})
    scanned = scan(root)
    path = root / "dir" / "file"
    if edit == "shorter":
        os.truncate(path, size - 1)
    elif edit == "other":
        with path.open("r+b") as file:
            file.write(b"b")
    else:
        path.unlink()
        if edit == "link":
            path.symlink_to("/etc/hostname")
    with pytest.raises(WorkspaceError, match="dir/file"):
        for one in pack(scanned.manifest.files, scanned.open_file):
            b"".join(one)


def test_every_content_travels_once_and_packs_stay_small() -> None:
    contents = {digest_of(str(i).encode()).hex(): str(i).encode() for i in range(30)}
    files = [File(path=f"{copy}{d}", size=len(c), digest=d) for copy in "ab" for d, c in contents.items()]

    def open_file(file: File, offset: int) -> io.BytesIO:
        return io.BytesIO(contents[file.digest][offset:])

    packs = list(pack(files, open_file, pack_bytes=10, pack_blobs=4))
    assert sorted(blob.piece.digest for one in packs for blob in one.blobs) == sorted(contents)
    assert all(one.count <= 4 and one.bytes <= 10 for one in packs)
    assert all(isinstance(one, Pack) for one in packs)
    assert list(pack([], open_file)) == []


def test_what_does_not_shrink_is_sent_as_it_is(make: Make) -> None:
    noise = os.urandom(100_000)
    scanned = scan(make({"noise": noise}))
    (one,) = pack(scanned.manifest.files, scanned.open_file)
    assert noise in b"".join(one)
