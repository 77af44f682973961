"""The one door: nothing but regular files below the directory, whatever stands there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import descriptors
import pytest

from gradient_jupyter.resources.errors import GradientError, InvalidRequest, NotFound
from gradient_jupyter.workspace.inside import open_inside, remove_inside, remove_tree, walk_inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with everything in it that should not be reached, beside a file outside of it."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a").write_text("content")
    (root / "sub" / "deep" / "b").write_text("bb")
    (root / "link").symlink_to("a")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "dirlink").symlink_to("sub")
    (root / "updir").symlink_to("..")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def dirfd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(dirfd: int, name: str) -> bytes:
    with os.fdopen(open_inside(dirfd, name), "rb") as file:
        return file.read()


def test_a_file_below_the_directory_is_opened(dirfd: int) -> None:
    assert read(dirfd, "a") == b"content"
    assert read(dirfd, "sub/deep/b") == b"bb"


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "/", "/etc/passwd", "../secret", "sub/../a", "sub/./deep/b", "sub//deep/b", "a/", "/a",
        "a\0", "\0", "sub/\0/b", "\udc80", "a/" * 3000 + "a", "x" * 256, "..%2fsecret/..", "sub/../../secret",
    ],
)  # fmt: skip
def test_a_name_that_is_no_path_below_it_is_refused(dirfd: int, name: str) -> None:
    for use in (open_inside, remove_inside):
        with pytest.raises(InvalidRequest) as caught:
            use(dirfd, name)
        assert caught.value.code == "bad-path"


@pytest.mark.parametrize(
    "name",
    [
        "link",
        "out",
        "dirlink/deep/b",
        "updir/secret",
        "updir/root/a",
        "pipe",
        "sub",
        "sub/deep",
        "gone",
        "a/b",
        "%2e%2e/secret",
    ],
)
def test_what_is_no_regular_file_is_not_there(dirfd: int, name: str) -> None:
    # The named pipe has no writer: to wait for one would hang this test.
    with pytest.raises(NotFound) as caught:
        open_inside(dirfd, name)
    assert caught.value.code == "no-such-file"


def test_devices_are_not_opened() -> None:
    fd = os.open("/dev", os.O_RDONLY)
    try:
        with pytest.raises(NotFound):
            open_inside(fd, "null")
    finally:
        os.close(fd)


def test_a_directory_that_turns_into_a_link_is_not_followed(root: Path, dirfd: int) -> None:
    (root / "flip").mkdir()
    (root / "flip" / "secret").write_text("mine")
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            os.rename(root / "flip", root / "aside")
            os.symlink("..", root / "flip")
            os.unlink(root / "flip")
            os.rename(root / "aside", root / "flip")

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        for _ in range(500):
            with contextlib.suppress(NotFound):
                assert read(dirfd, "flip/secret") == b"mine"
            for file in walk_inside(dirfd, lambda skipped: None):
                assert file.size != len("secret")
    finally:
        stop.set()
        thread.join()


def test_a_walk_lists_regular_files_and_names_the_rest(root: Path, dirfd: int) -> None:
    with open(os.fsencode(root) + b"/bad\xff", "wb"):
        pass
    os.mkdir(os.fsencode(root) + b"/dir\xfe")
    os.utime(root / "a", ns=(0, 1_234_567_890))
    for _ in range(2):  # the descriptor's position is not ours to move
        skipped: list[str] = []
        found = list(walk_inside(dirfd, skipped.append))
        assert [(file.path, file.size) for file in found] == [("a", 7), ("sub/deep/b", 2)]
        assert found[0].modified_us == 1_234_567
        assert sorted(skipped) == [
            r"bad\xff: the name is not UTF-8",
            r"dir\xfe: the name is not UTF-8",
            "dirlink: a symbolic link",
            "link: a symbolic link",
            "out: a symbolic link",
            "pipe: no regular file",
            "updir: a symbolic link",
        ]


def test_every_listed_name_can_be_opened(tmp_path: Path) -> None:
    for name in ["-rf", "$(touch x)", ";id", "日本", "a\nb", "x" * 255, "deep/" * 90 + "f"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        files = list(walk_inside(fd, pytest.fail))
        assert len(files) == 7
        for file in files:
            assert read(fd, file.path).decode() == file.path
    finally:
        os.close(fd)


def make_deep(path: Path, depth: int) -> None:
    """Deeper than a path can be long."""
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for i in range(depth):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        if i % 50 == 0:
            os.mkdir(".removing-1", dir_fd=fd)
    os.close(fd)


def test_a_walk_of_a_bottomless_directory_ends_and_it_can_be_removed(tmp_path: Path) -> None:
    try:
        make_deep(tmp_path / "deep", 3000)
        fd = os.open(tmp_path / "deep", os.O_RDONLY)
        skipped: list[str] = []
        assert len(list(walk_inside(fd, skipped.append))) == 100
        os.close(fd)
        assert len(skipped) == 1 and "directories deep" in skipped[0]
        remove_tree(tmp_path / "deep")
        assert os.listdir(tmp_path) == []
    finally:  # pytest's own clean-up is not up to it
        subprocess.run(["rm", "-rf", tmp_path / "deep"], check=False)


def test_a_walk_that_is_given_up_closes_its_descriptors(root: Path, dirfd: int) -> None:
    before = descriptors.held()
    walk = walk_inside(dirfd, lambda skipped: None)
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    for name in ("sub/gone", "gone/x", "sub/deep", "..", "pipe"):
        with pytest.raises(GradientError):
            open_inside(dirfd, name)
    assert descriptors.held() <= before


def test_removing_takes_the_name_and_nothing_behind_it(root: Path, dirfd: int, tmp_path: Path) -> None:
    assert remove_inside(dirfd, "out") == 0
    assert (tmp_path / "secret").read_text() == "secret"
    with pytest.raises(NotFound):
        remove_inside(dirfd, "updir/secret")
    with pytest.raises(NotFound):
        remove_inside(dirfd, "gone")
    assert remove_inside(dirfd, "a") == 7
    (root / "sub" / "up").symlink_to(tmp_path)
    assert remove_inside(dirfd, "sub") == 2
    assert sorted(os.listdir(root)) == ["dirlink", "link", "pipe", "updir"]
    assert (tmp_path / "secret").exists()


def test_a_tree_goes_whatever_its_modes_and_links(root: Path, tmp_path: Path) -> None:
    (root / "sub" / "out").symlink_to(tmp_path)
    (root / "sub" / "deep").chmod(0o500)
    (root / "sub").chmod(0)
    assert remove_tree(root) == 9
    assert os.listdir(tmp_path) == ["secret"]
    assert remove_tree(root) == 0
    assert remove_tree(tmp_path / "gone" / "too") == 0
    (tmp_path / "l").symlink_to(tmp_path / "secret")
    remove_tree(tmp_path / "l")
    assert os.listdir(tmp_path) == ["secret"]


def test_an_ordinary_user_removes_a_tree_that_forbids_it() -> None:
    # Modes mean nothing to root, so nobody does it.
    script = (
        "import os, tempfile, pathlib\n"
        "from gradient_jupyter.workspace.inside import remove_tree\n"
        "os.getuid() == 0 and os.setuid(65534)\n"
        "top = pathlib.Path(tempfile.mkdtemp())\n"
        "(top / 'a' / 'b' / 'c').mkdir(parents=True)\n"
        "(top / 'a' / 'b' / 'f').write_text('12345')\n"
        "(top / 'a' / 'b' / 'f').chmod(0)\n"
        "for name in ('a/b/c', 'a/b', 'a'): (top / name).chmod(0o000 if name != 'a' else 0o500)\n"
        "print(remove_tree(top), top.exists())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout.split() == ["5", "False"]
