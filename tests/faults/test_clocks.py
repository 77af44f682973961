"""Clocks that are wrong, jump, stand still or lie far ahead (technique T8).

Fault: the wall clock, of the server or of a supervisor (libfaketime), and the clocks since boot of a
supervisor (a time namespace). Promise: P14, no order, no lease, no timeout and no duration changes; so a
whole journey holds all it holds under a true clock. There is nothing to heal.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import witness
from faults.journey import Journey, Record
from faults.test_kill_client import Person
from faults.test_kill_supervisor import GATE, KEY, read, running, seen
from faults.victim import Victim
from urllib3 import BaseHTTPResponse

from gradient_jupyter.engines.base import Phase
from gradient_jupyter.engines.local import attempt, process

HOUR_US = 3600 * 10**6


@pytest.fixture
def fake() -> Iterator[dict[str, str]]:
    """The environment in which the wall clock can be set. The monotonic clock is nobody's to set."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        message = "libfaketime is not installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    yield {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Else each wait for Python's lock, which counts by the monotonic clock, ends at once and begins anew.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "FAKETIME_DONT_RESET": "1",
        "NO_FAKE_STAT": "1",
    }
    for path in Path("/dev/shm").glob("*faketime_s??_*"):  # which it leaves itself
        if not Path("/proc", path.name.rpartition("_")[2]).exists():
            path.unlink(missing_ok=True)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    """Not started yet."""
    server = Victim(tmp_path, "--isolation=none")
    yield server
    server.stop()


def check_times(jobs: list[Record]) -> None:
    """Nothing lasted less than nothing, or as long as somebody set the clock."""
    for job in jobs:
        times = [moment["time_us"] for moment in job["history"]]
        assert times == sorted(times)
        if job.get("started_us"):
            assert 0 <= job["ended_us"] - job["started_us"] < HOUR_US


@pytest.mark.parametrize(
    "clock",
    ["2040-01-19 03:14:07", *(pytest.param(clock, marks=pytest.mark.slow) for clock in ("-1d", "+1d"))],
)
def test_a_server_whose_clock_is_wrong_or_frozen_does_all_it_does(
    victim: Victim, fake: dict[str, str], clock: str
) -> None:
    true = dict(victim.environment)
    victim.environment.update({**fake, "FAKETIME": clock})
    victim.start()
    journey = Journey(victim, lambda: pytest.fail("it died"))
    journey.run()
    check_times(list(journey.final.values()))
    people_see(victim, true)


def test_a_server_whose_clock_jumps_does_all_it_does(
    victim: Victim, fake: dict[str, str], tmp_path: Path
) -> None:
    """Back and forth between any two requests, and across a restart."""
    true = dict(victim.environment)
    setting = tmp_path / "clock"
    setting.write_text("+0")
    victim.environment.update({**fake, "FAKETIME_TIMESTAMP_FILE": str(setting), "FAKETIME_NO_CACHE": "1"})
    victim.start()

    class Jumping(Journey):
        clocks = itertools.cycle(["+1d", "-1d", "+0", "+20y", "-20y"])

        def _ask(self, *args: object, **more: object) -> BaseHTTPResponse:
            new = setting.with_suffix(".new")
            new.write_text(next(self.clocks))
            new.replace(setting)
            return super()._ask(*args, **more)  # type: ignore[arg-type]

    journey = Jumping(victim, lambda: pytest.fail("it died"))
    journey.run()
    check_times(list(journey.final.values()))
    victim.kill()
    victim.start()
    people_see(victim, true)


def people_see(server: Victim, environment: dict[str, str]) -> None:
    """Somebody whose clock is right looks at it."""
    person = Person(server)
    for words in (["jobs", "list"], ["jobs", "show", str(server.job("true")["id"])], ["server", "status"]):
        done = subprocess.run(
            [sys.executable, "-m", "gradient_jupyter.cli", *words],
            env={**person.environment, **environment, "PYTHONPATH": person.environment["PYTHONPATH"],
                 "LD_PRELOAD": ""},
            capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert b" -" not in done.stdout


def with_python(monkeypatch: pytest.MonkeyPatch, root: Path, before: str) -> None:
    """Supervisors are started by a Python with something before it."""
    python = root / "python"
    python.write_text(f'#!/bin/sh\nexec {before} {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.parametrize("jump", ["-1d", "+1d"])
def test_a_task_lasts_as_long_as_it_did_although_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: dict[str, str], jump: str
) -> None:
    """Fault: the clock of a supervisor, while its task runs."""
    setting = tmp_path / "clock"
    setting.write_text("+0")
    variables = {**fake, "FAKETIME_TIMESTAMP_FILE": str(setting), "FAKETIME_NO_CACHE": "1"}
    with_python(
        monkeypatch, tmp_path, "env " + " ".join(f"{name}={value}" for name, value in variables.items())
    )

    async def scenario() -> None:
        async with running(tmp_path, "none", f"begin; echo up; {GATE}; end") as (engine, task):
            new = setting.with_suffix(".new")
            new.write_text(jump)
            new.replace(setting)
            (task.storage / "gate").write_text("go\n")
            await read(engine)
            end = await seen(engine)
            assert end.phase is Phase.SUCCEEDED
            assert end.started_us is not None and end.ended_us is not None
            assert 0 <= end.ended_us - end.started_us < HOUR_US

    asyncio.run(scenario())


def test_a_supervisor_whose_boot_was_another_time_is_known_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: its clocks since boot are shifted, so its start time is not what we read of it. By its lock it
    lives (P3, P10); and it finds the request to end by itself (P6)."""
    shift = "unshare --user --map-current-user --time --boottime 1000000 --monotonic 1000000 --fork"
    if shutil.which("unshare") is None or subprocess.run([*shift.split(), "true"], check=False).returncode:
        pytest.skip("there are no time namespaces here")
    with_python(monkeypatch, tmp_path, shift)

    async def scenario() -> None:
        script = "begin; trap 'echo saved; end; exit 0' TERM; echo up; while :; do sleep 1000 & wait; done"
        async with running(tmp_path, "none", script) as (engine, task):
            one = attempt.Attempt(tmp_path / "engine", KEY)
            who = one._supervisor()
            assert who is not None and not process.alive(who)
            await engine.ensure(task)
            assert (await seen(engine)).phase is Phase.RUNNING
            await engine.stop(KEY, 30)
            assert (await read(engine)).endswith(b"saved\n")
            end = await seen(engine)
            assert end.stopped and end.exit_code == 0
            assert witness.check(witness.read(task.storage)) == {"j1": 1}

    asyncio.run(scenario())
