"""Finding jobs, repeating them and sharing projects, from Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from gradient_jupyter.client import Client
from gradient_jupyter.client import receipts as made
from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.job import State


def test_jobs_are_found(client: Client, workspace: Path) -> None:
    job = client.jobs.create("true", workspace=workspace, name="Found me", tags=["x", "y"]).wait()

    def found(**wanted: object) -> list[str]:
        return [each.id for each in client.jobs.list(**wanted)]  # type: ignore[arg-type]

    one = [job.id]
    assert found(tag="x") == found(tag=["x", "y"]) == one
    assert found(tag="x", state=State.STOPPED) == found(tag="x", state=["Stopped", State.ERROR]) == one
    assert found(name="found m", since=timedelta(hours=1), until=datetime.now(UTC) + timedelta(days=1)) == one
    assert found(name="found m", machine_type="local") == found(tag="x", since=datetime(2999, 1, 1)) == []
    with pytest.raises(InvalidRequest):
        found(state="Nowhere")


def test_a_job_is_repeated_as_it_was_or_otherwise(client: Client, workspace: Path) -> None:
    job = client.jobs.create(
        ["sh", "-c", "echo $A > $GRADIENT_ARTIFACTS_DIR/a"],
        workspace=workspace,
        env={"A": "1"},
        ports="8123:22",
    ).wait()
    receipt = job.receipt()
    again = client.jobs.repeat(msgspec.to_builtins(receipt)).wait()
    assert again.record.snapshot == job.record.snapshot
    assert again.record.ports == job.record.ports
    assert made.differences(receipt, again.artifacts.list()) == []
    other = client.jobs.repeat(receipt, env={"A": "2"}, ports=(), tags=["t"]).wait()
    assert (other.record.env, other.record.ports, other.record.tags) == ({"A": "2"}, (), ("t",))
    assert made.differences(receipt, other.artifacts.list()) == [("a", "other")]
    foreign = msgspec.structs.replace(receipt, snapshot="1" * 64, source="/etc")
    with pytest.raises(NotFound) as missing:
        client.jobs.repeat(foreign, workspace=workspace)
    assert missing.value.code == "receipt-files-missing"


def test_members_are_listed_and_only_known_people_are_made_some(client: Client) -> None:
    project = client.projects.create("shared from Python")
    members = client.projects.members(project.id)
    (owner,) = members.list()
    assert owner.principal == f"user:{client.whoami().id}"
    with pytest.raises(NotFound):
        members.set("nobody", "viewer")
    assert client.projects.rename(project.id, "renamed from Python").name == "renamed from Python"
