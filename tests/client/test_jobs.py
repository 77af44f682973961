"""Jobs from Python: sent, followed, waited for, stopped, deleted, across a server that dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from solo import SoloServer

from gradient_jupyter.client import Client, Progress
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.job import State

COUNT_AND_WAIT = """
import os, pathlib, time
for n in range(500): print(n, flush=n % 7 == 0)
print("half", flush=True)
go = pathlib.Path(os.environ["GRADIENT_STORAGE_DIR"], "go")
patience = time.monotonic() + 60
while not go.exists() and time.monotonic() < patience: time.sleep(0.02)
for n in range(500, 1000): print(n, flush=n % 7 == 0)
"""
WAIT_FOR_EVER = "import time\nprint('up', flush=True)\nwhile True: time.sleep(60)"


def test_a_directory_goes_away_runs_and_comes_back(client: Client, workspace: Path, tmp_path: Path) -> None:
    (workspace / "train.py").write_text(
        "import os, pathlib, sys\n"
        "print('hello', os.environ['SEED'])\n"
        "print('careful', file=sys.stderr)\n"
        "plots = pathlib.Path(os.environ['GRADIENT_ARTIFACTS_DIR'], 'plots')\n"
        "plots.mkdir()\n"
        "(plots / 'loss.txt').write_text('0.27\\n')\n"
    )
    told: list[Progress] = []
    job = client.jobs.create(
        ["python", "train.py"], workspace=workspace, env={"SEED": "7"}, name="train", on_progress=told.append
    )
    assert told[-1].stage == "sent"
    assert (told[-1].files, told[-1].bytes) == (1, (workspace / "train.py").stat().st_size)
    lines = list(job.logs(follow=True))
    assert "".join(line.text for line in lines if line.stream == "stdout") == "hello 7\n"
    assert "".join(line.text for line in lines if line.stream == "stderr") == "careful\n"
    assert all(line.time_us > 1_600_000_000_000_000 for line in lines)
    assert (job.state, job.exit_code, job.final) == (State.STOPPED, 0, True)
    assert job.record.project == "leaf-health"
    assert job.record.host is not None
    assert job.record.host.python == sys.executable
    number = job.record.number
    assert repr(job) == f"<Job {job.id} 'train' #{number} of 'leaf-health': Stopped, exit 0>"
    (only,) = job.artifacts.list()
    assert only.path == "plots/loss.txt"
    (here,) = job.artifacts.download(tmp_path / "results")
    assert here.read_text() == "0.27\n"


def test_what_the_server_has_is_not_sent_again(client: Client, workspace: Path) -> None:
    told: list[Progress] = []
    first = client.jobs.create(["true"], workspace=workspace)
    again = client.jobs.create(["true"], workspace=workspace, on_progress=told.append)
    assert first.record.snapshot == again.record.snapshot
    assert (told[-1].stage, told[-1].files, told[-1].bytes) == ("sent", 0, 0)
    assert client.jobs.preflight(workspace).new_bytes == 0


def test_what_the_server_has_is_one_request_and_what_it_lacks_is_sent(
    client: Client, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optimist's request that is refused makes no job: the same idempotency key is asked again (P1)."""
    asked: list[str] = []
    request = Transport.request

    def listen(transport: Transport, method: str, path: str, *args: Any, **more: Any) -> Any:
        asked.append(f"{method} {path}")
        return request(transport, method, path, *args, **more)

    monkeypatch.setattr(Transport, "request", listen)
    (workspace / "train.py").unlink()
    (workspace / "only-here").mkdir()  # no file is to be read: as in a directory that was read before
    first = client.jobs.create(["ls"], workspace=workspace)
    assert asked[0] == asked[-1] == "POST /jobs"
    assert "POST /snapshots" in asked
    assert "only-here" in "".join(line.text for line in first.logs(follow=True))
    asked.clear()
    again = client.jobs.create(["ls"], workspace=workspace)
    assert asked == ["POST /jobs"]
    assert again.record.number == first.record.number + 1


