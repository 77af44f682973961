"""What a caller can get wrong, and the clear answer to each."""

from __future__ import annotations

import http.client
import json
import socket

import pytest
from solo import PATIENCE_S

from gradient_jupyter.api.routes import JSON_BODY

EMPTY = "2e1cfa82b035c26cbbbdae632cea070514eb8b773f616aaeaf668e2f0be8f10d"


def error(answer) -> dict[str, str]:
    assert answer.headers["Content-Type"] == "application/json"
    found = answer.json()["error"]
    assert found["code"] and found["message"].endswith(".")
    return found


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad-json"),
        (b"{", "bad-json"),
        (b'{"command": ["x"', "bad-json"),
        (b"\xff\xfe", "bad-json"),
        (b"[" * 100_000, "bad-body"),
        (b'{"env":' * 100_000, "bad-body"),
        (b"[]", "bad-body"),
        (b"{}", "bad-body"),
        (b'{"command": "ls", "snapshot": "x"}', "bad-body"),
        (json.dumps({"command": ["x"], "snapshot": "a" * 64, "surprise": 1}).encode(), "bad-body"),
    ],
)
def test_a_broken_body_is_the_callers_mistake(solo, body, code):
    answer = solo.request("POST", "/jobs", body=body)
    assert answer.status == 400
    assert error(answer)["code"] == code


def test_a_body_that_is_too_large_is_named_with_its_limit(solo):
    answer = solo.request("POST", "/jobs", body=b" " * (JSON_BODY + 1))
    assert answer.status == 413
    assert error(answer)["code"] == "body-too-large"
    assert "1 MiB" in error(answer)["message"]


def test_a_body_that_only_says_it_is_huge_is_refused_before_it_is_sent(solo):
    port = int(solo.runtime.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            f"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {1 << 50}\r\n"
            f"Authorization: Bearer {solo.runtime.token}\r\n\r\n".encode()
        )
        assert b" 413 " in connection.makefile("rb").readline()


def test_a_chunked_body_cannot_creep_over_the_limit(solo):
    answer = solo._pool.request(
        "POST",
        solo.runtime.url + "/api/v1/jobs",
        body=(b" " * 65536 for _ in range(40)),
        headers={"Authorization": f"Bearer {solo.runtime.token}"},
        chunked=True,
    )
    assert answer.status == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/jobs/jnope", 404, "no-such-job"),
        ("GET", "/jobs/jnope/logs", 404, "no-such-job"),
        ("GET", "/jobs/jnope/log", 404, "no-such-job"),
        ("GET", "/jobs/jnope/artifacts", 404, "no-such-job"),
        ("GET", "/jobs/jnope/artifacts.zip", 404, "no-such-job"),
        ("GET", "/jobs/jnope/artifacts/x", 404, "no-such-job"),
        ("POST", "/jobs/jnope/stop", 404, "no-such-job"),
        ("DELETE", "/jobs/jnope", 404, "no-such-job"),
        ("GET", "/projects/prnope", 404, "no-such-project"),
        ("DELETE", "/projects/prnope", 404, "no-such-project"),
        ("GET", "/snapshots/" + "0" * 64, 404, "no-such-snapshot"),
        ("GET", "/nothing", 404, "no-such-route"),
        ("PUT", "/jobs", 405, "method-not-allowed"),
        ("GET", "/jobs?limit=0", 400, "bad-query"),
        ("GET", "/jobs?limit=ten", 400, "bad-query"),
        ("GET", "/jobs?cursor=x", 400, "bad-cursor"),
        ("GET", "/jobs?cursor=99999999999999999999", 400, "bad-cursor"),
        ("GET", "/jobs?state=Done", 400, "bad-query"),
        ("GET", "/jobs?surprise=1", 400, "bad-query"),
        ("GET", "/server?x=1", 400, "bad-query"),
        ("GET", "/jobs/%FF", 400, "bad-http"),
        ("GET", "/jobs/%00", 404, "no-such-job"),
    ],
)
def test_what_does_not_exist_or_fit_is_said_so(solo, method, path, status, code):
    answer = solo.request(method, path)
    assert (answer.status, error(answer)["code"]) == (status, code)


