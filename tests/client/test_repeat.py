"""Finding jobs, repeating them and sharing projects, from Python."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from gradient_jupyter.client import Client
from gradient_jupyter.client import receipts as made
from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.job import CreateJob, RerunJob, State


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


#: What a repeated job decides anew: its project goes by the name, its Python is that of whoever repeats it.
ANEW = {"project_id", "host"}


def test_nothing_that_a_job_asks_for_is_forgotten_by_a_repetition(client: Client, workspace: Path) -> None:
    """Walks the fields of ``CreateJob``, so that a new one has to be thought of here."""
    client.secrets.set("kept", "long enough")
    data = client.datasets.create("kept", workspace)
    (workspace / "more").write_text("more")
    client.datasets.create("kept", workspace)
    job = client.jobs.create(
        ["true", "x"],
        workspace=workspace,
        project="all of it",
        name="everything",
        machine_type="local",
        env={"A": "1", "S": "secret:kept"},
        priority=1,
        retries=2,
        max_duration=600,
        tags=["t"],
        ports="8124:22",
        datasets=["kept:1"],
    ).wait()
    # As of a repository: a directory's name is not where files can be had from.
    receipt = msgspec.structs.replace(job.receipt(), source="git+https://example.org/a/b@" + "1" * 40)
    written = made.plain(receipt)
    asked = set(CreateJob.__struct_fields__) - ANEW
    assert asked <= written.keys()
    assert written["datasets"] == ("kept:1",) and written["env"] == job.record.env
    assert "long enough" not in repr(written)
    again = client.jobs.repeat(written).wait()
    rerun = again.rerun().wait()
    plain = CreateJob(command=(), snapshot="")
    for field in asked:
        value = getattr(again.record, field)
        assert value == getattr(receipt if field == "source" else job.record, field), field
        assert value != getattr(plain, field), f"{field} is not tried"
        assert getattr(rerun.record, field) == value, field
    assert again.record.datasets[0].snapshot == data.latest.snapshot == receipt.outcome.datasets["kept:1"]
    assert rerun.record.project_id == job.record.project_id
    changes = set(RerunJob.__struct_fields__) - {"unset", "host"}
    # The files, and where they came from, are what is repeated.
    assert changes == {*asked, "project_id"} - {"snapshot", "source"}
    for repeated in (client.jobs.repeat, job.rerun):
        given = {name.removesuffix("_s") for name in changes}
        assert given <= inspect.signature(repeated).parameters.keys()
    other = client.jobs.repeat(receipt, datasets=())
    assert other.record.datasets == ()
    client.datasets.delete("kept", version=1)
    with pytest.raises(NotFound) as gone:
        client.jobs.repeat(receipt)
    assert gone.value.code == "no-such-version"


def test_members_are_listed_and_only_known_people_are_made_some(client: Client) -> None:
    project = client.projects.create("shared from Python")
    members = client.projects.members(project.id)
    (owner,) = members.list()
    assert owner.principal == f"user:{client.whoami().id}"
    with pytest.raises(NotFound):
        members.set("nobody", "viewer")
    assert client.projects.rename(project.id, "renamed from Python").name == "renamed from Python"
