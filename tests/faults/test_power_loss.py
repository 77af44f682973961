"""T2: the power fails under a real file system while jobs are sent, run, print and leave artifacts.

Fault: at the n-th event that the server tells of, ext4's shutdown ioctl stops all writing, also of what the
system only holds in memory; then every process is killed and the disk is mounted again, under another boot
id. Promises: P1 what was answered 201 is there; P3, P4 no command is started twice, and what ran is ``Error:
lost``; P5, P9 final jobs are as they were, their artifacts whole; P7 lines shown for a second are there, and
never other bytes under an old id; no empty file is taken for a blob. It heals with the next start.

Witnesses: a file on another disk, which every command appends to and syncs, and what the clients were told.

What differs from a real power loss: the processes are killed by us, a moment after the disk stopped. What
they answer in that moment is not counted, as nobody would hear it, and as Linux may call a sync done that the
shutdown has overtaken (``jbd2_complete_transaction`` returns 0 for a transaction that was aborted meanwhile).
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

import blake3
import pytest
from disks import LoopDisk, bound_file, loop_disk, need_mounts, need_program
from solo import PATIENCE_S, SoloServer
from urllib3.exceptions import HTTPError

from gradient_jupyter.resources.snapshot import File
from gradient_jupyter.workspace.packs import pack

LINES, SLOW = 60, 100
SCRIPT = """
import hashlib, os, sys, time
witness, name, lines = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def mark(what):
    os.write(fd, f"{name} {what}\\n".encode())
    os.fsync(fd)
mark("start " + hashlib.sha256(open("data", "rb").read()).hexdigest())
left = os.environ["GRADIENT_ARTIFACTS_DIR"]
for n in range(lines):
    print(f"line {n} of {name}", flush=True)
    if n % 20 == 0:
        os.makedirs(f"{left}/{n}", exist_ok=True)
        with open(f"{left}/{n}/part", "wb") as file:
            file.write(f"{n} of {name} ".encode() * 2000)
        os.replace(f"{left}/{n}/part", f"{left}/{n}/whole")
    if lines == 100:
        time.sleep(0.02)  # slow enough for a second to pass between its lines
