"""Pause instead of kill (technique T6): the server, a supervisor, a job's whole tree; then let them go on.

Fault: SIGSTOP, for longer than whatever waits for the one that is paused; where that would be long, the wait
is made short by configuration. Promises: P1, P3, P4, P6, P7, P10. It heals by SIGCONT; where a person wants
an end meanwhile, within grace and patience as configured. Who wakes up is fenced, or goes on.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import remains, witness
from faults.journey import Journey
from faults.killing import HELD, Killer
from faults.test_kill_server import PLACES
from faults.test_kill_supervisor import GATE, KEY, may_trace, running
from faults.victim import Victim
from solo import SoloServer

from gradient_jupyter.client import Client, connection, jobs, stream
from gradient_jupyter.engines.base import Phase, Unreachable
from gradient_jupyter.engines.local import attempt
from gradient_jupyter.resources.errors import ServerUnavailable
from gradient_jupyter.resources.snapshot import EMPTY_TREE
from gradient_jupyter.server.program import TAKEN

PATIENT = witness.SHELL + f"begin; echo up; {GATE}; echo down; end"
#: With a child that left its session and bears no mark.
STUBBORN = witness.SHELL + "begin; trap '' TERM; env -i setsid sleep 100000 & echo up; sleep 100000"


@pytest.fixture(params=["none", "bubblewrap"])
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Victim]:
    server = Victim(tmp_path, f"--isolation={request.param}", "--GradientServer.patience_s=0.5")
    server.start()
    os.mkfifo(server.storage() / "gate")
    yield server
    server.stop()


def go_on(server: SoloServer) -> None:
    (server.storage() / "gate").write_text("go\n")


def supervisor_of(server: SoloServer) -> int:
    (path,) = (server.data / "engines" / "local").glob("*/pid")
    return int(json.loads(path.read_text())["pid"])


def refused(server: SoloServer) -> None:
    """A second server on the same data: the lock is its first one's, however silent that one is."""
    second = subprocess.run(
        [sys.executable, "-m", "gradient_jupyter.server"], env=server.environment, stdin=subprocess.DEVNULL,
        capture_output=True, check=False,
    )  # fmt: skip
    assert second.returncode == TAKEN, second.stderr.decode()
    assert b"already works on" in second.stderr and second.stdout == b""


def nothing_is_left(server: Victim, job_id: object) -> None:
    assert witness.check(witness.read(server.storage()))[str(job_id)] == 1
    remains.at_rest(server)
    left = remains.of(server)
    assert not left, left


@pytest.mark.parametrize("victim", ["none"], indirect=True)
def test_a_server_paused_in_a_transition_goes_on_where_it_was(victim: Victim) -> None:
    """Meanwhile nobody takes its place (P2, P3)."""
    assert victim.process is not None
    pid = victim.process.pid
    for at in ("a job is accepted", "the supervisor is told", "artifacts are collected"):
        calls, where, nth = PLACES[at]
        with Killer(pid, nth, calls, where, signal.SIGSTOP) as killer:
            told: list[AssertionError] = []

            def meanwhile(killer: Killer = killer, told: list[AssertionError] = told) -> None:
                killer.wait_fired()
                try:
                    refused(victim)
                except AssertionError as error:
                    told.append(error)
                finally:
                    os.kill(pid, signal.SIGCONT)

            watcher = threading.Thread(target=meanwhile)
            watcher.start()
            Journey(victim, lambda: pytest.fail("it was only paused")).run()
            watcher.join()
        assert killer.fired and not told, told


