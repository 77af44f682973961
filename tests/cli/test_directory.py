"""A directory knows its project and its last job from its first run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def config(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / ".ps_project" / "config.json").read_text()))


def test_the_first_run_writes_it_and_nothing_is_sent_again(gradient: Any, directory: Path) -> None:
    first = gradient("run", "--json", "train.py").json
    assert config(directory) == {
        "project": "leaf-health", "projectId": first["project_id"], "lastJobId": first["id"],
    }  # fmt: skip
    second = gradient("run", "train.py")
    assert "nothing new" in second.err
    assert gradient("jobs", "show", "--json").json["snapshot"] == first["snapshot"]
    assert config(directory)["lastJobId"] != first["id"]


def test_a_verb_without_a_job_means_the_last_one_and_says_so(gradient: Any, directory: Path) -> None:
    assert "Name one job" in gradient("jobs", "logs").err
    job = gradient("jobs", "create", "--", "echo", "hello").out.strip()
    waited = gradient("jobs", "waitfor")
    assert (waited.code, f"{job} is the last job of this directory." in waited.err) == (0, True)
    assert gradient("jobs", "logs").out == "hello\n"
    assert gradient("jobs", "show", "--json").json["id"] == job
    for words in (("stop",), ("delete",), ("artifacts", "delete")):
        assert gradient("jobs", *words).code == 2, "what cannot be undone is named"


def test_a_project_that_was_named_for_once_is_not_remembered(gradient: Any, directory: Path) -> None:
    job = gradient("run", "--json", "--project", "scratch", "true").json
    assert config(directory) == {"lastJobId": job["id"]}


@pytest.mark.parametrize("words", [("--no-init",), ("--init", "false"), ("--optionsFile", "o.yaml")])
def test_it_is_not_written_where_it_is_not_wanted(
    gradient: Any, directory: Path, words: tuple[str, ...]
) -> None:
    (directory / "o.yaml").write_text("init: false\n")
    assert gradient("run", *words, "true").code == 0
    assert not (directory / ".ps_project").exists()


def test_a_directory_that_takes_no_writes_runs_all_the_same(gradient: Any, directory: Path) -> None:
    (directory / ".ps_project").write_text("a file in the way")
    assert gradient("run", "--project", "p", "true").code == 0
    assert (directory / ".ps_project").read_text() == "a file in the way"


def test_projects_are_set_shown_and_forgotten(gradient: Any, directory: Path) -> None:
    assert gradient("projects", "init", "chosen").code == 0
    job = gradient("run", "--json", "true").json
    assert job["project"] == "chosen"
    shown = gradient("projects", "show", "--json").json
    assert (shown["name"], shown["id"]) == ("chosen", job["project_id"])
    assert gradient("projects", "rename", "chosen", "renamed").code == 0
    assert gradient("run", "--json", "true").json["project_id"] == job["project_id"]
    assert gradient("projects", "clear", "--json").json == {"forgotten": True}
    assert not (directory / ".ps_project").exists()
    assert gradient("projects", "clear", "--json").json == {"forgotten": False}
    assert gradient("projects", "init", job["project_id"]).code == 0
    assert config(directory) == {"project": "renamed", "projectId": job["project_id"]}
    assert gradient("projects", "init", "pr000000000000").code == 1
    assert config(directory)["project"] == "renamed", "what failed changed nothing"
    taken = gradient("projects", "rename", "leaf-health", "renamed")
    assert taken.code == 1


def test_what_is_too_deep_to_be_read_is_told_and_left(gradient: Any, directory: Path) -> None:
    """Boundary: a cloned repository → this person's command line; the file stays as it is."""
    (directory / ".ps_project").mkdir()
    deep = '{"x":' + "[" * 60_000
    (directory / ".ps_project" / "config.json").write_text(deep)
    told = gradient("projects", "clear")
    assert told.code == 1 and "is not what it should be" in told.err
    assert (directory / ".ps_project" / "config.json").read_text() == deep


def test_a_hostile_directory_names_no_server_no_token_and_no_command(gradient: Any, directory: Path) -> None:
    """Boundary: a cloned repository → this person's account (CVE-2022-39286's kind)."""
    (directory / ".ps_project").mkdir()
    hostile = {
        "project": None, "projectId": "pr000000000000", "lastJobId": "j000000000000",
        "url": "http://127.0.0.1:1", "apiKey": "x", "server": "http://127.0.0.1:1", "command": "touch pwned",
        "machineType": "other", "env": {"LD_PRELOAD": "x"}, "container": "evil", "workspace": "/etc",
    }  # fmt: skip
    (directory / ".ps_project" / "config.json").write_text(json.dumps(hostile))
    for name in ("click.py", "yaml.py", "gradient_jupyter.py", "sitecustomize.py"):
        (directory / name).write_text("open('pwned', 'w')")
    # `python -m`, as tests call it, would look into the directory; the command's own script does not.
    safe = {"PYTHONSAFEPATH": "1"}
    refused = gradient("run", "--ignoreFiles", "*.py", "true", **safe)
    assert refused.code == 1
    assert "names a project that is not yours" in refused.err and "gradient projects clear" in refused.err
    assert gradient("jobs", "logs", **safe).code == 1
    done = gradient("run", "--json", "--project", "mine", "true", **safe)
    assert (done.code, done.json["command"], done.json["machine_type"]) == (0, ["true"], "small")
    assert done.json["env"] == {}
    assert not (directory / "pwned").exists()
    assert gradient("projects", "clear", **safe).code == 0
    assert "projectId" not in config(directory)


def test_a_job_that_is_run_again_is_the_directorys_last_one(gradient: Any, directory: Path) -> None:
    first = gradient("run", "--json", "train.py").json
    again = gradient("jobs", "rerun", first["id"]).out.strip()
    assert config(directory) == {
        "project": "leaf-health", "projectId": first["project_id"], "lastJobId": again,
    }  # fmt: skip
    assert gradient("jobs", "show", "--json").json["id"] == again != first["id"]


def test_running_a_job_again_makes_no_directory_remember_that_does_not(
    gradient: Any, directory: Path, tmp_path: Path
) -> None:
    first = gradient("run", "--json", "--no-init", "train.py").json
    (elsewhere := tmp_path / "elsewhere").mkdir()
    assert gradient("jobs", "rerun", first["id"], cwd=elsewhere).code == 0
    assert list(elsewhere.iterdir()) == []
