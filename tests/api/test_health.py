"""For those who watch the server: alive, ready, its figures, its log."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gradient_jupyter.control import context
from gradient_jupyter.control.context import Asking
from gradient_jupyter.server.loglines import Burst, JsonFormatter, TextFormatter, set_up


def get(server, path, token="ours", **headers):
    sent = {"Authorization": f"Bearer {server.runtime.token}"} if token == "ours" else {}
    return server._pool.request("GET", server.runtime.url + path, headers=sent | headers)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_tells_one_word_to_everybody(solo, path):
    answer = get(solo, path, token=None)
    assert (answer.status, answer.data) == (200, path.rpartition("/")[2].encode() + b"\n")
    assert get(solo, path + "?verbose=1", token=None).status == 400
    assert get(solo, path, token=None, Host="evil.test").status == 403


def test_a_server_that_may_change_nothing_is_alive_and_not_ready(own_solo):
    own_solo.start()
    own_solo.finished(own_solo.job("true")["id"])
    own_solo.stop()
    database = own_solo.data / "gradient.sqlite"
    # The root page of a table that nobody needs to start: what is stored there can no longer be read.
    with sqlite3.connect(database) as opened:
        (page,) = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = 'spent_keys'").fetchone()
        (size,) = opened.execute("PRAGMA page_size").fetchone()
    opened.close()
    with database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 100)
    own_solo.launch()
    if not own_solo.ready():
        pytest.fail(own_solo.log())
    read_only = own_solo.request("GET", "/server").json()["read_only"]
    assert read_only
    assert get(own_solo, "/health/live", token=None).status == 200
    answer = get(own_solo, "/health/ready", token=None)
    assert (answer.status, answer.data) == (503, b"not ready\n")
    assert b"gradient_read_only 1.0" in get(own_solo, "/metrics").data


def figures(server):
    answer = get(server, "/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(answer.data.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_the_figures_are_what_happened(own_solo):
    own_solo.start()
    own_solo.finished(own_solo.job("true")["id"])
    for _ in range(3):
        own_solo.request("GET", "/jobs/jnope")
    own_solo.request("GET", "/jobs", token="gru_wrong")
    found = figures(own_solo)

    def requests(method, route, status):
        return found[
            "gradient_http_requests_total", (("method", method), ("route", route), ("status", status))
        ]

    assert requests("GET", "/api/v1/jobs/{job_id}", "404") == 3
    assert requests("POST", "/api/v1/jobs", "201") == 1
    assert requests("GET", "/api/v1/jobs", "401") == 1
    assert found["gradient_jobs", (("state", "Stopped"),)] == 1
    assert found["gradient_jobs", (("state", "Running"),)] == 0
    assert found["gradient_engine_up", ()] == 1
    assert found["gradient_queue_length", ()] == found["gradient_streams", ()] == 0
    assert found["gradient_refused_tokens_total", ()] == 1
    assert found["gradient_disk_free_bytes", ()] > 0
    latency = "gradient_http_request_duration_seconds"
    labels = (("method", "GET"), ("route", "/api/v1/jobs/{job_id}"))
    assert found[f"{latency}_count", labels] == 3
    assert found[f"{latency}_bucket", (("le", "+Inf"), *labels)] == 3
    assert found["process_resident_memory_bytes", ()] > 0


def test_nobody_outside_can_make_a_new_label(own_solo):
    """Cardinality: names, ids, paths and methods that others choose are no labels."""
    own_solo.start()

    def flood(start):
        for number in range(start, start + 20):
            own_solo.request("GET", f"/jobs/j{number}")
            own_solo.request("GET", f"/nothing/{number}")
            own_solo._pool.request(f"VERB{number}", own_solo.runtime.url + f"/api/v1/x{number}")

    flood(0)
    figures(own_solo)
    before = figures(own_solo)
    flood(1000)
    after = figures(own_solo)
    assert set(after) == set(before)
    assert not any("VERB" in str(labels) or "/j1" in str(labels) for _, labels in after)


def test_each_answer_bears_an_id_and_a_callers_own_only_when_it_is_harmless(solo):
    ids = {solo.request("GET", "/server").headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3 and all(each.startswith("rq") for each in ids)
    kept = solo.request("GET", "/server", headers={"X-Request-Id": "ci-4711.a_b"})
    assert kept.headers["X-Request-Id"] == "ci-4711.a_b"
    for hostile in ("a b", "x" * 65, "<b>", "-x", '"', "a,b", "../x"):
        answer = solo.request("GET", "/server", headers={"X-Request-Id": hostile})
        assert answer.headers["X-Request-Id"].startswith("rq"), hostile
    for refused in (
        solo.request("GET", "/nothing"),
        solo.request("GET", "/jobs", token=None),
        solo.request("GET", "/jobs/%FF"),
        solo.request("GET", "/jobs", headers={"Host": "evil.test"}),
    ):
        assert refused.headers["X-Request-Id"].startswith("rq")


def lines(server):
    return [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]


def test_the_log_as_json_tells_each_request_by_its_template(own_solo):
    own_solo.options = (*own_solo.options, "--GradientServer.log_json=True")
    own_solo.start()
    job = own_solo.job("true")
    own_solo.finished(job["id"])
    own_solo.request("GET", f"/jobs/{job['id']}?x=1", headers={"X-Request-Id": "find-me"})
    own_solo.request("GET", f"/jobs/{job['id']}/artifacts/secret-file-name")
    own_solo.stop()
    assert all(line.startswith("{") for line in own_solo.log().splitlines())
    found = lines(own_solo)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in found)
    (mine,) = (line for line in found if line.get("request_id") == "find-me")
    assert (mine["method"], mine["route"], mine["status"]) == ("GET", "/api/v1/jobs/{job_id}", 400)
    assert mine["duration_ms"] >= 0 and mine["user_id"].startswith("u") and mine["job_id"] == job["id"]
    assert "secret-file-name" not in own_solo.log()
    assert own_solo.runtime.token not in own_solo.log()


def test_a_log_for_people_says_request_and_user_and_can_leave_requests_out(own_solo):
    own_solo.start()
    own_solo.request("GET", "/jobs/jnope", headers={"X-Request-Id": "find-me"})
    own_solo.stop()
    (line,) = (line for line in own_solo.log().splitlines() if "find-me" in line)
    assert "GET /api/v1/jobs/{job_id} 404" in line and "user=u" in line
    own_solo.options = (*own_solo.options, "--GradientServer.log_requests=False")
    own_solo.start()
    own_solo.request("GET", "/jobs/jnope", headers={"X-Request-Id": "not-me"})
    own_solo.stop()
    assert "not-me" not in own_solo.log()


def record(message, *args, **extra):
    made = logging.LogRecord("gradient_jupyter.x", logging.INFO, "x.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_line_is_one_line_whatever_somebody_named():
    """Row 62, log injection: neither a line's end nor a terminal's orders come through."""
    hostile = "a\n2026-01-01 ERROR forged\r\x1b[2J\x1b]0;title\x07\u202e\ud800"
    text = TextFormatter("%(message)s%(about)s").format(record("%s", hostile))
    assert "\n" not in text and "\x1b" not in text and "\u202e" not in text and "\x07" not in text
    line = JsonFormatter().format(record("%s", hostile))
    assert "\n" not in line and json.loads(line)["message"].startswith("a\n2026")
    hostile = "a\x7f\x9b2J\u2028\u202e\U000e0001"
    line = JsonFormatter().format(record("%s", hostile))
    assert line.isprintable() and json.loads(line)["message"] == hostile


@pytest.mark.parametrize("kept", [None, "2026-01-01 00:00:00 INFO forged"])
def test_what_an_exception_says_forges_no_line_and_orders_no_terminal(kept):
    """Row 62, log injection: an exception's text holds what somebody sent, also that of its cause."""
    said = "a\n2026-01-01 00:00:00 ERROR forged\r\x1b[2J\x9b2J\u202e"
    try:
        try:
            raise ValueError(said)
        except ValueError as error:
            raise RuntimeError(said) from error
    except RuntimeError:
        made = record("it failed", exc_info=sys.exc_info(), exc_text=kept, stack_info=f"Stack:\n{said}")
    first, *rest = TextFormatter("%(message)s%(about)s").format(made).split("\n")
    assert first == "it failed" and len(rest) > 10
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert sum("forged" in line for line in rest) == 3
    line = JsonFormatter().format(made)
    assert line.isprintable()
    told = json.loads(line)["exception"].split("\n")
    assert sum("forged" in each for each in told) == 2 and "test_health.py" in "".join(told)
    assert all(each.startswith("    ") and each.isprintable() for each in told)


