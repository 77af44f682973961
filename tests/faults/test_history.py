"""Many clients at once while a nemesis kills and pauses the server (technique T11: Jepsen in small).

Fault: SIGKILL and SIGSTOP of the server at an effect that is drawn by a seed, again and again. Every submit
is written down as ok or unknown, and the history is checked against the server, the witness and the logs.
Each ok has exactly one job with one final state, each unknown none or one (P1, P5); nothing began twice (P2
to P4); what was followed is gap-free and is what the file holds (P7); artifacts are what their digests say
(P9); pages neither miss nor repeat; nothing is left (P11). It heals with each next start.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import threading
from collections import Counter
from pathlib import Path

import blake3
import pytest
from faults import remains, witness
from faults.journey import FINAL, Journey, Record
from faults.killing import Killer
from faults.victim import Victim
from urllib3.exceptions import HTTPError

SMALL = (
    "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
    "--GradientServer.default_machine_type=small",
    "--isolation=none",
)
_WORK = witness.SHELL + (
    'begin; for i in 1 2 3 4 5; do echo "$0 $i"; done; echo "$0" > "$GRADIENT_ARTIFACTS_DIR/name"; end'
)
_FOREVER = witness.SHELL + "begin; echo up; exec sleep 100000"


class Nemesis:
    """Kills or pauses the server at one effect after the other, until told to stop."""

    def __init__(self, server: Victim, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._generation = 1
        self._over = False
        self.faults: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Nemesis:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    def healer(self) -> Healer:
        return Healer(self)

    def wait_after(self, generation: int) -> int:
        """Until a later server than that one has come up."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._generation > generation, remains.PATIENCE_S)
            return self._generation

    def _run(self) -> None:
        while not self._over:
            assert self._server.process is not None
            pid = self._server.process.pid
            how = self._random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP))
            with Killer(pid, self._random.randint(1, 40), signum=how) as killer:
                self._wait_for(killer)
                if not killer.fired:
                    continue
                self.faults[how.name] += 1
                if how is signal.SIGSTOP:
                    os.kill(pid, signal.SIGCONT)
                    continue
            self._server.gone()
            self._server.start()
            with self._changed:
                self._generation += 1
                self._changed.notify_all()

    def _wait_for(self, killer: Killer) -> None:
        """Until it has struck, or nobody works any more: a server at rest never comes to its next effect."""
        while not killer.poll(0.2):
            if self._over:
                killer.end()
                return


class Healer:
    """What a client does when the server is gone: it waits for the next one."""

    def __init__(self, nemesis: Nemesis) -> None:
        self._nemesis = nemesis
        self._seen = 1

    def __call__(self) -> None:
        self._seen = self._nemesis.wait_after(self._seen)


class Client(Journey):
    """One of many. What it asked for and what it knows of it."""

    def __init__(self, server: Victim, healer: Healer, seed: int, submits: int) -> None:
        super().__init__(server, healer)
        self._random = random.Random(seed)
        self._submits = submits
        self.ok: dict[str, str] = {}
        """Job by name."""
        self.unknown: list[str] = []
        self.stopped: set[str] = set()
        self.trouble: BaseException | None = None

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._guarded)
        thread.start()
        return thread

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.trouble = error

    def _work(self) -> None:
        for number in range(self._submits):
            name = f"{self.name}-{number}"
            forever = self._random.random() < 0.3
            command = ("sh", "-c", _FOREVER) if forever else ("sh", "-c", _WORK, name)
            if self._random.random() < 0.3:
                self._submit_once(name, command)
                continue
            job_id = self.ok[name] = self.submit(str(number), None, *command)
            self._read_pages()
            if forever:
                if self._random.random() < 0.5:
                    self.follow(job_id, "up\n")
                self.stop(job_id)
                self.stopped.add(job_id)
                _, job = self.follow(job_id)
                assert job is not None and job["state"] == "Cancelled"
                self._nothing_runs(job_id)
                continue
            text, job = self.follow(job_id)
            assert job is not None and job["state"] == "Stopped"
            assert text == self._ask("GET", f"/jobs/{job_id}/log").data.decode()
            assert text.endswith("".join(f"{name} {i}\n" for i in range(1, 6)))
            content = self._ask("GET", f"/jobs/{job_id}/artifacts/name").data
            (item,) = self._ask("GET", f"/jobs/{job_id}/artifacts").json()["items"]
            assert content.decode() == f"{name}\n"
            assert item["digest"] == blake3.blake3(content).hexdigest()

    def _submit_once(self, name: str, command: tuple[str, ...]) -> None:
        """As somebody who gives up when no answer comes."""
        snapshot = self._snapshot({"entries": []})
        body = {"command": command, "snapshot": snapshot, "project": "journeys", "name": name}
        try:
            answer = self.server.request(
                "POST", "/jobs", body=json.dumps(body).encode(),
                headers={"Content-Type": "application/json", "Idempotency-Key": secrets.token_hex(12)},
            )  # fmt: skip
        except HTTPError:
            self.unknown.append(name)
            self._healed()
            return
        assert answer.status == 201, answer.data
        self.ok[name] = answer.json()["id"]

    def _read_pages(self) -> None:
        """Every job that was there before, once, and newest first."""
        known = set(self.ok.values())
        found: list[Record] = []
        cursor = ""
        while True:
            page = self._ask("GET", f"/jobs?limit=3{cursor}").json()
            found += page["items"]
            if not page.get("next"):
                break
            cursor = f"&cursor={page['next']}"
        ids = [job["id"] for job in found]
        assert len(ids) == len(set(ids)), "a page repeats"
        assert known <= set(ids), "a page misses"

    def everything(self) -> list[Record]:
        """All jobs there are, and each of its own stopped where it still goes on."""
        jobs: list[Record] = self._ask("GET", "/jobs?limit=500").json()["items"]
        for job in jobs:
            if job["name"].startswith(self.name) and job["state"] not in FINAL:
                self.stop(job["id"])
                self.follow(job["id"])
        return jobs


@pytest.mark.parametrize(
    ("clients", "submits"), [(3, 3), pytest.param(10, 10, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_what_many_clients_were_told_holds_whatever_happened_to_the_server(
    tmp_path: Path, clients: int, submits: int
) -> None:
    server = Victim(tmp_path, *SMALL)
    server.start()
    try:
        with Nemesis(server, seed=7) as nemesis:
            people = [Client(server, nemesis.healer(), seed, submits) for seed in range(clients)]
            for thread in [person.start() for person in people]:
                thread.join()
        print(f"\nfaults: {dict(nemesis.faults)}")
        for person in people:
            if person.trouble is not None:
                raise person.trouble
        assert nemesis.faults["SIGKILL"] >= 1
        check(server, people)
    finally:
        server.stop()


def check(server: Victim, people: list[Client]) -> None:
    for person in people:
        person.everything()
    jobs = [job for job in people[0].everything() if job["name"] != "true"]
    names = Counter(job["name"] for job in jobs)
    asked = {name for person in people for name in (*person.ok, *person.unknown)}
    assert set(names) <= asked and set(names.values()) == {1}
    began = witness.check(witness.read(server.storage()))
    assert set(began) <= {job["id"] for job in jobs}
    for person in people:
        for name, job_id in person.ok.items():
            job = person.look(job_id)
            assert (job["name"], job["state"]) in ((name, "Stopped"), (name, "Cancelled"))
            assert began[job_id] == 1 or (job_id in person.stopped) or job["state"] == "Cancelled"
    remains.at_rest(server)
    left = remains.of(server)
    assert not left, left
