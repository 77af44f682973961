"""Datasets over HTTP and in jobs, against a real server that is also killed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gitserver import GitServer, Hang
from solo import SoloServer

from gradient_jupyter.client import Client


@pytest.fixture
def client(solo: SoloServer) -> Iterator[Client]:
    with to(solo) as client:
        yield client


def to(server: SoloServer) -> Client:
    return Client(server.runtime.url, server.runtime.token)


def tree(root: Path, **files: str) -> Path:
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        (root / name).write_text(content)
    return root


def call(server: SoloServer, method: str, path: str, status: int, body: object = None) -> Any:
    answer = server.request(method, path, json_body=body)
    assert answer.status == status, answer.data
    return answer.json()


def begun(server: SoloServer, name: str, url: str) -> socket.socket:
    """A connection on which a fetch was asked for. The answer is left to the caller."""
    host = server.runtime.url.removeprefix("http://")
    body = json.dumps({"name": name, "url": url}).encode()
    wire = socket.create_connection(host.split(":"), 60)
    head = (
        f"POST /api/v1/datasets/fetch HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {server.runtime.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    wire.sendall(head.encode() + body)
    return wire


def run(server: SoloServer, script: str, **fields: object) -> tuple[dict[str, Any], str]:
    job = server.finished(server.job("sh", "-c", script, **fields)["id"])
    return job, server.text(job["id"])


def test_a_job_reads_the_version_it_was_given_when_it_was_submitted(
    solo: SoloServer, client: Client, tmp_path: Path
) -> None:
    client.datasets.create("pinned", tree(tmp_path / "d", x="first"))
    first, text = run(solo, 'cat "$GRADIENT_DATASETS_DIR/pinned/x"', datasets=["pinned"])
    assert text == "first" and first["exit_code"] == 0
    client.datasets.create("pinned", tree(tmp_path / "d", x="second"))
    again = call(solo, "POST", f"/jobs/{first['id']}/rerun", 201, {})
    assert again["datasets"] == first["datasets"] and again["datasets"][0]["version"] == 1
    assert solo.finished(again["id"]) and solo.text(again["id"]) == "first"
    newer = call(solo, "POST", f"/jobs/{first['id']}/rerun", 201, {"datasets": ["pinned"]})
    assert solo.finished(newer["id"]) and solo.text(newer["id"]) == "second"
    none = call(solo, "POST", f"/jobs/{first['id']}/rerun", 201, {"datasets": []})
    assert none["datasets"] == [] and solo.finished(none["id"])["exit_code"] == 1


def test_a_first_job_says_that_its_data_is_prepared_and_the_next_does_not_wait(
    solo: SoloServer, client: Client, tmp_path: Path
) -> None:
    client.datasets.create("told", tree(tmp_path / "d", x="1" * 100_000))
    first, _ = run(solo, "true", datasets=["told"])
    assert "preparing" in [moment["phase"] for moment in first["history"]]
    assert first["state"] == "Stopped" and first["reason"] is None
    second, _ = run(solo, "true", datasets=["told"])
    assert "preparing" not in [moment["phase"] for moment in second["history"]]


def test_what_is_not_there_is_refused_before_there_is_a_job(solo: SoloServer, client: Client) -> None:
    before = len(list(client.jobs.list()))
    empty = call(solo, "POST", "/snapshots", 201, {"entries": []})["id"]
    asked = {"command": ["true"], "snapshot": empty, "project": "tests"}
    assert call(solo, "POST", "/jobs", 404, {**asked, "datasets": ["nowhere"]})["error"]["code"] == (
        "no-such-dataset"
    )  # fmt: skip
    for wrong in ("../x", "a/b", "", ".", "a:0", "a:-1", "a:x", ":1", "x" * 101, "a b", "a\n"):
        assert call(solo, "POST", "/jobs", 400, {**asked, "datasets": [wrong]}), wrong
    assert len(list(client.jobs.list())) == before


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "x" * 101, "a b", "é", "a\x00", "-x", "a\n"])
def test_a_name_is_one_that_a_directory_and_a_variable_can_have(solo: SoloServer, name: str) -> None:
    assert call(solo, "POST", "/datasets", 400, {"name": name})["error"]["code"] == "bad-body"


def test_a_running_job_keeps_its_dataset_and_one_that_is_over_does_not(
    solo: SoloServer, client: Client, tmp_path: Path
) -> None:
    dataset = client.datasets.create("busy", tree(tmp_path / "d", x="1"))
    job = solo.job("sh", "-c", "echo up; sleep 1000", datasets=["busy"])
    solo.printed(job["id"], "up\n")
    refused = call(solo, "DELETE", f"/datasets/{dataset.id}", 409)["error"]
    assert refused["code"] == "dataset-in-use" and str(job["id"]) in refused["message"]
    call(solo, "POST", f"/jobs/{job['id']}/stop", 202)
    solo.finished(job["id"])
    gone = call(solo, "DELETE", f"/datasets/{dataset.id}", 200)
    assert gone["gone"] and gone["versions"] == [1]
    call(solo, "GET", f"/datasets/{dataset.id}", 404)
    again = call(solo, "POST", f"/jobs/{job['id']}/rerun", 201, {"command": ["cat", "/dev/null"]})
    assert solo.finished(again["id"])["exit_code"] == 0


def test_a_jobs_own_token_opens_no_dataset(solo: SoloServer, client: Client, tmp_path: Path) -> None:
    """Boundary B4: a run reads what it was given, and changes nothing of what its owner has."""
    dataset = client.datasets.create("closed", tree(tmp_path / "d", x="1"))
    script = f"""
