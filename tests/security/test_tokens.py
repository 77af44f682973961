"""Tokens that people make. Assets A3 (tokens) and A1; boundary B2; rows 40, 42, 45, abuse case 15."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3

import blake3
import pytest
from people import CANARY, People, packed
from reader import Reader
from solo import PATIENCE_S

from gradient_jupyter.client import Client
from gradient_jupyter.resources import token as wire
from gradient_jupyter.resources.errors import Forbidden, NotFound, Unauthenticated


def make(people: People, who: str = "owner", **fields: object):
    answer = people.ask(who, "POST", "/api/v1/tokens", body={"name": "made", **fields})
    assert answer.status == 201, answer.data
    found = answer.json()
    people.tokens[found["info"]["id"]] = found["token"]
    return found


def revoke(people: People, token_id: str, who: str = "owner") -> None:
    assert people.ask(who, "DELETE", f"/api/v1/tokens/{token_id}").status == 204


def test_a_token_is_told_once_and_only_its_digest_is_kept(people):
    made = make(people)
    secret = made["token"]
    random = secret.split("_", 2)[2]  # it may hold that letter itself
    assert secret.startswith("gru_") and len(random) >= 42  # 256 bits
    listed = people.ask("owner", "GET", "/api/v1/tokens").data
    assert made["info"]["id"].encode() in listed and secret.encode() not in listed
    files = [path for path in people.data.rglob("*") if path.is_file()]
    parts = (secret.encode(), random.encode())
    assert not [path for path in files if any(part in path.read_bytes() for part in parts)]
    assert not any(part.decode() in people.log() for part in parts)


def test_what_is_revoked_opens_nothing_from_the_next_request_on(people):
    made = make(people)
    name = made["info"]["id"]
    assert people.ask(name, "GET", "/api/v1/jobs").status == 200
    revoke(people, name)
    answer = people.ask(name, "GET", "/api/v1/jobs")
    assert (answer.status, answer.json()["error"]["code"]) == (401, "token-revoked")
    revoke(people, name)  # once more changes nothing
    assert people.ask("owner", "DELETE", "/api/v1/tokens/tk000000000000").status == 404


def test_what_was_made_with_a_token_ends_with_it(people):
    """A thief who makes tokens of their own with a stolen one loses them, too."""
    parent = make(people, scopes=["read", "access"])["info"]["id"]
    child = make(people, parent, scopes=["read", "access"])["info"]
    grandchild = make(people, child["id"])["info"]["id"]
    assert child["created_by"] == parent
    assert people.ask(grandchild, "GET", "/api/v1/jobs").status == 200
    revoke(people, parent)
    for name in (parent, child["id"], grandchild):
        assert people.ask(name, "GET", "/api/v1/jobs").status == 401


@pytest.mark.parametrize(
    ("maker", "asked"),
    [
        ({"scopes": ["read", "access"]}, {"scopes": ["write"]}),
        ({"scopes": ["access"]}, {"scopes": ["read"]}),
        ({"scopes": ["access", "write"]}, {"scopes": ["operate"]}),
        ({"scopes": ["access", "write"]}, {"scopes": ["metrics"]}),
    ],
)
def test_a_token_makes_none_that_opens_more_than_itself(people, maker, asked):
    name = make(people, **maker)["info"]["id"]
    answer = people.ask(name, "POST", "/api/v1/tokens", body={"name": "wider", **asked})
    assert (answer.status, answer.json()["error"]["code"]) == (403, "scope-too-wide")


def test_a_token_that_opens_one_project_makes_none_that_opens_another(people):
    project, other = people.ids["project"], people.ids["elsewhere"]
    name = make(people, scopes=["read", "access"], project_id=project)["info"]["id"]
    assert people.ask(name, "POST", "/api/v1/tokens", body={"name": "all"}).status == 403
    assert people.ask(name, "POST", "/api/v1/tokens", body={"name": "x", "project_id": other}).status == 404
    made = make(people, name, project_id=project)["info"]
    listed = people.ask(name, "GET", "/api/v1/tokens").json()["items"]
    assert {each["project_id"] for each in listed} == {project}
    assert made["id"] in {each["id"] for each in listed}
    free = make(people)["info"]["id"]
    assert people.ask(name, "DELETE", f"/api/v1/tokens/{free}").status == 404
    assert people.ask(free, "GET", "/api/v1/jobs").status == 200


def test_a_token_does_not_outlive_the_one_it_was_made_with(people):
    parent = make(people, scopes=["read", "access"], expires_s=3600)["info"]
    for asked in ({"expires_s": 7200}, {"expires_s": None}, {}):
        assert make(people, parent["id"], **asked)["info"]["expires_us"] == parent["expires_us"]
    shorter = make(people, parent["id"], expires_s=60)["info"]
    assert shorter["expires_us"] < parent["expires_us"]


def test_nobody_gives_what_only_those_who_look_after_the_server_may_do(people):
    """Row 40: narrow rights do not become an administrator's. The token says operate; its person may not."""
    assert (
        people.ask("owner", "POST", "/api/v1/tokens", body={"name": "x", "scopes": ["operate"]}).status == 403
    )
    scraper = make(people, "operator", scopes=["metrics"])["info"]["id"]
    assert people.ask(scraper, "GET", "/metrics").status == 200
    assert people.ask(scraper, "POST", "/api/v1/server/stop").status == 403


