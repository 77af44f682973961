"""Damage at rest, clients that vanish, what jobs do to their own artifacts: every job ends and says why."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import struct
import sys
import zipfile

import blake3
import pytest
import urllib3
from solo import PATIENCE_S

from gradient_jupyter.resources.snapshot import File
from gradient_jupyter.workspace.packs import pack

ARTIFACTS = "import os; artifacts = os.environ['GRADIENT_ARTIFACTS_DIR']\n"


@pytest.fixture
def bare(own_solo):
    """A server whose jobs meet the real paths."""
    own_solo.options = (*own_solo.options, "--isolation=none")
    return own_solo.start()


def test_a_job_that_put_a_link_in_place_of_its_artifacts_ends_and_leads_nowhere(bare):
    """Fault: the artifacts' directory is a link when it is collected. Boundary: job code. The job
    becomes final, its machine is free, and nothing behind the link is shown."""
    job = bare.job(
        sys.executable, "-c", ARTIFACTS + "os.rmdir(artifacts); os.symlink('/etc', artifacts)", "x"
    )
    final = bare.finished(job["id"])
    assert final["state"] == "Stopped"
    assert "everything" in final["warnings"][0]
    path = f"/jobs/{job['id']}/artifacts"
    assert bare.request("GET", path).json()["items"] == []
    assert bare.request("GET", path + "/passwd").status == 404
    assert bare.request("GET", path + ".zip").status == 404
    assert bare.finished(bare.job("true")["id"])["state"] == "Stopped"


def test_artifacts_of_any_year_come_in_the_zip(solo):
    """Fault: a file's time lies outside 1980 to 2107, which is all a zip can say."""
    script = ARTIFACTS + (
        "for year, time in (('2200', 7258118400), ('1960', -315619200)):\n"
        "    open(f'{artifacts}/{year}', 'w').write(year)\n"
        "    os.utime(f'{artifacts}/{year}', (time, time))\n"
    )
    job = solo.job(sys.executable, "-c", script)
    solo.finished(job["id"])
    answer = solo.request("GET", f"/jobs/{job['id']}/artifacts.zip")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            "2200": b"2200",
            "1960": b"1960",
        }


def test_readers_of_archives_who_do_not_read_hold_up_nobody(solo):
    """Fault: many slow readers at once. A thread each would leave none for whoever reads."""
    script = ARTIFACTS + "open(artifacts + '/big', 'wb').write(os.urandom(16 << 20))"
    job = solo.job(sys.executable, "-c", script)
    solo.finished(job["id"])
    host = solo.runtime.url.removeprefix("http://")
    asked = (
        f"GET /api/v1/jobs/{job['id']}/artifacts.zip HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {solo.runtime.token}\r\n\r\n"
    ).encode()
    idle = []
    try:
        for _ in range(2 * ((os.cpu_count() or 1) + 4)):
            reader = socket.create_connection(host.split(":"), PATIENCE_S)
            idle.append(reader)
            reader.sendall(asked)
            assert reader.recv(8) == b"HTTP/1.1"
        answer = solo.request("GET", f"/jobs/{job['id']}/artifacts.zip")
        with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
            assert archive.testzip() is None
    finally:
        for reader in idle:
            reader.close()


def test_a_job_whose_files_are_damaged_ends_and_says_so(own_solo):
    """Fault: a stored file is gone. P13: the job says so, starts nothing, and gives its machine back."""
    own_solo.start()
    data = b"print('hello')\n" * 999
    file = File(path="a.py", size=len(data), digest=blake3.blake3(data).hexdigest())
    for one in pack([file], lambda _, offset: io.BytesIO(data)):
        assert own_solo.request("POST", "/blobs", body=b"".join(one)).status == 201
    entry = {"kind": "file", "path": file.path, "size": file.size, "digest": file.digest}
    snapshot = own_solo.request("POST", "/snapshots", json_body={"entries": [entry]}).json()["id"]
    (stored,) = (own_solo.data / "blobs").rglob(file.digest)
    stored.unlink()
    final = own_solo.finished(own_solo.job("true", snapshot=snapshot)["id"])
    assert final["state"] == "Error"
    assert file.digest in final["reason"]["message"] and final["reason"]["next"]
    assert own_solo.finished(own_solo.job("true")["id"])["state"] == "Stopped"


