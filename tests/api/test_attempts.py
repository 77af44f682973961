"""Attempts over HTTP: retries, the fence around those that are over, re-runs, progress, tags."""

from __future__ import annotations

import json
import sys

import pytest

from gradient_jupyter.control.running.tokens import Tokens

#: Appends what it knows of itself to a file in /storage, outside our control; fails until the third attempt.
WITNESS = """
import json, os, sys
with open(os.environ["GRADIENT_STORAGE_DIR"] + "/" + os.environ["GRADIENT_JOB_ID"], "a") as file:
    print(json.dumps(dict(os.environ)), file=file, flush=True)
open(os.environ["GRADIENT_ARTIFACTS_DIR"] + "/by-" + os.environ["GRADIENT_ATTEMPT"], "w").write("x")
print("attempt", os.environ["GRADIENT_ATTEMPT"])
sys.exit(0 if os.environ["GRADIENT_ATTEMPT"] == "3" else 7)
"""


def witnesses(solo, job_id):
    return [json.loads(line) for line in (solo.storage() / str(job_id)).read_text().splitlines()]


def test_a_job_that_fails_is_tried_again_as_often_as_asked_and_only_the_last_counts(solo):
    """P2, P4: the witness counts the starts."""
    job = solo.job(sys.executable, "-c", WITNESS, retries=5)
    final = solo.finished(job["id"])
    assert (final["state"], final["exit_code"], final["attempt"]) == ("Stopped", 0, 3)
    assert [each["GRADIENT_ATTEMPT"] for each in witnesses(solo, job["id"])] == ["1", "2", "3"]
    listed = solo.request("GET", f"/jobs/{job['id']}/artifacts").json()["items"]
    assert [each["path"] for each in listed] == ["by-3"]
    attempts = solo.request("GET", f"/jobs/{job['id']}/attempts").json()["items"]
    assert [(each["attempt"], each["state"], each["exit_code"]) for each in attempts] == [
        (1, "Failed", 7),
        (2, "Failed", 7),
        (3, "Stopped", 0),
    ]
    assert all(each["started_us"] <= each["ended_us"] for each in attempts)
    assert "exit code 7" in attempts[0]["reason"]["message"]
    directory = solo.data / "jobs" / str(job["id"])
    assert not (directory / "1" / "artifacts").exists()
    assert (directory / "1" / "log").exists()


def test_when_every_attempt_fails_the_job_ends_as_the_last_did(solo):
    final = solo.finished(solo.job("sh", "-c", "exit 9", retries=2)["id"])
    assert (final["state"], final["exit_code"], final["attempt"]) == ("Failed", 9, 3)
    moments = [(moment["state"], moment["phase"]) for moment in final["history"]]
    assert moments.count(("Pending", "retrying")) == 2


def entered(job, state, phase):
    return [each["time_us"] for each in job["history"] if (each["state"], each["phase"]) == (state, phase)]


def test_before_each_further_attempt_there_is_a_pause_that_doubles(own_solo):
    own_solo.options = (*own_solo.options, "--GradientServer.retry_delay_s=0.25")
    own_solo.start()
    final = own_solo.finished(own_solo.job("false", retries=2)["id"])
    began = entered(final, "Pending", "retrying")
    queued = entered(final, "Pending", "queued")[1:]
    for pause_s, since_us, until_us in zip((0.25, 0.5), began, queued, strict=True):
        assert until_us - since_us > 0.9 * pause_s * 1e6


def test_a_pause_before_an_attempt_ends_for_whoever_does_not_wait(own_solo):
    """P6; a killed server: the next one does not wait the pause out. Heals with the next start."""
    own_solo.options = (*own_solo.options, "--GradientServer.retry_delay_s=600")
    own_solo.start()
    stopped = own_solo.job("false", retries=1)
    kept = own_solo.job("false", retries=1)
    for job in (stopped, kept):
        for event, _, data in own_solo.events(f"/jobs/{job['id']}/logs?follow=true"):
            if event == "job" and data["phase"] == "retrying":
                break
        assert "pause of 300 s" in data["reason"]["next"]
    own_solo.request("POST", f"/jobs/{stopped['id']}/stop")
    assert own_solo.finished(stopped["id"])["state"] == "Cancelled"
    own_solo.kill()
    own_solo.start()
    final = own_solo.finished(kept["id"])
    assert (final["state"], final["attempt"]) == ("Failed", 2)


def test_a_run_that_was_stopped_is_not_tried_again(solo):
    job = solo.job("sh", "-c", "echo up; sleep 600", retries=5)
    solo.printed(job["id"], "up\n")
    assert solo.request("POST", f"/jobs/{job['id']}/stop").status == 202
    final = solo.finished(job["id"])
    assert (final["state"], final["attempt"]) == ("Cancelled", 1)


