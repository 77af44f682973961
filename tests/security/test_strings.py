"""Rows 58-62: what has a meaning to a shell, a terminal, a table or a header stays text. Boundaries B1 and
B4; assets A1, A6; abuse case 19."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradient_jupyter.cli.ansi import Filter
from gradient_jupyter.cli.text import clean

SHELL = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "| touch pwned",
    "a\nb",
    "-rf",
    "*",
    "~",
    "'\"",
    "\\",
]
TERMINAL = {
    "title": "\x1b]0;title\x07",
    "link": "\x1b]8;;http://evil.test\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "device": "\x1bP+q544e\x1b\\",
    "clear": "\x1b[2J\x1b[H",
    "up": "\x1b[1A\x1b[2K",
    "report": "\x1b[6n\x1b[c",
    "eight bit": "\x9b2J\x9d0;t\x9c",
    "private": "\x1b_Gf=100;AAAA\x1b\\\x1b^x\x1b\\\x1bXx\x1b\\",
    "charset": "\x1b(0\x0e",
    "reset": "\x1bc",
    "backspace": "abc\b\b\bxyz\r",
    "bell": "\x07" * 5,
    "unfinished": "\x1b]0;never ends",
}
BIDI = "\u202e\u2066\u200f\u061c\u202a"


def environment(people, **more: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {
        **people.environment, "PYTHONPATH": root, "LC_ALL": "C.UTF-8",
        "GRADIENT_URL": people.runtime.url, "GRADIENT_TOKEN": people.tokens["owner"], **more,
    }  # fmt: skip


def gradient(people, directory, *words: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gradient_jupyter.cli", *words],
        cwd=directory, env=environment(people, **more), capture_output=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def on_a_terminal(people, directory, *words: str) -> str:
    """What a command shows where somebody looks."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gradient_jupyter.cli", *words],
        cwd=directory, env=environment(people, TERM="xterm-256color"), stdin=subprocess.DEVNULL,
        stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(ours)
    assert process.wait() == 0, seen
    return seen.decode()


def test_every_word_of_a_command_arrives_as_it_was_given(people):
    """Row 60: no shell looks at it, neither at its words nor at variables, names and tags."""
    script = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['HOSTILE'], os.listdir('.')]))"
    job = people.owner_job(
        sys.executable,
        "-c",
        script,
        *SHELL,
        name=SHELL[0],
        tags=[SHELL[1]],
        env={"HOSTILE": SHELL[0] + SHELL[2]},
    )
    people.until(job, "Stopped")
    words, variable, files = json.loads(people.ask("owner", "GET", f"/api/v1/jobs/{job}/log").data)
    assert (words, variable) == (SHELL, SHELL[0] + SHELL[2])
    assert "pwned" not in files
    found = people.ask("owner", "GET", f"/api/v1/jobs/{job}").json()
    assert (found["name"], found["tags"]) == (SHELL[0], [SHELL[1]])


@pytest.mark.parametrize(
    "name", ["$(touch pwned)", "`touch pwned`", ";id", "-rf", "a'b\"c", "x\u202ey", "%2e%2e"]
)
def test_a_directory_is_sent_whatever_it_is_called(people, tmp_path, name):
    """Rows 58, 60, 61: its name becomes the project's, as text; nothing in it is run or imported by us."""
    directory = tmp_path / name
    directory.mkdir()
    (directory / "train.py").write_text("print('ran')")
    for module in ("click", "msgspec", "sitecustomize", "rich", "json", "gradient_config"):
        (directory / f"{module}.py").write_text("import pathlib; pathlib.Path('/tmp/pwned-by-cwd').touch()")
    done = gradient(people, directory, "run", "train.py", PYTHONSAFEPATH="1")
    assert done.returncode == 0, done
    assert b"ran" in done.stdout
    assert not Path("/tmp/pwned-by-cwd").exists()
    assert not list(tmp_path.rglob("pwned*"))
    people.quiet()