def test_an_unknown_machine_type_names_the_known_ones(solo):
    empty = solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    answer = solo.request(
        "POST",
        "/jobs",
        json_body={"command": ["true"], "snapshot": empty, "project": "p", "machine_type": "A100x64"},
    )
    assert answer.status == 400
    found = error(answer)
    assert found["code"] == "unknown-machine-type"
    assert "local" in found["next"] and "small" in found["next"]


@pytest.mark.parametrize("fields", [{}, {"project": "a", "project_id": "b"}])
def test_a_job_belongs_to_exactly_one_project(solo, fields):
    empty = solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    answer = solo.request("POST", "/jobs", json_body={"command": ["true"], "snapshot": empty, **fields})
    assert answer.status == 400


def test_a_snapshot_whose_files_were_not_sent_is_refused(solo):
    manifest = {"entries": [{"kind": "file", "path": "a", "size": 1, "digest": "0" * 64}]}
    assert solo.request("POST", "/snapshots/missing", json_body=manifest).json()["missing"] == ["0" * 64]
    answer = solo.request("POST", "/snapshots", json_body=manifest)
    assert (answer.status, error(answer)["code"]) == (409, "missing-blobs")


@pytest.mark.parametrize(
    "entries",
    [
        [{"kind": "file", "path": "../x", "size": 0, "digest": "0" * 64}],
        [{"kind": "file", "path": "/etc/x", "size": 0, "digest": "0" * 64}],
        [{"kind": "link", "path": "x", "target": "/etc/passwd"}],
        [{"kind": "directory", "path": "x"}, {"kind": "directory", "path": "x"}],
        [{"kind": "directory", "path": "a\x00b"}],
    ],
)
def test_a_hostile_manifest_is_refused(solo, entries):
    for path in ("/snapshots", "/snapshots/missing"):
        assert solo.request("POST", path, json_body={"entries": entries}).status == 400


@pytest.mark.parametrize("body", [b"", b"rubbish", b"GRPACK1\n", b"GRPACK1\n" + b"\x00" * 49])
def test_a_broken_pack_is_refused(solo, body):
    answer = solo.request("POST", "/blobs", body=body)
    assert answer.status == 400
    assert not list((solo.data / "blobs" / "tmp").iterdir())


def test_the_same_idempotency_key_never_makes_a_second_job(solo):
    """P1."""
    empty = solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    body = {"command": ["true"], "snapshot": empty, "project": "idempotent"}
    ids = {
        solo.request("POST", "/jobs", json_body=body, headers={"Idempotency-Key": "once"}).json()["id"]
        for _ in range(3)
    }
    assert len(ids) == 1


def test_a_submit_that_is_repeated_after_its_job_was_deleted_does_not_bring_it_back(solo):
    """P1: the answer was lost, somebody deleted the job meanwhile, and the client asks once more."""
    empty = solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    body = {"command": ["true"], "snapshot": empty, "project": "idempotent"}
    headers = {"Idempotency-Key": "deleted"}
    job = solo.request("POST", "/jobs", json_body=body, headers=headers).json()
    solo.deleted(job["id"])
    again = solo.request("POST", "/jobs", json_body=body, headers=headers)
    assert (again.status, again.json()["error"]["code"]) == (409, "job-deleted")
    assert job["id"] in again.json()["error"]["message"] and again.json()["error"]["next"]


@pytest.mark.parametrize("key", ["a b", "x" * 201, "\x7f"])
def test_an_idempotency_key_that_is_none_is_refused(solo, key):
    answer = solo.request(
        "POST", "/jobs", json_body={"command": ["x"], "snapshot": "0" * 64}, headers={"Idempotency-Key": key}
    )
    assert answer.status == 400


def test_pages_miss_nothing_and_repeat_nothing(solo):
    project = solo.request("POST", "/projects", json_body={"name": "pages"}).json()
    made = [solo.job("true", project=None, project_id=project["id"])["id"] for _ in range(5)]
    found, cursor = [], ""
    while cursor is not None:
        page = solo.request(
            "GET", f"/jobs?project_id={project['id']}&limit=2{cursor and '&cursor=' + cursor}"
        ).json()
        found += [job["id"] for job in page["items"]]
        cursor = page["next"]
    assert found == made[::-1]


