"""A job over HTTP, from submit to its artifacts. Real server, real engine, real processes."""

from __future__ import annotations

import http.client
import io
import os
import sys
import zipfile

import blake3
import pytest
from urllib3.exceptions import HTTPError

PYTHON = sys.executable


def test_a_job_runs_and_its_streams_are_told_apart(solo):
    job = solo.job(PYTHON, "-c", "import sys; print('out ü'); print('err', file=sys.stderr)")
    pieces = [data for event, _, data in solo.events(f"/jobs/{job['id']}/logs?follow=true") if event == "log"]
    text = dict.fromkeys(("stdout", "stderr", "platform"), "")
    for piece in pieces:
        text[piece["stream"]] += piece["text"]
    assert (text["stdout"], text["stderr"]) == ("out ü\n", "err\n")
    final = solo.request("GET", f"/jobs/{job['id']}").json()
    assert (final["state"], final["exit_code"], final["attempt"]) == ("Stopped", 0, 1)
    assert [moment["phase"] for moment in final["history"]] == [
        "queued", "starting", "running", "collecting", "done",
    ]  # fmt: skip
    assert final["created_us"] <= final["started_us"] <= final["ended_us"]


@pytest.mark.parametrize(
    ("command", "state", "exit_code", "code"),
    [
        ([PYTHON, "-c", "raise SystemExit(3)"], "Failed", 3, "exit"),
        (["no-such-command-anywhere"], "Failed", 127, "command-not-found"),
        (["/etc/passwd"], "Failed", 126, "not-executable"),
        ([PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"], "Failed", 137, "killed"),
    ],
)
def test_every_bad_end_says_why_and_what_to_do(solo, command, state, exit_code, code):
    final = solo.finished(solo.job(*command)["id"])
    assert (final["state"], final["exit_code"], final["reason"]["code"]) == (state, exit_code, code)
    assert final["reason"]["message"] and final["reason"]["next"]


def test_a_log_can_be_taken_up_at_any_piece_and_nothing_is_missing(solo):
    """P7."""
    script = "import sys\nfor n in range(3000): print('line', n, 'ü' * 20, flush=n % 100 == 0)"
    job = solo.job(PYTHON, "-c", script)
    whole = "".join(f"line {n} {'ü' * 20}\n" for n in range(3000))
    events = list(solo.events(f"/jobs/{job['id']}/logs?follow=true"))
    logs = [
        (identity, data["text"])
        for event, identity, data in events
        if event == "log" and data["stream"] != "platform"
    ]
    assert "".join(text for _, text in logs) == whole
    for index in range(0, len(logs), max(1, len(logs) // 5)):
        rest = solo.events(f"/jobs/{job['id']}/logs", headers={"Last-Event-ID": logs[index][0]})
        again = "".join(data["text"] for event, _, data in rest if event == "log")
        assert again == "".join(text for _, text in logs[index + 1 :])


def test_a_position_that_the_log_does_not_have_is_answered_with_truncated(solo):
    job = solo.job(PYTHON, "-c", "print('short')")
    solo.finished(job["id"])
    (last,) = [
        i for e, i, d in solo.events(f"/jobs/{job['id']}/logs") if e == "log" and d["stream"] == "stdout"
    ]
    epoch = last.partition("-")[0]
    for wrong in (f"{epoch}-99999999", f"{int(epoch) ^ 1}-0"):
        events = list(solo.events(f"/jobs/{job['id']}/logs", headers={"Last-Event-ID": wrong}))
        kinds = [event for event, _, _ in events]
        assert kinds.index("log-truncated") < kinds.index("log")
    assert solo.request("GET", f"/jobs/{job['id']}/logs", headers={"Last-Event-ID": "x"}).status == 400


def test_bytes_that_are_no_text_do_not_break_the_stream_and_stay_in_the_raw_log(solo):
    job = solo.job(PYTHON, "-c", r"import sys; sys.stdout.buffer.write(b'a\xff\x00b\n')")
    text = "".join(
        d["text"]
        for e, _, d in solo.events(f"/jobs/{job['id']}/logs?follow=true")
        if e == "log" and d["stream"] == "stdout"
    )
    assert text == "a\ufffd\x00b\n"
    assert solo.request("GET", f"/jobs/{job['id']}/log").data.endswith(b"a\xff\x00b\n")


def test_no_character_is_cut_in_two_wherever_the_pipe_cut_it(solo):
    script = "import os\nfor n in range(3): os.write(1, b'a' * n + 'ü€😀'.encode() * 40000)"
    job = solo.job(PYTHON, "-c", script)
    events = solo.events(f"/jobs/{job['id']}/logs?follow=true")
    text = "".join(data["text"] for event, _, data in events if event == "log" and data["stream"] == "stdout")
    assert text == "".join("a" * n + "ü€😀" * 40000 for n in range(3))


def test_stopping_ends_the_whole_tree_and_says_cancelled(solo):
    job = solo.job(
        PYTHON, "-c", "import subprocess; print('up', flush=True); subprocess.run(['sleep', '600'])"
    )
    solo.printed(job["id"], "up\n")
    assert solo.request("POST", f"/jobs/{job['id']}/stop").status == 202
    final = solo.finished(job["id"])
    assert (final["state"], final["reason"]["code"]) == ("Cancelled", "cancelled")
    again = solo.request("POST", f"/jobs/{job['id']}/stop")
    assert again.status == 202 and again.json()["state"] == "Cancelled"


def test_a_job_that_waits_says_why_and_can_be_cancelled_at_once(solo):
    first = solo.job("sleep", "600", machine_type="local")
    second = solo.job("true", machine_type="local")
    third = solo.job("true", machine_type="local")
    reason = solo.request("GET", f"/jobs/{third['id']}").json()
    assert reason["state"] == "Pending"
    assert reason["queue_position"] >= 1
    assert "local" in reason["reason"]["message"]
    for job in (third, second, first):
        solo.request("POST", f"/jobs/{job['id']}/stop")
    for job in (third, second, first):
        assert solo.finished(job["id"])["state"] == "Cancelled"


def test_deleting_a_job_frees_everything_it_had(solo):
    job = solo.job("sh", "-c", 'echo x > "$GRADIENT_ARTIFACTS_DIR/x"')
    solo.finished(job["id"])
    assert (solo.data / "jobs" / job["id"]).exists()
    install = solo.request("GET", "/server").json()["install"]
    assert solo.request("DELETE", f"/jobs/{job['id']}").status == 202
    for _, _, event in solo.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        if event["id"] == job["id"] and event["action"] == "deleted":
            break
    assert solo.request("GET", f"/jobs/{job['id']}").status == 404
    assert not (solo.data / "jobs" / job["id"]).exists()


SCRIPT = r"""
import os, pathlib, random
here = pathlib.Path(os.environ["GRADIENT_ARTIFACTS_DIR"])
(here / "sub dir").mkdir()
(here / "sub dir" / "ü%20.txt").write_text("hello")
(here / "big.bin").write_bytes(random.Random(1).randbytes(3_000_000))
(here / "empty").touch()
(here / "link").symlink_to("/etc/passwd")
os.mkfifo(here / "fifo")
open(os.fsencode(str(here)) + b"/\xff.txt", "w").close()
"""


@pytest.fixture(scope="module")
def left(solo):
    job = solo.job(PYTHON, "-c", SCRIPT)
    return solo.finished(job["id"])


def test_artifacts_are_listed_with_their_digests_and_what_was_left_out_is_named(solo, left):
    page = solo.request("GET", f"/jobs/{left['id']}/artifacts").json()
    assert page["final"] is True
    assert {item["path"]: item["size"] for item in page["items"]} == {
        "sub dir/ü%20.txt": 5, "big.bin": 3_000_000, "empty": 0,
    }  # fmt: skip
    digest = next(item["digest"] for item in page["items"] if item["path"] == "sub dir/ü%20.txt")
    assert digest == blake3.blake3(b"hello").hexdigest()
    (warning,) = left["warnings"]
    assert "link" in warning and "fifo" in warning and "xff" in warning


def test_an_artifact_is_read_whole_or_in_ranges_and_never_as_a_page(solo, left):
    path = f"/jobs/{left['id']}/artifacts/big.bin"
    whole = solo.request("GET", path)
    assert whole.status == 200 and len(whole.data) == 3_000_000
    assert whole.headers["Content-Disposition"].startswith("attachment")
    assert "sandbox" in whole.headers["Content-Security-Policy"]
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    for asked, start, end in [
        ("0-9", 0, 10),
        ("2999990-", 2999990, 3000000),
        ("-5", 2999995, 3000000),
        ("5-99999999", 5, 3000000),
    ]:
        part = solo.request("GET", path, headers={"Range": f"bytes={asked}"})
        assert part.status == 206
        assert part.data == whole.data[start:end]
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/3000000"
    assert solo.request("GET", path, headers={"Range": "bytes=3000000-"}).status == 416
    assert solo.request("GET", path, headers={"Range": "lines=1-2"}).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "link", "fifo", "nope", "..", "../log", "%2e%2e/log", "..%2flog", "%252e%252e%252flog", "sub%20dir",
        "/etc/passwd", "%2fetc%2fpasswd", "sub%20dir/../../log", "a;/../log", "big.bin/x", "big.bin%00",
        "%ff.txt",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_name_leads_out_of_the_artifacts(solo, left, method, name):
    """Boundary B4/B2: a user's string never becomes a path (CVE-2023-1177 and its many children)."""
    # http.client sends the path as it stands; other clients tidy it first.
    connection = http.client.HTTPConnection(solo.runtime.url.removeprefix("http://"), timeout=60)
    path = f"/api/v1/jobs/{left['id']}/artifacts/{name}"
    connection.request(method, path, headers={"Authorization": f"Bearer {solo.runtime.token}"})
    status = connection.getresponse().status
    connection.close()
    assert status in (400, 404)
    assert solo.request("GET", f"/jobs/{left['id']}/log").status == 200


def test_everything_comes_as_one_zip(solo, left):
    answer = solo.request("GET", f"/jobs/{left['id']}/artifacts.zip")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["big.bin", "empty", "sub dir/ü%20.txt"]
        assert archive.read("sub dir/ü%20.txt") == b"hello"


def test_an_artifact_can_be_deleted_once_the_job_is_final(solo):
    job = solo.job("sh", "-c", 'echo 1 > "$GRADIENT_ARTIFACTS_DIR/x"; exit 5')
    path = f"/jobs/{job['id']}/artifacts/x"
    assert solo.finished(job["id"])["state"] == "Failed"
    assert solo.request("DELETE", path).status == 204
    assert solo.request("GET", path).status == 404
    assert solo.request("DELETE", path).status == 404
    assert solo.request("GET", f"/jobs/{job['id']}/artifacts").json()["items"] == []


def test_artifacts_are_visible_while_the_job_runs_and_safe_from_deletion(solo):
    job = solo.job("sh", "-c", 'printf 123 > "$GRADIENT_ARTIFACTS_DIR/early"; echo up; exec sleep 600')
    solo.printed(job["id"], "up\n")
    page = solo.request("GET", f"/jobs/{job['id']}/artifacts").json()
    (item,) = page["items"]
    assert (item["path"], item["size"], item["digest"], page["final"]) == ("early", 3, "", False)
    assert solo.request("GET", f"/jobs/{job['id']}/artifacts/early").data == b"123"
    assert solo.request("DELETE", f"/jobs/{job['id']}/artifacts/early").status == 409
    solo.request("POST", f"/jobs/{job['id']}/stop")
    solo.finished(job["id"])
    assert solo.request("GET", f"/jobs/{job['id']}/artifacts").json()["final"] is True


def test_storage_outlives_the_job(solo):
    first = solo.job("sh", "-c", 'echo kept > "$GRADIENT_STORAGE_DIR/note"')
    solo.finished(first["id"])
    second = solo.job("sh", "-c", 'cat "$GRADIENT_STORAGE_DIR/note"')
    solo.finished(second["id"])
    assert solo.text(second["id"]).endswith("kept\n")


def test_events_tell_the_whole_life_of_a_job_in_order_and_can_be_resumed(solo):
    install = solo.request("GET", "/server").json()["install"]
    job = solo.job("true")
    solo.finished(job["id"])
    seen = []
    for event, identity, data in solo.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        assert event == "change"
        if data["id"] == job["id"]:
            seen.append((identity, data["action"], data["resource"]["state"]))
            if data["resource"]["state"] == "Stopped":
                break
    states = [state for _, _, state in seen]
    assert states[0] == "Pending" and states[-1] == "Stopped"
    assert [action for _, action, _ in seen] == ["created"] + ["changed"] * (len(seen) - 1)
    for _, identity, _ in solo.events("/events", headers={"Last-Event-ID": seen[0][0]}):
        assert int(identity.rpartition("-")[2]) == int(seen[0][0].rpartition("-")[2]) + 1
        break


def test_a_log_that_was_cut_is_never_answered_as_if_it_were_whole(solo):
    """P13: of what is left the body is cut, so that no client takes it for all; nothing left has a status."""
    job = solo.job("sh", "-c", "echo one; echo two >&2")
    solo.finished(job["id"])
    whole = solo.request("GET", f"/jobs/{job['id']}/log").data
    log = solo.data / "jobs" / str(job["id"]) / "1" / "log"
    os.truncate(log, log.stat().st_size - 1)
    with pytest.raises(HTTPError):
        solo.request("GET", f"/jobs/{job['id']}/log")
    os.truncate(log, 12)
    answer = solo.request("GET", f"/jobs/{job['id']}/log")
    assert (answer.status, answer.json()["error"]["code"]) == (500, "log-damaged")
    log.unlink()
    answer = solo.request("GET", f"/jobs/{job['id']}/log")
    assert (answer.status, answer.json()["error"]["code"]) == (500, "log-damaged")
    assert f"{len(whole)} bytes" in answer.json()["error"]["message"]
