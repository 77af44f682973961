"""``gradient run --workspace git+https://…``: from a repository to a job's exit code."""

from __future__ import annotations

import base64
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gitserver import GitServer, Hang
from solo import PATIENCE_S, SoloServer

from .conftest import command, environment


@pytest.fixture
def repository(git_server: GitServer) -> GitServer:
    git_server.commit(
        {
            "train.py": "import pathlib\nprint('leaf', pathlib.Path('data/x').read_text())\n",
            "data/x": "green",
            "out": ("/etc/passwd",),
        },
        "leaf-health",
    )
    return git_server


def test_a_job_runs_from_a_repository(
    gradient: Any, fetching: SoloServer, repository: GitServer, tmp_path: Path
) -> None:
    """From a directory that holds nothing of it, and on a machine whose git does not matter."""
    (elsewhere := tmp_path / "elsewhere").mkdir()
    commit = repository.git("rev-parse", "main", name="leaf-health")
    words = ("run", "--workspace", repository.url("leaf-health", "main"), "python", "train.py")
    ended = gradient(*words, server=fetching, cwd=elsewhere)
    assert (ended.code, ended.out) == (0, "leaf green\n")
    assert f"✓ fetched    {commit[:12]}  2 files" in ended.err
    assert "links that leave the repository: out" in ended.err
    (job,) = gradient("jobs", "list", "--json", "-l", "1", server=fetching).json
    assert (job["source"], job["project"]) == (repository.url("leaf-health", commit), "leaf-health")
    assert job["source"] in gradient("jobs", "show", job["id"], server=fetching).out


def test_a_script_of_the_repository_is_not_looked_for_here(
    gradient: Any, fetching: SoloServer, repository: GitServer, directory: Path
) -> None:
    words = ("run", "--json", "--workspace", repository.url("leaf-health") + "#subdirectory=data")
    ended = gradient(*words, "absent.py", server=fetching)
    assert ended.json["command"] == ["python", "absent.py"]
    assert ended.code == 2


def test_a_dry_run_shows_what_the_commit_holds_and_runs_nothing(
    gradient: Any, fetching: SoloServer, repository: GitServer
) -> None:
    url = repository.url("leaf-health", "main")
    commit = repository.git("rev-parse", "main", name="leaf-health")
    before = gradient("jobs", "list", "--json", server=fetching).json
    sheet = gradient("run", "--dry-run", "--workspace", url, "train.py", server=fetching, COLUMNS="250")
    assert sheet.code == 0
    for part in (repository.url("leaf-health", commit), "holds", "2 files", "train.py", "data/x", "out"):
        assert part in sheet.out
    found = gradient("run", "--dry-run", "--json", "--workspace", url, server=fetching).json
    assert {file["path"]: file["size"] for file in found["files"]} == {"train.py": 65, "data/x": 5}
    assert (found["root"], found["count"], found["new_bytes"]) == (
        repository.url("leaf-health", commit),
        2,
        0,
    )
    assert gradient("jobs", "list", "--json", server=fetching).json == before


def test_ctrl_c_ends_the_fetch_on_the_server_too(
    fetching: SoloServer, git_server: GitServer, directory: Path
) -> None:
    hang = git_server.answers["/endless.git/"] = Hang()
    running = subprocess.Popen(
        command("run", "--workspace", git_server.url("endless"), "true"), cwd=directory,
        env=environment(fetching), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert hang.arrived.wait(PATIENCE_S)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, out) == (130, "")
    assert "Left before there was a job" in err and "Traceback" not in err
    assert hang.left.wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("workspace", "says"),
    [
        ("git+https://user:hush@localhost/x", "would be stored"),
        ("git+ssh://localhost/x", "over https"),
        ("git+https://localhost/x@--upload-pack=id", "--upload-pack"),
        ("https://github.com/owner/repo", "git+https://"),
        ("git@github.com:owner/repo.git", "git+https://"),
        ("git+https://169.254.169.254/x", "does not go to"),
        ("git+https://localhost:1/x", "outbound_allow"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    gradient: Any, fetching: SoloServer, workspace: str, says: str
) -> None:
    ended = gradient("run", "--workspace", workspace, "true", server=fetching)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("gradient: ") and len(ended.err.splitlines()) == 2
    assert says in ended.err and "hush" not in ended.err


def test_a_private_repository_is_opened_with_a_secret(
    gradient: Any, fetching: SoloServer, git_server: GitServer
) -> None:
    for words, said in (
        (("--workspaceUsername", "ada"), "user name alone"),
        (("--workspacePassword", "hunter22"), "gradient secrets set NAME"),
        (("--workspacePassword", "secret:nowhere"), "no secret 'nowhere'"),
    ):
        ended = gradient("run", "--workspace", git_server.url("x"), *words, "true", server=fetching)
        assert ended.code == 1 and said in ended.err, ended
        assert "hunter22" not in ended.err
    ended = gradient("run", "--workspacePassword", "secret:x", "true", server=fetching)
    assert ended.code == 1 and "Only a repository" in ended.err
    git_server.commit({"train.py": "print('from behind a door')"}, "door")
    gradient("secrets", "set", "door", "--value", "long enough", server=fetching)
    words = ("--workspace", git_server.url("door", "main"), "--workspacePassword", "secret:door", "train.py")
    ended = gradient("run", *words, server=fetching)
    assert (ended.code, ended.out) == (0, "from behind a door\n")
    sent = base64.b64encode(b"x-access-token:long enough").decode()
    assert f"Basic {sent}" in git_server.credentials
