"""Metrics over HTTP: written by a run, read whole, made small, followed."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

#: Leaves its token in /storage and lives until it is stopped.
HOLD = (
    "import os, sys, time; home = os.environ['GRADIENT_STORAGE_DIR']\n"
    "open(home + '/token-' + os.environ['GRADIENT_JOB_ID'], 'w').write(os.environ['GRADIENT_JOB_TOKEN'])\n"
    "print('up', flush=True)\n"
    "time.sleep(600)\n"
)


@contextlib.contextmanager
def running(server, script: str = HOLD) -> Iterator[tuple[str, dict[str, str]]]:
    """A job that runs, and the headers that bear its token."""
    job = server.job(sys.executable, "-c", script)
    server.printed(job["id"], "up\n")
    token = (server.storage() / f"token-{job['id']}").read_text()
    try:
        yield str(job["id"]), {"Authorization": f"Bearer {token}"}
    finally:
        server.request("POST", f"/jobs/{job['id']}/stop")
        server.finished(job["id"])


def log(server, job_id, points, headers=None):
    token = None if headers else "ours"
    return server.request(
        "POST", f"/jobs/{job_id}/metrics", json_body={"points": points}, headers=headers, token=token
    )


def read(server, job_id, key, **query):
    asked = "&".join(f"{name}={value}" for name, value in {"key": key, **query}.items())
    return server.request("GET", f"/jobs/{job_id}/metrics/points?{asked}")


def custom(server, job_id):
    items = server.request("GET", f"/jobs/{job_id}/metrics").json()["items"]
    return [each for each in items if each["kind"] == "custom"]


def test_a_run_writes_points_and_they_are_read_back_as_written(solo):
    with running(solo) as (job, mine):
        points = [
            ["loss", 0.5, 0, 1000],
            ["loss", 0.25, 1, 2000],
            ["acc", "nan", 0, 1000],
            ["acc", "-inf", 1, 5],
        ]
        answer = log(solo, job, points, mine)
        assert (answer.status, answer.json()) == (202, {"accepted": 4})
        assert read(solo, job, "loss").json() == {
            "key": "loss", "points": [[0, 1000, 0.5], [1, 2000, 0.25]], "next": None,
        }  # fmt: skip
        assert read(solo, job, "acc").json()["points"] == [[0, 1000, "nan"], [1, 5, "-inf"]]
        acc, loss = custom(solo, job)
        assert loss == {
            "key": "loss", "kind": "custom", "count": 2, "min": 0.25, "max": 0.5, "last": 0.25,
            "last_step": 1, "first_step": 0, "last_time_us": 2000,
        }  # fmt: skip
        assert (acc["min"], acc["max"], acc["last"]) == ("-inf", "-inf", "-inf")
    assert [each["key"] for each in custom(solo, job)] == ["acc", "loss"]
    assert solo.request("GET", f"/jobs/{job}/metrics").json()["final"] is True


def test_points_sent_twice_are_stored_once(solo):
    """P8: whoever is not sure that they arrived sends them again."""
    with running(solo) as (job, mine):
        points = [["x", float(n), n, n] for n in range(3000)]
        for part in (points, points[1000:2000], points, [["x", 0.5, 7, 7]]):
            assert log(solo, job, part, mine).status == 202
        assert custom(solo, job)[0]["count"] == 3001


def test_a_long_series_is_read_in_pages(solo):
    with running(solo) as (job, mine):
        assert log(solo, job, [["x", float(n), n // 3, 5] for n in range(5000)], mine).status == 202
        found, cursor = [], ""
        while True:
            page = read(solo, job, "x", limit=999, **({"cursor": cursor} if cursor else {})).json()
            found += page["points"]
            if (cursor := page["next"]) is None:
                break
        assert found == [[n // 3, 5, float(n)] for n in range(5000)]
        assert read(solo, job, "x", cursor="no").json()["error"]["code"] == "bad-cursor"


def test_a_series_is_made_small(solo):
    with running(solo) as (job, mine):
        for start in range(0, 20_000, 10_000):
            points = [["x", float(n % 100), n, n] for n in range(start, start + 10_000)]
            assert log(solo, job, points, mine).status == 202
        answer = solo.request("GET", f"/jobs/{job}/metrics/buckets?key=x&buckets=200").json()
        assert (answer["count"], len(answer["buckets"])) == (20_000, 200)
        at = 0
        for step, time_us, count, least, most, mean, last in answer["buckets"]:
            values = [n % 100 for n in range(at, at + count)]
            assert (step, time_us) == (at, at) and 80 <= count <= 120
            assert (least, most, last) == (min(values), max(values), values[-1])
            assert mean == pytest.approx(sum(values) / count)
            at += count
        assert at == 20_000
        part = solo.request("GET", f"/jobs/{job}/metrics/buckets?key=x&from_step=150&to_step=159").json()
        assert [each[0] for each in part["buckets"]] == list(range(150, 160))


@pytest.mark.parametrize(
    "points",
    [
        [], [["x", 1.0, 0]], [["", 1.0, 0, 0]], [["x\n", 1.0, 0, 0]], [["x" * 251, 1.0, 0, 0]],
        [["x", "1.0", 0, 0]], [["x", True, 0, 0]], [["x", 1.0, 0.5, 0]], [["x", 1.0, 2**63, 0]],
        [["x", 1.0, 0, -1]], [["x", 1.0, 0, 2**63]], [[1, 1.0, 0, 0]], {"x": 1}, [["x", None, 0, 0]],
        [["x", 1.0, n, 0] for n in range(10_001)],
    ],
)  # fmt: skip
def test_what_is_no_point_is_refused_and_nothing_of_it_is_stored(solo, points):
    with running(solo) as (job, mine):
        assert log(solo, job, points, mine).status == 400
        assert custom(solo, job) == []


def test_numbers_that_json_has_no_word_for_are_refused(solo):
    with running(solo) as (job, mine):
        for number in ("NaN", "Infinity", "1e999"):
            answer = solo.request(
                "POST", f"/jobs/{job}/metrics", headers=mine, token=None,
                body=f'{{"points": [["x", {number}, 0, 0]]}}'.encode(),
            )  # fmt: skip
            assert answer.status == 400, number


def test_a_run_writes_to_its_own_metrics_only(solo):
    """Asset A7, boundary B5, abuse case 4."""
    with running(solo) as (job, mine), running(solo) as (other, theirs):
        assert log(solo, other, [["x", 1.0, 0, 0]], mine).status == 403
        assert log(solo, job, [["x", 1.0, 0, 0]], theirs).status == 403
        assert solo.request("GET", f"/jobs/{other}/metrics", headers=mine, token=None).status == 403
        assert custom(solo, job) == custom(solo, other) == []


def test_what_comes_after_the_end_is_refused(solo):
    """P2: numbers of a job that is over do not change."""
    with running(solo) as (job, mine):
        assert log(solo, job, [["x", 1.0, 0, 0]], mine).status == 202
    for headers in (mine, None):
        answer = log(solo, job, [["x", 2.0, 1, 1]], headers)
        assert (answer.status, answer.json()["error"]["code"]) == (409, "attempt-fenced")
    assert custom(solo, job)[0]["count"] == 1


def test_each_attempt_has_its_own_numbers(solo):
    """P2: an old attempt's token writes nothing, not even beside."""
    script = HOLD.replace(
        "print('up', flush=True)",
        "import urllib.request as r, json; a = int(os.environ['GRADIENT_ATTEMPT'])\n"
        "q = r.Request(os.environ['GRADIENT_JOB_URL'] + '/metrics', json.dumps({'points': [['x', a, 0, 0]]})"
        ".encode(), {'Authorization': 'Bearer ' + os.environ['GRADIENT_JOB_TOKEN']})\n"
        "r.urlopen(q).read(); sys.exit(a == 1)",
    )
    final = solo.finished(solo.job(sys.executable, "-c", script, retries=1)["id"])
    assert (final["state"], final["attempt"]) == ("Stopped", 2), solo.text(final["id"])
    path = f"/jobs/{final['id']}/metrics"
    assert solo.request("GET", path).json()["items"][0]["last"] == 2
    first = solo.request("GET", f"{path}?attempt=1").json()
    assert (first["items"][0]["last"], first["attempt"], first["final"]) == (1, 1, True)
    assert solo.request("GET", f"{path}?attempt=3").json()["error"]["code"] == "no-such-attempt"


