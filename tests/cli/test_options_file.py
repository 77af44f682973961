"""Options files: every verb has them, what is typed wins, and a file is never more than data."""

from __future__ import annotations

import json
import os
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from verbtree import ALL

from gradient_jupyter.cli import optionsfile
from gradient_jupyter.cli.command import normal
from gradient_jupyter.cli.failures import Failed


@pytest.mark.parametrize("path", ALL)
def test_every_verb_writes_a_template_that_it_reads_again(path: str, tmp_path: Path) -> None:
    command = ALL[path]
    given = ["--createOptionsFile", str(tmp_path / "made.yaml")]
    with command.make_context(path, given, obj={}) as ctx:
        assert command.invoke(ctx) == 0
    text = (tmp_path / "made.yaml").read_text()
    assert path.removeprefix("gradient ").split()[-1] in text
    with click.Context(command):
        said = optionsfile.read(command, str(tmp_path / "made.yaml"))
    keys = yaml.safe_load(text)
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert any(
                normal(option) in map(normal, keys) for option in (o.lstrip("-") for o in param.opts)
            ), param
    assert "apikey" not in map(normal, keys)
    assert not [name for name in said if name in ("options_file", "create_options_file", "api_key")]


def test_a_file_gives_what_is_not_typed_and_what_is_typed_wins(gradient: Any, directory: Path) -> None:
    (directory / "o.yaml").write_text(
        "command: train.py --epochs '1 0'\nname: yes\nenv: {A: 1, B: two words}\n"
        "tag: [nightly, 2026-11-24]\nretries: 2\nmaxDuration: 1h\njson: true\nmax-size: 1MiB\n"
    )
    job = gradient("run", "--optionsFile", "o.yaml", "--name", "typed").json
    assert job["command"] == ["python", "train.py", "--epochs", "1 0"]
    assert (job["name"], job["retries"], job["max_duration_s"]) == ("typed", 2, 3600)
    assert (job["env"], job["tags"]) == ({"A": "1", "B": "two words"}, ["nightly", "2026-11-24"])
    other = gradient("run", "--options-file", "o.yaml", "--retries", "0", "train.py").json
    assert (other["command"], other["name"], other["retries"]) == (["python", "train.py"], "yes", 0)


@pytest.mark.parametrize("command", ["command: echo 'a b'", "command: [echo, a b]"])
def test_jobs_create_takes_its_command_from_the_file(gradient: Any, directory: Path, command: str) -> None:
    (directory / "o.yaml").write_text(command + "\nworkspace: none\nfollow: true\n")
    assert gradient("jobs", "create", "--optionsFile", "o.yaml").out == "a b\n"


def test_a_template_holds_what_was_typed_and_nothing_is_done(gradient: Any, directory: Path) -> None:
    before = gradient("jobs", "list", "--json", "--limit", "1").json
    typed = ("--name", "a: b # c", "--tag", "x", "--ports", "8080:22", "--env", "K=v", "train.py", "-x")
    done = gradient("run", "--createOptionsFile", "made.yaml", *typed)
    assert (done.code, done.out) == (0, "")
    said = yaml.load((directory / "made.yaml").read_text(), Loader=yaml.BaseLoader)
    assert (said["name"], said["tag"], said["ports"]) == ("a: b # c", ["x"], ["8080:22"])
    assert (said["command"], said["machineType"]) == (["train.py", "-x"], "")
    assert gradient("jobs", "list", "--json", "--limit", "1").json == before
    again = gradient("run", "--optionsFile", "made.yaml", "--ports", "none", "--createOptionsFile", "-")
    assert "a: b # c" in again.out


def test_a_typed_name_wins_over_the_files(gradient: Any, directory: Path) -> None:
    (directory / "o.yaml").write_text("name: from-the-file\n")
    for typed, name in ((("typed",), "typed"), ((), "from-the-file")):
        made = gradient("datasets", "create", "--optionsFile", "o.yaml", *typed, "--json")
        assert (made.code, made.json["name"]) == (0, name)