@pytest.mark.parametrize("place", [0, 0.5])
def test_a_follower_of_a_damaged_log_is_told_so_and_gets_its_end(solo, place):
    """Fault: a bit flips in a log at rest. P13: what stands before is shown, the damage is named, and the
    stream ends: a cut one would be opened again for ever."""
    job = solo.job(sys.executable, "-c", "for n in range(3000): print('line', n)")
    solo.finished(job["id"])
    log = solo.data / "jobs" / str(job["id"]) / "1" / "log"
    data = bytearray(log.read_bytes())
    data[int(len(data) * place)] ^= 0xFF
    log.write_bytes(data)
    for headers in (None, {"Last-Event-ID": "0-0"}):
        events = list(solo.events(f"/jobs/{job['id']}/logs?follow=true", headers=headers))
        assert events[-1][0] == "end"
        told = [data for event, _, data in events if event == "log"]
        assert told[-1]["stream"] == "platform" and "damaged" in told[-1]["text"]
        shown = "".join(piece["text"] for piece in told if piece["stream"] == "stdout")
        assert "".join(f"line {n}\n" for n in range(3000)).startswith(shown)


def test_a_submit_whose_sender_hangs_up_runs_all_the_same(solo):
    """Fault: the client dies after its request and before the answer. P1. Heals at once."""
    empty = solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    install = solo.request("GET", "/server").json()["install"]
    names = {f"orphan {number}" for number in range(5)}
    address, _, port = solo.runtime.url.removeprefix("http://").partition(":")
    for name in names:
        body = json.dumps(
            {"command": ["true"], "snapshot": empty, "project": "orphans", "name": name}
        ).encode()
        with socket.create_connection((address, int(port)), timeout=60) as connection:
            # Closing resets the connection, which the server hears of while it is still at work.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(
                f"POST /api/v1/jobs HTTP/1.1\r\nHost: {address}:{port}\r\nContent-Length: {len(body)}\r\n"
                f"Authorization: Bearer {solo.runtime.token}\r\n\r\n".encode()
                + body
            )
    for _, _, event in solo.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        if event["noun"] == "job" and event["resource"] and event["resource"]["state"] == "Stopped":
            names.discard(event["resource"]["name"])
            if not names:
                return
    raise AssertionError(f"never ended: {names}")


def test_an_artifact_that_has_changed_since_it_was_collected_is_named_and_not_served(own_solo):
    """Fault: bytes, size or time of a collected file change at rest. P13, P5: it says so, in a download, in a
    range and in the archive, and never serves other bytes under the old digest."""
    own_solo.start()
    job = own_solo.job(
        sys.executable, "-c", ARTIFACTS + "for n in 'abcd': open(f'{artifacts}/{n}', 'w').write(n * 5000)"
    )
    own_solo.finished(job["id"])
    path = f"/jobs/{job['id']}/artifacts"
    place = own_solo.data / "jobs" / str(job["id"]) / "1" / "artifacts"
    place.chmod(0o700)
    times = {name: (place / name).stat() for name in "abcd"}
    for name in "bcd":
        (place / name).chmod(0o600)
    (place / "b").write_text("x" * 5000)  # its time changes
    (place / "c").write_text("x" * 5000)
    os.utime(place / "c", ns=(times["c"].st_atime_ns, times["c"].st_mtime_ns))  # as damage at rest does
    (place / "d").unlink()
    assert own_solo.request("GET", path + "/a").data == b"a" * 5000
    for name in "bcd":
        answer = own_solo.request("GET", f"{path}/{name}")
        assert (answer.status, answer.json()["error"]["code"]) == (500, "artifact-damaged")
        assert repr(name) in answer.json()["error"]["message"] and answer.json()["error"]["next"]
    assert own_solo.request("GET", path + "/b", headers={"Range": "bytes=1-2"}).status == 500
    answer = own_solo.request("GET", path + ".zip")
    assert (answer.status, answer.json()["error"]["code"]) == (500, "artifact-damaged")
    for name in "bd":
        assert own_solo.request("DELETE", f"{path}/{name}").status == 204
    # Of the one whose size and time are right the archive learns at its end: then it is cut off.
    with pytest.raises(urllib3.exceptions.HTTPError):
        own_solo.request("GET", path + ".zip")
    diagnosis = own_solo.request("GET", "/admin/doctor").json()
    (told,) = [check["message"] for check in diagnosis["checks"] if check["level"] == "fail"]
    assert f"{job['id']} 'c'" in told


