"""A receipt repeats a job exactly, and believes nothing that stands in it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml


def test_a_job_is_repeated_from_its_receipt(gradient: Any, directory: Path) -> None:
    words = (
        "--env",
        "CODE=3",
        "--tag",
        "kept",
        "--retries",
        "1",
        "--maxDuration",
        "1h",
        "--ports",
        "8471:22",
    )
    job = gradient("run", "--json", *words, "train.py", "--lr", "0.1").json
    assert gradient("jobs", "receipt", job["id"], "-o", "r.yaml").code == 0
    assert stat.S_IMODE((directory / "r.yaml").stat().st_mode) == 0o600
    receipt = yaml.safe_load((directory / "r.yaml").read_text())
    assert receipt["outcome"]["job"] == job["id"]
    assert receipt["outcome"]["exit_code"] == 3
    assert [each["path"] for each in receipt["outcome"]["artifacts"]] == ["model.bin"]
    (directory / "train.py").write_text("raise SystemExit('this is not the file that ran')")
    again = gradient("run", "--json", "--receipt", "r.yaml")
    assert again.code == 3
    kept = (
        "command",
        "snapshot",
        "env",
        "tags",
        "retries",
        "max_duration_s",
        "ports",
        "machine_type",
        "project",
        "name",
        "source",
    )
    assert {name: again.json[name] for name in kept} == {name: job[name] for name in kept}
    assert "1 artifact, to the byte" in again.err
    other = gradient(
        "run", "--receipt", "r.yaml", "--env", "CODE=0", "--ports", "none", "--retries", "0", "--json"
    )
    assert (other.code, other.json["env"], other.json["ports"]) == (0, {"CODE": "0"}, [])
    assert "exit code 0; the receipt has 3" in other.err
    replaced = gradient("run", "--receipt", "r.yaml", "--ports", "none", "--json", "sh", "-c", "ls")
    assert replaced.json["command"] == ["sh", "-c", "ls"]
    assert "model.bin  missing" in replaced.err


@pytest.mark.parametrize("name", ["r.yaml", "r.json"])
def test_a_receipt_of_files_that_the_server_lost_takes_them_from_the_directory(
    gradient: Any, directory: Path, alone: Any, name: str
) -> None:
    first = gradient("run", "--json", "train.py")
    assert first.code == 0
    assert gradient("jobs", "receipt", first.json["id"], "-o", name).code == 0
    local = ("--machineType", "local")
    lacking = gradient("run", "--receipt", name, "--workspace", "none", *local, server=alone)
    assert lacking.code == 1
    assert "are not to be had: the server does not have them" in lacking.err
    (directory / "other").mkdir()
    wrong = gradient("run", "--receipt", name, "--workspace", "other", *local, server=alone)
    assert (wrong.code, "other holds others" in wrong.err) == (1, True)
    assert "--workspace DIR" in wrong.err
    (directory / "other").rmdir()
    (directory / ".gradientignore").write_text("r.*\n.gradientignore\n")
    again = gradient("run", "--receipt", name, *local, "--json", server=alone)
    assert (again.code, again.json["snapshot"]) == (0, first.json["snapshot"])


def test_a_receipt_is_printed_or_written_once(gradient: Any, directory: Path) -> None:
    job = gradient("run", "--json", "--workspace", "none", "true").json["id"]
    printed = gradient("jobs", "receipt", job)
    assert yaml.safe_load(printed.out)["schema"] == "gradient-receipt/1"
    assert json.loads(gradient("jobs", "receipt", job, "--json").out)["outcome"]["state"] == "Stopped"
    (directory / "r.yaml").write_text("precious")
    assert gradient("jobs", "receipt", job, "-o", "r.yaml").code == 1
    assert (directory / "r.yaml").read_text() == "precious"
    assert gradient("run", "--receipt", "r.yaml", "--dry-run").code == 2


GOOD = {
    "schema": "gradient-receipt/1", "name": "n", "project": "p", "command": ["true"], "snapshot": "0" * 64,
    "machine_type": "small", "outcome": {"job": "j", "state": "Stopped"},
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "gradient-receipt/2"},
        {"schema": None},
        {"snapshot": "../../etc/passwd"},
        {"snapshot": "0" * 63},
        {"command": []},
        {"command": "true"},
        {"command": ["a\x00b"]},
        {"env": {"A=B": "x"}},
        {"env": {"A": None}},
        {"retries": 10**9},
        {"retries": "many"},
        {"max_duration_s": -1},
        {"max_duration_s": "nan"},
        {"ports": ["80:80"]},
        {"ports": [{"external": 80, "internal": 80, "scheme": "http"}]},
        {"project": "a\nb"},
        {"name": ""},
        {"tags": ["x" * 101]},
        {"extra": "field"},
        {"host": {"python": "/evil"}},
        {"project_id": "pr000000000000"},
        {"outcome": {"job": "j", "state": "Done"}},
        {"outcome": None},
        {"priority": 101},
        {"machine_type": "no such type"},
        {},
    ],
)
def test_a_hostile_receipt_runs_nothing(gradient: Any, directory: Path, changes: dict[str, Any]) -> None:
    """Boundary: a file somebody else wrote → this person's account. The last one is well-formed and names
    files that are not theirs."""
    (directory / "r.json").write_text(json.dumps({**GOOD, **changes}))
    before = gradient("jobs", "list", "--limit", "1", "--json").json
    refused = gradient("run", "--receipt", "r.json")
    assert (refused.code, refused.out) == (1, "")
    assert len(refused.err.splitlines()) == 2
    assert gradient("jobs", "list", "--limit", "1", "--json").json == before
