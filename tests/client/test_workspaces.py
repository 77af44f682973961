"""Each way to name a workspace: what is sent, which project it belongs to, what is said."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from gradient_jupyter.client import Client, workspaces
from gradient_jupyter.client.jobs import Job
from gradient_jupyter.resources.errors import GradientError, InvalidRequest, WorkspaceError
from gradient_jupyter.resources.snapshot import EMPTY_TREE
from gradient_jupyter.workspace.limit import DEFAULT_LIMIT, VARIABLE, default_limit, parse_size


def printed(job: Job) -> str:
    assert job.wait(60).exit_code == 0, job.reason
    return "".join(line.text for line in job.logs() if line.stream == "stdout").strip()


LIST = ["find", ".", "-type", "f", "-perm", "-u=x", "-o", "-type", "f"]


def test_a_zip_file_is_unpacked_as_it_is(client: Client, workspace: Path) -> None:
    z = workspace / "code.zip"
    with zipfile.ZipFile(z, "w") as file:
        info = zipfile.ZipInfo("repo/run.sh")
        info.external_attr = 0o100755 << 16
        file.writestr(info, "#!/bin/sh\necho unpacked\n")
        file.writestr("repo/.env", "chosen by hand, so no rule leaves it out")
    flight = client.jobs.preflight(z)
    assert [file.path for file in flight.files] == ["repo/.env", "repo/run.sh"]
    assert flight.root == str(z.resolve())
    job = client.jobs.create(["repo/run.sh"], workspace=z)
    assert job.record.source == str(z.resolve())
    assert job.record.project == "leaf-health", "the directory in which the zip lies"
    assert printed(job) == "unpacked"


def test_a_zip_that_is_refused_sends_nothing_and_makes_no_job(client: Client, workspace: Path) -> None:
    with zipfile.ZipFile(workspace / "evil.zip", "w") as file:
        file.writestr("../evil", "x")
    before = len(list(client.jobs.list()))
    with pytest.raises(WorkspaceError) as caught:
        client.jobs.create(["true"], workspace=workspace / "evil.zip")
    assert caught.value.code == "zip-refused"
    assert len(list(client.jobs.list())) == before


def test_a_single_file_is_a_snapshot_of_its_own(client: Client, workspace: Path) -> None:
    (workspace / "other.py").write_text("not sent")
    (workspace / ".gitignore").write_text("*.py\n")  # no rule is asked about what was named
    script = workspace / "train.py"
    script.chmod(0o755)
    flight = client.jobs.preflight(script)
    assert [(file.path, file.size) for file in flight.files] == [("train.py", script.stat().st_size)]
    job = client.jobs.create(LIST, workspace=script)
    assert job.record.source == str(script.resolve())
    assert job.record.project == "leaf-health"
    assert printed(job) == "./train.py"


def test_a_link_to_a_file_is_sent_under_its_own_name(client: Client, workspace: Path) -> None:
    (workspace / "latest.py").symlink_to("train.py")
    job = client.jobs.create(["cat", "latest.py"], workspace=workspace / "latest.py")
    assert printed(job) == "print('trained')"


@pytest.mark.parametrize("none", [None, "none"])
def test_no_workspace_is_no_files(
    client: Client, workspace: Path, monkeypatch: pytest.MonkeyPatch, none: str | None
) -> None:
    monkeypatch.chdir(workspace)
    assert client.jobs.preflight(none).snapshot == EMPTY_TREE
    job = client.jobs.create(LIST, workspace=none)
    assert (job.record.snapshot, job.record.source) == (EMPTY_TREE, "")
    assert printed(job) == ""


def test_a_directory_says_where_it_was(
    client: Client, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    assert client.jobs.create(["true"]).record.source == str(workspace.resolve())


def test_the_home_directory_is_refused_however_it_is_named(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(workspace))
    (workspace.parent / "way").symlink_to(workspace)
    (workspace / "sub").mkdir()
    for name in ("~", "~/", workspace, workspace.parent / "way", workspace / "sub" / ".."):
        with pytest.raises(WorkspaceError) as caught:
            workspaces.find(name)
        assert caught.value.code == "workspace-refused"
    assert workspaces.find("~/sub").snapshot == EMPTY_TREE


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "neither a directory nor a regular file"),
        (lambda path: path.symlink_to(path), "does not exist|cannot be"),
        (lambda path: None, "does not exist"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
    ],
)
def test_what_is_neither_is_named(workspace: Path, make: object, says: str) -> None:
    make(workspace / "odd")  # type: ignore[operator]
    with pytest.raises(WorkspaceError, match=says) as caught:
        workspaces.find(workspace / "odd")
    assert caught.value.next


@pytest.mark.parametrize("kind", ["directory", "zip", "file"])
def test_the_limit_is_the_persons_to_raise(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (workspace / "data.bin").write_bytes(os.urandom(3000))
    with zipfile.ZipFile(workspace / "all.zip", "w") as file:
        file.write(workspace / "data.bin", "data.bin")
    what = {"directory": workspace, "zip": workspace / "all.zip", "file": workspace / "data.bin"}[kind]
    monkeypatch.setenv(VARIABLE, "2KiB")
    with pytest.raises(WorkspaceError) as caught:
        workspaces.find(what)
    assert caught.value.code == "workspace-too-large"
    assert "limit of 2.0 KiB" in caught.value.message and "data.bin (2.9 KiB)" in caught.value.message
    for way in ("--max-size 1MiB", "max_size=", VARIABLE):
        assert way in caught.value.next
    for raised in ("1MiB", 10_000, "none"):
        assert workspaces.find(what, max_size=raised).snapshot
    monkeypatch.setenv(VARIABLE, "none")
    assert workspaces.find(what).snapshot
    with pytest.raises(WorkspaceError):
        workspaces.find(what, max_size=10)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1000", 1000), ("2k", 2048), ("2KiB", 2048), ("2kB", 2000), ("1.5 GiB", 3 << 29),
        ("3M", 3 << 20), ("1TB", 10**12), ("none", None), ("None ", None), ("12B", 12),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: str, size: int | None) -> None:
    assert parse_size(text, of="it") == size


@pytest.mark.parametrize("text", ["", "lots", "-1", "1PB", "1e9", "GiB", "1 0"])
def test_what_is_no_size_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="no size"):
        parse_size(text, of="it")
    monkeypatch.setenv(VARIABLE, text)
    if text:
        with pytest.raises(GradientError, match=VARIABLE):
            default_limit()
    else:
        assert default_limit() == DEFAULT_LIMIT
