"""Ignore rules: git is the oracle for .gitignore alone; the rest is what we promise on top."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gradient_jupyter.workspace.ignore import Ignore, Rule
from gradient_jupyter.workspace.pattern import parse

needs_git = pytest.mark.skipif(
    shutil.which("git") is None and "CI" not in os.environ, reason="git, the oracle, is not installed"
)

NAMES = ["a", "b", "ab", "a b", "a.c", "é", "[a]", "x!", "#h", "a\\b", "A", "-", "ba", "c "]
PIECES = [
    *"abc*?/!#.-é",
    "**",
    "/",
    "**/",
    "/**",
    "a**",
    "[ab]",
    "[!a]",
    "[^b]",
    "[a-c]",
    "[]a]",
    "[a\\]]",
    "[",
    "[[:alpha:]]",
    "[[:nonsense:]]",
    "[a/b]",
    "\\",
    "\\*",
    "\\/",
    " ",
    "\\ ",
    "\t",
    "\r",
]
patterns = st.builds(
    lambda negated, anchored, pieces, slash, spaces: negated + anchored + "".join(pieces) + slash + spaces,
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=5),
    st.sampled_from(["", "", "/"]),
    st.sampled_from(["", "", " ", "  "]),
)
paths = st.lists(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join),
    min_size=1,
    max_size=14,
    unique=True,
)


def left_out(
    path: str, ignore_files: dict[str, str], *, defaults: bool = False, directory: bool = False
) -> bool:
    """What our walk does with ``path``: down from the root, and not into what is left out."""
    ignore = Ignore(defaults=defaults)
    parts = path.split("/")
    for depth in range(len(parts)):
        above = "/".join(parts[:depth])
        texts = {}
        for key, name in (("gitignore", ".gitignore"), ("gradientignore", ".gradientignore")):
            text = ignore_files.get(f"{above}/{name}" if above else name)
            texts[key] = None if text is None else text.encode()
        ignore = ignore.enter(above.encode(), **texts)
        here = "/".join(parts[: depth + 1]).encode()
        if ignore.verdict(here, is_directory=directory or depth < len(parts) - 1).left_out:
            return True
    return False


def git_ignores(
    root: Path, files: set[str], ignore_files: dict[str, str], asked: set[str], config: str = ""
) -> set[str]:
    """Which of ``asked`` git leaves out of a work tree at ``root`` that holds ``files``. No configuration of
    this machine reaches it."""
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(root)}
    for git_directory in ("refs", "objects"):
        (root / ".git" / git_directory).mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (root / ".git" / "config").write_text(config)
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for path, text in ignore_files.items():
        (root / path).write_bytes(text.encode())
    said = subprocess.run(
        ["git", "check-ignore", "--no-index", "-z", "--stdin"],
        cwd=root, env=environment, input="\0".join(asked).encode(), stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert said.returncode in (0, 1)
    return {path.decode() for path in said.stdout.split(b"\0") if path}


@needs_git
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    paths=paths,
    top=st.lists(patterns, max_size=4),
    nested=st.lists(st.tuples(st.integers(0, 20), st.lists(patterns, min_size=1, max_size=3)), max_size=3),
)
@example(paths=["ab", "a/b", "ab/b", "b", "a/a/b"], top=["a**/b"], nested=[])
@example(paths=["ab", "a/b", "a/ab/b", "b/a"], top=["**\\/b"], nested=[(0, ["!**"])])
@example(paths=["a/b/ab", "a/ab"], top=["*"], nested=[(0, ["!b/"]), (1, ["!ab"])])
@example(paths=["c /a", "a.c", "b/c "], top=["c\\ ", "a.c  ", "!b/"], nested=[])
def test_a_gitignore_means_what_git_says_it_means(
    paths: list[str], top: list[str], nested: list[tuple[int, list[str]]]
) -> None:
    """Files and directories, rules at the top and in any directory below, also in one that is left out."""
    files = {path for path in paths if not any(other.startswith(path + "/") for other in paths)}
    directories = sorted(
        {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    )
    ignore_files = {".gitignore": "\n".join(top)}
    for place, lines in nested:
        if directories:
            ignore_files[directories[place % len(directories)] + "/.gitignore"] = "\n".join(lines)
    with tempfile.TemporaryDirectory() as name:
        theirs = git_ignores(Path(name), files, ignore_files, files | set(directories))
    ours = {path for path in files if left_out(path, ignore_files)}
    ours |= {path for path in directories if left_out(path, ignore_files, directory=True)}
    assert ours == theirs


@needs_git
def test_case_counts_also_where_git_was_told_that_it_does_not(tmp_path: Path) -> None:
    """``core.ignorecase`` describes a file system; ours, on which jobs run, tells names apart by case."""
    rules = {".gitignore": "data.bin\n"}
    assert git_ignores(tmp_path, {"DATA.bin"}, rules, {"DATA.bin"}, "[core]\nignorecase = true\n")
    assert not left_out("DATA.bin", rules)


def test_the_last_match_wins_across_the_three_kinds() -> None:
    files = {
        ".gitignore": "*.csv\n!keep.csv\n!wanted.pem\n",
        ".gradientignore": "keep.csv\n!data.csv\n!.venv/\n",
        "sub/.gitignore": "data.csv\n",
    }
    assert left_out("x.csv", files, defaults=True)
    assert left_out("keep.csv", files, defaults=True)
    assert not left_out("data.csv", files, defaults=True)
    assert not left_out("sub/data.csv", files, defaults=True), "any .gradientignore beats any .gitignore"
    assert not left_out("wanted.pem", files, defaults=True)
    assert not left_out(".venv/lib.py", files, defaults=True)
    assert left_out("other.pem", files, defaults=True)


def test_a_deeper_file_of_one_kind_beats_a_shallower_one() -> None:
    files = {
        ".gradientignore": "*.log\n",
        "sub/.gradientignore": "!*.log\n",
        "sub/deep/.gradientignore": "*.log\n",
    }
    assert left_out("x.log", files)
    assert not left_out("sub/x.log", files)
    assert left_out("sub/deep/x.log", files)


def test_a_file_in_a_left_out_directory_comes_back_only_with_the_directory() -> None:
    assert left_out("data/a.csv", {".gradientignore": "data/\n!data/a.csv\n"})
    assert not left_out("data/a.csv", {".gradientignore": "data/*\n!data/a.csv\n"})


def test_looking_into_every_directory_does_not_bring_back_what_git_never_sees() -> None:
    whitelist = "*\n!*/\n!*.py\n"
    assert not left_out("a/b.py", {".gitignore": whitelist}, defaults=True)
    assert left_out(".git/hooks/a.py", {".gitignore": whitelist}, defaults=True)
    assert left_out("node_modules/a.py", {".gitignore": whitelist}, defaults=True)
    assert not left_out("node_modules/a.py", {".gradientignore": whitelist}, defaults=True)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", "sub/.git", ".venv/x", "venv/x", "node_modules/x", "a/__pycache__/m.pyc", "m.pyc",
        ".ipynb_checkpoints/x", ".DS_Store", ".env", ".env.local", "sub/.env.production", ".netrc", ".pypirc",
        "id_rsa", "id_ed25519", "keys/id_ed25519.pub",
        "server.pem", "server.key", ".aws/credentials", ".ssh/config",
        ".kube/config", ".docker/config.json", "sub/.docker/config.json", ".git-credentials",
        "credentials.json",
        "service-account-prod.json", ".jupyter/runtime/kernel.json", "home/.jupyter/runtime/x",
    ],
)  # fmt: skip
def test_what_nobody_means_to_send_is_left_out(path: str) -> None:
    assert left_out(path, {}, defaults=True)


@pytest.mark.parametrize(
    "path",
    [
        "env/agent.py", "train.py", ".env.example", ".gitignore", ".github/workflows/x.yml",
        ".docker/build.sh",
        "keys.py", "environment.yml", ".jupyter/config.py", "config.json", "venv",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_sent(path: str) -> None:
    assert not left_out(path, {}, defaults=True)


def test_each_exclusion_knows_its_rule_and_where_it_stands() -> None:
    ignore = Ignore().enter(b"", gitignore=None, gradientignore=None)
    assert ignore.verdict(b"x.pem", is_directory=False).rule is not None
    inner = ignore.enter(b"sub", gitignore=b"# no\n\n*.bin\n", gradientignore=b"\xef\xbb\xbftmp/\r\n")
    by_git = inner.verdict(b"sub/x.bin", is_directory=False).rule
    ours = inner.verdict(b"sub/tmp", is_directory=True).rule
    default = inner.verdict(b"sub/x.pem", is_directory=False).rule
    assert by_git == Rule("*.bin", "sub/.gitignore", 3)
    assert ours == Rule("tmp/", "sub/.gradientignore", 1)
    assert default == Rule("*.pem", "default", None)


def test_a_hostile_pattern_takes_no_exponential_time() -> None:
    pattern = parse(b"*a" * 40 + b"b")
    assert pattern is not None
    ignore = Ignore(defaults=False).enter(b"", gitignore=b"*a" * 40 + b"b", gradientignore=None)
    began = time.perf_counter()
    assert not ignore.verdict(b"a" * 255, is_directory=False).left_out
    assert time.perf_counter() - began < 2
