"""A job that listens is reached where it was asked for, while it runs and no longer."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

import pytest
from solo import PATIENCE_S, SoloServer

from gradient_jupyter.control.running.ports import MOST

#: Answers each line with the same in capitals, and says when it listens; ends when it is told "end".
SERVE = """
import os, socket, sys, threading
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", os.environ["GRADIENT_PORTS"], flush=True)
def serve(peer):
    with peer, peer.makefile("rwb") as file:
        for line in file:
            if line == b"end\\n":
                os._exit(0)
            file.write(line.upper())
            file.flush()
        file.write(b"all said\\n")
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def free() -> Iterator[list[int]]:
    """Ports that nothing uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        ports = [one.getsockname()[1] for one in sockets]
    yield ports


def job(server: SoloServer, external: int, internal: int, **more: object) -> str:
    ports = [{"external": external, "internal": internal, "scheme": "http"}]
    made = server.job(sys.executable, "-c", SERVE, str(internal), ports=ports, **more)
    return str(made["id"])


def ask(port: int, line: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as peer, peer.makefile("rwb") as file:
        file.write(line)
        file.flush()
        return file.readline()


def reach(server: SoloServer, job_id: str, port: int, line: bytes) -> bytes:
    """Asks until the forwarder is there: it is made once the job is known to run."""
    while True:
        with contextlib.suppress(ConnectionError):
            if answer := ask(port, line):
                return answer
        state = server.request("GET", f"/jobs/{job_id}").json()
        assert state["state"] in ("Pending", "Provisioning", "Running"), state


def end(port: int) -> None:
    with contextlib.suppress(ConnectionError):
        ask(port, b"end\n")


def is_closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_it_is_reached_while_it_runs_and_not_after(solo: SoloServer, free: list[int]) -> None:
    external, internal, *_ = free
    running = job(solo, external, internal)
    solo.printed(running, f"listening {external}:{internal}:http\n")
    assert reach(solo, running, external, b"hello\n") == b"HELLO\n"
    with socket.create_connection(("127.0.0.1", external), PATIENCE_S) as peer:
        peer.sendall(b"a\nb\n")
        peer.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer == b"A\nB\nall said\n", "what one side has said ends, what the other says goes on"
    end(external)
    assert solo.finished(running)["state"] == "Stopped"
    assert is_closed(external)


def test_what_is_large_arrives_whole_both_ways(solo: SoloServer, free: list[int]) -> None:
    external, internal, *_ = free
    running = job(solo, external, internal)
    assert reach(solo, running, external, b"x\n") == b"X\n"
    line = b"q" * 4_000_000 + b"\n"
    assert ask(external, line) == line.upper()
    end(external)


def test_the_next_server_makes_the_forwarder_again(own_solo: SoloServer, free: list[int]) -> None:
    """Fault: the server is killed while a job is reached through it."""
    external, internal, *_ = free
    own_solo.start()
    running = job(own_solo, external, internal)
    assert reach(own_solo, running, external, b"before\n") == b"BEFORE\n"
    own_solo.kill()
    assert is_closed(external)
    own_solo.start()
    assert reach(own_solo, running, external, b"after\n") == b"AFTER\n"
    end(external)


def test_a_port_that_another_job_has_is_refused(solo: SoloServer, free: list[int]) -> None:
    external, internal, other, another = free
    running = job(solo, external, internal)
    empty = solo.request("GET", f"/jobs/{running}").json()["snapshot"]
    for taken in ((external, other), (other, internal), (internal if internal > 1023 else other, other)):
        port = {"external": taken[0], "internal": taken[1], "scheme": "http"}
        answer = solo.request(
            "POST", "/jobs",
            json_body={"command": ["true"], "snapshot": empty, "project": "tests", "ports": [port]},
        )  # fmt: skip
        assert (answer.status, answer.json()["error"]["code"]) == (409, "port-taken")
        assert running in answer.json()["error"]["message"]
    rerun = solo.request("POST", f"/jobs/{running}/rerun", json_body={})
    assert rerun.status == 409
    without = solo.request("POST", f"/jobs/{running}/rerun", json_body={"ports": [], "command": ["true"]})
    assert without.status == 201
    solo.request("POST", f"/jobs/{running}/stop")
    solo.finished(running)
    again = job(solo, external, another)
    assert reach(solo, again, external, b"free\n") == b"FREE\n"
    end(external)


def test_a_port_that_something_else_uses_is_told_of(solo: SoloServer, free: list[int]) -> None:
    external, internal, *_ = free
    with socket.create_server(("127.0.0.1", external)):
        running = job(solo, external, internal)
        for event, _, data in solo.events(f"/jobs/{running}/logs?follow=true"):
            if event == "job" and data["warnings"]:  # type: ignore[index]
                break
            assert event != "end"
    record = solo.request("GET", f"/jobs/{running}").json()
    assert f"Port {external} does not lead to the job" in record["warnings"][0]
    assert record["state"] == "Running"
    assert reach(solo, running, internal, b"there\n") == b"THERE\n"
    end(internal)
    assert solo.finished(running)["state"] == "Stopped"


def test_whoever_is_connected_is_let_go_when_the_job_is_stopped(solo: SoloServer, free: list[int]) -> None:
    external, internal, *_ = free
    running = job(solo, external, internal)
    assert reach(solo, running, external, b"x\n") == b"X\n"
    with socket.create_connection(("127.0.0.1", external), PATIENCE_S) as peer:
        solo.request("POST", f"/jobs/{running}/stop")
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
    assert solo.finished(running)["state"] == "Cancelled"
    assert is_closed(external)


def test_one_job_takes_no_more_than_its_share_of_descriptors(solo: SoloServer, free: list[int]) -> None:
    """Fault: somebody opens connections and says nothing."""
    external, internal, *_ = free
    running = job(solo, external, internal)
    assert reach(solo, running, external, b"x\n") == b"X\n"
    with contextlib.ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(socket.create_connection(("127.0.0.1", external), PATIENCE_S))
        last = stack.enter_context(socket.create_connection(("127.0.0.1", external), PATIENCE_S))
        assert last.recv(1) == b""
    assert reach(solo, running, external, b"again\n") == b"AGAIN\n"
    end(external)


def test_the_same_number_needs_no_forwarder(solo: SoloServer, free: list[int]) -> None:
    port, *_ = free
    running = job(solo, port, port)
    assert reach(solo, running, port, b"plain\n") == b"PLAIN\n"
    end(port)
    assert solo.finished(running)["warnings"] == []


@pytest.mark.parametrize(
    "ports",
    [
        [{"external": 80, "internal": 8080, "scheme": "http"}],
        [{"external": 8080, "internal": 0, "scheme": "http"}],
        [{"external": 8080, "internal": 80}],
        [{"external": "8080", "internal": 80, "scheme": "http"}],
        [{"external": 8080, "internal": 80, "scheme": "java script:"}],
        [{"external": 8080, "internal": 80, "scheme": "http", "host": "0.0.0.0"}],
        [
            {"external": 8080, "internal": 8081, "scheme": "http"},
            {"external": 8081, "internal": 8080, "scheme": "x"},
        ],
        [{"external": 2000 + n, "internal": 3000 + n, "scheme": "http"} for n in range(21)],
        "8080:80",
    ],
)
def test_lying_input_is_the_callers_mistake(solo: SoloServer, ports: object) -> None:
    empty = solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    body = {"command": ["true"], "snapshot": empty, "project": "tests", "ports": ports}
    assert solo.request("POST", "/jobs", json_body=body).status == 400