def test_a_project_is_made_once_by_its_name_and_counts_its_jobs(solo):
    first, second = solo.job("true", project="counted"), solo.job("true", project="counted")
    assert first["project_id"] == second["project_id"]
    assert (first["number"], second["number"]) == (1, 2)
    assert solo.request("GET", f"/projects/{first['project_id']}").json()["jobs"] == 2
    assert solo.request("POST", "/projects", json_body={"name": "counted"}).status == 409


def test_a_project_goes_with_its_jobs_only_when_told_so(solo):
    job = solo.job("sleep", "600", project="doomed")
    path = f"/projects/{job['project_id']}"
    answer = solo.request("DELETE", path)
    assert (answer.status, error(answer)["code"]) == (409, "project-not-empty")
    assert solo.request("DELETE", path + "?jobs=delete").status == 202
    for event, _, data in solo.events("/events", headers={"Last-Event-ID": "x-0"}):
        assert event == "reset" and data
        break
    wait_gone(solo, path)
    assert solo.request("GET", f"/jobs/{job['id']}").status == 404
    assert not (solo.data / "jobs" / str(job["id"])).exists()


def wait_gone(solo, path):
    """Looks again after each event until the thing is gone."""
    install = solo.request("GET", "/server").json()["install"]
    stream = solo.events("/events", headers={"Last-Event-ID": f"{install}-0"})
    for _ in stream:
        if solo.request("GET", path).status == 404:
            return
    raise AssertionError("the stream of events ended")


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://]"])
def test_an_origin_that_is_no_address_is_a_foreign_one(solo, origin):
    answer = solo.request("GET", "/jobs", headers={"Origin": origin}, token=None)
    assert answer.status == 403
    assert answer.json()["error"]["code"] == "foreign-origin"


@pytest.mark.parametrize(("length", "status"), [("abc", 400), ("2, 3", 400), ("-1", 400), ("9" * 5000, 400)])
def test_a_length_that_is_none_is_the_callers_mistake(solo, length, status):
    host = solo.runtime.url.removeprefix("http://")
    with socket.create_connection(host.split(":"), PATIENCE_S) as wire:
        wire.sendall(
            f"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {solo.runtime.token}\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )
        assert wire.recv(12) == f"HTTP/1.1 {status}".encode()


def test_what_has_no_content_has_no_type_either(solo):
    made = solo.request("POST", "/tokens", json_body={"name": "short-lived", "scopes": ["read"]}).json()
    answer = solo.request("DELETE", f"/tokens/{made['info']['id']}")
    assert (answer.status, answer.data) == (204, b"")
    assert "Content-Type" not in answer.headers and "Content-Length" not in answer.headers


@pytest.mark.parametrize("size", [1, 30_000, 40_000, 500_000])
def test_a_body_that_comes_with_its_head_is_whole_whatever_its_size(solo, size):
    """What comes before its sender is known is kept up to a bound, and waits beyond it."""
    body = json.dumps({"name": "\n" * size}).encode()
    answer = solo.request("POST", "/projects", body=body)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad-body")


def test_a_name_does_not_end_in_a_line_break(solo):
    assert solo.request("POST", "/projects", json_body={"name": "broken\n"}).status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/blobs", b"rubbish" * 1000),
        ("/jobs", b"{"),
        ("/nothing", b"x" * 1000),
        ("/server", b"x"),
        ("/jobs/%FF", b"x"),
    ],
)
def test_a_refusal_leaves_the_connection_usable(solo, path, body):
    """A client that keeps its connection must not send its next request into a closed one."""
    connection = http.client.HTTPConnection(solo.runtime.url.removeprefix("http://"), timeout=60)
    headers = {"Authorization": f"Bearer {solo.runtime.token}"}
    for _ in range(20):
        connection.request("POST", f"/api/v1{path}", body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (400, 404, 405)
        assert not answer.will_close
        connection.request("GET", "/api/v1/server", headers=headers)
        assert connection.getresponse().read()
    connection.close()