@pytest.mark.parametrize(
    "asked",
    [
        {"scopes": []},
        {"scopes": ["everything"]},
        {"name": ""},
        {"name": "two\nlines"},
        {"expires_s": 0},
        {"expires_s": -1},
        {"expires_s": 1e300},
        {"surprise": 1},
    ],
)
def test_what_cannot_be_is_refused(people, asked):
    assert people.ask("owner", "POST", "/api/v1/tokens", body={"name": "x", **asked}).status == 400


def test_a_project_bound_token_works_within_its_project_alone(people):
    """It sends files, runs them there, and learns nothing of what its person has sent elsewhere."""
    ids = people.ids
    entries = [{"kind": "file", "path": "a.txt", "size": 39, "digest": ids["blob"]}]
    missing = people.ask("inner", "POST", "/api/v1/snapshots/missing", body={"entries": entries})
    assert missing.json()["missing"] == [ids["blob"]]
    snapshot = people.ask("inner", "POST", "/api/v1/snapshots", body={"entries": []}).json()["id"]
    job = {"command": ["true"], "snapshot": snapshot}
    here = people.ask("inner", "POST", "/api/v1/jobs", body={**job, "project_id": ids["project"]})
    assert here.status == 201
    named = people.ask("inner", "POST", "/api/v1/jobs", body={**job, "project": f"project {CANARY}"})
    assert (named.status, named.json()["project_id"]) == (201, ids["project"])
    for elsewhere in (
        {"project_id": ids["elsewhere"]},
        {"project": "elsewhere"},
        {"project": "new"},
    ):
        assert people.ask("inner", "POST", "/api/v1/jobs", body={**job, **elsewhere}).status == 404
    for each in (here, named):
        people.until(each.json()["id"], "Stopped", "inner")
    people.quiet()


def test_logs_and_events_that_are_followed_are_cut_when_the_token_is_revoked(people):
    """Row 42. Each of them would go on for hours."""
    name = make(people)["info"]["id"]
    install = people.ask("operator", "GET", "/api/v1/server").json()["install"]
    logs = Reader(people, name, f"/api/v1/jobs/{people.ids['running']}/logs?follow=true")
    events = Reader(people, name, "/api/v1/events", {"Last-Event-ID": f"{install}-0"})
    others = Reader(people, "owner", f"/api/v1/jobs/{people.ids['running']}/logs?follow=true")
    for reader in (logs, events, others):
        assert reader.began.wait(PATIENCE_S)
    revoke(people, name)
    assert logs.over.wait(PATIENCE_S) and events.over.wait(PATIENCE_S)
    assert b"event: end" not in logs.content
    assert not others.over.is_set()


def test_what_is_followed_is_cut_when_its_person_leaves_the_project(people):
    """Looked at again within 15 s, whoever took them out, and however."""
    project = people.new_project()
    asked = {"command": ["sleep", "3600"], "snapshot": people.ids["snapshot"], "project_id": project}
    job = people.ask("owner", "POST", "/api/v1/jobs", body=asked).json()["id"]
    people.until(job, "Running")
    reader = Reader(people, "member", f"/api/v1/jobs/{job}/logs?follow=true")
    assert reader.began.wait(PATIENCE_S)
    database = sqlite3.connect(people.data / "gradient.sqlite", timeout=PATIENCE_S)
    with database:
        database.execute(
            "DELETE FROM members WHERE project_id = ? AND principal = ?",
            (project, f"user:{people.user_ids['member']}"),
        )
    database.close()
    assert reader.over.wait(PATIENCE_S)
    assert people.ask("member", "GET", f"/api/v1/jobs/{job}").status == 404
    people.ask("owner", "POST", f"/api/v1/jobs/{job}/stop")
    people.until(job, "Cancelled")
    people.quiet()


def test_what_is_followed_is_cut_when_the_token_expires(people):
    name = make(people, expires_s=1)["info"]["id"]
    reader = Reader(people, name, f"/api/v1/jobs/{people.ids['running']}/logs?follow=true")
    assert reader.over.wait(PATIENCE_S)
    answer = people.ask(name, "GET", "/api/v1/jobs")
    assert (answer.status, answer.json()["error"]["code"]) == (401, "token-expired")


