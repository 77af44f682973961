"""A receipt repeats a job exactly, and believes nothing that stands in it."""

from __future__ import annotations

import base64
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


def test_options_that_could_be_of_no_use_beside_a_receipt_are_refused(gradient: Any, directory: Path) -> None:
    job = gradient("run", "--json", "train.py").json["id"]
    gradient("jobs", "receipt", job, "-o", "r.yaml")
    before = gradient("jobs", "list", "--json").json[0]["id"]
    for words, said in (
        (("--workspaceUsername", "ada"), "user name alone"),
        (("--workspacePassword", "secret:x"), "Only a repository"),
        (
            ("--workspacePassword", "hunter22", "--workspace", "git+https://localhost/x@main"),
            "secrets set NAME",
        ),
        (("--maxSize", "plenty"), "max"),
        (("--ignoreFiles", "x", "--workspace", "none"), "Only of a directory"),
    ):
        ended = gradient("run", "--receipt", "r.yaml", *words)
        assert ended.code in (1, 2) and said.lower() in ended.err.lower(), (words, ended)
        assert "hunter22" not in ended.err
    assert gradient("jobs", "list", "--json").json[0]["id"] == before


def test_files_are_left_out_and_limited_when_a_receipts_are_sent_again(
    gradient: Any, directory: Path, alone: Any
) -> None:
    first = gradient("run", "--json", "train.py").json
    gradient("jobs", "receipt", first["id"], "-o", "r.yaml")
    (directory / "large").write_bytes(bytes(200_000))
    words = ("run", "--json", "--receipt", "r.yaml", "--machineType", "local")
    ended = gradient(*words, "--maxSize", "100KB", server=alone)
    assert ended.code == 1 and "large (" in ended.err
    assert "holds others" in gradient(*words, server=alone).err
    ended = gradient(*words, "--ignoreFiles", "r.yaml,large", "--maxSize", "100KB", server=alone)
    assert (ended.code, ended.json["snapshot"]) == (0, first["snapshot"])


def test_a_receipts_private_repository_is_opened_and_no_other_gets_the_password(
    gradient: Any, fetching: Any, own_fetching: Any, git_server: Any, directory: Path
) -> None:
    """Asset A4 (secrets). A receipt that anybody wrote names another repository: what opens the one that the
    user names is not sent there."""
    git_server.commit({"train.py": "print('from behind a door')"}, "again")
    first = gradient(
        "run", "--json", "--workspace", git_server.url("again", "main"), "train.py", server=fetching
    )
    gradient("jobs", "receipt", first.json["id"], "-o", "r.yaml", server=fetching)
    own_fetching.start()
    gradient("secrets", "set", "again", "--value", "quite long enough", server=own_fetching)
    opens = "Basic " + base64.b64encode(b"x-access-token:quite long enough").decode()
    words = ("run", "--json", "--machineType", "local", "--workspacePassword", "secret:again")
    refused = []

    def record(request: Any) -> None:
        refused.append(request.headers["Authorization"])
        request.send_error(404)

    git_server.answers["/evil"] = record
    receipt = yaml.safe_load((directory / "r.yaml").read_text())
    evil = receipt | {"source": git_server.url("evil", "0" * 40), "snapshot": "1" * 64}
    (directory / "evil.yaml").write_text(yaml.safe_dump(evil))
    own = ("--workspace", git_server.url("again", "main"))
    ended = gradient(*words, "--receipt", "evil.yaml", *own, server=own_fetching)
    assert ended.code == 1 and "holds others" in ended.err
    assert opens in git_server.credentials
    assert refused and set(refused) == {None}
    git_server.credentials.clear()
    again = gradient(*words, "--receipt", "r.yaml", server=own_fetching)
    assert (again.code, again.json["snapshot"]) == (0, first.json["snapshot"])
    assert again.json["source"] == first.json["source"]
    del git_server.answers["/evil"]


def test_a_receipts_repository_is_fetched_again_with_the_login(
    gradient: Any, fetching: Any, own_fetching: Any, git_server: Any, directory: Path
) -> None:
    git_server.commit({"train.py": "print('private')"}, "private")
    url = git_server.url("private", "main")
    first = gradient("run", "--json", "--workspace", url, "train.py", server=fetching)
    gradient("jobs", "receipt", first.json["id"], "-o", "r.yaml", server=fetching)
    own_fetching.start()
    gradient("secrets", "set", "key", "--value", "also long enough", server=own_fetching)
    words = ("run", "--json", "--machineType", "local", "--receipt", "r.yaml")
    login = ("--workspaceUsername", "ada", "--workspacePassword", "secret:key")
    again = gradient(*words, *login, server=own_fetching)
    assert (again.code, again.json["snapshot"]) == (0, first.json["snapshot"])
    assert "Basic " + base64.b64encode(b"ada:also long enough").decode() in git_server.credentials