def test_a_metric_that_is_not_there_is_not_found(solo):
    job = solo.finished(solo.job("true")["id"])["id"]
    for answer in (read(solo, job, "x"), solo.request("GET", f"/jobs/{job}/metrics/buckets?key=x")):
        assert (answer.status, answer.json()["error"]["code"]) == (404, "no-such-metric")
    assert read(solo, "j000000000000", "x").json()["error"]["code"] == "no-such-job"


def test_a_job_that_waits_has_no_metrics_yet(own_solo):
    own_solo.start()
    with running(own_solo):
        waiting = own_solo.job("true")
        answer = own_solo.request("GET", f"/jobs/{waiting['id']}/metrics").json()
        assert answer == {"items": [], "attempt": 0, "final": False}
        assert log(own_solo, waiting["id"], [["x", 1.0, 0, 0]]).status == 409


def test_whoever_follows_hears_of_each_change_and_of_the_end(solo):
    heard = []
    with running(solo) as (job, mine):
        assert log(solo, job, [["x", 1.0, 0, 0]], mine).status == 202
        stream = solo.events(f"/jobs/{job}/metrics/stream")
        for event, _, data in stream:
            if event == "metrics":
                own = {each["key"]: each["last"] for each in data["items"] if each["kind"] == "custom"}
                heard.append(own)
                if own == {"x": 1.0}:
                    log(solo, job, [["y", 5.0, 0, 0]], mine)
                elif own == {"y": 5.0}:
                    break
        assert heard == [{"x": 1.0}, {"y": 5.0}]
        solo.request("POST", f"/jobs/{job}/stop")
        kinds = [event for event, _, data in stream]
        assert kinds[-1] == "end"
    first, *_, last = solo.events(f"/jobs/{job}/metrics/stream")
    assert (first[0], last[0]) == ("job", "end")