def test_a_log_read_to_its_end_leaves_its_connection_for_the_next_request(
    client: Client, workspace: Path
) -> None:
    for _ in range(3):
        assert list(client.jobs.create(["echo", "x"], workspace=workspace).logs(follow=True))
    assert client._transport._current is not None
    assert client._transport._current[1].num_connections == 1


def test_many_and_large_files_arrive(client: Client, workspace: Path) -> None:
    large = bytes(range(256)) * 100_000  # more than one pack holds
    (workspace / "large.bin").write_bytes(large)
    (workspace / "train.py").write_text("only this test has this file")
    (workspace / "empty").touch()
    for number in range(300):
        (workspace / f"small-{number}").write_text(f"only this test has this file, {number}")
    told: list[Progress] = []
    check = (
        "import pathlib, sys; sys.exit(len(list(pathlib.Path().iterdir())) != 303 "
        "or pathlib.Path('large.bin').read_bytes() != bytes(range(256)) * 100_000)"
    )
    job = client.jobs.create(["python", "-c", check], workspace=workspace, on_progress=told.append)
    assert job.wait(60).state is State.STOPPED
    assert told[-1].files in (302, 303)  # of another test's the server may know the empty file
    assert [progress.bytes for progress in told if progress.stage == "sending"] == sorted(
        progress.bytes for progress in told if progress.stage == "sending"
    )