def test_a_flag_that_says_no_means_what_it_says(tmp_path: Path) -> None:
    command = ALL["gradient datasets create"]
    for said in (True, False):
        (tmp_path / "o.yaml").write_text(f"noExtract: {str(said).lower()}\n")
        with command.make_context("create", ["--optionsFile", str(tmp_path / "o.yaml")], obj={}) as ctx:
            assert ctx.params["no_extract"] is said
    with command.make_context("create", ["--createOptionsFile", "-"], obj={}) as ctx:
        assert "noExtract: false\n" in optionsfile.template(ctx)


def test_a_template_is_never_written_over_a_file(gradient: Any, directory: Path) -> None:
    (directory / "mine.yaml").write_text("precious")
    (directory / "link.yaml").symlink_to("elsewhere.yaml")
    for name in ("mine.yaml", "link.yaml"):
        refused = gradient("jobs", "list", "--createOptionsFile", name)
        assert refused.code == 1
        assert "is there already" in refused.err
    assert (directory / "mine.yaml").read_text() == "precious"
    assert not (directory / "elsewhere.yaml").exists()


def test_a_template_is_its_writers_alone(gradient: Any, directory: Path) -> None:
    """Asset: what ``--env KEY=value`` holds (A2), against other users of the machine."""
    before = os.umask(0o002)
    try:
        made = gradient("run", "--env", "KEY=canary", "--createOptionsFile", "made.yaml", "train.py")
    finally:
        os.umask(before)
    assert made.code == 0 and "canary" in (directory / "made.yaml").read_text()
    assert stat.S_IMODE((directory / "made.yaml").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("machinType: x", "Did you mean machineType?"),
        ("nonsense: x", "no option 'nonsense'"),
        ("apiKey: secret", "no option 'apiKey'"),
        ("optionsFile: other.yaml", "no option 'optionsFile'"),
        ("machineType: a\nmachine-type: b", "are the same option"),
        ("name: a\nname: b", "name is there twice"),
        ("- a\n- b", "no mapping"),
        ("just text", "no mapping"),
        ("name: [a, b]", "one value, not a list"),
        ("name: {a: b}", "is no text"),
        ("tag: [[a]]", "is no text"),
        ("env: {a: {b: c}}", "is no text"),
        ("retries: soon", "soon"),
        ("detach: perhaps", "perhaps"),
        ("? [a]\n: b", "a key is no text"),
        ("name: !!python/object/apply:os.system [id]", "tags"),
        ("name: !x y", "tags"),
        ("a: &a [x]\ntag: *a", "aliases"),
        ("<<: {name: x}", "no option '<<'"),
        ("name: 'x", "line"),
        ("command: \"it's", "line"),
        ("command: it's", "cannot be split"),
        ("\x00", "cannot be used"),
    ],
)
def test_what_a_file_may_not_say_is_told(gradient: Any, directory: Path, content: str, says: str) -> None:
    """Boundary: a file somebody else wrote → this person's command line."""
    (directory / "o.yaml").write_text(content)
    refused = gradient("run", "--optionsFile", "o.yaml", "true")
    assert (refused.code, refused.out) == (2, "")
    assert says in refused.err


def test_bombs_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x,x,x,x]\n" + "".join(
        f"{c}: &{c} [*{p},*{p},*{p},*{p}]\n" for p, c in pairwise("abcdefghi")
    )
    (tmp_path / "bomb").write_text(bomb)
    (tmp_path / "deep").write_text("tag: " + "[" * 100_000)
    (tmp_path / "large").write_text("name: " + "x" * (1 << 20))
    (tmp_path / "latin").write_bytes(b"name: \xe9")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("bomb", "deep", "large", "latin", "fifo", "directory", "absent"):
        with pytest.raises(Failed):
            optionsfile.load(str(tmp_path / name))


def test_json_is_yaml(tmp_path: Path) -> None:
    (tmp_path / "o").write_text(json.dumps({"name": "é\u2028\"'", "n": None, "list": ["1", "true"]}))
    assert optionsfile.load(str(tmp_path / "o")) == {"name": "é\u2028\"'", "n": None, "list": ["1", "true"]}