def wire_to(people: People) -> socket.socket:
    host, _, port = people.host.partition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def test_an_upload_is_cut_when_the_token_is_revoked_and_nothing_of_it_is_kept_as_whole(people):
    made = make(people, scopes=["write"])
    content = os.urandom(4 << 20)
    body = packed(content)
    with wire_to(people) as connection:
        connection.sendall(
            f"POST /api/v1/blobs HTTP/1.1\r\nHost: {people.host}\r\nAuthorization: Bearer {made['token']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body[: 1 << 20]
        )
        before = people.state()["blobs"]
        revoke(people, made["info"]["id"])
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""  # no answer: it is over
    assert people.state()["blobs"] == before
    assert not list(people.data.glob(f"blobs/*/{blake3.blake3(content).hexdigest()}*"))


def test_a_download_is_cut_when_the_token_is_revoked(people):
    """A reader that takes its time over a large artifact."""
    script = "import os; open(os.environ['GRADIENT_ARTIFACTS_DIR'] + '/large', 'wb').write(bytes(64 << 20))"
    job = people.owner_job("python3", "-c", script)
    people.until(job, "Stopped")
    made = make(people)
    with wire_to(people) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(
            f"GET /api/v1/jobs/{job}/artifacts/large HTTP/1.1\r\nHost: {people.host}\r\n"
            f"Authorization: Bearer {made['token']}\r\n\r\n".encode()
        )
        assert b" 200 " in connection.recv(1000)
        revoke(people, made["info"]["id"])
        received = 0
        try:
            while chunk := connection.recv(1 << 16):
                received += len(chunk)
        except ConnectionResetError:
            pass
    assert received < 64 << 20
    assert people.ask("owner", "DELETE", f"/api/v1/jobs/{job}").status == 202
    people.gone(f"/api/v1/jobs/{job}")
    people.quiet()


def test_the_client_proves_the_server_also_by_a_token_that_a_person_made(people):
    """On loopback nothing secret is sent before the server has shown that it knows the token. Of a token that
    a person made it knows the digest only."""
    made = make(people, scopes=["read", "access"])
    with Client(people.runtime.url, made["token"]) as client:
        assert people.ids["done"] in {job.id for job in client.jobs.list()}
        child = client.tokens.create("from python", ["read"], expires_s=60)
        assert child.info.id in {token.id for token in client.tokens.list()}
        with pytest.raises(Forbidden):
            client.tokens.create("wider", ["write"])
        client.tokens.revoke(child.info.id)
        with pytest.raises(NotFound):
            client.tokens.revoke("tk000000000000")
        client.tokens.revoke(made["info"]["id"])
        with pytest.raises(Unauthenticated):
            client.server()


@pytest.mark.parametrize("which", ["tk000000000000", "tkzzzzzzzzzzzz"])
def test_the_proof_for_a_token_that_is_none_tells_nothing(people, which):
    known = people.ids["token-reader"]
    answers = [
        people.ask("none", "GET", f"/api/v1/hello?nonce={'n' * 32}&token={token_id}").json()
        for token_id in (known, which, which)
    ]
    assert all(
        set(answer) == {"version", "api", "proof"} and len(answer["proof"]) == 64 for answer in answers
    )
    assert len({answer["proof"] for answer in answers}) == 3
    assert people.ask("none", "GET", f"/api/v1/hello?nonce={'n' * 32}&token=%27--").status == 400


def test_a_token_by_another_way_than_the_header_does_not_count(people):
    secret = people.tokens["owner"]
    for path, headers in (
        (f"/api/v1/jobs?token={secret}", {}),
        ("/api/v1/jobs", {"Cookie": f"token={secret}; gradient={secret}; _xsrf=x"}),
        ("/api/v1/jobs", {"X-Api-Key": secret, "Proxy-Authorization": f"Bearer {secret}"}),
        ("/api/v1/jobs", {"Authorization": f"Basic {secret}"}),
        ("/api/v1/jobs", {"Authorization": secret}),
    ):
        assert people.ask("none", "GET", path, headers=headers).status == 401
    with wire_to(people) as connection:
        connection.sendall(
            f"GET /api/v1/jobs HTTP/1.1\r\nHost: {people.host}\r\nAuthorization: Bearer wrong\r\n"
            f"Authorization: Bearer {secret}\r\n\r\n".encode()
        )
        assert b" 401 " in connection.recv(1000)


def test_one_person_has_so_many_tokens_and_no_more(people):
    while (answer := people.ask("viewer", "POST", "/api/v1/tokens", body={"name": "one more"})).status == 201:
        pass
    assert (answer.status, answer.json()["error"]["code"]) == (409, "too-many-tokens")
    items = people.ask("viewer", "GET", "/api/v1/tokens").json()["items"]
    assert len(items) == 200
    spare = next(each["id"] for each in items if each["name"] == "one more")
    revoke(people, spare, "viewer")
    assert people.ask("viewer", "POST", "/api/v1/tokens", body={"name": "in its place"}).status == 201


def test_the_form_of_a_token_is_recognised_only_as_a_whole():
    good = "gru_tk0123456789ab_" + "A" * 43
    assert wire.token_id(good) == "tk0123456789ab"
    for other in (good + "x", good[:-1], "x" + good, good.replace("gru_", "grj_"), good + "\n"):
        assert wire.token_id(other) is None
