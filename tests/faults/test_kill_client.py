"""Kill ``gradient run`` at every effect of it: scanning, uploading, submitting, following (technique T1).

Fault: SIGKILL of the command. Promises: P1, there is no job or there is one; P3, it starts once; P11, nothing
of the dead command is left at the server, and of its own files at most one draft that the next one uses. It
heals with the next ``gradient run``, which sends only what is missing.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import remains, witness
from faults.killing import HELD, Killer, place
from faults.victim import Victim
from solo import PATIENCE_S

_ROOT = str(Path(__file__).parents[2])
GRADIENT = (sys.executable, "-m", "gradient_jupyter.cli")

PLACES = (
    (1, r"connect socket:"),
    (4, r"sendto socket:"),
    (6, r"sendto socket:"),
    # Nothing is remembered of a file that is younger than two seconds.
    (1, r"write .*\.writing$"),
    (1, r"rename .*/hashed/\w+$"),
)


class Person:
    """Somebody with a directory, at a shell."""

    def __init__(self, server: Victim) -> None:
        self.server = server
        self.directory = server.root / "leaf-health"
        self.directory.mkdir()
        self._work = self.directory / "work.sh"
        self._write()
        self.environment = {
            **server.environment, "PYTHONPATH": _ROOT, "PYTHONWARNINGS": "error", "LC_ALL": "C.UTF-8",
        }  # fmt: skip

    def edit(self) -> None:
        """New content, so that there is something to send: two files of it."""
        for name in ("data.txt", "notes.txt"):
            (self.directory / name).write_text(secrets.token_hex(2000))

    def _write(self) -> None:
        self._work.write_text(f"# {secrets.token_hex(8)}\n{witness.SHELL}begin; echo worked; end\n")

    def grow_old(self) -> None:
        """The script is another one, and old enough for its digest to be remembered."""
        self._write()
        while (left := self._work.stat().st_ctime + 2.1 - time.time()) > 0:
            select.select([], [], [], left)

    def run(self, *words: str) -> Any:
        done = subprocess.run(
            [*GRADIENT, "run", "--json", *words], cwd=self.directory, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    def lacking(self) -> set[str]:
        """The files that the server does not have."""
        return {file["path"] for file in self.run("--dry-run", "sh", "work.sh")["files"] if file["new"]}

    def killed(self, nth: int, where: str, name: str) -> Killer:
        """``gradient run``, killed there."""
        command = subprocess.Popen(
            [*HELD, *GRADIENT, "run", "--json", "--name", name, "sh", "work.sh"], cwd=self.directory,
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        os.waitid(os.P_PID, command.pid, os.WSTOPPED)
        with Killer(command.pid, nth, where=where) as killer:
            command.send_signal(signal.SIGCONT)
            said = command.stderr.read() if command.stderr else b""
            status = command.wait()
        if command.stderr:
            command.stderr.close()
        assert status == (-signal.SIGKILL if killer.fired else 0), said.decode()
        return killer

    def jobs(self, name: str) -> list[dict[str, Any]]:
        items = self.server.request("GET", "/jobs?limit=200").json()["items"]
        return [item for item in items if item["name"] == name]

    def check(self, name: str) -> None:
        """What the dead command left, and what the next one makes of it."""
        jobs = self.jobs(name)
        assert len(jobs) <= 1
        for job in jobs:
            assert self.server.finished(job["id"])["state"] == "Stopped"
        while True:
            before = blobs(self.server)
            lacking = self.lacking()
            if before == blobs(self.server):
                break  # the server was not just putting away what the dead command had still sent
        assert not (jobs and lacking), "a job whose files are not there"
        again = self.run("--name", name, "sh", "work.sh")
        assert (again["state"], len(self.jobs(name))) == ("Stopped", len(jobs) + 1)
        new = blobs(self.server) - before - {again["snapshot"]}  # its manifest is a blob as well
        assert len(new) == len(lacking)
        assert self.lacking() == set()
        began = witness.check(witness.read(self.server.storage()))
        assert all(began[job["id"]] == 1 for job in self.jobs(name))
        remains.at_rest(self.server)
        left = remains.of(self.server)
        assert not left, left
        cache = self.server.root / "cache" / "gradient_jupyter" / "hashed"
        if cache.exists():
            assert len(list(cache.iterdir())) == 1  # of one directory: no draft, the last run has used it


def blobs(server: Victim) -> set[str]:
    return {path.name for path in (server.data / "blobs").glob("??/*")}


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    server = Victim(tmp_path, "--isolation=none")
    server.start()
    yield Person(server)
    server.stop()


def test_a_command_killed_in_any_step_leaves_one_job_or_none(person: Person) -> None:
    for number, (nth, where) in enumerate(PLACES):
        person.edit()
        if "writing" in where:
            person.grow_old()
        assert person.killed(nth, where, f"run-{number}").fired, f"never came by {where}"
        person.check(f"run-{number}")


@pytest.mark.slow
def test_a_command_killed_at_any_effect_leaves_one_job_or_none(person: Person) -> None:
    places: Counter[str] = Counter()
    n, fired = 0, True
    while fired:
        n += 1
        person.edit()
        person.grow_old()
        killer = person.killed(n, "", f"run-{n}")
        person.check(f"run-{n}")
        fired = killer.fired
        if fired:
            places[place(killer.sites[-1], person.server.root)] += 1
    print(f"\nkilled {n - 1} times, at {dict(places)}")


@pytest.mark.parametrize(
    "where",
    [
        r"^(v?fork|clone3?)$",
        *(
            pytest.param(where, marks=pytest.mark.slow)
            for where in (r"openat .*\.start$", r"connect socket:")
        ),
    ],
)
def test_a_command_killed_while_it_starts_the_server_leaves_the_next_one_a_server(
    person: Person, where: str
) -> None:
    """Also here: one server at most, whether or not the dead command had begun to start it."""
    server = person.server
    server.stop()
    killer = person.killed(1, where, "first")
    assert killer.fired
    assert person.run("--name", "second", "sh", "work.sh")["state"] == "Stopped"
    runtime = json.loads(next((server.root / "runtime").glob("gradient-*.json")).read_text())
    try:
        others = {
            pid for pid, command in remains.processes(server).items() if "gradient_jupyter.server" in command
        }
        assert others == {runtime["pid"]}
    finally:
        subprocess.run(
            [*GRADIENT, "server", "stop"], env=person.environment, check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