mark("end")
"""


def artifacts(name: str, lines: int) -> dict[str, bytes]:
    return {f"{n}/whole": f"{n} of {name} ".encode() * 2000 for n in range(0, lines, 20)}


class Told:
    """What the clients were told of one job: that it was accepted, and its end, with the time of each.
    ``shown``: (time, position after it, stdout so far)."""

    def __init__(self, name: str, lines: int, data: bytes, at: float) -> None:
        self.name = name
        self.lines = lines
        self.data = data
        self.accepted_at = at
        self.final: tuple[float, dict] | None = None
        self.lost = False
        self.shown: list[tuple[float, str, str]] = []

    @property
    def output(self) -> str:
        return "".join(f"line {n} of {self.name}\n" for n in range(self.lines))


class Power:
    """One disk, one server on it, and all that it has ever acknowledged."""

    def __init__(self, root: Path, disk: LoopDisk) -> None:
        self.root = root
        self.disk = disk
        self.witness = root / "witness"
        self.boot_id = root / "boot_id"
        self.boot()
        self.server = SoloServer(
            root, "--isolation=none", "--GradientServer.reserve_bytes=0",
            "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
            "--GradientServer.default_machine_type=small",
        )  # fmt: skip
        self.server.data = disk.path / "data"
        self.server.environment["GRADIENT_DATA_DIR"] = str(self.server.data)
        self.told: dict[str, Told] = {}
        self.snapshots: dict[str, tuple[float, bytes]] = {}
        """When each was accepted, and what is in it."""
        self.checked: list[str] = []
        """Jobs to be deleted: hundreds of cycles must not fill the disk."""
        self.cut_from = self.cut_at = 0.0

    def boot(self) -> None:
        self.boot_id.write_text(f"{uuid.uuid4()}\n")

    def cycle(self, number: int, events: int, pieces: int = 0) -> None:
        """Work until the ``events``-th event or, with ``pieces``, until a follower of a slow job was shown so
        many. Then no power."""
        stream = self.server.events("/events")
        over, shown = threading.Event(), threading.Event()
        clients = [
            threading.Thread(target=self._client, args=(f"c{number}n{each}", LINES, over))
            for each in range(3)
        ]
        if pieces:
            slow = (f"c{number}slow", SLOW, over, pieces, shown)
            clients[0] = threading.Thread(target=self._client, args=slow)
        for client in clients:
            client.start()
        if pieces:
            assert shown.wait(PATIENCE_S)
        else:
            seen = 0
            while seen < events:
                seen += next(stream)[0] != "reset"
        over.set()
        self.cut_from = time.monotonic()
        self.disk.cut_power()
        self.cut_at = time.monotonic()
        assert self.server.process is not None
        os.kill(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait(PATIENCE_S)
        stream.close()
        for client in clients:
            client.join(PATIENCE_S)
            assert not client.is_alive()
        self.server.kill()
        kill_all_on(self.disk.path)
        self.disk.unmount()
        self.boot()
        self.disk.mount()
        self.server.start()

    def _client(
        self,
        name: str,
        lines: int,
        over: threading.Event,
        pieces: int = 0,
        shown: threading.Event | None = None,
    ) -> None:
        """Sends jobs and follows each, as a client does, until it is told to stop or nobody answers."""
        number = 0
        with contextlib.suppress(HTTPError, OSError, AssertionError):  # whatever a server without a disk does
            while not over.is_set():
                number += 1
                if not self._send(f"{name}j{number}", lines, pieces, shown):
                    return

    def _send(self, name: str, lines: int, pieces: int, shown: threading.Event | None) -> bool:
        data = name.encode() * 500
        file = File(path="data", size=len(data), digest=blake3.blake3(data).hexdigest())
        (one,) = pack([file], lambda _, offset: io.BytesIO(data[offset:]))
        entry = {"kind": "file", "path": file.path, "size": file.size, "digest": file.digest}
        if self.server.request("POST", "/blobs", body=b"".join(one)).status != 201:
            return False
        answer = self.server.request("POST", "/snapshots", json_body={"entries": [entry]})
        if answer.status != 201:
            return False
        snapshot = answer.json()["id"]
        self.snapshots[snapshot] = (time.monotonic(), data)
        answer = self._job(name, lines, snapshot)
        if answer.status != 201:
            return False
        told = self.told[answer.json()["id"]] = Told(name, lines, data, time.monotonic())
        text = ""
        for event, position, body in self.server.events(f"/jobs/{answer.json()['id']}/logs?follow=true"):
            if event == "log" and body["stream"] == "stdout":
                text += body["text"]
                told.shown.append((time.monotonic(), position, text))
                if shown is not None and len(told.shown) >= pieces:
                    shown.set()
            elif event == "end" and body["final"]:
                told.final = (time.monotonic(), body["job"])
        return True

    def _job(self, name: str, lines: int, snapshot: str):
        asked = {
            "command": [sys.executable, "-c", SCRIPT, str(self.witness), name, str(lines)],
            "snapshot": snapshot, "project": "tests", "name": name,
            "host": {"python": sys.executable, "path": ["/usr/bin", "/bin"]},
        }  # fmt: skip
        return self.server.request("POST", "/jobs", json_body=asked)

    def check(self) -> int:
        """How many jobs had shown lines more than a second before the cut."""
        for job_id, told in self.told.items():
            self._check_job(job_id, told)
        old = sum(bool(self._old(told)) for told in self.told.values())
        self.checked += [job_id for job_id, told in self.told.items() if not told.lost]
        self.told.clear()
        # What was acknowledged is still there to be run, and is not an empty file.
        accepted = [(id, data) for id, (at, data) in self.snapshots.items() if at <= self.cut_from]
        for snapshot, data in accepted[-2:]:
            name = f"again{uuid.uuid4().hex}"
            answer = self._job(name, 1, snapshot)
            assert answer.status == 201, answer.data
            told = Told(name, 1, data, time.monotonic())
            final = self.server.finished(answer.json()["id"])
            assert final["state"] == "Stopped", final
            self._check_job(answer.json()["id"], told)
            self.checked.append(answer.json()["id"])
        self.snapshots.clear()
        self.server.deleted(*self.checked)
        self.checked.clear()
        return old

    def _old(self, told: Told) -> list[str]:
        return [shown for at, _, shown in told.shown if at < self.cut_at - 1.0]

    def _check_job(self, job_id: str, told: Told) -> None:
        import hashlib

        answer = self.server.request("GET", f"/jobs/{job_id}")
        if answer.status == 404 and job_id in self.told and told.accepted_at > self.cut_from:
            told.lost = True
            return
        assert answer.status == 200, f"P1: {job_id} was answered 201 and is gone"
        final = self.server.finished(job_id)
        marks = [line.split()[1:] for line in self.witness.read_text().splitlines()
                 if line.split()[0] == told.name]  # fmt: skip
        starts = [mark for mark in marks if mark[0] == "start"]
        assert len(starts) <= 1, f"P3: started {len(starts)} times: {final}"
        if starts:
            assert starts[0][1] == hashlib.sha256(told.data).hexdigest(), "its workspace held other bytes"
        if told.final is not None and told.final[0] <= self.cut_from:
            told_of = {name: told.final[1][name] for name in ("state", "exit_code", "ended_us")}
            assert told_of == {name: final[name] for name in told_of}, "P5"
        if final["state"] == "Stopped":
            assert len(marks) == 2
        else:
            assert (final["state"], final["reason"]["code"]) == ("Error", "lost"), final
            assert starts or final["attempt"], final
        listed = self.server.request("GET", f"/jobs/{job_id}/artifacts").json()["items"]
        whole = artifacts(told.name, told.lines)
        if final["state"] == "Stopped":
            assert {each["path"] for each in listed} == set(whole)
        for each in listed:
            data = self.server.request("GET", f"/jobs/{job_id}/artifacts/{each['path']}").data
            assert blake3.blake3(data).hexdigest() == each["digest"], "P9"
            if final["state"] == "Stopped":
                assert data == whole[each["path"]], "P9"
        self._check_log(job_id, told, final)

    def _check_log(self, job_id: str, told: Told, final: dict) -> None:
        text = "".join(
            data["text"]
            for event, _, data in self.server.events(f"/jobs/{job_id}/logs")
            if event == "log" and data["stream"] == "stdout"
        )
        assert told.output.startswith(text), "P7: other bytes"
        if final["state"] == "Stopped":
            assert text == told.output, "P7"
        if old := self._old(told):
            assert text.startswith(old[-1]), "P7: lines shown for a second are gone"
        for _, position, shown in told.shown[-1:]:
            events = list(self.server.events(f"/jobs/{job_id}/logs", headers={"Last-Event-ID": position}))
            rest = "".join(
                data["text"] for event, _, data in events if event == "log" and data["stream"] == "stdout"
            )
            if any(event == "log-truncated" for event, _, _ in events):
                assert len(text) < len(shown) or not text
                assert rest == text
            else:
                assert shown + rest == text, "P7: other bytes under an old id"


def kill_all_on(path: Path) -> None:
    """Every process that was started for, or has something open on, this disk."""
    wanted = os.fsencode(path)
    found = True
    while found:
        found = False
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                links = [process / "cwd", *(process / "fd").iterdir()]
                here = wanted in (process / "cmdline").read_bytes()
                for link in links:
                    with contextlib.suppress(OSError):
                        here = here or os.fsencode(os.readlink(link)).startswith(wanted + b"/")
                if here and b"State:\tZ" not in (process / "status").read_bytes():
                    found = True
                    os.kill(int(process.name), signal.SIGKILL)


def run(tmp_path: Path, kind: str, cycles: int) -> None:
    need_mounts()
    need_program(f"mkfs.{kind}")
    # The events of what was done stay, a hundred kilobytes a cycle.
    size = ((64 if kind == "ext4" else 320) + cycles) << 20
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(loop_disk(tmp_path / "image", tmp_path / "disk", kind, size))
        power = Power(tmp_path, disk)
        stack.enter_context(bound_file(power.boot_id, Path("/proc/sys/kernel/random/boot_id")))
        power.server.start()
        stack.callback(kill_all_on, disk.path)
        stack.callback(power.server.stop)
        old = 0
        for number in range(cycles):
            power.cycle(number, 1 + (number * 7) % 29, pieces=70 if number % 5 == 4 else 0)
            old += power.check()
        assert old, "no line was shown long enough before a cut for P7 to be tried"


def test_a_power_loss_loses_nothing_that_was_acknowledged(tmp_path):
    run(tmp_path, "ext4", 20)


@pytest.mark.slow
def test_hundreds_of_power_losses_lose_nothing_that_was_acknowledged(tmp_path):
    run(tmp_path, "ext4", 300)


@pytest.mark.slow
def test_power_losses_of_xfs_lose_nothing_that_was_acknowledged(tmp_path):
    """The ioctl's number is that of XFS too (``XFS_IOC_GOINGDOWN``)."""
    run(tmp_path, "xfs", 60)