@pytest.mark.parametrize("victim", ["none"], indirect=True)
def test_clients_of_a_paused_server_give_up_and_lose_nothing(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower misses nothing (P7); a submit whose answer never came made one job or none (P1)."""
    monkeypatch.setattr(connection, "ANSWER_S", 0.5)
    monkeypatch.setattr(connection, "CONNECT_S", 0.3)
    monkeypatch.setattr(stream, "SILENCE_S", 0.5)
    assert victim.runtime is not None and victim.process is not None
    with Client(victim.runtime.url, victim.runtime.token) as client:
        job = client.jobs.create(["sh", "-c", PATIENT], workspace=None, project="paused")
        seen: list[str] = []
        up = threading.Event()

        def follow() -> None:
            for line in job.logs(follow=True):
                seen.append(line.text)
                if "up" in line.text:
                    up.set()

        follower = threading.Thread(target=follow)
        follower.start()
        up.wait()
        victim.process.send_signal(signal.SIGSTOP)
        with pytest.raises(ServerUnavailable):
            client.jobs._transport.request(
                "POST", "/jobs", jobs.wire.Job, repeatable=True, answer_s=0.5, body=request("unanswered"),
                headers={"Idempotency-Key": "unanswered"},
            )  # fmt: skip
        victim.process.send_signal(signal.SIGCONT)
        go_on(victim)
        assert job.wait().state == "Stopped"
        follower.join()
        assert "".join(seen) == victim.text(job.id)
        again = client.jobs._transport.request(
            "POST", "/jobs", jobs.wire.Job, repeatable=True, body=request("unanswered"),
            headers={"Idempotency-Key": "unanswered"},
        )  # fmt: skip
        client.jobs.get(again.id).wait()
        assert [one.id for one in client.jobs.list() if one.record.name == "unanswered"] == [again.id]
        nothing_is_left(victim, again.id)


def request(name: str) -> jobs.wire.CreateJob:
    return jobs.wire.CreateJob(
        command=("sh", "-c", witness.SHELL + "begin; end"), snapshot=EMPTY_TREE, project="paused",
        name=name, host=jobs.host_environment(),
    )  # fmt: skip


def runs(victim: Victim, job_id: object) -> None:
    """Waits until the job is told to be Running."""
    for event, _, data in victim.events(f"/jobs/{job_id}/logs?follow=true"):
        if event == "job" and data["state"] == "Running":
            return
    raise AssertionError("it never ran")


def test_a_job_whose_supervisor_is_paused_is_not_taken_for_lost(victim: Victim) -> None:
    """Not by the server that started it nor by the next one (P4, P10), and its log is whole (P7)."""
    job = victim.job("sh", "-c", PATIENT)
    victim.printed(job["id"], "up\n")
    runs(victim, job["id"])  # a line may be read before the row says that it does
    supervisor = supervisor_of(victim)
    os.kill(supervisor, signal.SIGSTOP)
    victim.kill()
    victim.start()
    go_on(victim)
    remains.until(
        lambda: [line.what for line in witness.read(victim.storage())] == ["begin", "end"], victim.storage()
    )
    assert victim.request("GET", f"/jobs/{job['id']}").json()["state"] == "Running"
    os.kill(supervisor, signal.SIGCONT)
    assert victim.finished(job["id"])["state"] == "Stopped"
    assert victim.text(job["id"]).endswith("up\ndown\n")
    nothing_is_left(victim, job["id"])


def test_a_job_that_is_paused_can_be_stopped(victim: Victim) -> None:
    """Its supervisor alone, its command alone, or both. P6: after grace and patience it is Cancelled, and
    nothing of it is left."""
    for paused in (slice(0, 1), slice(1, None), slice(0, None)):
        job = victim.job("sh", "-c", STUBBORN)
        victim.printed(job["id"], "up\n")
        supervisor = supervisor_of(victim)
        family = [supervisor, *attempt.process.descendants(supervisor)]
        for pid in family[paused]:
            os.kill(pid, signal.SIGSTOP)
        victim.request("POST", f"/jobs/{job['id']}/stop")
        assert victim.finished(job["id"])["state"] == "Cancelled"
        assert not [pid for pid in family[1:] if attempt.process.identity(pid)]
        nothing_is_left(victim, job["id"])


@pytest.mark.skipif(not may_trace(), reason="only ancestors may trace here (yama.ptrace_scope)")
@pytest.mark.parametrize("isolation", ["none", "bubblewrap"])
def test_a_supervisor_paused_at_its_birth_finds_itself_fenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    """The engine gives it up and makes another; when it wakes, the command has its one start already (P3)."""
    patience_s = attempt._READY_S
    monkeypatch.setattr(attempt, "_READY_S", 0.3)
    held = tmp_path / "python"
    held.write_text(f'#!/bin/sh\n{" ".join(HELD)} {sys.executable} "$@" <&0 &\necho $! > {tmp_path}/held\n')
    held.chmod(0o755)
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(held))

    def heal() -> None:
        monkeypatch.setattr(sys, "executable", python)
        monkeypatch.setattr(attempt, "_READY_S", patience_s)

    asyncio.run(wake_the_first(tmp_path, isolation, heal))


async def wake_the_first(root: Path, isolation: str, heal: Callable[[], None]) -> None:
    async def ensured(engine, task) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(Unreachable):
            await engine.ensure(task)
        heal()
        await engine.ensure(task)

    async with running(root, isolation, f"begin; echo up; {GATE}; end", ensured) as (engine, task):
        first = int((root / "held").read_text())
        ended = os.pidfd_open(first)
        stat = Path(f"/proc/{first}/stat")
        # Continued before it has stopped itself, it would never be.
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.01)
        os.kill(first, signal.SIGCONT)
        # It forks and ends; its child finds the lock taken, or the end written, and ends too.
        select.select([ended], [], [])
        os.close(ended)
        (task.storage / "gate").write_text("go\n")
        text = b"".join([chunk.data async for chunk in engine.logs(KEY)])
        assert text.endswith(b"up\n")
        assert (await engine.observe([KEY]))[KEY].phase is Phase.SUCCEEDED
        assert witness.check(witness.read(task.storage)) == {"j1": 1}


@pytest.mark.slow
def test_a_job_that_burns_all_there_is_can_be_stopped(victim: Victim) -> None:
    """Fault: its supervisor is starved by 200 busy processes that ignore TERM and keep making more."""
    burn = "while [ $i -lt 200 ]; do (while :; do (:); done) & i=$((i+1)); done; echo up; wait"
    job = victim.job("sh", "-c", witness.SHELL + "begin; trap '' TERM; i=0; " + burn)
    victim.printed(job["id"], "up\n")
    victim.request("POST", f"/jobs/{job['id']}/stop")
    assert victim.finished(job["id"])["state"] == "Cancelled"
    nothing_is_left(victim, job["id"])
