"""A commit as a manifest. Repositories are real, and read by git itself; hostile ones were made byte by byte.

They are read here without being fetched, so git's own check of what it receives has not seen them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from gitserver import Tree, run_git
from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import InvalidRequest, TooLarge
from gradient_jupyter.resources.snapshot import Directory, File, Link
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.commit import LISTING, Checkout, Listed, parse_listing, take
from gradient_jupyter.workspace.materialise import materialise
from gradient_jupyter.workspace.scan import scan


class Repository:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        run_git("init", "-q", "--bare", cwd=path)

    def blob(self, content: bytes) -> str:
        return run_git("hash-object", "-w", "--stdin", cwd=self.path, input=content)

    def tree(self, *entries: tuple[str, str, bytes]) -> str:
        raw = b"".join(f"{mode} ".encode() + name + b"\0" + bytes.fromhex(oid) for mode, oid, name in entries)
        return run_git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", cwd=self.path, input=raw)

    def commit(self, tree: Tree) -> str:
        """A tree object that holds these files."""
        stream = b"commit refs/heads/main\ncommitter a <a@b> 1 +0000\ndata 1\n.\ndeleteall\n"
        for path, content in tree.items():
            mode = "120000" if isinstance(content, tuple) else "100755" if path.endswith(".sh") else "100644"
            data = content[0] if isinstance(content, tuple) else content
            data = data.encode() if isinstance(data, str) else data
            stream += f"M {mode} inline {path}\ndata {len(data)}\n".encode() + data + b"\n"
        run_git("fast-import", "--quiet", "--force", cwd=self.path, input=stream)
        return run_git("rev-parse", "main^{tree}", cwd=self.path)

    def listing(self, tree: str) -> list[Listed]:
        done = subprocess.run(
            ["git", "ls-tree", *LISTING, tree], cwd=self.path, capture_output=True, check=True
        )
        return parse_listing([done.stdout])

    def read(self, objects: Sequence[str], receive: object) -> None:
        asked = "".join(f"{each}\n" for each in objects).encode()
        with subprocess.Popen(
            ["git", "cat-file", "--batch"], cwd=self.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as git:
            assert git.stdin is not None and git.stdout is not None
            git.stdin.write(asked)
            git.stdin.close()
            receive(git.stdout)  # type: ignore[operator]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def taken(repository: Repository, tree: str, blobs: BlobStore, limit_bytes: int = 1 << 30) -> Checkout:
    return take(repository.listing(tree), repository.read, blobs, limit_bytes=limit_bytes)


def test_a_commit_becomes_what_a_checkout_would_be(repository, blobs, tmp_path):
    """git's own working tree is the oracle."""
    big = os.urandom(5 << 20)
    tree = repository.commit({
        "train.py": "1", "run.sh": "#!/bin/sh\n", "data/a/b.bin": big, "data/same.bin": big, "empty": b"",
        "link": ("data/same.bin",), "data/up": ("../train.py",), "ü €.txt": "ü", ".gitignore": "*.log\n",
        "kept.log": "committed all the same", ".env.example": "", "secret.pem": "committed, so wanted",
    })  # fmt: skip
    checkout = taken(repository, tree, blobs)
    assert checkout.warnings == ()
    materialise(checkout.manifest, blobs, tmp_path / "ours")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    run_git(
        "--git-dir", repository.path, f"--work-tree={theirs}", "read-tree", "-u", "--reset", tree, cwd=theirs
    )
    same = subprocess.run(["diff", "-r", "--no-dereference", tmp_path / "ours", theirs], check=False)
    assert same.returncode == 0
    kinds = {entry.path: entry for entry in checkout.manifest.entries}
    assert kinds["run.sh"].executable and not kinds["train.py"].executable
    assert dict(checkout.blobs).keys() == {file.digest for file in checkout.manifest.files}


def test_a_commit_and_its_clean_clone_are_the_same_snapshot(repository, blobs, tmp_path):
    """So what a directory sent before is not stored twice."""
    tree = repository.commit({"train.py": "1", "d/x.sh": "2", "l": ("train.py",)})
    clone = tmp_path / "clone"
    clone.mkdir()
    run_git(
        "--git-dir", repository.path, f"--work-tree={clone}", "read-tree", "-u", "--reset", tree, cwd=clone
    )
    assert taken(repository, tree, blobs).manifest.digest() == scan(clone).manifest.digest()


def test_attributes_and_filters_are_data(repository, blobs, tmp_path):
    canary = tmp_path / "canary"
    run_git("config", "filter.evil.smudge", f"touch {canary}", cwd=repository.path)
    run_git("config", "filter.evil.required", "true", cwd=repository.path)
    tree = repository.commit({".gitattributes": "* filter=evil text eol=crlf\n", "a.txt": "one\ntwo\n"})
    checkout = taken(repository, tree, blobs)
    (file,) = (file for file in checkout.manifest.files if file.path == "a.txt")
    assert file.size == len("one\ntwo\n")
    assert not canary.exists()


