"""Artifacts through MLflow's HTTP. Assets A4, A6: what lies outside a run's own directory. Boundary B5: job
code owns that directory and may put anything there, at any time."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys

import pytest


def put(job, path, data=b"x", run=None):
    return job.call(
        "PUT", f"/mlflow-artifacts/artifacts/{job.project}/{run or job.id}/artifacts/{path}", body=data
    )


def got(job, path, run=None, **given):
    return job.call(
        "GET", f"/mlflow-artifacts/artifacts/{job.project}/{run or job.id}/artifacts/{path}", **given
    )


def artifacts(solo, job):
    return solo.data / "jobs" / job.id / "1" / "artifacts"


def nested(job):
    return job.post("/runs/create", experiment_id=job.project).json()["run"]["info"]["run_id"]


def test_what_is_put_is_the_jobs_artifact_during_the_run_and_after(solo, job):
    assert put(job, "deep/er/file.txt", b"hello").json() == {}
    assert put(job, "empty", b"").status == 200
    assert (artifacts(solo, job) / "deep/er/file.txt").read_bytes() == b"hello"
    assert got(job, "deep/er/file.txt").data == b"hello"
    assert put(job, "deep/er/file.txt", b"again").status == 200
    assert got(job, "deep/er/file.txt", headers={"Range": "bytes=1-2"}).data == b"ga"
    listed = job.call("GET", f"/mlflow/artifacts/list?run_id={job.id}&path=deep").json()
    assert listed["files"] == [{"path": "deep/er", "is_dir": True}]
    solo.request("POST", f"/jobs/{job.id}/stop")
    solo.finished(job.id)
    items = solo.request("GET", f"/jobs/{job.id}/artifacts").json()["items"]
    assert [(each["path"], each["size"]) for each in items] == [("deep/er/file.txt", 5), ("empty", 0)]
    listed = solo.request("GET", f"/mlflow/api/2.0/mlflow/artifacts/list?run_id={job.id}").json()["files"]
    assert listed == [{"path": "deep", "is_dir": True}, {"path": "empty", "is_dir": False, "file_size": 0}]
    below = f"/mlflow/api/2.0/mlflow-artifacts/artifacts?path={job.project}/{job.id}/artifacts/deep/er"
    assert solo.request("GET", below).json()["files"] == [
        {"path": "file.txt", "is_dir": False, "file_size": 5}
    ]
    late = solo.request(
        "PUT", f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{job.project}/{job.id}/artifacts/late", body=b"x"
    )
    assert (late.status, late.json()["code"]) == (409, "attempt-fenced")


def test_a_tracking_run_keeps_its_own_and_deleting_the_job_frees_them(solo, job):
    run = nested(job)
    assert put(job, "a/b", b"nested", run).status == 200
    assert (solo.data / "runs" / run / "artifacts/a/b").read_bytes() == b"nested"
    assert got(job, "a/b", run).data == b"nested"
    assert job.call("DELETE", f"/mlflow-artifacts/artifacts/{job.project}/{run}/artifacts/a/b").status == 200
    assert got(job, "a/b", run).status == 404
    job.post("/runs/log-metric", run_id=run, key="m", value=1, timestamp=1)
    solo.request("POST", f"/jobs/{job.id}/stop")
    solo.finished(job.id)
    solo.deleted(job.id)
    assert not (solo.data / "runs" / run).exists()


@pytest.mark.parametrize(
    "path",
    [
        "../escape", "a/../../escape", "..%2Fescape", "a/%2e%2e/%2e%2e/escape", "/absolute", "a//b", "a/./b",
        ".", "a%00b", "x" * 256, "/".join(["d"] * 300), "%FF",
    ],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(solo, job, path):
    host = solo.runtime.url.removeprefix("http://")
    for run in (job.id, nested(job)):
        for method in ("PUT", "GET"):
            # As it stands: other clients tidy a path before they send it.
            connection = http.client.HTTPConnection(host, timeout=60)
            connection.request(
                method,
                f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{job.project}/{run}/artifacts/{path}",
                b"evil" if method == "PUT" else None,
                {"Authorization": f"Bearer {job.token}"},
            )
            answer = connection.getresponse()
            assert answer.status in (400, 404) and b"error_code" in answer.read()
            connection.close()
    assert not list(solo.data.rglob("escape"))


def test_nothing_is_written_or_read_through_a_link(solo, job, tmp_path):
    """CVE-2023-6909, CVE-2024-1483 and their like: the artifact directory is hostile."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    there = artifacts(solo, job)
    os.symlink(outside, there / "dir")
    os.symlink(outside / "secret", there / "file")
    os.link(outside / "secret", there / "hard")
    assert put(job, "dir/new").status == 409
    assert sorted(os.listdir(outside)) == ["secret"]
    assert put(job, "file", b"ours").status == 200  # in place of the link
    assert (outside / "secret").read_text() == "secret"
    assert not (there / "file").is_symlink() and (there / "file").read_bytes() == b"ours"
    for name in ("dir/secret", "hard"):
        assert got(job, name).status == 404
    listed = job.call("GET", f"/mlflow/artifacts/list?run_id={job.id}&path=dir").json()
    assert "files" not in listed


