"""What a person names as a workspace, from Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gitserver import GitServer
from solo import SoloServer

from gradient_jupyter.client import Client, Progress
from gradient_jupyter.resources.errors import InvalidRequest, NotFound

from .conftest import Enter


@pytest.fixture
def client(fetching: SoloServer, enter: Enter) -> Iterator[Client]:
    """A client of the server that may go to the repositories."""
    enter(fetching)
    with Client(start=False) as client:
        yield client


def test_a_repository_is_a_workspace(client: Client, git_server: GitServer) -> None:
    commit = git_server.commit({"train.py": "print('from', __file__[-8:])\n"}, "python")
    told: list[Progress] = []
    job = client.jobs.create(
        ["python", "train.py"], workspace=git_server.url("python", "main"), on_progress=told.append
    )
    assert job.wait(60).exit_code == 0
    assert "".join(line.text for line in job.logs() if line.stream == "stdout") == "from train.py\n"
    assert (job.record.source, job.record.project) == (git_server.url("python", commit), "python")
    assert [(each.stage, each.files, each.source) for each in told] == [
        ("fetching", 0, git_server.url("python", "main")),
        ("fetched", 1, git_server.url("python", commit)),
    ]


def test_a_project_can_be_named_for_it(client: Client, git_server: GitServer) -> None:
    git_server.commit({"a": "1"}, "odd%20name")
    url = git_server.url("odd%2520name", "main")
    assert client.jobs.create(["true"], workspace=url).record.project == "odd%20name"
    assert client.jobs.create(["true"], workspace=url, project="mine").record.project == "mine"


def test_what_would_be_refused_is_refused_before_anything_is_fetched(
    client: Client, git_server: GitServer
) -> None:
    git_server.commit({"a": "1"}, "unasked")
    git_server.seen.clear()
    with pytest.raises(InvalidRequest, match="A100x64"):
        client.jobs.create(["true"], workspace=git_server.url("unasked"), machine_type="A100x64")
    assert git_server.seen == []


def test_a_reference_that_is_not_there_makes_no_job(client: Client, git_server: GitServer) -> None:
    git_server.commit({"a": "1"}, "none")
    with pytest.raises(NotFound) as refused:
        client.jobs.create(["true"], workspace=git_server.url("none", "absent"), project="never-made")
    assert refused.value.code == "no-such-ref" and refused.value.next
    assert all(project.name != "never-made" for project in client.projects.list())


def test_a_directory_and_no_files_are_named_as_before(client: Client, workspace: Path) -> None:
    assert client.jobs.create(["true"], workspace=workspace).record.source == str(workspace)
    assert client.jobs.create(["true"], workspace=None, project="p").record.source == ""
