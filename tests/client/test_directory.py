"""What a directory remembers: its project and its last job, and never more than data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gradient_jupyter.client import directory
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.workspace.scan import scan

JOB = "j0123456789ab"


def said(root: Path) -> dict[str, object]:
    return dict(json.loads((root / ".ps_project" / "config.json").read_text()))


def test_the_first_job_writes_and_later_ones_change_the_job_only(tmp_path: Path) -> None:
    assert directory.remember(tmp_path, project="leaf", project_id="pr1", job_id=JOB)
    assert directory.remember(tmp_path, project="other", project_id="pr2", job_id="j1123456789ab")
    assert said(tmp_path) == {"project": "leaf", "projectId": "pr1", "lastJobId": "j1123456789ab"}
    assert directory.of_directory(tmp_path) == ("leaf", None)
    assert directory.last_job(tmp_path) == "j1123456789ab"
    assert [path.name for path in (tmp_path / ".ps_project").iterdir()] == ["config.json"]


def test_what_others_have_written_there_stays(tmp_path: Path) -> None:
    (tmp_path / ".ps_project").mkdir()
    (tmp_path / ".ps_project" / "config.json").write_text('{"machineType": "K80", "project": "theirs"}')
    directory.remember(tmp_path, project="leaf", project_id="pr1", job_id=JOB)
    assert said(tmp_path) == {"machineType": "K80", "project": "theirs", "lastJobId": JOB}
    assert directory.forget(tmp_path)
    assert said(tmp_path) == {"machineType": "K80"}
    assert not directory.forget(tmp_path)


def test_what_was_written_goes_whole(tmp_path: Path) -> None:
    directory.remember(tmp_path, project="leaf", project_id="pr1")
    assert directory.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not directory.forget(tmp_path)


def test_it_is_not_made_unless_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not directory.remember(tmp_path, project="leaf", job_id=JOB, make=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not directory.remember(tmp_path, project="leaf", job_id=JOB)
    assert not directory.remember(Path("/"), project="leaf", job_id=JOB)
    assert list(tmp_path.iterdir()) == []
    assert not Path("/.ps_project").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Boundary: a repository somebody else made → this person's files."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text('{"keep": "me"}')
    for name, kind in (("a", "directory"), ("b", "file")):
        root = tmp_path / name
        root.mkdir()
        if kind == "directory":
            (root / ".ps_project").symlink_to(elsewhere)
        else:
            (root / ".ps_project").mkdir()
            (root / ".ps_project" / "config.json").symlink_to(elsewhere / "config.json")
        assert not directory.remember(root, project="leaf", job_id=JOB)
        with pytest.raises(InvalidRequest):
            directory.forget(root)
    assert (elsewhere / "config.json").read_text() == '{"keep": "me"}'


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b'{"project": 1}', b"{" * 100_000, b'{"a":"' + b"x" * 70_000 + b'"}'],
)
def test_a_file_that_is_not_what_it_should_be_is_told_of_and_left(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".ps_project").mkdir()
    (tmp_path / ".ps_project" / "config.json").write_bytes(content)
    for read in (directory.of_directory, directory.last_job, directory.forget):
        with pytest.raises(InvalidRequest):
            read(tmp_path)
    assert not directory.remember(tmp_path, project="leaf", job_id=JOB)
    assert (tmp_path / ".ps_project" / "config.json").read_bytes() == content


def test_what_is_no_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / ".ps_project").mkdir()
    os.mkfifo(tmp_path / ".ps_project" / "config.json")
    with pytest.raises(InvalidRequest):
        directory.of_directory(tmp_path)
    assert not directory.remember(tmp_path, project="leaf", job_id=JOB)


@pytest.mark.parametrize("job", ["j1", "../projects", "j0123456789ab/../x", "", "-x", "J0123456789AB"])
def test_a_last_job_that_is_no_id_is_none(tmp_path: Path, job: str) -> None:
    (tmp_path / ".ps_project").mkdir()
    (tmp_path / ".ps_project" / "config.json").write_text(json.dumps({"lastJobId": job}))
    assert directory.last_job(tmp_path) is None


def test_it_is_never_part_of_what_is_sent(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("1")
    before = scan(tmp_path).manifest.digest()
    directory.remember(tmp_path, project="leaf", project_id="pr1", job_id=JOB)
    assert scan(tmp_path).manifest.digest() == before


def test_a_renamed_project_is_remembered_by_its_name(tmp_path: Path) -> None:
    directory.remember(tmp_path, project="leaf", project_id="pr1")
    directory.rename(tmp_path, "pr2", "other")
    assert said(tmp_path)["project"] == "leaf"
    directory.rename(tmp_path, "pr1", "tree")
    assert said(tmp_path) == {"project": "tree", "projectId": "pr1"}
