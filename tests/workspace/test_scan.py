"""A directory becomes a manifest; what cannot travel is named, with a next step."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import WHOLE_BYTES, Directory, File, Link
from gradient_jupyter.workspace.ignore import Rule
from gradient_jupyter.workspace.leftout import Tally
from gradient_jupyter.workspace.scan import Scan, scan

Make = Callable[[dict[str, object]], Path]


def paths(result: Scan) -> list[str]:
    return [entry.path for entry in result.manifest.entries]


def refusal(root: Path, **options: int) -> WorkspaceError:
    with pytest.raises(WorkspaceError) as caught:
        scan(root, **options)
    assert caught.value.next, "says what to do"
    return caught.value


def test_files_links_and_empty_directories_become_entries(make: Make) -> None:
    root = make(
        {"a.py": "x", "run.sh": "y", "sub/b": b"", "empty/": "", "l": ("sub/b",), "sub/up": ("../a.py",)}
    )
    (root / "run.sh").chmod(0o750)
    result = scan(root)
    kinds = {entry.path: entry for entry in result.manifest.entries}
    assert list(kinds) == ["a.py", "empty", "l", "run.sh", "sub/b", "sub/up"]
    assert isinstance(kinds["empty"], Directory)
    assert kinds["l"] == Link(path="l", target="sub/b")
    run, a = kinds["run.sh"], kinds["a.py"]
    assert isinstance(run, File) and run.executable
    assert isinstance(a, File) and not a.executable and a.size == 1
    assert not result.warnings


def test_the_same_content_is_the_same_snapshot_wherever_it_lies(make: Make) -> None:
    tree: dict[str, object] = {f"d{i % 7}/f{i}": str(i) for i in range(150)}
    one, other = scan(make(tree)), scan(make(dict(reversed(tree.items()))))
    assert one.manifest.digest() == other.manifest.digest()


def test_a_directory_of_which_everything_stays_behind_is_kept(make: Make) -> None:
    result = scan(make({"logs/a.log": "x", ".gitignore": "*.log"}))
    assert paths(result) == [".gitignore", "logs"]


def test_what_is_left_out_is_counted_by_rule(make: Make) -> None:
    root = make(
        {
            ".gradientignore": "data/\n*.log\n",
            "data/a": "12345",
            "data/sub/b": "123",
            "x.log": "1",
            "sub/y.log": "22",
            "node_modules/m/i.js": "1",
            "main.py": "",
        }
    )
    result = scan(root)
    assert paths(result) == [".gradientignore", "main.py", "sub"]
    rows = {row.rule.pattern: row for row in result.left_out}
    assert (rows["data/"].files, rows["data/"].bytes, rows["data/"].examples) == (2, 8, ("data/",))
    assert (rows["*.log"].files, rows["*.log"].bytes) == (2, 3)
    assert (rows["*.log"].rule.source, rows["*.log"].rule.line) == (".gradientignore", 2)
    assert (rows["node_modules/"].files, rows["node_modules/"].rule.source) == (1, "default")
    assert not any(row.at_least for row in result.left_out)


def test_counting_what_is_left_out_gives_up_in_a_large_tree(make: Make) -> None:
    root = make({f"data/{i % 4}/{i}": "x" for i in range(40)} | {"few/a": "xx"})
    tally = Tally(os.fsencode(root), max_entries=20)
    data, few = Rule("data/", ".gitignore", 1), Rule("few/", ".gitignore", 2)
    tally.add(b"data", data, is_directory=True)
    tally.add(b"few", few, is_directory=True)
    tally.add(b"few/a", few, is_directory=False)
    rows = {row.rule: row for row in tally.rows()}
    assert rows[data].at_least and 10 < rows[data].files <= 20
    assert rows[few].at_least and rows[few].files == 1 and rows[few].bytes == 2


def test_an_environment_is_known_by_what_it_holds(make: Make) -> None:
    tree: dict[str, object] = {
        "myenv/pyvenv.cfg": "",
        "myenv/lib/x.py": "",
        "conda/conda-meta/history": "",
        "a": "",
    }
    result = scan(make(tree))
    assert paths(result) == ["a"]
    assert {row.examples for row in result.left_out} == {("myenv/",), ("conda/",)}
    assert "myenv/lib/x.py" in paths(scan(make({**tree, ".gradientignore": "!myenv/"})))


def test_links_that_leave_the_directory_are_left_out_and_named(make: Make) -> None:
    root = make(
        {
            "in": ("a",),
            "a": "",
            "abs": ("/etc/passwd",),
            "up": ("../x",),
            "dot": (".",),
            "sly": ("dot/../x",),
            "circle": ("circle",),
        }
    )
    os.symlink(b"\xff", os.fsencode(root) + b"/bytes")
    result = scan(root)
    assert paths(result) == ["a", "circle", "dot", "in"]
    (warning,) = result.warnings
    for name in ("abs", "up", "sly", "bytes"):
        assert name in warning


def test_special_files_are_left_out_and_named(make: Make) -> None:
    root = make({"a": ""})
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "s"))
        result = scan(root)
    assert paths(result) == ["a"]
    assert "pipe" in result.warnings[0] and "s" in result.warnings[0]


def test_hard_links_are_sent_as_files_of_their_own_and_named(make: Make, tmp_path: Path) -> None:
    root = make({"a": "content", "plain": "x"})
    os.link(root / "a", root / "b")
    (tmp_path / "outside").write_text("elsewhere")
    os.link(tmp_path / "outside", root / "c")
    result = scan(root)
    assert paths(result) == ["a", "b", "c", "plain"]
    (warning,) = result.warnings
    assert warning.startswith("Hard links are sent as files of their own")
    assert warning.endswith(": a, b, c.")


def test_a_device_is_left_out_and_named(make: Make) -> None:
    root = make({"a": ""})
    try:
        os.mknod(root / "null", 0o20600, os.makedev(1, 3))
    except PermissionError:
        # Only root can make one. A directory that holds some is there for everybody.
        result = scan(Path("/dev"), limit_bytes=None)
        assert any("null" in warning or "no regular files" in warning for warning in result.warnings)
        return
    assert "null" in scan(root).warnings[0]


def test_a_name_that_is_not_utf8_is_shown_escaped_and_can_be_ignored(make: Make) -> None:
    root = make({"a": ""})
    with open(os.fsencode(root) + b"/caf\xe9", "wb"):
        pass
    assert r"caf\xe9" in str(refusal(root))
    (root / ".gradientignore").write_text("caf?\n")
    result = scan(root)
    assert paths(result) == [".gradientignore", "a"]
    assert result.left_out[0].examples == (r"caf\xe9",)


def test_a_directory_whose_name_is_not_utf8_can_be_ignored_by_a_star(make: Make) -> None:
    root = make({".gradientignore": "bad*\n", "a": ""})
    os.mkdir(os.fsencode(root) + b"/bad\xff")
    with open(os.fsencode(root) + b"/bad\xff/x", "wb"):
        pass
    assert paths(scan(root)) == [".gradientignore", "a"]


def test_roots_that_are_no_workspace_are_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make({"a": ""})
    assert "does not exist" in str(refusal(root / "gone"))
    assert "not a directory" in str(refusal(root / "a"))
    assert "whole system" in str(refusal(Path("/")))
    monkeypatch.setenv("HOME", str(root))
    assert "home directory" in str(refusal(root))
    link = root.parent / "way"
    link.symlink_to(root)
    assert "home directory" in str(refusal(link))


IN_OTHER_CLOTHES = """
import os, pathlib, subprocess, sys
from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.workspace.scan import scan
home, here = pathlib.Path(os.environ["HOME"]), pathlib.Path(sys.argv[1])
def refused(path):
    try:
        return [entry.path for entry in scan(path).manifest.entries]
    except WorkspaceError as error:
        return error.code