def test_points_survive_the_death_of_the_server(own_solo):
    """P8: what was acknowledged is there after kill -9. Heals with the next start."""
    own_solo.start()
    job = own_solo.job(sys.executable, "-c", HOLD)
    own_solo.printed(job["id"], "up\n")
    token = (own_solo.storage() / f"token-{job['id']}").read_text()
    mine = {"Authorization": f"Bearer {token}"}
    stored = 0
    for round_ in range(3):
        for number in range(40):
            points = [["x", float(stored + n), stored + n, 0] for n in range(25)]
            assert log(own_solo, job["id"], points, mine).status == 202, (round_, number)
            stored += 25
        own_solo.kill()
        own_solo.start()
    found = read(own_solo, job["id"], "x", limit=100_000).json()["points"]
    assert found == [[n, 0, float(n)] for n in range(stored)]
    own_solo.request("POST", f"/jobs/{job['id']}/stop")
    own_solo.finished(job["id"])


def test_a_run_that_floods_is_told_where_the_limit_is(own_solo):
    """Abuse case 13: asset A8. Others go on, and so does the run."""
    own_solo.options = (
        *own_solo.options, "--GradientServer.max_metric_points=100", "--GradientServer.max_metrics=3",
    )  # fmt: skip
    own_solo.start()
    with running(own_solo) as (job, mine):
        assert log(own_solo, job, [["x", 1.0, n, 0] for n in range(100)], mine).status == 202
        answer = log(own_solo, job, [["x", 1.0, 100, 0]], mine)
        assert (answer.status, answer.json()["error"]["code"]) == (413, "too-many-points")
    with running(own_solo) as (job, mine):
        answer = log(own_solo, job, [[f"x{n}", 1.0, 0, 0] for n in range(4)], mine)
        assert (answer.status, answer.json()["error"]["code"]) == (413, "too-many-metrics")