def test_what_the_server_does_for_a_job_says_which():
    with context.about_job("j1"):
        assert json.loads(JsonFormatter().format(record("deleted")))["job_id"] == "j1"
        assert TextFormatter("%(message)s%(about)s").format(record("deleted")) == "deleted [job=j1]"
    assert "job_id" not in json.loads(JsonFormatter().format(record("deleted")))
    asking = Asking(request_id="rq1", user_id="u1", token_id="tk1", attempt="j1-1", address="127.0.0.1")
    line = json.loads(JsonFormatter().format(record("x", asking=asking)))
    assert (line["request_id"], line["user_id"], line["attempt"]) == ("rq1", "u1", "j1-1")


def test_a_flood_of_requests_does_not_fill_the_log():
    burst = Burst(most=10, per_s=0.0)
    passed = [record("x") for _ in range(1000)]
    assert sum(map(burst.filter, passed)) == 10
    burst._left = 1
    last = record("x")
    assert burst.filter(last) and "990 requests before it are not told" in last.getMessage()


def test_setting_up_twice_counts_once():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    requests = logging.getLogger("gradient_jupyter.requests")
    filters = requests.filters[:]
    try:
        set_up(logging.INFO, as_json=True)
        set_up(logging.INFO, as_json=False)
        assert len(root.handlers) == 1
        assert len([each for each in requests.filters if isinstance(each, Burst)]) == 1
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        requests.filters[:] = filters
