"""Everything a person does with jobs, once through, whoever dies meanwhile; and what must hold of it.

A ``Journey`` sends a directory, runs it, has a second job queued behind, stops a third while it waits and a
fourth while it runs, deletes a fifth before and a sixth after its run, follows a log and fetches artifacts.
When the server is gone it calls ``heal`` and repeats the step it was at: submits with the same key, streams
from where they were cut. That is all a client may do, and all it needs.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
from faults import remains, witness
from solo import SoloServer
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from gradient_jupyter.resources.snapshot import File
from gradient_jupyter.workspace.packs import pack

Record = dict[str, Any]

_WORK = """
begin
read -r go < "$GRADIENT_STORAGE_DIR/$1"
i=0; while [ $i -lt 20 ]; do echo "line $i"; i=$((i + 1)); done
cp data.bin "$GRADIENT_ARTIFACTS_DIR/model.bin"
echo result > "$GRADIENT_ARTIFACTS_DIR/notes.txt"
end
"""
LOG = "".join(f"line {i}\n" for i in range(20))
_SHORT = witness.SHELL + "begin; echo short; end"
_FOREVER = witness.SHELL + "begin; echo up; exec sleep 100000"
FINAL = ("Stopped", "Failed", "Error", "Cancelled", "Preempted")


class Journey:
    """One way through. ``heal`` starts the server again; it may die once more in there."""

    def __init__(self, server: SoloServer, heal: Callable[[], None]) -> None:
        self.server = server
        self._heal = heal
        self.name = secrets.token_hex(4)
        self.heals = 0
        self.final: dict[str, Record] = {}
        """What was shown as final, by job."""
        self.artifacts: dict[str, str] = {}
        self.log = ""
        self.keys: dict[str, tuple[Record, str]] = {}
        """Body and job id of each submit, by its key."""
        self._position: dict[str, str] = {}

    def run(self) -> None:
        """All of it. Raises whatever does not hold."""
        events_from = self._events_position()
        snapshot = self._upload()
        gate = self.server.storage() / f"gate-{self.name}"
        os.mkfifo(gate)
        opened = os.open(gate, os.O_RDWR)
        work = self.submit("work", snapshot, "sh", "work.sh", gate.name)
        behind = self.submit("behind", None, "sh", "-c", _SHORT)
        waiting = self.submit("waiting", None, "sh", "-c", _SHORT)
        forever = self.submit("forever", None, "sh", "-c", _FOREVER)
        unwanted = self.submit("unwanted", None, "sh", "-c", _SHORT)
        old = self.submit("old", None, "sh", "-c", _SHORT)
        self.stop(waiting)
        self.delete(unwanted)
        # The machine was held meanwhile, however long it took: what was to wait has waited.
        os.write(opened, b"go\n")
        self.log, _ = self.follow(work)
        self._look_at_artifacts(work)
        os.close(opened)
        gate.unlink()
        self.follow(behind)
        self.follow(forever, "up\n")
        self.stop(forever)
        self.follow(forever)
        self._nothing_runs(forever)
        self.follow(waiting)
        self.follow(old)
        self.delete(old)
        self._gone(events_from, {unwanted, old})
        remains.at_rest(self.server)
        self.check(work, behind, waiting, forever, unwanted, old)

    def check(self, work: str, behind: str, waiting: str, forever: str, unwanted: str, old: str) -> None:
        """P1 to P7, P9 and P11, after the last start."""
        jobs = self._jobs()
        for key, (body, job_id) in self.keys.items():
            if job_id not in (unwanted, old):  # P1: no key ever makes a second job
                assert self._submit(body, key)["id"] == job_id
        again = self._jobs()
        assert again == jobs, (again, jobs)
        names = [job["name"] for job in jobs if job["name"].startswith(self.name)]
        expected = ("forever", "waiting", "behind", "work")
        assert names == [f"{self.name}-{name}" for name in expected], names
        states = {job_id: self.look(job_id)["state"] for job_id in (work, behind, waiting, forever)}
        # P4, P6: the server's death is no job's.
        assert list(states.values()) == ["Stopped", "Stopped", "Cancelled", "Cancelled"], states
        began = witness.check(witness.read(self.server.storage()), one_at_a_time=True)  # P3, P4
        assert [began[job_id] for job_id in (work, behind, waiting, forever)] == [1, 1, 0, 1]
        assert (began[unwanted], began[old]) == (0, 1)
        whole = self._ask("GET", f"/jobs/{work}/log").data.decode()
        assert self.log == whole and whole.endswith(LOG), self.log  # P7
        for job_id in self.final:
            if job_id not in (unwanted, old):
                self.look(job_id)  # P5
        self._look_at_artifacts(work)
        left = remains.of(self.server)
        assert not left, left  # P11

    def submit(self, name: str, snapshot: str | None, *command: str) -> str:
        body: Record = {
            "command": command,
            "snapshot": snapshot or self._snapshot({"entries": []}),
            "project": "journeys",
            "name": f"{self.name}-{name}",
            "host": {"python": "/usr/bin/python3", "path": ["/usr/bin", "/bin"]},
        }
        key = secrets.token_hex(12)
        job = self._submit(body, key)
        self.keys[key] = body, job["id"]
        return str(job["id"])

    def stop(self, job_id: str) -> None:
        self._ask("POST", f"/jobs/{job_id}/stop")

    def delete(self, job_id: str) -> None:
        self._ask("DELETE", f"/jobs/{job_id}", also=(404,))  # the answer that was lost may have done it

    def look(self, job_id: str) -> Record:
        """The job now. P5: once it was final it never changes."""
        job: Record = self._ask("GET", f"/jobs/{job_id}").json()
        self._final(job)
        return job

    def follow(self, job_id: str, printed: str = "\0") -> tuple[str, Record | None]:
        """Its log, to its end or until it printed something; resumed wherever it is cut. P7: no gap."""
        text, last_id, position = "", "", -1
        while True:
            try:
                headers = {"Last-Event-ID": last_id} if last_id else {}
                for event, identity, data in self.server.events(f"/jobs/{job_id}/logs?follow=true", headers):
                    if event == "log":
                        last_id = identity
                        offset = int(identity.partition("-")[2])
                        text += data["text"]  # type: ignore[index]
                        assert offset > position and offset == len(text.encode()), (
                            f"a gap in the stream before {identity}: {text!r}"
                        )
                        position = offset
                        if text.endswith(printed):
                            return text, None
                    elif event == "end":
                        job: Record = data["job"]  # type: ignore[index]
                        self._final(job)
                        return text, job
                    assert event in ("job", "log"), event
            except HTTPError:
                self._healed()

    def _upload(self) -> str:
        """A script that is everybody's and data that are nobody else's."""
        files = {
            "work.sh": (witness.SHELL + _WORK).encode(),
            "data.bin": os.urandom(2000),
        }
        digests = {name: blake3.blake3(content).hexdigest() for name, content in files.items()}
        self.artifacts = {
            "model.bin": digests["data.bin"],
            "notes.txt": blake3.blake3(b"result\n").hexdigest(),
        }
        manifest = {
            "entries": [
                {"kind": "file", "path": name, "size": len(files[name]), "digest": digests[name]}
                for name in sorted(files)
            ]
        }
        missing = set(self._ask("POST", "/snapshots/missing", manifest).json()["missing"])
        lacking = [
            File(path=name, size=len(content), digest=digests[name])
            for name, content in files.items()
            if digests[name] in missing
        ]

        def opened(file: File, offset: int) -> Any:
            import io

            return io.BytesIO(files[file.path][offset:])

        for one in pack(lacking, opened):
            body = b"".join(one)
            self._ask("POST", "/blobs", body, headers={"Content-Type": "application/x-gradient-pack"})
        return self._snapshot(manifest)

    def _snapshot(self, manifest: Record) -> str:
        return str(self._ask("POST", "/snapshots", manifest).json()["id"])

    def _submit(self, body: Record, key: str) -> Record:
        answer = self._ask("POST", "/jobs", body, headers={"Idempotency-Key": key})
        assert answer.status == 201
        job: Record = answer.json()
        return job

    def _jobs(self) -> list[Record]:
        page = self._ask("GET", "/jobs?limit=200").json()
        found = [job for job in page["items"] if job["name"].startswith(self.name)]
        for job in found:
            self._final(job)
        return found

    def _look_at_artifacts(self, job_id: str) -> None:
        """P9: every one is listed with its digest, and is what the digest says."""
        items = self._ask("GET", f"/jobs/{job_id}/artifacts").json()["items"]
        assert {item["path"]: item["digest"] for item in items} == self.artifacts
        for item in items:
            content = self._ask("GET", f"/jobs/{job_id}/artifacts/{item['path']}").data
            assert blake3.blake3(content).hexdigest() == item["digest"] and len(content) == item["size"]

    def _nothing_runs(self, job_id: str) -> None:
        """P6: when it is shown as Cancelled, none of its processes is left."""
        mark = f"GRADIENT_JOB_ID={job_id}".encode()
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    environment = Path(f"/proc/{name}/environ").read_bytes()
                except OSError:
                    continue
                assert mark not in environment.split(b"\0"), f"process {name} of a cancelled job"

    def _events_position(self) -> str:
        for event, identity, _ in self._events("nobody-0"):
            assert event == "reset"
            return identity
        raise AssertionError

    def _gone(self, position: str, wanted: set[str]) -> None:
        """Until the stream of changes has told that they were deleted. Each number comes once, in order."""
        waiting = set(wanted)
        last = int(position.rpartition("-")[2])
        for _, identity, change in self._events(position):
            seq = int(identity.rpartition("-")[2])
            assert seq == last + 1, "the stream of changes has a gap"
            last = seq
            if change["action"] == "deleted":
                waiting.discard(change["id"])
                if not waiting:
                    break
        for job_id in wanted:
            assert self._ask("GET", f"/jobs/{job_id}", also=(404,)).status == 404

    def _events(self, position: str) -> Any:
        while True:
            try:
                for event, identity, data in self.server.events("/events", {"Last-Event-ID": position}):
                    position = identity or position
                    yield event, identity, data
            except HTTPError:
                self._healed()

    def _final(self, job: Record) -> None:
        if job["state"] in FINAL:
            known = self.final.setdefault(job["id"], job)
            kept = {name: value for name, value in job.items() if name != "target"}
            assert kept == {name: value for name, value in known.items() if name != "target"}, "not final"

    def _ask(
        self, method: str, path: str, body: Record | bytes | None = None, *,
        headers: dict[str, str] | None = None, also: tuple[int, ...] = (),
    ) -> BaseHTTPResponse:  # fmt: skip
        """An answer, from whichever server there will be."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        while True:
            try:
                answer = self.server.request(method, path, body=body, headers=headers)
            except HTTPError:
                self._healed()
                continue
            assert answer.status < 300 or answer.status in also, answer.data
            return answer

    def _healed(self) -> None:
        self.heals += 1
        assert self.heals < 10_000, "it does not heal"
        self._heal()