def test_a_run_that_is_longer_than_it_may_be_is_stopped_and_says_so(solo):
    final = solo.finished(solo.job("sleep", "600", max_duration_s=0.2, retries=3)["id"])
    assert (final["state"], final["exit_code"], final["attempt"]) == ("Failed", 124, 1)
    assert final["reason"]["code"] == "max-duration"
    assert "0.2 s" in final["reason"]["message"] and "--max-duration" in final["reason"]["next"]


def bear(token):
    return {"Authorization": f"Bearer {token}"}


def test_an_attempt_that_is_over_is_fenced(solo):
    """P2, asset A7, boundary B5: what an old attempt sends is refused, whoever still holds its token."""
    job = solo.job(sys.executable, "-c", WITNESS, retries=2)
    solo.finished(job["id"])
    path = f"/jobs/{job['id']}/progress"
    for environment in witnesses(solo, job["id"]):
        assert environment["GRADIENT_JOB_URL"] == f"{solo.runtime.url}/api/v1/jobs/{job['id']}"
        answer = solo.request(
            "PUT",
            path,
            json_body={"fraction": 1.0},
            headers=bear(environment["GRADIENT_JOB_TOKEN"]),
            token=None,
        )
        assert (answer.status, answer.json()["error"]["code"]) == (409, "attempt-fenced")
    assert solo.request("GET", f"/jobs/{job['id']}").json()["progress"] is None


def test_a_second_attempt_is_heard_while_the_first_is_fenced(solo):
    """P2: fault: the first attempt's process is still alive, or somebody kept its token."""
    script = (
        "import os, sys, time; attempt = os.environ['GRADIENT_ATTEMPT']\n"
        "open(os.environ['GRADIENT_STORAGE_DIR'] + '/token-' + attempt, 'w')"
        ".write(os.environ['GRADIENT_JOB_TOKEN'])\n"
        "if attempt == '1': sys.exit(1)\n"
        "print('second', flush=True); time.sleep(600)\n"
    )
    job = solo.job(sys.executable, "-c", script, retries=1)
    path = f"/jobs/{job['id']}"
    install = solo.request("GET", "/server").json()["install"]
    for _, _, event in solo.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        resource = event["resource"]
        if event["id"] == job["id"] and (resource["attempt"], resource["phase"]) == (2, "running"):
            break
    tokens = {}
    for attempt in ("1", "2"):
        place = solo.storage() / f"token-{attempt}"
        solo.printed(job["id"], "second\n")
        tokens[attempt] = place.read_text()
    fenced = solo.request(
        "PUT", path + "/progress", json_body={"fraction": 0.9}, headers=bear(tokens["1"]), token=None
    )
    assert fenced.status == 409
    heard = solo.request(
        "PUT", path + "/progress", json_body={"fraction": 0.1, "message": "here"}, headers=bear(tokens["2"]),
        token=None,
    )  # fmt: skip
    assert heard.status == 202
    for _, _, event in solo.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        if event["id"] == job["id"] and (said := event["resource"]["progress"]) is not None:
            assert said == {"fraction": 0.1, "message": "here"}
            break
    solo.request("POST", path + "/stop")
    solo.finished(job["id"])


def test_a_runs_token_opens_its_own_job_and_nothing_else(solo):
    """Asset A3, boundary B5, abuse case 4: deny by default."""
    script = (
        "import os, time; open(os.environ['GRADIENT_STORAGE_DIR'] + '/mine', 'w')"
        ".write(os.environ['GRADIENT_JOB_TOKEN']); print('up', flush=True); time.sleep(600)"
    )
    job, other = solo.job(sys.executable, "-c", script), solo.job("true")
    solo.printed(job["id"], "up\n")
    mine = bear((solo.storage() / "mine").read_text())
    own = solo.request("GET", f"/jobs/{job['id']}", headers=mine, token=None)
    assert (own.status, own.json()["id"]) == (200, job["id"])
    refused = [("GET", "/jobs"), ("GET", "/projects"), ("GET", "/server"), ("POST", "/server/stop")]
    refused += [("GET", f"/jobs/{other['id']}"), ("PUT", f"/jobs/{other['id']}/progress")]
    refused += [("GET", "/events"), ("POST", f"/jobs/{job['id']}/stop"), ("DELETE", f"/jobs/{job['id']}")]
    refused += [("GET", f"/jobs/{job['id']}/logs"), ("GET", f"/jobs/{job['id']}/artifacts")]
    for method, path in refused:
        answer = solo.request(method, path, headers=mine, token=None)
        assert (answer.status, answer.json()["error"]["code"]) == (403, "attempt-token"), path
    token = mine["Authorization"].removeprefix("Bearer ")
    for wrong in (
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        token.replace("-1_", "-2_"),
        token.replace(str(job["id"]), str(other["id"])),
        "grj_",
        Tokens(b"another key that is long enough!").of(str(job["id"]), 1),
    ):
        answer = solo.request("GET", f"/jobs/{job['id']}", headers=bear(wrong), token=None)
        assert (answer.status, answer.json()["error"]["code"]) == (401, "wrong-token")
    solo.request("POST", f"/jobs/{job['id']}/stop")
    solo.finished(job["id"])
    assert solo.request("GET", f"/jobs/{job['id']}", headers=mine, token=None).status == 409