def test_what_is_in_the_way_is_said_and_stays(solo, job):
    there = artifacts(solo, job)
    (there / "dir/inner").mkdir(parents=True)
    (there / "file").write_text("old")
    os.mkfifo(there / "pipe")
    assert put(job, "dir").status == 409
    assert put(job, "file/below").status == 409
    assert got(job, "pipe").status == 404
    assert put(job, "pipe", b"now a file").status == 200
    assert (there / "file").read_text() == "old" and (there / "dir/inner").is_dir()


def test_a_job_that_removes_its_directory_or_puts_a_link_there_gets_nothing_elsewhere(solo, job, tmp_path):
    there = artifacts(solo, job)
    there.rmdir()
    assert put(job, "a").status == 409
    os.symlink(tmp_path, there)
    assert put(job, "a").status == 409
    assert os.listdir(tmp_path) == []
    there.unlink()
    there.mkdir()


def left(solo, job):
    directory = solo.data / "jobs" / job.id / "1"
    return [name for name in os.listdir(directory) if name.startswith("incoming")]


def test_an_upload_that_is_cut_off_leaves_nothing(solo, job):
    """The file that was there stays whole; what came of the new one has no name anywhere."""
    put(job, "model", b"whole")
    port = int(solo.runtime.url.rpartition(":")[2])
    path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{job.project}/{job.id}/artifacts/model"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {job.token}\r\n"
            f"Content-Length: 50000000\r\n\r\n".encode()
            + b"y" * 5_000_000
        )
        assert put(job, "other").status == 200  # it is being taken in meanwhile
        assert sorted(os.listdir(artifacts(solo, job))) == ["model", "other"]
    assert got(job, "model").data == b"whole"
    assert left(solo, job) == []


def test_a_server_killed_while_a_file_comes_in_leaves_nothing_of_it(own_solo):
    own_solo.start()
    run = own_solo.request("POST", "/mlflow/api/2.0/mlflow/runs/create", json_body={}).json()["run"]["info"]
    port = int(own_solo.runtime.url.rpartition(":")[2])
    base = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{run['experiment_id']}/{run['run_id']}/artifacts"
    token = own_solo.runtime.token
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            f"PUT {base}/model HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: 50000000\r\n\r\n".encode()
            + b"y" * 20_000_000
        )
        assert own_solo.request("PUT", f"{base}/other", body=b"durable").status == 200
        own_solo.kill()
    own_solo.start()
    directory = own_solo.data / "runs" / run["run_id"]
    assert [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()] == [
        "artifacts/other"
    ]
    assert own_solo.request("GET", f"{base}/other").data == b"durable"


