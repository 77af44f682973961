"""The whole way: a directory, its packs, the server's blobs, a copy; the copy is the same snapshot."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.ignore import Ignore
from gradient_jupyter.workspace.materialise import materialise
from gradient_jupyter.workspace.packs import Unpacker, pack
from gradient_jupyter.workspace.scan import Scan, scan

names = st.one_of(
    st.sampled_from(
        ["a", "b", "c.py", " ", "-rf", "$(touch x)", "ünï çødé", "日本", "e\u0301", "\n", "🦆", "a\\b", "..."]
    ),
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12),
).filter(lambda name: name not in (".", "..", ".gitignore", ".gradientignore") and len(name.encode()) <= 255)
contents = st.one_of(
    st.binary(max_size=200), st.sampled_from([b"", b"same", b"x" * 100_000, bytes(range(256)) * 600])
)
files = st.tuples(st.just("file"), contents, st.booleans())
links = st.tuples(
    st.just("link"), st.lists(st.one_of(names, st.just("..")), min_size=1, max_size=3), st.none()
)
directories = st.tuples(st.just("directory"), st.none(), st.none())
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=4).map("/".join),
    st.one_of(files, files, links, directories),
    max_size=12,
)


def build(root: Path, tree: dict[str, tuple[str, object, object]]) -> None:
    for path, (kind, content, executable) in tree.items():
        where = root / path
        if any((root / parent).is_symlink() or (root / parent).is_file() for parent in Path(path).parents):
            continue
        where.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(where):
            continue
        if kind == "directory":
            where.mkdir()
        elif kind == "link":
            assert isinstance(content, list)
            where.symlink_to("/".join(content))
        else:
            assert isinstance(content, bytes)
            where.write_bytes(content)
            where.chmod(0o755 if executable else 0o640)


def send(scanned: Scan, blobs: BlobStore, chunk: int, **pack_options: int) -> None:
    for one in pack(scanned.manifest.files, scanned.open_file, **pack_options):
        body = b"".join(one)
        assert len(body) <= one.size_hint
        unpacker = Unpacker(blobs, max_blob_bytes=1 << 30, max_pack_bytes=1 << 30)
        for start in range(0, len(body), chunk):
            unpacker.feed(body[start : start + chunk])
        stored = unpacker.close()
        assert sum(blob.size for blob in stored) == one.bytes
        assert len(stored) == one.count


@settings(deadline=None, max_examples=80)
@given(
    tree=trees,
    chunk=st.sampled_from([1, 7, 50, 4096, 1 << 20]),
    pack_bytes=st.sampled_from([1, 300, 1 << 24]),
)
def test_a_copy_is_the_same_snapshot(
    tree: dict[str, tuple[str, object, object]], chunk: int, pack_bytes: int
) -> None:
    if any(isinstance(content, bytes) and len(content) > 1000 for _, content, _ in tree.values()):
        chunk = max(chunk, 50)
    with tempfile.TemporaryDirectory() as name:
        source, blobs = Path(name) / "source", BlobStore(Path(name) / "blobs")
        source.mkdir()
        build(source, tree)
        before = scan(source, ignore=Ignore(defaults=False))
        send(before, blobs, chunk, pack_bytes=pack_bytes)
        materialise(before.manifest, blobs, Path(name) / "copy")
        after = scan(Path(name) / "copy", ignore=Ignore(defaults=False))
        assert after.manifest == before.manifest
        assert after.manifest.digest() == before.manifest.digest()
        assert not after.warnings
        assert not os.listdir(Path(name) / "blobs" / "tmp")


def test_large_files_travel_in_packs_of_their_own_and_in_pieces(tmp_path: Path) -> None:
    source, blobs = tmp_path / "source", BlobStore(tmp_path / "blobs")
    source.mkdir()
    (source / "zeros").write_bytes(b"0123456789abcdef" * (17 << 16))
    (source / "noise").write_bytes(os.urandom(17 << 20))
    (source / "small").write_bytes(b"x")
    before = scan(source)
    packs = list(pack(before.manifest.files, before.open_file))
    assert [one.count for one in packs] == [1, 1, 1]
    for one in packs:
        unpacker = Unpacker(blobs, max_blob_bytes=1 << 26, max_pack_bytes=1 << 26)
        for chunk in one:
            assert len(chunk) <= 2 << 20, "never all of it in memory"
            unpacker.feed(chunk)
        unpacker.close()
    sizes = sorted(path.stat().st_size for path in (tmp_path / "blobs").glob("??/*"))
    assert sizes[1] < 1 << 20, "the compressible one is stored compressed"
    materialise(before.manifest, blobs, tmp_path / "copy")
    assert scan(tmp_path / "copy").manifest == before.manifest


def test_a_pack_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    scanned = scan(tmp_path)
    (one,) = pack(scanned.manifest.files, scanned.open_file)
    assert b"".join(one) == b"".join(one)
