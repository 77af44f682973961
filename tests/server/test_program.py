"""Solo's server as a process: one per data root, found again, killed, upgraded, idle."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import sys

import pytest
from solo import PATIENCE_S, SoloServer


def run_server(solo: SoloServer, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradient_jupyter.server", *options],
        env=solo.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def test_a_second_server_on_the_same_data_is_refused_and_harms_nothing(own_solo):
    own_solo.start()
    job = own_solo.job("true")
    second = run_server(own_solo)
    assert second.returncode == 3
    assert f"pid {own_solo.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr and second.stdout == ""
    assert own_solo.finished(job["id"])["state"] == "Stopped"


def test_a_data_root_of_another_user_is_refused(own_solo):
    if os.getuid() != 0:
        pytest.skip("only root can give a directory to somebody else")
    own_solo.data.mkdir(parents=True)
    os.chown(own_solo.data, 12345, 12345)
    refused = run_server(own_solo)
    assert refused.returncode == 4
    assert "another user" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "machine_types",
    ["{'x': {'cpus': 'many'}}", "{'x': {}}", "{'x': {'cpus': 1, 'memory_bytes': 1, 'colour': 2}}"],
)
def test_a_wrong_configuration_is_said_so(own_solo, machine_types):
    refused = run_server(own_solo, f"--GradientServer.machine_types={machine_types}")
    assert refused.returncode == 4
    assert "machine_types is wrong" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("outbound_allow=['10.1.2.3/8']", "10.1.2.3/8"),
        ("outbound_allow=['ftp://git.test']", "ftp://git.test"),
        ("outbound_ca_file=/no/such/file.pem", "/no/such/file.pem"),
        ("outbound_ca_file=relative.pem", "absolute"),
        (f"outbound_ca_file={__file__}", "outbound_ca_file is wrong"),
    ],
)
def test_a_wrong_way_out_is_said_before_the_server_starts(own_solo, option, says):
    refused = run_server(own_solo, f"--GradientServer.{option}")
    assert refused.returncode == 4
    assert says in refused.stderr and "Traceback" not in refused.stderr


def test_configuration_is_read_from_the_users_file(own_solo):
    config = own_solo.root / "config" / "gradient_jupyter"
    config.mkdir(parents=True)
    (config / "gradient_config.py").write_text(
        "c = get_config()\n"
        "c.GradientServer.machine_types = {'tiny': {'cpus': 0.1, 'memory_bytes': 9, 'description': 'bit'}}\n"
    )
    own_solo.start()
    found = own_solo.request("GET", "/machine-types").json()["items"]
    assert {each["name"]: each["description"] for each in found}["tiny"] == "bit"


def test_a_killed_server_loses_neither_the_job_nor_a_line_of_its_log(own_solo):
    """Fault: kill -9 of the server while a job runs. P3, P7. Heals with the next start."""
    own_solo.start()
    witness, go = own_solo.storage() / "witness", own_solo.storage() / "go"
    os.mkfifo(go)
    script = (
        "import os; os.chdir(os.environ['GRADIENT_STORAGE_DIR'])\n"
        "open('witness', 'a').write('started\\n')\n"
        "print('before', flush=True)\n"
        "open('go').read()\n"
        "for n in range(1000): print('line', n)\n"
    )
    job = own_solo.job(sys.executable, "-c", script)
    last = own_solo.printed(job["id"], "before\n")
    own_solo.kill()
    own_solo.start()
    with go.open("w") as gate:
        gate.write("go")
    rest = ""
    for event, _, data in own_solo.events(
        f"/jobs/{job['id']}/logs?follow=true", headers={"Last-Event-ID": last}
    ):
        if event == "log":
            rest += data["text"]
        assert event != "log-truncated"
    assert rest == "".join(f"line {n}\n" for n in range(1000))
    final = own_solo.request("GET", f"/jobs/{job['id']}").json()
    assert (final["state"], final["attempt"]) == ("Stopped", 1)
    assert witness.read_text() == "started\n"


def test_a_job_that_ended_while_no_server_ran_is_taken_up_with_its_result(own_solo):
    own_solo.start()
    go, done = own_solo.storage() / "go", own_solo.storage() / "done"
    os.mkfifo(go)
    os.mkfifo(done)
    script = (
        "import os; os.chdir(os.environ['GRADIENT_STORAGE_DIR'])\n"
        "print('up', flush=True)\n"
        "open('go').read()\n"
        "open(os.environ['GRADIENT_ARTIFACTS_DIR'] + '/x', 'w').write('left')\n"
        "open('done', 'w').write('done')\n"
        "raise SystemExit(7)\n"
    )
    job = own_solo.job(sys.executable, "-c", script)
    own_solo.printed(job["id"], "up\n")
    own_solo.kill()
    with go.open("w") as gate:
        gate.write("go")
    assert done.read_text() == "done"
    own_solo.start()
    final = own_solo.finished(job["id"])
    assert (final["state"], final["exit_code"]) == ("Failed", 7)
    assert own_solo.request("GET", f"/jobs/{job['id']}/artifacts/x").data == b"left"


def test_stopping_the_server_keeps_jobs_and_withdraws_the_runtime_file(own_solo):
    own_solo.start()
    job = own_solo.job("sleep", "600")
    for event, _, data in own_solo.events(f"/jobs/{job['id']}/logs?follow=true"):
        if event == "job" and data["state"] == "Running":
            break
    assert own_solo.request("POST", "/server/stop").status == 202
    assert own_solo.process.wait(PATIENCE_S) == 0
    assert list((own_solo.root / "runtime").iterdir()) == []
    own_solo.start()
    assert own_solo.request("GET", f"/jobs/{job['id']}").json()["state"] == "Running"
    own_solo.request("POST", f"/jobs/{job['id']}/stop")
    assert own_solo.finished(job["id"])["state"] == "Cancelled"


def test_an_idle_server_ends_by_itself_and_not_while_a_job_runs(tmp_path):
    solo = SoloServer(tmp_path, "--idle=0.4").start()
    job = solo.job("sleep", "2")
    final = solo.finished(job["id"])
    assert final["state"] == "Stopped"
    solo._pool.clear()
    assert solo.process.wait(PATIENCE_S) == 0
    assert "nobody asked" in solo.log()


def test_the_data_root_can_be_copied_and_opened_elsewhere(own_solo):
    own_solo.start()
    job = own_solo.finished(own_solo.job("echo", "moved")["id"])
    own_solo.stop()
    other = SoloServer(own_solo.root / "other")
    shutil.copytree(own_solo.data, other.data)
    other.start()
    try:
        assert "moved" in other.text(job["id"])
    finally:
        other.stop()


def test_the_first_line_of_output_is_json_and_the_only_one(own_solo):
    own_solo.start()
    runtime = json.loads(next((own_solo.root / "runtime").glob("*.json")).read_text())
    assert runtime["url"].startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_is_said_so_and_is_no_traceback(own_solo):
    with socket.create_server(("127.0.0.1", 0)) as other:
        refused = run_server(own_solo, f"--port={other.getsockname()[1]}")
    assert refused.returncode == 4
    assert "cannot be had" in refused.stderr and "Traceback" not in refused.stderr


def test_bubblewrap_that_is_asked_for_and_missing_is_said_so(own_solo):
    own_solo.environment["PATH"] = str(own_solo.root)
    refused = run_server(own_solo, "--isolation=bubblewrap")
    assert refused.returncode == 4
    assert "bubblewrap" in refused.stderr and "Traceback" not in refused.stderr


def test_a_server_does_not_end_while_somebody_takes_a_download(tmp_path):
    """Fault: one answer takes far longer than the server waits for requests (here 1 s)."""
    server = SoloServer(tmp_path, "--idle=1", "--GradientServer.reserve_bytes=0")
    script = "import os; open(os.environ['GRADIENT_ARTIFACTS_DIR'] + '/x', 'wb').truncate(64 << 20)"
    try:
        server.start()
        job = server.job(sys.executable, "-c", script)
        server.finished(job["id"])
        answer = server.request("GET", f"/jobs/{job['id']}/artifacts/x", stream=True)
        taken = 0
        while piece := answer.read(1 << 20):
            taken += len(piece)
            select.select([], [], [], 0.05)  # a reader that takes its time, though never 1 s
        assert taken == 64 << 20
        assert server.process is not None and server.process.wait(PATIENCE_S) == 0
    finally:
        server.stop()
