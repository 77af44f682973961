"""Every other verb against a real server: what it prints, what it ends with, its JSON."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from solo import SoloServer


@pytest.fixture
def job(gradient: Any) -> str:
    """A job that is over and has left an artifact."""
    return str(gradient("run", "--json", "train.py").json["id"])


def test_jobs_are_listed(gradient: Any, job: str) -> None:
    table = gradient("jobs", "list", "--project", "leaf-health")
    head, rule, first = table.out.splitlines()[:3]
    assert head.split() == ["State", "Job", "Id", "Project", "Machine", "Time", "Why"]
    assert set(rule.strip()) == {"─"}
    assert job in first
    assert "✓ Stopped" in first
    listed = gradient("jobs", "list", "--json", "--limit", "2", "--state", "stopped").json
    assert len(listed) <= 2
    assert {"id", "state"} <= set(listed[0])
    assert gradient("jobs", "list", "--project", "leaf-health", "--state", "Preempted", "--json").json == []


def test_one_job_is_shown_with_why_and_next(gradient: Any) -> None:
    failed = gradient("run", "--json", "--env", "CODE=3", "train.py").json["id"]
    sheet = gradient("jobs", "show", failed)
    assert sheet.code == 0
    for part in ("✗ Failed", "exit 3", "Why", "Next", "Command", "python train.py", "Running"):
        assert part in sheet.out
    assert gradient("jobs", "show", "--id", failed, "--json").json["exit_code"] == 3


def test_logs_are_told_again(gradient: Any, job: str) -> None:
    for words in (("logs", job), ("logs", "--follow", job), ("logs", "-f", "--id", job)):
        ended = gradient("jobs", *words)
        assert (ended.code, ended.out) == (0, "epoch 1/1  loss 0.27\n")
        assert "careful\n" in ended.err
    pieces = [json.loads(line) for line in gradient("jobs", "logs", "--json", job).out.splitlines()]
    assert {"time_us", "stream", "text"} == set(pieces[0])
    assert "".join(piece["text"] for piece in pieces if piece["stream"] == "stderr") == "careful\n"


def test_waitfor_ends_with_the_jobs_code_or_the_states_truth(gradient: Any, job: str) -> None:
    assert gradient("jobs", "waitfor", job).code == 0
    assert gradient("jobs", "waitfor", job, "--state", "Running").code == 0
    assert gradient("jobs", "waitfor", job, "--state", "Failed").code == 1
    assert gradient("jobs", "waitfor", job, "--json").json["state"] == "Stopped"


def test_waitfor_gives_up_and_stop_ends_it(gradient: Any) -> None:
    job = gradient("run", "-d", "sleep", "600").out.strip()
    late = gradient("jobs", "waitfor", job, "--timeout", "0.1")
    assert late.code == 124
    assert "it goes on" in late.err
    assert gradient("jobs", "stop", job, "--json").json["target"] == "cancelled"
    assert gradient("jobs", "waitfor", job).code == 130
    assert "was over already" in gradient("jobs", "stop", job).err


def test_delete_removes_several_and_names_what_it_cannot(gradient: Any, job: str) -> None:
    other = gradient("run", "-d", "true").out.strip()
    ended = gradient("jobs", "delete", job, "j000000000000", other)
    assert ended.code == 1
    assert "j000000000000" in ended.err
    for gone in (job, other):
        gradient("jobs", "waitfor", gone)
        shown = gradient("jobs", "show", gone)
        assert shown.code == 1
        assert gone in shown.err


def test_artifacts_are_listed_fetched_and_removed(
    gradient: Any, job: str, directory: Path, tmp_path: Path
) -> None:
    assert "model.bin" in gradient("jobs", "artifacts", "list", job).out
    (listed,) = gradient("jobs", "artifacts", "list", job, "--json").json
    assert (listed["path"], listed["size"]) == ("model.bin", 7)
    assert gradient("jobs", "artifacts", "download", job).code == 0
    assert (directory / job / "model.bin").read_text() == "weights"
    to = tmp_path / "results"
    fetched = gradient("jobs", "artifacts", "download", job, "*.bin", "--destinationDir", str(to), "--json")
    assert fetched.json == [{"path": str(to / "model.bin")}]
    assert gradient("jobs", "artifacts", "download", job, "--zip", str(tmp_path / "all.zip")).code == 0
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.read("model.bin") == b"weights"
    assert {path.name for path in tmp_path.iterdir()} == {"leaf-health", "results", "all.zip"}
    assert gradient("jobs", "artifacts", "delete", job, "model.bin").code == 0
    assert gradient("jobs", "artifacts", "list", job, "--json").json == []
    assert "left nothing" in gradient("jobs", "artifacts", "list", job).err


def test_projects_are_made_shown_and_removed(gradient: Any) -> None:
    made = gradient("projects", "create", "removable")
    assert made.code == 0
    project = made.out.strip()
    assert gradient("projects", "show", "removable", "--json").json["id"] == project
    assert project in gradient("projects", "list").out
    assert project in {one["id"] for one in gradient("projects", "list", "--json").json}
    assert project in gradient("projects", "show", project).out
    gradient("run", "--projectId", project, "true")
    kept = gradient("projects", "delete", project)
    assert kept.code == 1
    assert f"gradient projects delete --jobs {project}" in kept.err
    assert gradient("projects", "delete", "--jobs", project, "--json").json["id"] == project


@pytest.mark.parametrize("words", [("machineTypes",), ("machine-types",), ("machineTypes", "list")])
def test_machine_types_are_shown(gradient: Any, words: tuple[str, ...]) -> None:
    assert "small" in gradient(*words).out
    assert {"local", "small"} <= {one["name"] for one in gradient(*words, "--json").json}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("bogus",), 2, "bogus"),
        (("jobs", "lst"), 2, "Did you mean list?"),
        (("jobs", "show"), 2, "Name one job"),
        (("jobs", "show", "a", "--id", "b"), 2, "Name one job"),
        (("jobs", "show", "j000000000000"), 1, "j000000000000"),
        (("jobs", "show", "../projects"), 1, "next:"),
        (("jobs", "show", ""), 1, "next:"),
        (("jobs", "show", "j\x1b[2J\n0"), 1, "next:"),
        (("jobs", "show", "ü" * 300), 1, "next:"),
        (("jobs", "logs", "j000000000000"), 1, "j000000000000"),
        (("jobs", "logs", "-f", "j000000000000"), 1, "j000000000000"),
        (("jobs", "stop"), 2, "at least one"),
        (("jobs", "stop", "j000000000000"), 1, "j000000000000"),
        (("jobs", "waitfor", "j000000000000"), 1, "j000000000000"),
        (("jobs", "waitfor", "j1", "--state", "Done"), 2, "Done"),
        (("jobs", "waitfor", "j1", "--timeout", "-1"), 2, "-1"),
        (("jobs", "list", "--limit", "0"), 2, "0"),
        (("jobs", "list", "--project", "no such"), 1, "no such"),
        (("jobs", "artifacts", "download", "j000000000000"), 1, "j000000000000"),
        (("jobs", "artifacts", "download", "j1", "--zip", "x", "y"), 2, "--zip"),
        (("jobs", "artifacts", "delete", "j000000000000", "x"), 1, "j000000000000"),
        (("projects", "create"), 2, "Say what to call it"),
        (("projects", "create", "a\nb"), 1, "name"),
        (("projects", "show", "no such"), 1, "no such"),
        (("projects", "delete", "pr000000000000"), 1, "pr000000000000"),
        (("completion", "tcsh"), 2, "tcsh"),
        (("server", "restart"), 2, "restart"),
    ],
)
def test_mistakes_are_told_in_a_sentence(gradient: Any, words: tuple[str, ...], code: int, says: str) -> None:
    ended = gradient(*words)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("gradient: ")
    assert len(ended.err.splitlines()) <= 2
    assert says in ended.err
    assert "\x1b" not in ended.err


def test_an_artifact_that_is_not_there_is_named(gradient: Any, job: str) -> None:
    for words in (("download", job, "absent"), ("delete", job, "absent"), ("delete", job, "../log")):
        ended = gradient("jobs", "artifacts", *words)
        assert ended.code == 1
        assert ended.err.startswith("gradient: ")


def test_a_place_that_cannot_be_written_is_named(gradient: Any, job: str, directory: Path) -> None:
    for words in (("--zip", "no/such/all.zip"), ("-o", "train.py"), ("-o", "/proc/nowhere")):
        ended = gradient("jobs", "artifacts", "download", job, *words)
        assert ended.code == 1
        assert ended.err.startswith("gradient: ")


def test_the_server_is_started_shown_and_stopped(gradient: Any, alone: SoloServer) -> None:
    none = gradient("server", "status", server=alone)
    assert (none.code, none.out) == (1, "")
    assert "gradient server start" in none.err
    assert (
        json.loads(gradient("server", "status", "--json", server=alone).err)["error"]["code"] == "not-running"
    )
    assert not alone.data.exists()
    assert gradient("server", "stop", "--json", server=alone).json == {"stopped": False}
    started = gradient("server", "start", "--json", server=alone)
    assert started.json["data"] == str(alone.data)
    assert gradient("server", "start", "--json", server=alone).json["pid"] == started.json["pid"]
    shown = gradient("server", "status", server=alone)
    assert (shown.code, "● Running" in shown.out) == (0, True)
    assert gradient("server", "stop", "--json", server=alone).json == {"stopped": True}
    assert gradient("server", "status", server=alone).code == 1


def test_the_first_command_starts_the_server(gradient: Any, alone: SoloServer) -> None:
    assert gradient("run", "true", server=alone).code == 0
    assert gradient("server", "stop", server=alone).code == 0


def test_a_server_that_is_named_but_absent_is_said_to_be(gradient: Any) -> None:
    ended = gradient("jobs", "list", GRADIENT_URL="http://127.0.0.1:9", GRADIENT_TOKEN="x")
    assert ended.code == 1
    assert "cannot be reached" in ended.err
    hub = gradient("jobs", "list", JUPYTERHUB_API_URL="http://hub:8081/hub/api")
    assert hub.code == 1
    assert "JupyterHub" in hub.err
