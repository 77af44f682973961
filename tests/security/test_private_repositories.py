"""A private repository is opened with a secret, which goes to its host and to nobody else (safety.md §3.6.6,
A2, B7): not after a redirect, not on a command line, not into a log or an answer."""

from __future__ import annotations

import base64
import contextlib
import secrets as random
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3
from gitserver import GitServer, Hang, outbound_options, redirect, refuse
from solo import SoloServer

from gradient_jupyter.engines.local.masking import forms


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def private(wanted: str):
    """git's own answers for whoever has the password, and a refusal for everybody else."""

    def answer(handler):
        if handler.headers.get("Authorization") == wanted:
            handler._git(urlsplit(handler.path).path)
        else:
            refuse(401, WWW_Authenticate='Basic realm="private"')(handler)

    return answer


class Place:
    """A server, a host with a private repository, and the secret that opens it."""

    def __init__(self, root: Path, git: GitServer) -> None:
        self.git = git
        self.value = f"canary-{random.token_hex(12)}"
        self.solo = SoloServer(
            root, *outbound_options(git), "--log-level=DEBUG",
            "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
            "--GradientServer.default_machine_type=small",
        )  # fmt: skip
        self.solo.start()
        answer = self.solo.request("PUT", "/secrets/user/deploy", json_body={"value": self.value})
        assert answer.status == 200

    def fetch(self, name: str, **fields: str):
        asked = {"url": self.git.url(name, "main"), **fields}
        return self.solo.request("POST", "/snapshots/git", json_body=asked)

    def leaks(self) -> list[str]:
        """Files of the server's that hold the secret in any form, also as it went over the wire."""
        sent = [basic(user, self.value).removeprefix("Basic ") for user in ("x-access-token", "ada")]
        needles = {*forms(self.value), *map(str.encode, sent)}
        found = []
        for path in self.solo.root.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                found += [f"{path}: {needle!r}" for needle in needles if needle in content]
        return found


@pytest.fixture
def git(tmp_path):
    server = GitServer(tmp_path / "git")
    yield server
    server.stop()


@pytest.fixture
def place(tmp_path, git):
    found = Place(tmp_path / "solo", git)
    yield found
    found.solo.stop()


def refusal(answer):
    return answer.status, answer.json()["error"]["code"]


@pytest.mark.parametrize("username", [None, "ada"])
def test_a_private_repository_is_fetched_and_nothing_remembers_the_password(place, username):
    commit = place.git.commit({"train.py": "print('leaf')"}, "leaf")
    place.git.answers["/leaf"] = private(basic(username or "x-access-token", place.value))
    fields = {"password": "secret:deploy", **({"username": username} if username else {})}
    assert refusal(place.fetch("leaf")) == (404, "no-such-repository")
    found = place.fetch("leaf", **fields)
    assert found.status == 201, found.data
    assert found.json()["commit"] == commit
    assert place.value.encode() not in found.data
    job = place.solo.job("sh", "-c", "cat train.py", snapshot=found.json()["snapshot"]["id"])
    assert place.solo.finished(job["id"])["state"] == "Stopped"
    place.solo.stop()
    assert place.leaks() == []


def test_a_projects_secret_opens_what_its_jobs_need(place):
    place.git.commit({"a": "1"}, "leaf")
    project = place.solo.request("POST", "/projects", json_body={"name": "leaves"}).json()["id"]
    place.solo.request("PUT", f"/projects/{project}/secrets/deploy", json_body={"value": "the project's"})
    place.git.answers["/leaf"] = private(basic("x-access-token", "the project's"))
    assert refusal(place.fetch("leaf", password="secret:deploy")) == (404, "no-such-repository")
    assert place.fetch("leaf", password="secret:deploy", project_id=project).status == 201
    assert place.fetch("leaf", password="secret:deploy", project="leaves").status == 201


def test_the_password_is_not_sent_where_a_redirect_leads(place, tmp_path):
    other = GitServer(tmp_path / "other")
    try:
        place.git.repository("moved")
        place.git.answers["/moved"] = redirect(f"https://localhost:{other.port}/moved.git/info/refs")
        answer = place.fetch("moved", password="secret:deploy")
        assert refusal(answer) == (424, "repository-moved")
        assert other.seen == [] and other.credentials == []
        assert place.git.credentials == [basic("x-access-token", place.value)]
    finally:
        other.stop()
    place.solo.stop()
    assert place.leaks() == []


def test_a_host_that_says_the_password_again_is_not_written_down(place):
    def echo(handler):
        said = f"you sent {handler.headers['Authorization']} which is {place.value}\n".encode()
        handler.send_response(500)
        handler.send_header("Content-Type", "text/plain; charset=utf-8")
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    place.git.answers["/echo"] = echo
    answer = place.fetch("echo", password="secret:deploy")
    assert answer.status == 424 and place.value.encode() not in answer.data
    place.git.answers["/echo"] = private("never")
    answer = place.fetch("echo", password="secret:deploy")
    assert refusal(answer) == (404, "no-such-repository")
    assert "secrets set" in answer.json()["error"]["next"]
    place.solo.stop()
    assert place.leaks() == []


def test_the_password_is_on_no_command_line(place):
    hang = Hang()
    place.git.answers["/slow"] = hang

    def fetch():
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # the server is killed meanwhile
            place.fetch("slow", password="secret:deploy")

    caller = threading.Thread(target=fetch)
    caller.start()
    assert hang.arrived.wait(60)
    token = basic("x-access-token", place.value).removeprefix("Basic ")
    seen = 0
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes()
        except OSError:
            continue
        seen += b"slow.git" in words
        assert place.value.encode() not in words and token.encode() not in words
    assert seen
    place.solo.kill()
    caller.join()
    assert place.leaks() == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"password": "hunter22"}, "bad-credentials"),
        ({"username": "ada"}, "bad-credentials"),
        ({"password": "secret:a b"}, "bad-secret-name"),
        ({"password": "secret:nobody"}, "no-such-secret"),
        ({"username": "a:b", "password": "secret:deploy"}, "bad-body"),
        ({"password": "secret:deploy", "project_id": "pr000000000000"}, "no-such-project"),
        ({"password": "secret:deploy", "url": "git+http://localhost:1/x"}, "bad-credentials"),
    ],
)
def test_only_a_secret_is_a_password_and_only_over_https(fetching, git_server, fields, code):
    if "url" in fields:
        fetching.request("PUT", "/secrets/user/deploy", json_body={"value": "long enough"})
    body = {"url": git_server.url("leaf", "main"), **fields}
    answer = fetching.request("POST", "/snapshots/git", json_body=body)
    assert answer.json()["error"]["code"] == code
    assert b"hunter22" not in answer.data
