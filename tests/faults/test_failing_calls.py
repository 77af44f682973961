"""T5: system calls that fail: no space, no quota, input and output errors, no descriptors, no processes.

Fault: ``strace --inject`` makes the n-th write or fsync of the server or of a job's supervisor fail;
``prlimit`` takes descriptors, file sizes and processes away. P1: what was answered 201 is stored, also when a
sync before it failed: what a failed sync should have written counts as not written. P9, P12: nothing stored
is harmed, every refusal has its code and a next step. It heals by itself with the next call that succeeds.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys

import pytest
from disks import need_program
from solo import PATIENCE_S, SoloServer

CODES = {"no-space", "disk-error", "server-error", "too-many-files"}
SYNCS = "fsync,fdatasync,syncfs"


@contextlib.contextmanager
def failing(server: SoloServer, calls: str, error: str, when: str):
    """While this lasts the server's own calls fail; then they work again."""
    assert server.process is not None
    # Its threads one by one, and none of its children: jobs are not to suffer.
    threads = os.listdir(f"/proc/{server.process.pid}/task")
    traced = subprocess.Popen(
        ["strace", "-qq", "-o", "/dev/null", *(word for each in threads for word in ("-p", each)),
         "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while any(tracer(server.process.pid, each) != str(traced.pid) for each in threads):
            assert traced.poll() is None, "strace ended"
        yield
    finally:
        traced.terminate()
        traced.wait(PATIENCE_S)


def tracer(pid: int, thread: str) -> str:
    with open(f"/proc/{pid}/task/{thread}/status") as status:
        return next(line.split()[1] for line in status if line.startswith("TracerPid"))


def submit(server: SoloServer, number: int) -> tuple[int, dict]:
    answer = server.request(
        "POST", "/jobs",
        json_body={
            "command": ["sh", "-c", f"echo {number} >> $GRADIENT_STORAGE_DIR/starts"],
            "snapshot": server.empty, "project": "tests", "name": f"n{number}",
            "host": {"python": sys.executable, "path": ["/usr/bin", "/bin"]},
        },
        headers={"Idempotency-Key": f"key{number}"},
    )  # fmt: skip
    return answer.status, answer.json()


@pytest.fixture
def server(own_solo):
    """Running, with one finished job, and its snapshot without files known."""
    need_program("strace")
    own_solo.options = (*own_solo.options, "--isolation=none", "--GradientServer.reserve_bytes=0")
    own_solo.start()
    own_solo.empty = own_solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    own_solo.storage()
    return own_solo


@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (SYNCS, "EIO"),
        pytest.param("write,pwrite64", "ENOSPC", marks=pytest.mark.slow),
        pytest.param("write,pwrite64", "EDQUOT", marks=pytest.mark.slow),
        pytest.param(SYNCS, "ENOSPC", marks=pytest.mark.slow),
    ],
)
def test_a_submit_whose_sync_failed_is_not_answered_201(server, calls, error):
    """The server's syncs fail, from the first, second or third on. P1: what was refused may be asked for
    again, with the same key, and is one job."""
    taken: dict[int, str] = {}
    ran: list[str] = []
    pwrites = calls.replace("write,pwrite64", "pwrite64")  # its own sockets are written to as well
    for number in range(6):
        with failing(server, pwrites, error, f"{number % 3 + 1}+"):
            status, body = submit(server, number)
            if status == 201:
                taken[number] = body["id"]
            else:
                assert body["error"]["code"] in CODES and body["error"]["next"], body
        server.kill()
        server.start()
        for known in taken.values():
            assert server.request("GET", f"/jobs/{known}").status == 200, "P1"
    assert len(taken) < 6, "no sync failed"
    for number in range(6):
        status, body = submit(server, number)
        assert status == 201
        assert body["id"] == taken.get(number, body["id"])
        final = server.finished(body["id"])
        if final["state"] == "Stopped":
            ran.append(str(number))
        else:  # taken, but there was no room for its own files
            assert (error, final["reason"]["code"]) == ("ENOSPC", "no-space"), final
    assert sorted((server.storage() / "starts").read_text().split()) == ran
    with contextlib.closing(sqlite3.connect(server.data / "gradient.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("when", ["1+", pytest.param("2+", marks=pytest.mark.slow), "3"])
def test_a_server_whose_syncs_fail_for_a_while_goes_on_by_itself(server, when):
    """Heals within a retry: the same process, the same connection, no restart."""
    with failing(server, SYNCS, "EIO", when):
        refused = [submit(server, number) for number in range(4)]
    assert any(status != 201 for status, _ in refused), "no sync failed"
    for number in range(4):
        status, body = submit(server, number)
        assert status == 201
        assert server.finished(body["id"])["state"] == "Stopped"
    assert sorted((server.storage() / "starts").read_text().split()) == ["0", "1", "2", "3"]


def test_a_log_whose_sync_failed_once_is_not_believed_later(own_solo, tmp_path):
    """Fault: one fdatasync of a supervisor fails, all later ones succeed. P7: the job's end says that parts
    of its log may not be on the disk."""
    need_program("strace")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        "exec strace -f -qq -o /dev/null -e trace=fdatasync -e inject=fdatasync:error=EIO:when=1 "
        f'{sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    own_solo.options = (*own_solo.options, "--isolation=none")
    # The supervisor's interpreter is the server's own.
    program = (
        "import sys; from gradient_jupyter.server.program import GradientServer;"
        f"sys.executable = {str(python)!r}; GradientServer.launch_instance(['--isolation=none'])"
    )
    with (own_solo.root / "server.log").open("ab") as log:
        own_solo.process = subprocess.Popen(
            [sys.executable, "-c", program], env=own_solo.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    assert own_solo.ready()
    job = own_solo.job("sh", "-c", "echo said; exit 130")
    final = own_solo.finished(job["id"])
    assert (final["state"], final["exit_code"]) == ("Failed", 130)
    assert "may not be on the disk" in final["reason"]["message"], final
    assert "said" in own_solo.text(job["id"])


def own_lines(server) -> list[str]:
    """What the log says beside the requests, which are as many as this test makes."""
    return [line for line in server.log().splitlines() if " gradient_jupyter.requests: " not in line]


def test_a_server_without_descriptors_answers_neither_spins_nor_dies_and_heals(server):
    """Fault: as many connections as the server may have descriptors, while a job runs and is collected. P12.
    Heals as soon as some are closed."""
    server.stop()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, before[1]))
    try:
        server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    go = server.storage() / "go"
    os.mkfifo(go)
    script = (
        "import os; print('up', flush=True); open(os.environ['GRADIENT_STORAGE_DIR'] + '/go').read()\n"
        "open(os.environ['GRADIENT_ARTIFACTS_DIR'] + '/left', 'w').write('kept')\n"
    )
    job = server.job(sys.executable, "-c", script)
    server.printed(job["id"], "up\n")
    host, port = server.runtime.url.removeprefix("http://").split(":")
    log_before = len(own_lines(server))
    idle = [socket.create_connection((host, int(port)), PATIENCE_S) for _ in range(90)]
    try:
        go.write_text("go")
        # Somebody who came before is served, and the job is collected.
        while idle_answers(idle[0], server, f"/jobs/{job['id']}")["phase"] != "done":
            pass
    finally:
        for each in idle:
            each.close()
    assert len(own_lines(server)) - log_before < 60, server.log()
    final = server.finished(job["id"])
    assert final["state"] == "Stopped", final
    assert server.request("GET", f"/jobs/{job['id']}/artifacts/left").data == b"kept"
    assert server.finished(server.job("true")["id"])["state"] == "Stopped"
    assert "Traceback" not in server.log(), server.log()


def idle_answers(connection: socket.socket, server: SoloServer, path: str) -> dict:
    """One request on a connection that is open already."""
    host = server.runtime.url.removeprefix("http://")
    connection.sendall(
        f"GET /api/v1{path} HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {server.runtime.token}\r\n\r\n".encode()
    )
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return json.loads(answer.read())


@pytest.mark.parametrize(
    ("limit", "value"),
    [("nofile", 7), ("fsize", 0), pytest.param("nproc", 1, marks=pytest.mark.slow)],
)
def test_a_job_under_limits_ends_and_the_next_one_is_not_concerned(own_solo, limit, value):
    """Fault: the job's own process may open, write or fork nothing more. The job ends with its own code."""
    need_program("prlimit")
    own_solo.options = (*own_solo.options, "--isolation=none")
    own_solo.start()
    script = (
        "import os\nfor n in range(200): os.dup(1)\n"
        "open(os.environ['GRADIENT_ARTIFACTS_DIR'] + '/x', 'w').write('x' * 9999)\nos.fork()\n"
    )
    job = own_solo.job("prlimit", f"--{limit}={value}", sys.executable, "-S", "-c", script)
    final = own_solo.finished(job["id"])
    assert final["state"] == "Failed" or (limit == "nproc" and os.getuid() == 0), final
    assert own_solo.finished(own_solo.job("true")["id"])["state"] == "Stopped"