def mount(source, target):
    target.mkdir(parents=True)
    subprocess.run(["mount", "--rbind", source, target], check=True)
mount(home, here / "home-again")
mount("/", here / "root-again")
mount(home, here / "work" / "inside")
(here / "work" / "a").touch()
print(refused(here / "home-again"), refused(here / "root-again"), refused(here / "work"))
(here / "work" / ".gradientignore").write_text("inside\\n")
print(refused(here / "work"))
"""


def test_the_home_directory_is_known_under_any_mount(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", IN_OTHER_CLOTHES, tmp_path],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
        env={**os.environ, "HOME": str(tmp_path / "home")},
    )  # fmt: skip
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"no user namespace to mount in: {done.stderr}")
    assert done.stdout.splitlines() == [
        "workspace-refused workspace-refused workspace-refused",
        "['.gradientignore', 'a']",
    ], done.stderr


def test_too_much_names_the_largest_files_and_the_rule_for_them(make: Make) -> None:
    root = make({f"f{i}": b"x" * i for i in range(20)} | {"big one.bin": b"x" * 500})
    error = refusal(root, limit_bytes=600)
    for name in ("big one.bin", "f19", "f18", "f17", "f16"):
        assert name in error.message
    assert "f15" not in error.message
    (root / ".gradientignore").write_text(error.next.split(": ")[1] + "\n")
    assert "big one.bin" not in paths(scan(root, limit_bytes=600))


def test_too_many_names_where_they_are(make: Make) -> None:
    root = make({f"tiny/{i}": "" for i in range(30)} | {"a": ""})
    error = refusal(root, limit_entries=20)
    assert "tiny/ (3" in error.message
    (root / ".gradientignore").write_text(error.next.split(": ")[1] + "\n")
    assert paths(scan(root, limit_entries=20)) == [".gradientignore", "a"]


@pytest.mark.parametrize("name", ["secret.bin", "locked/", ".gitignore"])
def test_what_cannot_be_read_is_named(name: str) -> None:
    # Root reads everything, so nobody does the scan.
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        (root / "a").write_text("x")
        path = root / name
        path.mkdir() if name.endswith("/") else path.write_text("y")
        path.chmod(0)
        script = (
            "import os, sys, pathlib\n"
            "from gradient_jupyter.workspace.scan import scan\n"
            "from gradient_jupyter.resources.errors import WorkspaceError\n"
            "import blake3, concurrent.futures\n"
            "os.getuid() == 0 and os.setuid(65534)\n"
            "try:\n    print(len(scan(pathlib.Path(sys.argv[1])).manifest.entries))\n"
            "except WorkspaceError as error:\n    print(error)\n"
        )
        repository = Path(__file__).parents[2]

        def run() -> str:
            done = subprocess.run(
                [sys.executable, "-c", script, root],
                capture_output=True, text=True, cwd=repository, env={"HOME": "/nonexistent"}, check=True,
            )  # fmt: skip
            return done.stdout.strip()

        said = run()
        assert f"'{name.rstrip('/')}' cannot be read" in said
        assert "chmod u+r" in said and ".gradientignore" in said
        if name != ".gitignore":
            (root / ".gradientignore").write_text(name)
            assert run() == "2"
    finally:
        for path in root.iterdir():
            path.chmod(0o700)
        shutil.rmtree(root)


Edit = Callable[[Path], None]


@pytest.fixture
def while_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Edit, int], list[int]]:
    """Does ``edit`` between the system's answer to a read of ``path`` and ours, ``times`` times."""

    def arrange(path: Path, edit: Edit, times: int) -> list[int]:
        status = path.stat()
        os.utime(path, ns=(0, 10**18))  # so old that every edit moves its times, whatever the clock's tick
        done: list[int] = []
        for name in ("read", "readv"):
            real = getattr(os, name)

            def reading(fd: int, *rest: object, real: Callable[..., object] = real) -> object:
                answer = real(fd, *rest)
                if len(done) < times and os.fstat(fd).st_ino in (status.st_ino, path.stat().st_ino):
                    done.append(fd)
                    edit(path)
                return answer

            monkeypatch.setattr(os, name, reading)
        return done

    return arrange


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewrite(path: Path) -> None:
    """The same size, other bytes."""
    with path.open("r+b") as file:
        file.write(b"other")


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"another file, of another length")
    path.with_name("new").rename(path)