BUSY = HOLD.replace(
    "print('up', flush=True)", "held = bytearray(200_000_000); print('up', flush=True)"
).replace("time.sleep(600)", "[0 for _ in iter(int, 1)]")


def test_what_a_running_job_uses_is_measured_under_gradients_names(own_solo):
    own_solo.options = (*own_solo.options, "--GradientServer.system_metrics_s=1")
    own_solo.start()
    with running(own_solo, BUSY) as (job, _):
        last = {}
        for event, _, data in own_solo.events(f"/jobs/{job}/metrics/stream"):
            assert event != "end"
            if event == "metrics":
                last |= {each["key"]: each for each in data["items"]}
                if last.get("cpuPercentage", {"count": 0})["count"] >= 2:
                    break
    assert {each["kind"] for each in last.values()} == {"system"}
    assert 200e6 <= last["memoryUsage"]["last"] < 2e9
    assert 0 < last["cpuPercentage"]["max"] <= 150
    assert last["memoryUsage"]["last_time_us"] <= time.time_ns() // 1000


def test_no_metrics_are_measured_where_that_is_switched_off(own_solo):
    own_solo.options = (*own_solo.options, "--GradientServer.system_metrics_s=0")
    own_solo.start()
    job = own_solo.finished(own_solo.job("sleep", "1.5")["id"])["id"]
    assert own_solo.request("GET", f"/jobs/{job}/metrics").json()["items"] == []


def test_a_deleted_job_takes_its_metrics_with_it(solo):
    with running(solo) as (job, mine):
        assert log(solo, job, [["x", 1.0, 0, 0]], mine).status == 202
        directory = solo.data / "jobs" / job
        assert (directory / "1" / "metrics.sqlite").exists()
    solo.deleted(job)
    assert not directory.exists()


def held(solo, path) -> bool:
    """Whether the server has the file, or one beside it, open."""
    where = f"/proc/{solo.process.pid}/fd"
    for fd in os.listdir(where):
        with contextlib.suppress(OSError):
            if os.readlink(f"{where}/{fd}").startswith(str(path)):
                return True
    return path.with_name(f"{path.name}-wal").exists()


def test_damage_to_one_runs_metrics_concerns_nothing_else(solo):
    """P13: damage is said, and harms nobody else."""
    with running(solo) as (job, mine):
        assert log(solo, job, [["x", 1.0, 0, 0]], mine).status == 202
    path = solo.data / "jobs" / job / "1" / "metrics.sqlite"
    while held(solo, path):  # what the server still has open it makes whole again
        assert solo.request("GET", f"/jobs/{job}").status == 200
    path.write_bytes(b"\xff" * 4096)
    answer = solo.request("GET", f"/jobs/{job}/metrics")
    assert (answer.status, answer.json()["error"]["code"]) == (500, "metrics-damaged")
    assert solo.request("GET", f"/jobs/{job}").status == 200
    assert "up" in solo.text(job)


def test_metrics_of_a_name_with_every_kind_of_letter(solo):
    with running(solo) as (job, mine):
        names = [
            "val/loss",
            "große Zahl €",
            "a.b-c_d e",
            "../../etc/passwd",
            "'; DROP TABLE series; --",
            "%00",
        ]
        assert log(solo, job, [[name, 1.0, 0, 0] for name in names], mine).status == 202
        assert sorted(each["key"] for each in custom(solo, job)) == sorted(names)
        for name in names:
            assert read(solo, job, quote(name, safe="")).json()["points"] == [[0, 0, 1.0]]
