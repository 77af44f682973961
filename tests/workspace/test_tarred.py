"""A tar archive becomes what it holds, or is refused by name; nothing of it is ever made outside the store.

Guards B4 (what is uploaded or fetched) against abuse 3 and 10, rows 10 and 11 of the corpus.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import GradientError, InvalidRequest, TooLarge
from gradient_jupyter.resources.snapshot import WHOLE_BYTES, Directory, Link
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.expand import expand
from gradient_jupyter.workspace.materialise import materialise
from gradient_jupyter.workspace.scan import scan
from gradient_jupyter.workspace.tarred import Unpacked, untar

PACK = {
    ".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.bz2": bz2.compress,
    ".tbz2": bz2.compress, ".tar.xz": lzma.compress, ".txz": lzma.compress,
}  # fmt: skip


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


class Info(tarfile.TarInfo):
    """A header and what follows it."""

    data = b""


def entry(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: object) -> Info:
    info = Info(name)
    info.type, info.size, info.data = kind, len(data), data
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar(*entries: Info, format: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        for info in entries:
            archive.addfile(info, io.BytesIO(info.data))
    return made.getvalue()


def read(blobs: BlobStore, data: bytes, name: str = "a.tar", limit: int = 1 << 30) -> Unpacked:
    return untar(io.BytesIO(data), name, len(data), blobs, limit_bytes=limit)


def refusal(blobs: BlobStore, data: bytes, name: str = "a.tar") -> str:
    with pytest.raises(InvalidRequest) as refused:
        read(blobs, data, name)
    assert refused.value.code == "archive-refused" and refused.value.next
    assert not list(blobs.names()), "something of it was kept"
    return refused.value.message


@pytest.mark.parametrize("ending", PACK)
def test_it_is_the_snapshot_of_the_directory_it_was_made_of(
    blobs: BlobStore, tmp_path: Path, ending: str
) -> None:
    root = tmp_path / "root"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a.csv").write_bytes(b"1,2\n" * 5000)
    (root / "deep" / "er" / "run.sh").write_text("#!/bin/sh\n")
    (root / "deep" / "er" / "run.sh").chmod(0o755)
    (root / "deep" / "l").symlink_to("../a.csv")
    (root / ("n" * 150)).write_text("long")
    (root / "ümläut").write_text("")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(root, arcname=".")
    found = read(blobs, PACK[ending](made.getvalue()), "a" + ending)
    assert found.manifest == scan(root).manifest
    materialise(found.manifest, blobs, tmp_path / "again")
    assert (tmp_path / "again" / "deep" / "l").read_bytes() == (root / "a.csv").read_bytes()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_targets_come_through_every_dialect(blobs: BlobStore, format: int) -> None:
    long = (
        "/".join(["d" * 60] * 2) + "/" + "f" * 60 if format == tarfile.USTAR_FORMAT else "d/" * 60 + "f" * 200
    )
    target = "t" * (90 if format == tarfile.USTAR_FORMAT else 200)
    found = read(
        blobs, tar(entry(long, b"x"), entry("l", kind=tarfile.SYMTYPE, linkname=target), format=format)
    )
    assert {one.path for one in found.manifest.entries} == {long, "l"}
    assert next(one for one in found.manifest.entries if isinstance(one, Link)).target == target


def test_a_hard_link_to_a_file_before_it_is_that_file_once_more(blobs: BlobStore) -> None:
    found = read(blobs, tar(entry("a", b"same"), entry("b", kind=tarfile.LNKTYPE, linkname="./a")))
    first, second = found.manifest.files
    assert (first.digest, second.path) == (second.digest, "b")


def test_a_file_larger_than_one_blob_may_be_comes_in_chunks(blobs: BlobStore) -> None:
    found = read(blobs, gzip.compress(tar(entry("big", bytes(WHOLE_BYTES + 1))), 1), "a.tar.gz")
    assert len(found.manifest.files[0].chunks) == 9


def test_parts_that_were_compressed_one_by_one_are_one_archive(blobs: BlobStore) -> None:
    whole = tar(entry("a", os.urandom(30000)), entry("b", b"2"))
    for pack, ending in ((gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")):
        parts = pack(whole[:10000]) + pack(whole[10000:])
        assert len(read(blobs, parts, f"a.tar.{ending}").manifest.files) == 2
        assert len(read(blobs, parts + bytes(2000), f"a.tar.{ending}").manifest.files) == 2


def test_empty_directories_are_kept_and_the_top_is_none(blobs: BlobStore) -> None:
    found = read(blobs, tar(entry("./", kind=tarfile.DIRTYPE), entry("./e/", kind=tarfile.DIRTYPE)))
    assert found.manifest.entries == (Directory(path="e"),)


NAMES = [
    ("/etc/passwd", "absolute"), ("../x", "'..'"), ("a/../../x", "'..'"), ("a/..", "'..'"), ("..", "'..'"),
    ("//x", "absolute"), ("x" * 300, "255 bytes"), ("a/" * 101 + "x", "directories deep"), (".", "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "says"), NAMES)
def test_names_that_lead_elsewhere_are_refused(blobs: BlobStore, name: str, says: str) -> None:
    assert says in refusal(blobs, tar(entry(name, b"x")))


ATTACKS = {
    "a link out": [entry("l", kind=tarfile.SYMTYPE, linkname="../x")],
    "an absolute link": [entry("l", kind=tarfile.SYMTYPE, linkname="/etc")],
    "a file through a link": [entry("d", kind=tarfile.SYMTYPE, linkname="/tmp"), entry("d/x", b"1")],
    "a file through a link inside": [
        entry("e", kind=tarfile.DIRTYPE), entry("d", kind=tarfile.SYMTYPE, linkname="e"), entry("d/x", b"1"),
    ],
    "a chain of links": [
        entry("a", kind=tarfile.SYMTYPE, linkname="."), entry("b", kind=tarfile.SYMTYPE, linkname="a/.."),
    ],
    "a hard link out": [entry("h", kind=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "a hard link up": [entry("h", kind=tarfile.LNKTYPE, linkname="../x")],
    "a hard link to nothing": [entry("h", kind=tarfile.LNKTYPE, linkname="absent")],
    "a hard link to a link": [
        entry("l", kind=tarfile.SYMTYPE, linkname="x"), entry("h", kind=tarfile.LNKTYPE, linkname="l"),
    ],
    "a character device": [entry("n", kind=tarfile.CHRTYPE)],
    "a block device": [entry("n", kind=tarfile.BLKTYPE)],
    "a pipe": [entry("n", kind=tarfile.FIFOTYPE)],
    "an unknown kind": [entry("n", kind=b"Q")],
    "set-user-id": [entry("n", b"x", mode=0o4755)],
    "set-group-id": [entry("n", b"x", mode=0o2755)],
    "twice": [entry("n", b"1"), entry("./n", b"2")],
    "a file over a directory": [entry("n", kind=tarfile.DIRTYPE), entry("n", b"2")],
    "a directory over a link": [
        entry("n", kind=tarfile.SYMTYPE, linkname="x"), entry("n", kind=tarfile.DIRTYPE),
    ],
    "a file below a file": [entry("n", b"1"), entry("n/x", b"2")],
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_would_be_dangerous_to_unpack_is_refused_with_its_name(blobs: BlobStore, attack: str) -> None:
    """Rows 10 and 11."""
    said = refusal(blobs, tar(*ATTACKS[attack]))
    assert f"'{ATTACKS[attack][-1].name.removeprefix('./')}'" in said or "'d'" in said, said


@pytest.mark.parametrize(
    "records",
    [
        b"12 path=/etc\n", b"99 path=x\n", b"path=x\n", b"9 path=\xff\n", b"22 GNU.sparse.major=1\n",
        b"11 size=-5\n", b"29 size=99999999999999999999\n",
    ],
)  # fmt: skip
def test_pax_records_that_lie_are_refused(blobs: BlobStore, records: bytes) -> None:
    plain = tar(entry("x", b"1"), format=tarfile.USTAR_FORMAT)
    head = tarfile.TarInfo("h")
    head.type, head.size = b"x", len(records)
    data = head.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512) + plain
    refusal(blobs, data)


def test_a_bomb_is_noticed_while_it_unfolds(blobs: BlobStore) -> None:
    """Abuse 10. Two gigabytes of zeros in two megabytes; the memory it takes does not grow with it."""
    piece = tar(entry("z", bytes(40 << 20)))[: 512 + (40 << 20)]
    packed = gzip.compress(piece) * 8 + gzip.compress(bytes(1024))
    tracemalloc.start()
    with pytest.raises(GradientError) as refused:
        read(blobs, packed, "a.tar.gz")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.code == "archive-refused"
    assert most < 80 << 20
    assert not list(blobs.names())


def test_more_than_the_limit_is_refused_before_it_is_read(blobs: BlobStore) -> None:
    data = tar(entry("a", b"x" * 600), entry("b", b"y" * 600))
    with pytest.raises(TooLarge, match="limit"):
        read(blobs, data, limit=1000)
    header = entry("a").tobuf()
    claims = tarfile.TarInfo("a")
    claims.size = 1 << 40
    with pytest.raises(TooLarge):
        read(blobs, claims.tobuf(tarfile.GNU_FORMAT) + header)


def test_too_many_entries_are_refused(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradient_jupyter.workspace.tarred.MAX_ENTRIES", 10)
    assert "10 entries" in refusal(blobs, tar(*(entry(f"{n}/", kind=tarfile.DIRTYPE) for n in range(11))))


def test_a_name_of_a_gigabyte_is_not_read(blobs: BlobStore) -> None:
    head = tarfile.TarInfo("h")
    head.type, head.size = b"L", 1 << 30
    assert "name or a note" in refusal(blobs, head.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


GOOD = tar(entry("a", b"content" * 99), entry("d/b", b"more"), entry("l", kind=tarfile.SYMTYPE, linkname="a"))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_cut_anywhere_it_is_refused_or_whole(blobs: BlobStore, ending: str) -> None:
    data = PACK[ending](GOOD)
    whole = read(blobs, data, "a" + ending).manifest
    last = len(GOOD.rstrip(b"\0")) if ending == ".tar" else len(data)
    for at in range(0, last, max(1, len(data) // 60)):
        with pytest.raises(InvalidRequest):
            if read(blobs, data[:at], "a" + ending).manifest != whole:
                # A plain tar that ends between two entries says nothing of those that are missing.
                assert ending == ".tar" and at % 512 == 0
                raise InvalidRequest("as said")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.binary(max_size=600), st.integers(0, len(GOOD)), st.sampled_from(["", "gz", "bz2", "xz"]))
def test_garbage_is_refused_with_a_stable_code(blobs: BlobStore, data: bytes, at: int, how: str) -> None:
    name = "a.tar." + how if how else "a.tar"
    for broken in (GOOD[:at] + data + GOOD[at + len(data) :], data):
        packed = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[how](broken)
        for content in (packed, packed[: len(packed) // 2] + data):
            try:
                read(blobs, content, name)
            except GradientError as error:
                assert error.code in ("archive-refused", "dataset-too-large", "bad-manifest")


def test_what_follows_the_end_is_refused(blobs: BlobStore) -> None:
    assert "belong to nothing" in refusal(blobs, GOOD + b"hidden".ljust(512, b"x"))


def test_other_files_are_kept_as_they_are_and_zip_files_are_unpacked(
    blobs: BlobStore, tmp_path: Path
) -> None:
    import zipfile

    plain = tmp_path / "table.csv"
    plain.write_text("1,2")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("d/x", "1")
    (tmp_path / "t.tgz").write_bytes(gzip.compress(GOOD))
    told = [0]

    def paths(name: str, extract: bool = True) -> list[str]:
        found = expand(tmp_path / name, blobs, extract=extract, limit_bytes=1 << 20, went=told.append)
        assert all(blobs.has(digest) for digest in found.manifest.digests())
        return [one.path for one in found.manifest.entries]

    assert paths("table.csv") == ["table.csv"]
    assert paths("z.zip") == ["d/x"]
    assert paths("z.zip", extract=False) == ["z.zip"]
    assert paths("t.tgz") == ["a", "d/b", "l"]
    assert paths("t.tgz", extract=False) == ["t.tgz"]
    assert sum(told)


def test_whoever_has_had_enough_ends_it(blobs: BlobStore, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def went(count: int) -> None:
        raise Enough

    for name in ("a.tar", "a.bin"):
        (tmp_path / name).write_bytes(GOOD)
        with pytest.raises(Enough):
            expand(tmp_path / name, blobs, extract=True, limit_bytes=1 << 20, went=went)
    assert not list(blobs.names()) and not list((blobs.root / "tmp").iterdir())