EDITS = [grow, shrink, rewrite]
SIZES = [100, 3 << 20, WHOLE_BYTES + 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_never_rests_is_named(
    make: Make, while_read: Callable[..., list[int]], edit: Edit, size: int
) -> None:
    root = make({"dir/busy": b"x" * size})
    done = while_read(root / "dir/busy", edit, 1000)
    error = refusal(root)
    assert "'dir/busy' changes while it is being read" in error.message
    assert len(done) >= 2, "it was tried twice"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("edit", [*EDITS, replace])
def test_a_file_that_changed_once_is_read_again(
    make: Make, while_read: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, edit: Edit, size: int
) -> None:
    root = make({"dir/busy": b"x" * size})
    assert while_read(root / "dir/busy", edit, 1) == []
    seen = scan(root).manifest
    monkeypatch.undo()
    if edit is replace:
        # What was open stays as it was: the old file, whole, or the new one.
        assert seen.files[0].size in (size, len(b"another file, of another length"))
    else:
        assert seen == scan(root).manifest


def test_what_vanishes_between_the_listing_and_the_reading_is_named(
    make: Make, while_read: Callable[..., list[int]]
) -> None:
    root = make({"a/first": "1", "b/second": "2", "c/third": "3"})

    def remove(path: Path) -> None:
        for name in ("a", "b"):
            shutil.rmtree(root / name)
        (root / "b").symlink_to(root / "c")  # and one directory has become a link

    assert while_read(root / "c/third", remove, 1) == []
    result = scan(root)
    assert paths(result) == ["a", "b", "c/third"]
    assert sorted(result.warnings) == [
        "'a/first' disappeared while the directory was being read.",
        "'b/second' disappeared while the directory was being read.",
    ]


def test_a_directory_that_becomes_a_link_leads_nowhere(
    make: Make, while_read: Callable[..., list[int]], tmp_path: Path
) -> None:
    """In a directory shared with others, one of them swaps a folder for a link to what only we can read."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "second").write_text("only mine")
    root = make({"b/second": "2", "c/third": "3"})

    def swap(path: Path) -> None:
        (root / "b").rename(tmp_path / "away")
        (root / "b").symlink_to(secret)

    while_read(root / "c/third", swap, 1)
    assert paths(scan(root)) == ["b", "c/third"]


def test_progress_ends_at_the_total(make: Make) -> None:
    seen: list[tuple[int, int]] = []
    scan(make({"a": b"x" * 10, "b": b"y" * 5}), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (15, 15)
    assert seen == sorted(seen)


def test_control_characters_in_names_travel_and_are_shown_escaped(make: Make) -> None:
    root = make({"new\nline": "x", "ignored\x1b[31m": "", ".gitignore": "ignored*"})
    result = scan(root)
    assert "new\nline" in paths(result)
    assert result.left_out[0].examples == (r"ignored\x1b[31m",)


def test_a_slow_file_system_is_read_by_several_threads(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make({f"{i % 9}/{i}": str(i) for i in range(300)})
    quick = scan(root)
    monkeypatch.setattr("gradient_jupyter.workspace.scan._QUICK_SECONDS", 0.0)
    monkeypatch.setattr("gradient_jupyter.workspace.scan._QUICK_BYTES", float("inf"))
    assert scan(root).manifest == quick.manifest