def test_a_job_without_files_belongs_to_this_directory_all_the_same(
    client: Client, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    job = client.jobs.create("sh -c 'ls -A; exit 3'", workspace=None).wait(60)
    assert (job.state, job.exit_code) == (State.FAILED, 3)
    assert job.reason is not None
    assert job.reason.next
    assert job.record.command == ("sh", "-c", "ls -A; exit 3")
    assert job.record.project == "leaf-health"
    assert [line.text for line in job.logs() if line.stream == "stdout"] == []


@pytest.mark.parametrize(
    ("config", "name"),
    [('{"project": "leaves", "projectId": "pr3k0bq87"}', "leaves"), ('{"lastJobId": "j1"}', "leaf-health")],
)
def test_the_directorys_own_file_names_the_project(
    client: Client, workspace: Path, config: str, name: str
) -> None:
    (workspace / ".ps_project").mkdir()
    (workspace / ".ps_project" / "config.json").write_text(config)
    assert client.jobs.create(["true"], workspace=workspace).record.project == name


def test_a_project_by_id_is_that_project(client: Client, workspace: Path) -> None:
    project = client.projects.create("by-id")
    (workspace / ".ps_project").mkdir()
    (workspace / ".ps_project" / "config.json").write_text(f'{{"projectId": "{project.id}"}}')
    assert client.jobs.create(["true"], workspace=workspace).record.project_id == project.id
    assert client.jobs.create(["true"], workspace=None, project_id=project.id).record.project_id == project.id
    with pytest.raises(NotFound):
        client.jobs.create(["true"], workspace=None, project_id="pr000000000000")


def test_a_broken_project_file_is_named(client: Client, workspace: Path) -> None:
    (workspace / ".ps_project").mkdir()
    (workspace / ".ps_project" / "config.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"config\.json is not what it should be"):
        client.jobs.create(["true"], workspace=workspace)


@pytest.mark.parametrize("command", [[], "", ["a\udcff"]])
def test_a_command_that_cannot_be_sent_is_the_callers_mistake(
    client: Client, command: list[str] | str
) -> None:
    with pytest.raises(InvalidRequest):
        client.jobs.create(command, workspace=None, project="tests")


def test_stop_ends_it_and_delete_removes_it(client: Client) -> None:
    job = client.jobs.create(["python", "-c", WAIT_FOR_EVER], workspace=None, project="tests")
    assert job.wait(60, until="Running").state is State.RUNNING
    with pytest.raises(TimeoutError, match="still Running"):
        job.wait(0.05)
    assert job.stop().wait(60).state is State.CANCELLED
    assert job.stop().state is State.CANCELLED
    job.delete()
    with pytest.raises(NotFound):
        job.wait(60)
    with pytest.raises(NotFound):
        client.jobs.get(job.id)
    with pytest.raises(NotFound):
        list(job.logs(follow=True))


def test_waiting_for_a_state_that_is_over_does_not_wait(client: Client) -> None:
    job = client.jobs.create(["true"], workspace=None, project="tests").wait(60)
    assert client.jobs.get(job.id).wait(60, until=State.RUNNING).final
    assert job.has_been(State.RUNNING)
    assert not job.has_been(State.FAILED)


def test_lists_are_read_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    project = client.projects.create("listed")
    made = [client.jobs.create(["true"], workspace=None, project_id=project.id).id for _ in range(5)]
    monkeypatch.setattr("gradient_jupyter.client.jobs._PAGE", 2)
    assert [job.id for job in client.jobs.list(project_id=project.id)] == made[::-1]
    assert [job.id for job in client.jobs.list(project_id=project.id, limit=3)] == made[:1:-1]
    assert list(client.jobs.list(project_id=project.id, state="Preempted")) == []
    assert project.id in {one.id for one in client.projects.list()}
    assert client.projects.find("listed").id == project.id


def test_machine_types_are_listed(client: Client) -> None:
    assert {"local", "small"} <= {one.name for one in client.machine_types.list()}


def test_a_log_that_is_followed_survives_the_servers_death(alone: SoloServer) -> None:
    alone.start()
    with Client() as client:
        job = client.jobs.create(["python", "-c", COUNT_AND_WAIT], workspace=None, project="tests")
        text = ""
        for line in job.logs(follow=True):
            text += line.text if line.stream == "stdout" else ""
            if text.endswith("half\n") and alone.process is not None:
                alone.kill()
                (storage,) = (alone.data / "storage" / "user").iterdir()
                (storage / "go").touch()
        assert text == "".join(f"{n}\n" for n in range(500)) + "half\n" + "".join(
            f"{n}\n" for n in range(500, 1000)
        )
        assert job.state is State.STOPPED


def test_waiting_survives_the_servers_death(alone: SoloServer) -> None:
    alone.start()
    with Client() as client:
        job = client.jobs.create(["python", "-c", COUNT_AND_WAIT], workspace=None, project="tests")
        job.wait(60, until="Running")
        alone.kill()
        (storage,) = (alone.data / "storage" / "user").iterdir()
        (storage / "go").touch()
        assert job.wait(60).state is State.STOPPED


def test_stop_works_after_the_servers_death(alone: SoloServer) -> None:
    alone.start()
    with Client() as client:
        job = client.jobs.create(["python", "-c", WAIT_FOR_EVER], workspace=None, project="tests")
        job.wait(60, until="Running")
        alone.kill()
        assert job.stop().wait(60).state is State.CANCELLED


def test_an_upload_survives_the_servers_death(alone: SoloServer, workspace: Path) -> None:
    alone.start()
    for number in range(3):  # each more than a pack holds
        (workspace / f"part-{number}").write_bytes(os.urandom(17 << 20))
    told: list[Progress] = []

    def kill_between(progress: Progress) -> None:
        told.append(progress)
        if progress.stage == "sending" and progress.files and alone.process is not None:
            alone.kill()

    with Client() as client:
        job = client.jobs.create(
            ["sh", "-c", "cat part-* | wc -c"], workspace=workspace, on_progress=kill_between
        )
        assert job.wait(60).exit_code == 0
        assert "".join(line.text for line in job.logs() if line.stream == "stdout").strip() == str(51 << 20)
    assert alone.process is None
    assert told[-1].files == 4
