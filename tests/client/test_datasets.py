"""Datasets from Python."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from gitserver import GitServer
from solo import SoloServer

from gradient_jupyter.client import Client, Progress
from gradient_jupyter.resources.errors import InvalidRequest, NotFound, WorkspaceError

from .conftest import Enter


@pytest.fixture
def fetcher(fetching: SoloServer, enter: Enter) -> Iterator[Client]:
    """A client of the server that may go to the test's own."""
    enter(fetching)
    with Client(start=False) as client:
        yield client


def test_everything_in_a_directory_is_data_whatever_its_ignore_files_say(
    client: Client, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    (root / "sub" / ".git").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "venv").mkdir()
    (root / "__pycache__").mkdir()
    (root / "venv" / "pyvenv.cfg").write_text("home = /usr")
    for name in (".gitignore", ".gradientignore", ".env", "a.csv", "__pycache__/x.pyc", "id_rsa", "x.key"):
        (root / name).write_text("*\n")
    (root / ".git" / "HEAD").write_text("x")
    (root / "sub" / ".git" / "HEAD").write_text("x")
    dataset = client.datasets.create("whole", root, description="all of it")
    assert {file.path for file in dataset.files()} == {
        ".gitignore", ".gradientignore", ".env", "a.csv", "__pycache__/x.pyc", "id_rsa", "x.key",
        "venv/pyvenv.cfg",
    }  # fmt: skip
    assert any(".git/" in warning for warning in dataset.warnings)
    assert (dataset.added.number, dataset.record.description) == (1, "all of it")


def test_the_workspaces_limit_is_not_that_of_data(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIENT_WORKSPACE_LIMIT", "10")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_bytes(b"x" * 5000)
    assert client.datasets.create("large", tmp_path / "d").latest.bytes == 5000
    assert client.datasets.create("large", tmp_path / "d" / "x").latest.bytes == 5000


def test_only_what_is_new_is_sent_and_what_is_the_same_makes_no_version(
    client: Client, tmp_path: Path
) -> None:
    root = tmp_path / "d"
    root.mkdir()
    (root / "old").write_bytes(b"o" * 100_000)
    assert client.datasets.create("grows", root).added.number == 1
    same = client.datasets.create("grows", root)
    assert same.added is None and same.latest.number == 1
    (root / "new").write_bytes(b"n" * 1000)
    told: list[Progress] = []
    assert client.datasets.create("grows", root, on_progress=told.append).added.number == 2
    assert told[-1].stage == "sent" and told[-1].total == 1000
    assert [one.number for one in same.versions()] == [2, 1]


def test_a_zip_is_unpacked_and_another_file_is_kept_as_it_is(client: Client, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("d/x", "1")
    (tmp_path / "table.csv").write_text("1,2")
    assert [file.path for file in client.datasets.create("zip", tmp_path / "z.zip").files()] == ["d/x"]
    assert [file.path for file in client.datasets.create("csv", tmp_path / "table.csv").files()] == [
        "table.csv"
    ]


def test_a_url_is_fetched_by_the_server(fetcher: Client, git_server: GitServer) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:xz") as archive:
        info = tarfile.TarInfo("x")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(made.getvalue())))
        handler.end_headers()
        handler.wfile.write(made.getvalue())

    git_server.answers["/data/leaf.tar.xz"] = answer
    url = f"https://localhost:{git_server.port}/data/leaf.tar.xz"
    told: list[Progress] = []
    dataset = fetcher.datasets.create("fetched", url, description="d", on_progress=told.append)
    assert [file.path for file in dataset.files()] == ["x"]
    assert (told[0].stage, told[-1].stage, told[-1].bytes) == ("fetching", "fetched", 4)
    assert dataset.latest.source == url and dataset.record.description == "d"
    assert fetcher.datasets.create("fetched", url).added is None
    job = fetcher.jobs.create(
        ["sh", "-c", 'cat "$GRADIENT_DATASETS_DIR/fetched/x"'],
        workspace=None,
        project="p",
        datasets=["fetched"],
    )
    assert job.wait(60).exit_code == 0
    assert "".join(line.text for line in job.logs() if line.stream == "stdout") == "data"
    again = job.rerun(datasets=())
    assert job.record.datasets[0].version == 1 and again.record.datasets == ()


def test_what_would_be_refused_is_refused_before_anything_is_sent(client: Client, workspace: Path) -> None:
    for name in ("../x", "", "a b"):
        with pytest.raises(InvalidRequest, match="cannot be the dataset's name"):
            client.datasets.create(name, workspace)
    with pytest.raises(InvalidRequest, match="from a URL"):
        client.datasets.create("x", workspace, sha256="0" * 64)
    with pytest.raises(WorkspaceError):
        client.datasets.create("x", workspace / "absent")
    with pytest.raises(NotFound, match="nowhere"):
        client.jobs.create(["true"], workspace=workspace, datasets=["nowhere"])
    with pytest.raises(InvalidRequest, match="a dataset"):
        client.jobs.create(["true"], workspace=workspace, datasets=["no/where"])
    with pytest.raises(NotFound):
        client.datasets.get("x")


def test_one_without_a_version_is_made_described_found_and_deleted(client: Client) -> None:
    dataset = client.datasets.create("bare")
    assert dataset.latest is None and "no version" in repr(dataset)
    assert client.datasets.create("bare", description="two\nlines").record.description == "two\nlines"
    assert client.datasets.get("bare").id == client.datasets.get(dataset.id).id
    gone = client.datasets.delete("bare")
    assert gone.gone and gone.versions == ()
    assert all(one.name != "bare" for one in client.datasets.list())
