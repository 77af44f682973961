"""The queue as people meet it: positions, reasons, priorities, limits. A real server, also a killed one."""

from __future__ import annotations

import pytest
from solo import SoloServer

TYPES = (
    "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576},"
    " 'pair': {'cpus': 0.01, 'memory_bytes': 1048576, 'gpus': 2}}"
)


@pytest.fixture
def limited(tmp_path):
    server = SoloServer(
        tmp_path, TYPES, "--GradientServer.default_machine_type=small", "--GradientServer.stop_grace_s=2",
        "--GradientServer.max_running_jobs=1", "--GradientServer.max_queued_jobs=2",
        "--GradientServer.max_gpus=1",
    )  # fmt: skip
    server.start()
    yield server
    server.stop()


def running(server: SoloServer, **fields: object) -> str:
    """A job that runs until it is stopped."""
    job = server.job("sh", "-c", "echo up; exec sleep 600", **fields)
    server.printed(job["id"], "up\n")
    return str(job["id"])


def show(server: SoloServer, job_id: object) -> dict[str, object]:
    return dict(server.request("GET", f"/jobs/{job_id}").json())


def test_a_limit_is_named_where_a_job_waits_for_it_and_where_one_more_is_refused(limited):
    first = running(limited)
    empty = limited.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    asked = {"command": ["true"], "snapshot": empty, "project": "tests"}
    asked["host"] = {"python": "/usr/bin/python3", "path": ["/usr/bin", "/bin"]}

    def submit(key):
        return limited.request("POST", "/jobs", json_body=asked, headers={"Idempotency-Key": key})

    waiting = [submit(key).json()["id"] for key in ("a", "b")]
    reasons = [show(limited, job_id) for job_id in waiting]
    assert [job["queue_position"] for job in reasons] == [1, 2]
    assert [job["reason"]["code"] for job in reasons] == ["limit", "limit"]
    assert "1 of your 1 jobs run" in reasons[0]["reason"]["message"]
    listed = limited.request("GET", "/jobs?state=Pending").json()["items"]
    assert [job["queue_position"] for job in listed] == [2, 1]

    refused = submit("c")
    error = refused.json()["error"]
    assert (refused.status, error["code"]) == (409, "queue-full")
    assert "2 jobs waiting" in error["message"] and error["next"]
    assert submit("b").json()["id"] == waiting[1], "what was accepted once is answered, however full (P1)"

    refused = limited.request("POST", "/jobs", json_body={**asked, "machine_type": "pair"})
    error = refused.json()["error"]
    assert (refused.status, error["code"]) == (409, "over-limit")
    assert "pair has 2 GPUs, and you may use 1" in error["message"] and "small" in error["next"]

    limited.request("POST", f"/jobs/{first}/stop")
    assert [limited.finished(job_id)["state"] for job_id in waiting] == ["Stopped", "Stopped"]
    assert submit("c").status == 201


def test_the_order_survives_a_kill_and_priorities_hold(own_solo):
    """P1. Fault: kill -9 while jobs wait. Heals with the next start: the rows are the queue."""
    own_solo.start()
    first = running(own_solo)
    storage = own_solo.storage()

    def witness(word: str, priority: int) -> object:
        script = f'echo {word} >> "$GRADIENT_STORAGE_DIR/order"'
        return own_solo.job("sh", "-c", script, priority=priority)["id"]

    jobs = [witness("low", -5), witness("usual", 0), witness("high", 5), witness("usual-too", 0)]
    before = [show(own_solo, job_id)["queue_position"] for job_id in jobs]
    assert before == [4, 2, 1, 3]
    own_solo.kill()
    own_solo.start()
    assert [show(own_solo, job_id)["queue_position"] for job_id in jobs] == before
    reason = show(own_solo, jobs[0])["reason"]
    assert "needs" in reason["message"] and "3 jobs in front of it" in reason["message"]
    assert first in show(own_solo, jobs[2])["reason"]["message"], "which job holds the machine"
    own_solo.request("POST", f"/jobs/{first}/stop")
    for job_id in jobs:
        assert own_solo.finished(job_id)["state"] == "Stopped"
    assert (storage / "order").read_text().split() == ["high", "usual", "usual-too", "low"]


def test_a_follower_of_a_waiting_job_hears_that_it_moved(own_solo):
    own_solo.start()
    first = running(own_solo)
    jobs = [own_solo.job("true")["id"] for _ in range(2)]
    seen = []
    for event, _, data in own_solo.events(f"/jobs/{jobs[1]}/logs?follow=true"):
        if event == "job":
            seen.append(data["queue_position"])
            if len(seen) == 1:
                own_solo.request("POST", f"/jobs/{jobs[0]}/stop")
            if seen[-1] == 1:
                break
    assert seen[0] == 2
    own_solo.request("POST", f"/jobs/{first}/stop")
    assert own_solo.finished(jobs[1])["state"] == "Stopped"


def test_cancelled_and_deleted_jobs_leave_the_queue_at_once(own_solo):
    own_solo.start()
    first = running(own_solo)
    gone, deleted, last = (own_solo.job("true")["id"] for _ in range(3))
    assert show(own_solo, last)["queue_position"] == 3
    assert own_solo.request("POST", f"/jobs/{gone}/stop").status == 202
    assert own_solo.request("DELETE", f"/jobs/{deleted}").status == 202
    assert show(own_solo, last)["queue_position"] == 1
    own_solo.request("POST", f"/jobs/{first}/stop")
    assert own_solo.finished(last)["state"] == "Stopped"
    assert own_solo.finished(gone)["attempt"] == 0
    assert show(own_solo, last)["queue_position"] is None