def test_what_is_larger_than_the_disk_has_room_for_is_refused_before_it_comes(solo, job):
    port = int(solo.runtime.url.rpartition(":")[2])
    path = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{job.project}/{job.id}/artifacts/model"
    for size, status in ((1 << 39, b"507"), (1 << 41, b"413")):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(
                f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {job.token}\r\n"
                f"Content-Length: {size}\r\n\r\n".encode()
            )
            with contextlib.suppress(OSError):  # it may be closed before it has read all of this
                connection.sendall(b"y" * 3_000_000)
            assert status in connection.makefile("rb").readline()


def test_users_files_leave_as_attachments(job):
    put(job, "page.html", b"<script>alert(1)</script>")
    answer = got(job, "page.html")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_path_names_the_run_by_its_own_project(solo, job):
    other = solo.job(sys.executable, "-c", "pass", project="elsewhere")
    answer = solo.request(
        "GET",
        f"/mlflow/api/2.0/mlflow-artifacts/artifacts?path={other['project_id']}/{job.id}/artifacts",
    )
    assert answer.status == 404


def test_a_logged_models_files_lie_with_its_run(solo, job):
    for run_id in (None, nested(job)):
        made = job.post(
            "/logged-models", experiment_id=job.project, name="net", source_run_id=run_id, model_type="sk",
            params=[{"key": "a", "value": "1"}],
        ).json()["model"]  # fmt: skip
        model_id, uri = made["info"]["model_id"], made["info"]["artifact_uri"]
        assert made["info"]["source_run_id"] == run_id or job.id
        base = "/mlflow-artifacts/artifacts" + uri.removeprefix("mlflow-artifacts:")
        assert job.call("PUT", f"{base}/MLmodel", body=b"flavors: {}").status == 200
        root = artifacts(solo, job) if run_id is None else solo.data / "runs" / run_id / "artifacts"
        assert (root / "models" / model_id / "MLmodel").exists()
        one = f"/mlflow/logged-models/{model_id}"
        listed = job.call("GET", f"{one}/artifacts/directories").json()["files"]
        assert [each["path"] for each in listed] == ["MLmodel"]
        ready = job.call("PATCH", one, {"status": "LOGGED_MODEL_READY"}).json()["model"]
        assert ready["info"]["status"] == "LOGGED_MODEL_READY"
        job.call("PATCH", f"{one}/tags", {"tags": [{"key": "t/x", "value": "1"}]})
        job.post(f"/logged-models/{model_id}/params", params=[{"key": "b", "value": "2"}])
        found = job.post(
            "/logged-models/search", experiment_ids=[job.project],
            filter=f"params.b = '2' AND model_id = '{model_id}' AND tags.`t/x` = '1' AND status = 'READY'",
            order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        ).json()["models"]  # fmt: skip
        assert [each["info"]["model_id"] for each in found] == [model_id]
        assert job.call("DELETE", f"{one}/tags/t/x").status == 200
        assert job.call("DELETE", one).status == 200
        assert job.call("GET", one).status == 404
        assert (root / "models" / model_id).exists() == (run_id is None)


def test_a_model_that_no_run_has_made_has_a_place_of_its_own(solo, mine):
    experiment = mine("POST", "/experiments/create", name="models alone").json()["experiment_id"]
    made = mine("POST", "/logged-models", experiment_id=experiment, name="net").json()["model"]["info"]
    base = "/mlflow/api/2.0/mlflow-artifacts/artifacts" + made["artifact_uri"].removeprefix(
        "mlflow-artifacts:"
    )
    assert solo.request("PUT", f"{base}/weights", body=b"w").status == 200
    assert (solo.data / "runs" / made["model_id"] / "artifacts/weights").exists()
    assert mine("DELETE", f"/logged-models/{made['model_id']}").status == 200
    assert not (solo.data / "runs" / made["model_id"]).exists()
