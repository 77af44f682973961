"""``POST /snapshots/git``: what comes of a repository; of a caller who leaves, and of a server that dies."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import Any

import pytest
from gitserver import GitServer, Hang, working_in
from solo import PATIENCE_S, SoloServer


def fetch(server: SoloServer, url: str) -> Any:
    answer = server.request("POST", "/snapshots/git", json_body={"url": url})
    assert answer.status == 201, answer.data
    return answer.json()


def refused(server: SoloServer, url: str) -> tuple[int, str]:
    answer = server.request("POST", "/snapshots/git", json_body={"url": url})
    error = answer.json()["error"]
    assert error["message"].endswith(".") and "Traceback" not in answer.data.decode()
    return answer.status, error["code"]


def post(server: SoloServer, url: str) -> socket.socket:
    """Sends the request and leaves the answer to the caller."""
    host = server.runtime.url.removeprefix("http://")
    body = b'{"url": "%s"}' % url.encode()
    wire = socket.create_connection(host.split(":"), PATIENCE_S)
    wire.sendall(
        f"POST /api/v1/snapshots/git HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {server.runtime.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return wire


def test_a_branch_becomes_a_snapshot_that_names_its_commit(fetching, git_server):
    commit = git_server.commit({"train.py": "print('leaf')\n", "d/x": "22"}, "branch")
    found = fetch(fetching, git_server.url("branch", "main"))
    assert found["commit"] == commit
    assert found["source"] == git_server.url("branch", commit)
    assert (found["snapshot"]["files"], found["snapshot"]["bytes"]) == (2, 16)
    assert found["warnings"] == []
    manifest = fetching.request("GET", f"/snapshots/{found['snapshot']['id']}/manifest").json()
    assert [(entry["path"], entry["size"]) for entry in manifest["entries"]] == [("d/x", 2), ("train.py", 14)]


def test_every_way_to_name_a_commit_leads_to_it(fetching, git_server):
    first = git_server.commit({"a": "1"}, "ways")
    git_server.git("tag", "light", name="ways")
    git_server.git("tag", "-m", "x", "heavy", name="ways")
    second = git_server.commit({"a": "2"}, "ways")
    git_server.git("update-ref", "refs/pull/5/head", first, name="ways")
    git_server.git("branch", "feature/x", first, name="ways")
    for ref, commit in {
        "": second, "HEAD": second, "main": second, "light": first, "heavy": first, first: first,
        first.upper(): first, "refs/pull/5/head": first, "refs/tags/heavy": first, "feature/x": first,
    }.items():  # fmt: skip
        assert fetch(fetching, git_server.url("ways", ref))["commit"] == commit, ref


def test_a_subdirectory_is_the_whole_of_what_is_sent(fetching, git_server):
    git_server.commit({"train/a.py": "1", "train/deep/b": "2", "other": "3"}, "sub")
    found = fetch(fetching, git_server.url("sub", "main") + "#subdirectory=train")
    manifest = fetching.request("GET", f"/snapshots/{found['snapshot']['id']}/manifest").json()
    assert [entry["path"] for entry in manifest["entries"]] == ["a.py", "deep/b"]
    assert found["source"].endswith("#subdirectory=train")
    for wrong in ("none", "other", "train/a.py"):
        assert refused(fetching, git_server.url("sub", "main") + f"#subdirectory={wrong}") == (
            404, "no-such-directory",
        )  # fmt: skip


def test_a_commit_that_was_fetched_is_not_fetched_again(fetching, git_server):
    """By its branch it is looked up, by its digits nobody is asked at all."""
    commit = git_server.commit({"a": "1"}, "again")
    first = fetch(fetching, git_server.url("again", "main"))
    git_server.seen.clear()
    assert fetch(fetching, git_server.url("again", "main")) == first
    assert len([line for line in git_server.seen if line.startswith("POST")]) == 1  # ls-refs, and no pack
    git_server.seen.clear()
    assert fetch(fetching, git_server.url("again", commit)) == first
    assert git_server.seen == []
    git_server.commit({"a": "2"}, "again")
    assert fetch(fetching, git_server.url("again", "main"))["commit"] != commit


def test_it_is_the_snapshot_that_the_directory_would_be(fetching, git_server):
    """So files that were sent before are neither sent nor stored twice."""
    git_server.commit({"a": "the same"}, "same")
    found = fetch(fetching, git_server.url("same"))["snapshot"]["id"]
    manifest = fetching.request("GET", f"/snapshots/{found}/manifest").json()
    missing = fetching.request("POST", "/snapshots/missing", json_body=manifest).json()
    assert missing == {"missing": []}
    assert fetching.request("POST", "/snapshots", json_body=manifest).json()["id"] == found


@pytest.mark.parametrize(
    ("ref", "status", "code"),
    [
        ("no-such-branch", 404, "no-such-ref"),
        ("1a2b3c4", 404, "no-such-ref"),
        ("0" * 40, 404, "no-such-ref"),
        ("-x", 400, "bad-repository"),
    ],
)
def test_a_reference_that_is_not_there_is_said_so(fetching, git_server, ref, status, code):
    git_server.commit({"a": "1"}, "refs")
    assert refused(fetching, git_server.url("refs", ref)) == (status, code)


def test_what_cannot_be_fetched_is_said_so(fetching, git_server):
    assert refused(fetching, git_server.url("absent", "main")) == (404, "no-such-repository")
    git_server.repository("empty")
    assert refused(fetching, git_server.url("empty")) == (404, "no-such-ref")
    git_server.commit({"noise": os.urandom(2 << 20)}, "large")
    assert refused(fetching, git_server.url("large")) == (413, "repository-too-large")
    blob = git_server.blob(b"x", "blob")
    git_server.git("tag", "thing", blob, name="blob")
    assert refused(fetching, git_server.url("blob", "thing")) == (400, "no-such-ref")
    assert refused(fetching, "git+https://169.254.169.254/x") == (403, "address-refused")
    assert refused(fetching, "git+https://user:hush@localhost/x") == (400, "bad-repository")
    assert refused(fetching, f"git+https://127.0.0.1:{git_server.port}/x") == (403, "address-refused")
    assert "hush" not in fetching.log()
    assert not list((fetching.data / "fetches").iterdir())


def test_a_caller_who_hangs_up_ends_the_fetch(fetching, git_server):
    hang = git_server.answers["/left.git/"] = Hang()
    with post(fetching, git_server.url("left")):
        assert hang.arrived.wait(PATIENCE_S)
        assert working_in(fetching.data / "fetches")
    assert hang.left.wait(PATIENCE_S), "git still waits for an answer that nobody wants"
    idle(fetching)
    assert working_in(fetching.data / "fetches") == {}
    assert not list((fetching.data / "fetches").iterdir())


def test_fetches_that_hang_do_not_stop_the_server_or_somebody_elses(fetching, git_server):
    """One owner has half of the places; whoever waits for one waits without holding anything up."""
    hang = git_server.answers["/stuck.git/"] = Hang()
    waiting = [post(fetching, git_server.url("stuck", f"b{n}")) for n in range(3)]
    try:
        assert hang.arrived.wait(PATIENCE_S)
        job = fetching.job("echo", "still here")
        assert fetching.finished(job["id"])["state"] == "Stopped"
        homes = list((fetching.data / "fetches").iterdir())
        assert len(homes) <= 2
    finally:
        for wire in waiting:
            wire.close()
    idle(fetching)
    assert not list((fetching.data / "fetches").iterdir())


def test_a_server_that_is_told_to_stop_does_not_wait_for_a_fetch(own_fetching, git_server):
    hang = git_server.answers["/stopped.git/"] = Hang()
    own_fetching.start()
    with post(own_fetching, git_server.url("stopped")):
        assert hang.arrived.wait(PATIENCE_S)
        own_fetching.stop()
    assert hang.left.wait(PATIENCE_S)
    assert not list((own_fetching.data / "fetches").iterdir())


@pytest.mark.parametrize("where", ["info/refs", "git-upload-pack"])
def test_a_killed_server_takes_git_with_it_and_leaves_nothing_after_the_next_start(
    own_fetching: SoloServer, git_server: GitServer, where: str
) -> None:
    """Fault: kill -9 while it asks and while objects come. Nothing is left behind (T14): git ends with the
    server it ran for, its files with the next start."""
    git_server.commit({"a": "1"}, "killed")
    hang = git_server.answers[f"/killed.git/{where}"] = Hang()
    own_fetching.start()
    root = own_fetching.data / "fetches"
    with post(own_fetching, git_server.url("killed")):
        assert hang.arrived.wait(PATIENCE_S)
        fds = [os.pidfd_open(pid) for pid in working_in(root)]
        assert fds and list(root.iterdir())
        own_fetching.kill()
    for fd in fds:
        assert select.select([fd], [], [], PATIENCE_S)[0], "git outlived the server"
        os.close(fd)
    assert hang.left.wait(PATIENCE_S)
    del git_server.answers[f"/killed.git/{where}"]
    own_fetching.start()
    assert not root.exists()
    assert fetch(own_fetching, git_server.url("killed"))["snapshot"]["files"] == 1
    assert not list(root.iterdir())


def test_one_commit_fetched_by_many_at_once_is_one_snapshot(fetching, git_server):
    git_server.commit({"a": "many"}, "many")
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(fetching, git_server.url("many"))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len({(each["snapshot"]["id"], each["commit"], each["source"]) for each in found}) == 1


def idle(server: SoloServer) -> None:
    """Until the server says that nobody waits for anything."""
    deadline = time.monotonic() + PATIENCE_S
    while server.request("GET", "/server").json()["streams"]:
        assert time.monotonic() < deadline