def test_gradientignore_leaves_out_and_gitignore_does_not(repository, blobs):
    tree = repository.commit({
        ".gradientignore": "data/\n*.ckpt\n", ".gitignore": "*.py\n", "train.py": "1", "data/x": "2",
        "model.ckpt": "3", "sub/.gradientignore": "!keep.ckpt\n", "sub/keep.ckpt": "4", "sub/other.ckpt": "5",
    })  # fmt: skip
    checkout = taken(repository, tree, blobs, limit_bytes=60)
    paths = [entry.path for entry in checkout.manifest.entries]
    assert paths == [".gitignore", ".gradientignore", "sub/.gradientignore", "sub/keep.ckpt", "train.py"]
    (warning,) = checkout.warnings
    assert all(name in warning for name in ("data/x", "model.ckpt", "sub/other.ckpt"))


def test_pointers_of_large_file_storage_are_named(repository, blobs):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1\n"
    checkout = taken(repository, repository.commit({"model.bin": pointer, "a": "1"}), blobs)
    assert ["model.bin" in warning and "LFS" in warning for warning in checkout.warnings] == [True]


def test_an_empty_tree_is_an_empty_snapshot(repository, blobs):
    assert taken(repository, repository.tree(), blobs).manifest.entries == ()


@pytest.mark.parametrize(
    "name",
    [b".git", b".GIT", b"..", b".", b"/etc", b"/", b"a/../b", b"a//b", b"a/", b"\xff\xfe", b"x" * 256,
     b"a/.git/config"],
)  # fmt: skip
def test_a_name_made_to_harm_is_refused_and_nothing_is_stored(repository, blobs, name):
    tree = repository.tree(("100644", repository.blob(b"x"), name))
    with pytest.raises(InvalidRequest) as refused:
        taken(repository, tree, blobs)
    assert refused.value.code == "repository-refused"
    assert [file for file in blobs.root.rglob("*") if file.is_file()] == []


def test_a_path_that_is_too_deep_is_refused(repository, blobs):
    with pytest.raises(InvalidRequest, match="deep"):
        taken(repository, repository.commit({"d/" * 120 + "x": "1"}), blobs)


def test_a_file_that_is_also_a_directory_or_there_twice_is_refused(repository, blobs):
    blob = repository.blob(b"x")
    inner = repository.tree(("100644", blob, b"y"))
    for tree in (
        repository.tree(("100644", blob, b"a"), ("40000", inner, b"a")),
        repository.tree(("100644", blob, b"a"), ("100644", blob, b"a")),
        repository.tree(("120000", repository.blob(b"y"), b"a"), ("40000", inner, b"a")),
    ):
        with pytest.raises(InvalidRequest) as refused:
            taken(repository, tree, blobs)
        assert refused.value.code == "repository-refused"


def test_a_submodule_is_an_empty_directory(repository, blobs):
    tree = repository.tree(("100644", repository.blob(b"x"), b"a"), ("160000", "1" * 40, b"sub"))
    checkout = taken(repository, tree, blobs)
    assert [type(entry) for entry in checkout.manifest.entries] == [File, Directory]
    assert "sub" in checkout.warnings[0]


def test_links_are_kept_only_where_they_stay_inside(repository, blobs):
    checkout = taken(repository, repository.commit({"a": "1", "in": ("a",), "out": ("../a",)}), blobs)
    assert [entry.path for entry in checkout.manifest.entries if isinstance(entry, Link)] == ["in"]
    assert "out" in checkout.warnings[0]


def test_too_much_names_the_largest(repository, blobs):
    tree = repository.commit({f"f{n}": bytes(n << 10) for n in range(1, 9)})
    with pytest.raises(TooLarge) as refused:
        taken(repository, tree, blobs, limit_bytes=20 << 10)
    assert (
        all(f"f{n} " in refused.value.message for n in (8, 7, 6, 5, 4)) and "f3" not in refused.value.message
    )


def test_objects_that_are_missing_store_nothing(repository, blobs):
    tree = repository.commit({"a": "1", "b": "2"})

    def cut(objects: Sequence[str], receive: object) -> None:
        repository.read(["0" * 40 if each == objects[-1] else each for each in objects], receive)

    with pytest.raises(EOFError):
        take(repository.listing(tree), cut, blobs, limit_bytes=1 << 20)
    assert [file for file in blobs.root.rglob("*") if file.is_file()] == []


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_listing_is_entries_or_an_error(chunks):
    try:
        found = parse_listing(chunks)
    except (ValueError, InvalidRequest, TooLarge):
        return
    assert all(isinstance(each, Listed) for each in found)


@given(st.data())
def test_a_listing_reads_the_same_however_it_is_cut(data):
    line = b"100644 blob " + b"a" * 40 + b"      12\tname %d\x00"
    whole = b"".join(line % n for n in range(5))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert parse_listing(pieces) == parse_listing([whole])


def test_a_large_file_is_the_same_snapshot_as_where_it_is_sent_from(
    repository: Repository, tmp_path: Path
) -> None:
    """Files of more than one blob are named by their chunks, whoever brings them."""
    content = b"0123456789abcdef" * (65 << 16)
    here = tmp_path / "here"
    here.mkdir()
    (here / "large.bin").write_bytes(content)
    blobs = BlobStore(tmp_path / "blobs")
    checkout = taken(repository, repository.commit({"large.bin": content}), blobs)
    assert checkout.manifest.digest() == scan(here).manifest.digest()
    materialise(checkout.manifest, blobs, tmp_path / "copy")
    assert (tmp_path / "copy" / "large.bin").read_bytes() == content
