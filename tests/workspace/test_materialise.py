"""Hostile manifests are refused before anything is written, and a tree that exists is whole."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import descriptors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import EMPTY_TREE, Directory, Entry, File, Link, Manifest
from gradient_jupyter.workspace.blobs import BlobStore, Damaged
from gradient_jupyter.workspace.materialise import check_manifest, materialise

D = "0" * 64

#: What has got out of other people's directories. Rule 8 of research/safety.md: it only grows.
TRAVERSAL = [
    "../x", "..", ".", "", "/", "/etc/passwd", "//x", "a/../../x", "a/..", "a/./b", "./a",
    "a//b", "a/", "a/b/",
    "a\0b", "\0", "\udcff", "a/\ud800", "x" * 256, "/".join("x" * 200 for _ in range(30)),
    "/".join("a" * 101),
    "é" * 128, "a/../b",
]  # fmt: skip


def file(path: str, size: int = 0, digest: str = D) -> File:
    return File(path=path, size=size, digest=digest)


def manifest(*entries: Entry) -> Manifest:
    return Manifest(entries=entries)


def refused(blobs: BlobStore, target: Path, *entries: Entry) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_manifest(manifest(*entries))
    assert caught.value.code == "bad-manifest"
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600
    before = sorted(os.listdir(target.parent))
    with pytest.raises(InvalidRequest):
        materialise(manifest(*entries), blobs, target)
    assert sorted(os.listdir(target.parent)) == before
    return caught.value.message


@pytest.mark.parametrize("path", TRAVERSAL, ids=lambda path: ascii(path)[:30])
def test_no_path_leads_out(blobs: BlobStore, tmp_path: Path, path: str) -> None:
    for entry in (file(path), Link(path=path, target="a"), Directory(path=path)):
        refused(blobs, tmp_path / "t", entry)


@pytest.mark.parametrize(
    "path", ["..a", "a..", "...", "-rf", "a\\..\\b", "C:", "%2e%2e", "~", "\u2025", "\n", "\uff0e\uff0e"]
)
def test_what_only_looks_like_it_is_a_name(blobs: BlobStore, tmp_path: Path, path: str) -> None:
    digest = blobs.put_bytes(b"x")
    materialise(manifest(file(path, 1, digest)), blobs, tmp_path / "t")
    assert os.listdir(tmp_path / "t") == [path]


@pytest.mark.parametrize(
    "links",
    [
        {"l": "/etc/passwd"}, {"l": ".."}, {"l": "../x"}, {"a/l": "../.."}, {"a/l": "../../x"},
        {"l": "a/../../x"},
        {"l": "x\0y"}, {"l": "\udcff"}, {"l": "x" * 5000}, {"l": ""},
        {"d": ".", "l": "d/.."},
        {"d": ".", "l": "d/../etc/passwd"},
        {"a/d": "..", "l": "a/d/../x"},
        {"d": "e", "e": ".", "l": "d/../x"},
        {"a/b/d": "../..", "l": "a/b/d/../x"},
        {"d": ".", "a/l": "../d/d/d/../x"},
    ],
)  # fmt: skip
def test_no_link_leads_out_also_not_by_way_of_others(
    blobs: BlobStore, tmp_path: Path, links: dict[str, str]
) -> None:
    refused(blobs, tmp_path / "t", *(Link(path=path, target=target) for path, target in links.items()))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    links=st.dictionaries(
        st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"]),
        st.lists(st.sampled_from(["..", ".", "a", "b", "d", "e", "x"]), min_size=1, max_size=6).map("/".join),
        max_size=4,
    )
)
def test_what_is_accepted_stays_inside_as_the_system_resolves_it(
    blobs: BlobStore, tmp_path: Path, links: dict[str, str]
) -> None:
    entries = manifest(Directory(path="d/e"), *(Link(path=p, target=t) for p, t in links.items()))
    try:
        check_manifest(entries)
    except InvalidRequest:
        return
    target = tmp_path / os.urandom(6).hex()
    materialise(entries, blobs, target)
    for path in links:
        try:
            found = os.path.realpath(target / path, strict=True)
        except FileNotFoundError:
            found = os.path.realpath(target / path)
        except OSError as error:
            assert error.errno == errno.ELOOP  # it leads nowhere at all
            continue
        assert found.startswith(str(target))


@pytest.mark.parametrize(
    "entries",
    [
        (file("a"), file("a")),
        (file("a"), Directory(path="a")),
        (Link(path="a", target="b"), file("a")),
        (file("a"), file("a/b")),
        (file("a/b/c"), file("a")),
        (Link(path="a", target="b"), Directory(path="b"), file("a/c")),
        (Link(path="a", target="b"), Link(path="a/c", target="d")),
        (file("a"), file("a-b"), file("a/b")),
        (file("a", 1), file("b", 2)),
        (file("a", -1),),
        (file("a", digest="../../etc/passwd"),),
        (file("a", digest="A" * 64),),
    ],
)
def test_what_is_no_tree_is_refused(blobs: BlobStore, tmp_path: Path, entries: tuple[Entry, ...]) -> None:
    refused(blobs, tmp_path / "t", *entries)


def test_the_number_of_entries_is_limited() -> None:
    entries = manifest(*(file(str(i)) for i in range(11)))
    check_manifest(entries, max_entries=11)
    with pytest.raises(InvalidRequest, match="11 entries"):
        check_manifest(entries, max_entries=10)


def test_modes_are_ours_whatever_the_umask(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put_bytes(b"x")
    entries = manifest(
        file("d/plain", 1, digest),
        File(path="d/run", size=1, digest=digest, executable=True),
        Directory(path="e/f"),
        Link(path="d/l", target="../e"),
    )
    before = os.umask(0o077)
    try:
        materialise(entries, blobs, tmp_path / "t")
    finally:
        os.umask(before)
    modes = {
        p.name: stat.S_IMODE(p.lstat().st_mode) for p in (tmp_path / "t").rglob("*") if not p.is_symlink()
    }
    assert modes == {"d": 0o755, "plain": 0o644, "run": 0o755, "e": 0o755, "f": 0o755}
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o755
    assert os.readlink(tmp_path / "t/d/l") == "../e"


def test_order_does_not_matter(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put_bytes(b"x")
    paths = ["z/y/x", "a", "z/a", "a-b/c", "z/y/w", "m/n"]
    materialise(
        manifest(Link(path="l", target="z/y"), *(file(p, 1, digest) for p in paths)), blobs, tmp_path / "t"
    )
    assert sorted(
        str(p.relative_to(tmp_path / "t")) for p in (tmp_path / "t").rglob("*") if p.is_file()
    ) == sorted(paths)


def test_the_empty_snapshot_is_an_empty_directory(blobs: BlobStore, tmp_path: Path) -> None:
    assert manifest().digest() == EMPTY_TREE
    materialise(manifest(), blobs, tmp_path / "t")
    assert os.listdir(tmp_path / "t") == []


def break_blob(blobs: BlobStore, digest: str) -> None:
    (blobs.root / digest[:2] / digest).write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (break_blob, Damaged),
        (lambda blobs, digest: blobs.delete(digest), Damaged),
    ],
)
def test_a_spoilt_blob_is_named_and_leaves_nothing(
    blobs: BlobStore, tmp_path: Path, spoil: Callable[[BlobStore, str], object], error: type[Exception]
) -> None:
    good, bad = blobs.put_bytes(b"good"), blobs.put_bytes(b"bad")
    spoil(blobs, bad)
    with pytest.raises(error, match=bad):
        materialise(manifest(file("a", 4, good), file("b", 3, bad)), blobs, tmp_path / "t")
    assert os.listdir(tmp_path) == ["blobs"]


def test_a_lie_about_a_size_is_refused(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'a' has 5 bytes; it has 1"):
        materialise(manifest(file("a", 5, blobs.put_bytes(b"x"))), blobs, tmp_path / "t")
    assert os.listdir(tmp_path) == ["blobs"]


def test_what_is_there_is_not_touched(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "t").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        materialise(manifest(), blobs, tmp_path / "t")
    assert not (tmp_path / "elsewhere").exists()


def test_leftovers_of_a_crash_are_removed_and_work_in_progress_is_not(
    blobs: BlobStore, tmp_path: Path
) -> None:
    dead = tmp_path / "t.partial-dead"
    (dead / "sub").mkdir(parents=True)
    (dead / "sub" / "f").write_text("x")
    (tmp_path / "t.partial-link").symlink_to(tmp_path / "blobs")
    digest = blobs.put_bytes(b"x")
    seen: list[list[str]] = []

    class Watched(BlobStore):
        def copy_to(self, digest: str, fd: int, *hashers: object) -> int:
            # While this tree is in the making, another one of the same name is made.
            if not seen:
                seen.append(sorted(os.listdir(tmp_path)))
                thread = threading.Thread(target=materialise, args=(entries, blobs, tmp_path / "t"))
                thread.start()
                thread.join()
                seen.append(sorted(os.listdir(tmp_path)))
            return super().copy_to(digest, fd)

    entries = manifest(file("a", 1, digest))
    with pytest.raises(OSError, match="not empty"):
        materialise(entries, Watched(blobs.root), tmp_path / "t")
    (mine,) = (name for name in seen[0] if name.startswith("t.partial-") and name != "t.partial-link")
    assert "t.partial-dead" not in seen[0]
    assert mine in seen[1] and "t" in seen[1]
    assert sorted(os.listdir(tmp_path)) == ["blobs", "t", "t.partial-link"]
    assert (tmp_path / "t" / "a").read_text() == "x"


def test_no_descriptor_stays_open(blobs: BlobStore, tmp_path: Path) -> None:
    before = descriptors.held()
    digest = blobs.put_bytes(b"x")
    materialise(manifest(file("a/b/c/d", 1, digest)), blobs, tmp_path / "t")
    with pytest.raises(Damaged):
        materialise(manifest(file("a/b/c/d", 1, digest), file("a/x", 1, D)), blobs, tmp_path / "u")
    assert descriptors.held() <= before