def test_jobs_that_run_find_the_next_server_at_the_same_place(own_solo):
    """P10: a run's address and token hold over a kill of the server."""
    own_solo.start()
    script = (
        "import os; home = os.environ['GRADIENT_STORAGE_DIR']\n"
        "known = [os.environ['GRADIENT_JOB_URL'], os.environ['GRADIENT_JOB_TOKEN']]\n"
        "open(home + '/it', 'w').write(' '.join(known))\n"
        "print('up', flush=True); import time; time.sleep(600)"
    )
    job = own_solo.job(sys.executable, "-c", script)
    own_solo.printed(job["id"], "up\n")
    url, token = next(own_solo.data.glob("storage/user/*/it")).read_text().split()
    own_solo.kill()
    own_solo.start()
    assert url.startswith(own_solo.runtime.url + "/")
    assert own_solo.request("GET", f"/jobs/{job['id']}", headers=bear(token), token=None).status == 200
    own_solo.request("POST", f"/jobs/{job['id']}/stop")
    assert own_solo.finished(job["id"])["state"] == "Cancelled"


def test_a_job_is_run_again_with_what_is_changed(solo):
    job = solo.job("sh", "-c", 'echo "$A $B"; exit 1', env={"A": "1", "B": "2"}, tags=["one"], retries=0)
    assert solo.finished(job["id"])["state"] == "Failed"
    path = f"/jobs/{job['id']}/rerun"
    again = solo.request("POST", path, json_body={}, headers={"Idempotency-Key": "k1"})
    assert again.status == 201
    same = solo.request("POST", path, json_body={}, headers={"Idempotency-Key": "k1"})
    assert same.json()["id"] == again.json()["id"] != job["id"]
    first = solo.finished(again.json()["id"])
    kept = ("command", "snapshot", "env", "tags", "project_id", "machine_type", "host", "name")
    assert {name: first[name] for name in kept} == {name: job[name] for name in kept}
    assert first["rerun_of"] == job["id"]
    changes = {
        "env": {"A": "5"},
        "unset": ["B"],
        "tags": [],
        "command": ["sh", "-c", 'echo "$A$B"'],
        "name": "new",
    }
    second = solo.finished(solo.request("POST", path, json_body=changes).json()["id"])
    assert (second["state"], second["tags"], second["name"]) == ("Stopped", [], "new")
    assert solo.text(second["id"]) == "5\n"
    assert solo.request("POST", "/jobs/jnone/rerun", json_body={}).status == 404
    refused = solo.request("POST", path, json_body={"project": "a", "project_id": "b"})
    assert refused.status in (400, 404)


def test_tags_and_name_change_also_at_the_end_and_find_the_job(solo):
    job = solo.job("true", tags=["a", "b", "a"])
    assert job["tags"] == ["a", "b"]
    final = solo.finished(job["id"])
    answer = solo.request("PATCH", f"/jobs/{job['id']}", json_body={"tags": ["c%_'\""], "name": "renamed"})
    assert answer.status == 200
    changed = answer.json()
    assert (changed["tags"], changed["name"]) == (["c%_'\""], "renamed")
    assert changed["state"] == final["state"]
    found = solo.request("GET", "/jobs?tag=c%25_%27%22").json()["items"]
    assert [each["id"] for each in found] == [job["id"]]
    assert solo.request("GET", "/jobs?tag=c%25").json()["items"] == []
    late = solo.request("PATCH", f"/jobs/{job['id']}", json_body={"priority": 3})
    assert (late.status, late.json()["error"]["code"]) == (409, "job-not-waiting")


@pytest.mark.parametrize(
    "field",
    [
        {"retries": -1},
        {"retries": 101},
        {"priority": 1000},
        {"max_duration_s": 0},
        {"tags": [""]},
        {"tags": ["a\nb"]},
    ],
)
def test_what_cannot_be_is_refused(solo, field):
    asked = {"command": ["true"], "snapshot": "a" * 64, "project": "tests", **field}
    assert solo.request("POST", "/jobs", json_body=asked).status == 400


def test_progress_is_refused_when_nothing_runs(solo):
    job = solo.job("true")
    solo.finished(job["id"])
    answer = solo.request("PUT", f"/jobs/{job['id']}/progress", json_body={"fraction": 0.5})
    assert (answer.status, answer.json()["error"]["code"]) == (409, "attempt-fenced")
    assert solo.request("PUT", f"/jobs/{job['id']}/progress", json_body={"fraction": 2}).status == 400