def test_a_collection_that_takes_long_says_how_far_it_is_and_can_be_given_up(own_solo):
    """Fault: a file of half a terabyte, all holes. The job says what it does; a stop ends the collecting, not
    the truth of how the command ended; a delete removes it. P6, P11. Both heal within a piece of the work."""
    own_solo.options = (
        *own_solo.options,
        "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
        "--GradientServer.default_machine_type=small",
    )
    own_solo.start()
    script = ARTIFACTS + (
        "open(artifacts + '/a', 'w').write('here'); open(artifacts + '/holes', 'w').truncate(1 << 39)"
    )
    kept, deleted = (own_solo.job(sys.executable, "-c", script) for _ in range(2))
    for job in (kept, deleted):
        for _, _, data in own_solo.events(f"/jobs/{job['id']}/logs?follow=true"):
            reason = data.get("reason") if isinstance(data, dict) else None
            if reason and reason["code"] == "collecting":
                break
        assert re.search(r"1 file, [0-9.]+ [MGT]B so far", reason["message"]), reason
        assert f"stop {job['id']}" in reason["next"]
    # Nobody waits for it, not even others who finish meanwhile.
    assert own_solo.finished(own_solo.job("true")["id"])["state"] == "Stopped"
    own_solo.request("POST", f"/jobs/{kept['id']}/stop")
    final = own_solo.finished(kept["id"])
    assert (final["state"], final["exit_code"]) == ("Stopped", 0)
    assert "stopped by a person" in final["warnings"][0]
    (item,) = own_solo.request("GET", f"/jobs/{kept['id']}/artifacts").json()["items"]
    assert (item["path"], item["digest"]) == ("a", blake3.blake3(b"here").hexdigest())
    own_solo.deleted(deleted["id"])
    assert not (own_solo.data / "jobs" / str(deleted["id"])).exists()


@pytest.mark.slow
def test_a_server_killed_while_it_collects_collects_anew_and_once(own_solo):
    """Fault: SIGKILL during a long collection. P2, P9: the next server begins it anew, and nothing is there
    twice."""
    own_solo.options = (*own_solo.options, "--GradientServer.max_artifact_bytes=1000000000000")
    own_solo.start()
    script = ARTIFACTS + (
        "[open(f'{artifacts}/{n:05}', 'w').write(str(n)) for n in range(4500)]\n"
        "open(artifacts + '/holes', 'w').truncate(1 << 39)"
    )
    job = own_solo.job(sys.executable, "-c", script)
    for _, _, data in own_solo.events(f"/jobs/{job['id']}/logs?follow=true"):
        reason = data.get("reason") if isinstance(data, dict) else None
        if reason and reason["code"] == "collecting" and "4,500 files" in reason["message"]:
            break
    assert own_solo.request("GET", f"/jobs/{job['id']}/artifacts?limit=1").json()["items"][0]["digest"] == ""
    own_solo.kill()
    own_solo.start()
    told = 0  # the first that is told is what the server before has said
    for _, _, data in own_solo.events(f"/jobs/{job['id']}/logs?follow=true"):
        reason = data.get("reason") if isinstance(data, dict) else None
        if reason and reason["code"] == "collecting":
            told += 1
            if told > 1 and "4,500 files" in reason["message"]:
                break
    own_solo.request("POST", f"/jobs/{job['id']}/stop")
    assert own_solo.finished(job["id"])["state"] == "Stopped"
    paths, cursor = [], "0"
    while cursor is not None:
        page = own_solo.request("GET", f"/jobs/{job['id']}/artifacts?limit=1000&cursor={cursor}").json()
        paths += [item["path"] for item in page["items"]]
        cursor = page["next"]
    assert paths == [f"{n:05}" for n in range(4500)]