import os, urllib.error, urllib.request
base = os.environ["GRADIENT_JOB_URL"].rpartition("/jobs/")[0]
token = "Bearer " + os.environ["GRADIENT_JOB_TOKEN"]
headers = {{"Authorization": token, "Content-Type": "application/json"}}
for method, path in (("GET", ""), ("DELETE", "/{dataset.id}"), ("POST", ""), ("POST", "/fetch")):
    body = b"{{}}" if method == "POST" else None
    request = urllib.request.Request(base + "/datasets" + path, body, headers, method=method)
    try:
        print(urllib.request.urlopen(request).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
    job = solo.finished(solo.job("python", "-c", script)["id"])
    said = solo.text(job["id"]).split()
    assert len(said) == 4 and set(said) <= {"401", "403", "404"}
    assert dataset.refresh().latest is not None


def test_files_and_versions_are_listed_page_by_page(solo: SoloServer, client: Client, tmp_path: Path) -> None:
    for number in range(3):
        dataset = client.datasets.create("paged", tree(tmp_path / "d", **{f"f{number}": "x" * number}))
    first = call(solo, "GET", f"/datasets/{dataset.id}/versions?limit=2", 200)
    assert [one["number"] for one in first["items"]] == [3, 2]
    rest = call(solo, "GET", f"/datasets/{dataset.id}/versions?limit=2&cursor={first['next']}", 200)
    assert ([one["number"] for one in rest["items"]], rest["next"]) == ([1], None)
    held = call(solo, "GET", f"/datasets/{dataset.id}/files?limit=2", 200)
    assert ([one["path"] for one in held["items"]], held["version"]) == (["f0", "f1"], 3)
    held = call(solo, "GET", f"/datasets/{dataset.id}/files?limit=2&cursor={held['next']}&version=3", 200)
    assert ([one["path"] for one in held["items"]], held["next"]) == (["f2"], None)
    call(solo, "GET", f"/datasets/{dataset.id}/files?version=9", 404)


def test_public_ones_are_in_every_job_and_ones_own_of_that_name_only_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    public = tree(tmp_path / "public", x="the administrator's")
    server = SoloServer(
        tmp_path, f"--GradientServer.public_datasets={{'leaf': '{public}', 'bare': '{public}'}}"
    ).start()
    try:
        with to(server) as client:
            mine = client.datasets.create("leaf", tree(tmp_path / "mine", x="mine"))
            assert [one.name for one in client.datasets.list()] == ["leaf", "bare", "leaf"]
            read = 'cd "$GRADIENT_DATASETS_DIR" && for n in *; do echo "$n: $(cat $n/x)"; done'
            assert run(server, read)[1] == "bare: the administrator's\nleaf: the administrator's\n"
            assert run(server, read, datasets=["leaf"])[1] == "bare: the administrator's\nleaf: mine\n"
            assert run(server, read, datasets=["bare"])[0]["datasets"] == [
                {"name": "bare", "dataset_id": "public-bare", "version": 0, "snapshot": ""}
            ]
            call(server, "DELETE", "/datasets/public-leaf", 403)
            assert client.datasets.get("leaf").id == mine.id
    finally:
        server.stop()


@pytest.mark.parametrize(
    "given",
    [
        "{'a/b': '/tmp'}", "{'..': '/tmp'}", "{'x': 'relative'}", "{'x': '/does/not/exist'}",
        "{'x': '/etc/hostname'}", "{'x': 5}", "{'x': '/'}", "DATA", "DATA/blobs", "LINK",
    ],
)  # fmt: skip
def test_a_public_dataset_that_would_show_what_it_should_not_is_refused_at_the_start(
    tmp_path: Path, given: str
) -> None:
    """Asset: everybody's files under the data root. A link is looked through."""
    (tmp_path / "data" / "blobs").mkdir(parents=True)
    (tmp_path / "data").chmod(0o700)
    (tmp_path / "link").symlink_to("data")
    places = {"DATA": "data", "DATA/blobs": "data/blobs", "LINK": "link"}
    option = f"{{'x': '{tmp_path / places[given]}'}}" if given in places else given
    server = SoloServer(tmp_path, f"--GradientServer.public_datasets={option}")
    server.launch()
    assert not server.ready()
    assert server.process.wait(60) == 4
    assert "GradientServer.public_datasets is wrong" in server.log() and "Traceback" not in server.log()


def test_a_killed_server_goes_on_unpacking_and_the_job_runs_once(
    own_solo: SoloServer, tmp_path: Path
) -> None:
    """Fault: kill -9 while a job's data is unpacked. The next server finds out what is there."""
    own_solo.start()
    root = tree(tmp_path / "d", **{f"f{n}": f"{n}" * 100_000 for n in range(40)})
    with to(own_solo) as client:
        client.datasets.create("much", root)
    witness = own_solo.storage() / "witness"
    script = "echo once >> $GRADIENT_STORAGE_DIR/witness; cat $GRADIENT_DATASETS_DIR/much/* | wc -c"
    job = own_solo.job("sh", "-c", script, datasets=["much"])
    for _ in range(3):
        own_solo.kill()
        own_solo.start()
    ended = own_solo.finished(job["id"])
    assert ended["exit_code"] == 0, ended
    assert own_solo.text(job["id"]).split() == [str(sum(len(f"{n}") * 100_000 for n in range(40)))]
    assert witness.read_text() == "once\n"
    assert [path.name for path in (own_solo.data / "trees").iterdir()] == [ended["datasets"][0]["snapshot"]]


def test_a_killed_server_leaves_nothing_of_a_fetch(own_fetching: SoloServer, git_server: GitServer) -> None:
    """Fault: kill -9 while a URL is fetched. No version, no file."""
    hang = Hang()
    git_server.answers["/data/hang"] = hang
    own_fetching.start()
    with begun(own_fetching, "leaf", f"https://localhost:{git_server.port}/data/hang"):
        assert hang.arrived.wait(60)
        own_fetching.kill()
    assert list((own_fetching.data / "fetches").iterdir())
    own_fetching.start()
    assert list((own_fetching.data / "fetches").glob("*")) == []
    assert call(own_fetching, "GET", "/datasets", 200)["items"] == []
    del git_server.answers["/data/hang"]


def test_hanging_up_ends_a_fetch(fetching: SoloServer, git_server: GitServer) -> None:
    hang = Hang()
    git_server.answers["/data/left"] = hang
    with begun(fetching, "left", f"https://localhost:{git_server.port}/data/left"):
        assert hang.arrived.wait(60)
    assert hang.left.wait(60)
    del git_server.answers["/data/left"]


def test_the_disk_report_knows_trees(solo: SoloServer, client: Client, tmp_path: Path) -> None:
    client.datasets.create("weighed", tree(tmp_path / "d", x="1" * 300_000))
    run(solo, "true", datasets=["weighed"])
    kinds = {one["kind"]: one["bytes"] for one in call(solo, "GET", "/admin/disk", 200)["items"]}
    assert kinds["trees"] >= 300_000