@pytest.mark.parametrize("what", TERMINAL)
def test_nothing_that_a_terminal_obeys_comes_through_a_log_but_colours(people, tmp_path, what):
    """Row 62."""
    text = f"before \x1b[31mred\x1b[0m {TERMINAL[what]}\nafter\n"
    shown = Filter().feed(text)
    assert "\x1b[31mred\x1b[0m" in shown and "after" in shown
    bare = shown.replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert not any(letter in bare for letter in "\x1b\x07\x08\x0e\x90\x9b\x9c\x9d\x9e\x9f")
    pieces = Filter()
    again = "".join(pieces.feed(letter) for letter in text)
    assert again == shown


def test_a_job_that_prints_every_sequence_leaves_the_terminal_alone(people, tmp_path):
    """The same through the whole command line: a log, a job's sheet, lists, artifacts."""
    everything = "".join(TERMINAL.values()) + BIDI
    script = f"import sys; sys.stdout.write({everything!r} + '\\nend\\n')"
    job = people.owner_job(
        sys.executable, "-c", script, env={"X": everything.replace("\n", "")}, name=BIDI, tags=[BIDI + "tag"]
    )
    people.until(job, "Stopped")
    for words in (
        ("jobs", "logs", job),
        ("jobs", "show", job),
        ("jobs", "list"),
        ("projects", "list"),
        ("jobs", "artifacts", "list", job),
        ("tokens", "list"),
    ):
        told = on_a_terminal(people, tmp_path, *words)
        told = re.sub("\x1b\\[[0-9;]*m", "", told)  # our own colours, and the job's
        assert not any(letter in told for letter in "\x1b\x07\x08\x0e\x9b\x9d\x9c\x90"), (words, told)
        if words[1] != "logs":
            assert not any(letter in told for letter in BIDI), (words, told)
    people.quiet()


@pytest.mark.parametrize("text", [*TERMINAL.values(), BIDI, "a\nb\rc", "\x00", "\u2028"])
def test_what_others_named_is_one_line_of_visible_letters(text):
    told = clean(f"x{text}y")
    assert told.isprintable() and told.startswith("x")


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '"=1"', "=cmd|'/c calc'!A1")


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_a_name_like_any_other(people, formula):
    """Row 62, CSV: nothing of ours is exported as a table for calculation; in JSON it stays what it was."""
    if formula.startswith("\t"):
        status = people.ask("owner", "POST", "/api/v1/projects", body={"name": formula}).status
        assert status == 400
        return
    made = people.ask("owner", "POST", "/api/v1/projects", body={"name": formula})
    assert made.status in (201, 409)
    names = [
        each["name"] for each in people.ask("owner", "GET", "/api/v1/projects?limit=1000").json()["items"]
    ]
    assert formula in names


@pytest.mark.parametrize(
    "url",
    [
        "git+https://-oProxyCommand=touch%20pwned/x",
        "git+https://h.invalid/-x",
        "git+https://h.invalid/x@--upload-pack=touch pwned",
        "git+https://h.invalid/x@-f",
        "git+ssh://h.invalid/x",
        "git+ext::sh -c touch% pwned",
        "git+file:///etc",
        "ext::sh -c touch% pwned",
        "git+https://h.invalid/x#subdirectory=../..",
        "git+https://h.invalid/x#subdirectory=/etc",
        "git+https://u:p@h.invalid/x",
        "git+https://h.invalid/x\n--config=x",
    ],
)
def test_no_address_of_a_repository_becomes_an_option_or_a_protocol_of_git(people, url):
    """Rows 58, 60."""
    answer = people.ask("owner", "POST", "/api/v1/snapshots/git", body={"url": url})
    # 424: it was understood as an ordinary address whose host is not there.
    assert answer.status in (400, 403, 424), answer.data
    if "ssh" in url or "ext" in url or "file:" in url or ".." in url or "\n" in url:
        assert answer.status == 400, answer.data
    assert not list(people.data.rglob("pwned*")) and not os.path.exists("pwned")
