"""The push-gateway of old scripts: the real ``gradient_utils`` inside real jobs, and whatever text comes."""

from __future__ import annotations

import math
import sys
from urllib.parse import urlencode

import prometheus_client
import pytest
import urllib3
from clients import client_python

from gradient_jupyter.control.measuring.pushed import grouping, parse
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.store import pointfile

#: Leaves its address in /storage and waits for a word.
HOLD = """
import os, time
home = os.environ["GRADIENT_STORAGE_DIR"] + "/" + os.environ["GRADIENT_JOB_ID"]
with open(home + ".new", "w") as file:
    file.write(os.environ["PAPERSPACE_METRIC_PUSHGATEWAY"] + "\\n" + os.environ["GRADIENT_JOB_TOKEN"])
os.rename(home + ".new", home + ".address")
print("up", flush=True)
while not os.path.exists(home + ".go"):
    time.sleep(0.02)
"""


class Holding:
    """A running job, and the address it pushes to."""

    def __init__(self, solo) -> None:
        self.solo = solo
        self.id = str(solo.job(sys.executable, "-c", HOLD)["id"])
        solo.printed(self.id, "up\n")
        (path,) = solo.data.glob(f"storage/user/*/{self.id}.address")
        self.address, self.token = path.read_text().split("\n")
        self._go = path.with_suffix(".go")
        self._pool = urllib3.PoolManager(retries=False)

    def push(self, text, path="/metrics/job/x", method="PUT", address=None):
        body = text.encode() if isinstance(text, str) else text
        return self._pool.request(method, (address or self.address) + path, body=body)

    def points(self, key):
        answer = self.solo.request("GET", f"/jobs/{self.id}/metrics/points?{urlencode({'key': key})}")
        assert answer.status == 200, answer.data
        return [(step, value) for step, _, value in answer.json()["points"]]

    def keys(self):
        items = self.solo.request("GET", f"/jobs/{self.id}/metrics").json()["items"]
        return sorted(each["key"] for each in items if each["kind"] == "custom")

    def end(self):
        self._go.touch()
        self.solo.finished(self.id)


@pytest.fixture
def holding(solo):
    job = Holding(solo)
    yield job
    job.end()


OLD_SCRIPT = """
from gradient_utils.metrics import init, add_metrics, MetricsLogger
init()
for epoch in range(50):
    add_metrics({"loss": 1 / (epoch + 1), "accuracy": epoch / 50}, step=epoch)
    add_metrics({"validation": epoch * 2}, step=epoch)
add_metrics({"loss": 0.5}, step=49)
for _ in range(3):
    add_metrics({"unstepped": 1.5})
logger = MetricsLogger()
for add, name in (("gauge", "g"), ("counter", "c"), ("summary", "s"), ("histogram", "h"), ("info", "i")):
    getattr(logger, "add_" + add)(name)
for round in range(4):
    logger["g"].set(round * 1.5)
    logger["c"].inc(2)
    logger["s"].observe(round)
    logger["h"].observe(0.02 * round)
    logger["i"].info({"layers": "3", "optimizer": 'a"b'})
    logger.set_step(round * 10)
    logger.push_metrics()
"""


def test_the_original_gradient_utils_logs_from_inside_a_job(solo):
    """Its add_metrics keeps every point, also where two calls are for one step: a push-gateway lost them."""
    host = {"python": client_python("gradient-utils"), "path": ["/usr/bin", "/bin"]}
    job = solo.job("python", "-c", OLD_SCRIPT, host=host)
    final = solo.finished(job["id"])
    assert final["state"] == "Stopped", solo.text(job["id"])

    def points(key):
        read = solo.request("GET", f"/jobs/{job['id']}/metrics/points?{urlencode({'key': key})}")
        assert read.status == 200, read.data
        return [(step, value) for step, _, value in read.json()["points"]]

    assert points("loss") == [*((n, 1 / (n + 1)) for n in range(50)), (49, 0.5)]
    assert points("accuracy") == [(n, n / 50) for n in range(50)]
    assert points("validation") == [(n, n * 2.0) for n in range(50)]
    assert points("unstepped") == [(0, 1.5), (1, 1.5), (2, 1.5)]
    rounds = (0, 10, 20, 30)
    assert points("g") == list(zip(rounds, (0.0, 1.5, 3.0, 4.5), strict=True))
    assert points("c_total") == list(zip(rounds, (2.0, 4.0, 6.0, 8.0), strict=True))
    assert points("s_count") == list(zip(rounds, (1.0, 2.0, 3.0, 4.0), strict=True))
    assert points("s_sum") == list(zip(rounds, (0.0, 1.0, 3.0, 6.0), strict=True))
    assert points('h_bucket{le="0.025"}') == list(zip(rounds, (1.0, 2.0, 2.0, 2.0), strict=True))
    assert points('h_bucket{le="+Inf"}') == list(zip(rounds, (1.0, 2.0, 3.0, 4.0), strict=True))
    assert points('i_info{layers="3",optimizer="a\\"b"}') == [(step, 1.0) for step in rounds]
    items = solo.request("GET", f"/jobs/{job['id']}/metrics").json()["items"]
    assert not [each["key"] for each in items if "_created" in each["key"] or "pod" in each["key"]]


def test_a_pushed_series_becomes_points_under_its_name_and_labels(holding):
    text = '# TYPE loss gauge\nloss{split="train",pod="p",step="9"} 0.25\nloss{split="a\\nb"} NaN\nup +Inf\n'
    answer = holding.push(text, "/metrics/job/x/step/7/instance/y")
    assert (answer.status, answer.json()) == (202, {"accepted": 3})
    assert holding.keys() == ['loss{split="a\\nb"}', 'loss{split="train"}', "up"]
    assert holding.points("up") == [(7, "inf")]
    assert holding.push("up 1\n", method="POST").status == 202
    assert holding.push("up 2 86400000\n").status == 202
    assert holding.points("up") == [(7, "inf"), (8, 1), (9, 2)]
    assert holding.push("", "/metrics/job/x", "DELETE").status == 202
    assert holding.push("").status == 202
    assert holding.points("up") == [(7, "inf"), (8, 1), (9, 2)]


def test_the_newest_prometheus_client_pushes_too(holding):
    registry = prometheus_client.CollectorRegistry()
    gauge = prometheus_client.Gauge("depth", "of it", ["where"], registry=registry)
    for turn in range(3):
        gauge.labels("here").set(turn)
        prometheus_client.push_to_gateway(
            holding.address, job="a b/c", registry=registry, grouping_key={"step": turn * 5, "empty": ""}
        )
    prometheus_client.pushadd_to_gateway(holding.address, job="x", registry=registry)
    prometheus_client.delete_from_gateway(holding.address, job="x")
    assert holding.points('depth{where="here"}') == [(0, 0), (5, 1), (10, 2), (11, 2)]


def test_steps_count_on_in_the_next_server(own_solo):
    """Fault: the server is killed between two pushes without a step."""
    own_solo.start()
    holding = Holding(own_solo)
    for value in range(3):
        assert holding.push(f"a {value}\n").status == 202
    own_solo.kill()
    own_solo.start()
    assert holding.push("a 3\n").status == 202
    assert holding.points("a") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    holding.end()


def refused(answer):
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    return answer.status, answer.data.decode().partition(":")[0]


def test_the_address_opens_nothing_but_this(solo, holding):
    """Asset A3, boundary B5 (abuse case 4): each of a run's two tokens is worth nothing in the other's
    place, and a foreign or invented one is worth nothing anywhere."""
    server, _, push_token = holding.address.partition("/pushgateway/")
    assert push_token.startswith("grp_") and holding.token.startswith("grj_")
    for bearer in (push_token, "grj_" + push_token[4:]):
        answer = solo.request("GET", f"/jobs/{holding.id}", token=bearer)
        assert answer.status == 401, answer.data
    job_id = holding.id
    for wrong in (
        holding.token,
        "grp_" + holding.token[4:],
        push_token[:-1] + ("0" if push_token[-1] != "0" else "1"),
        push_token.replace(job_id, "j" + "0" * 12),
        push_token.replace("-1_", "-2_"),
        solo.runtime.token,
        "",
        "x",
    ):
        answer = holding.push("loss 1\n", address=f"{server}/pushgateway/{wrong}")
        assert refused(answer) == (401, "wrong-token"), wrong
    for path in ("", "/", "/metrics", "/api/v1/jobs", "/metrics/job/x/../../../../api/v1/jobs"):
        answer = holding.push("loss 1\n", path)
        assert answer.status in (401, 404), (path, answer.data)
    assert holding.push("", method="GET").status == 405
    own = {"Authorization": f"Bearer {solo.runtime.token}"}
    answer = urllib3.request("PUT", f"{server}/pushgateway/x/metrics/job/x", body=b"a 1\n", headers=own)
    assert refused(answer) == (401, "wrong-token")
    assert holding.keys() == []


def test_the_address_dies_with_its_attempt(solo):
    holding = Holding(solo)
    assert holding.push("a 1\n").status == 202
    holding.end()
    assert refused(holding.push("a 2\n")) == (409, "attempt-fenced")
    assert holding.points("a") == [(0, 1)]


def test_the_address_is_in_no_log_and_no_answer(own_solo):
    """Asset A3 (abuse case 12): also where something goes wrong with a request to it."""
    own_solo.start()
    holding = Holding(own_solo)
    token = holding.address.rpartition("/")[2]
    in_the_way = own_solo.data / "jobs" / holding.id / "1" / pointfile.NAME
    in_the_way.mkdir()
    said = [holding.push("a 1\n")]
    assert said[0].status == 500
    in_the_way.rmdir()
    said += [
        holding.push("a 1\n"),
        holding.push("a 1 1 1 1\n"),
        holding.push("a 1\n", "/metrics/nothing"),
        holding.push("a 1\n", "/other"),
        own_solo.request("GET", f"/jobs/{holding.id}"),
        own_solo.request("GET", "/jobs"),
    ]
    holding.end()
    secret = token.rpartition("_")[2].encode()
    assert not [each.data for each in said if secret in each.data]
    assert token not in own_solo.log() and secret.decode() not in own_solo.log()
    for path in (own_solo.data / "engines").rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes()


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        (b"\xff\xfe\n", 400, "bad-text"),
        ("loss\n", 400, "bad-text"),
        ("loss one\n", 400, "bad-text"),
        ("loss{a=\n", 400, "bad-text"),
        ('loss{a="b} 1\n', 400, "bad-text"),
        ("# TYPE loss nonsense\nloss 1\n", 400, "bad-text"),
        ("\0 1\n", 400, None),
        ("x" * 300 + " 1\n", 400, "bad-metric"),
        ('loss{a="\x01"} 1\n', 400, "bad-metric"),
        ("loss 1 -5\n", 400, "bad-metric"),
        ("loss 1 1e300\n", 400, None),
        ("loss{" + ",".join(f'l{n}="1"' for n in range(30)) + "} 1\n", 413, "too-many-labels"),
        ('loss{a="' + "x" * 5000 + '"} 1\n', 413, "line-too-long"),
        ("".join(f"m{n} 1\n" for n in range(10_001)), 413, "too-many-points"),
        ("# " + "x" * 4000 + "\n", 202, None),
        ("#" + "\n" * 200_000, 202, None),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_whatever_is_pushed_is_stored_or_refused_with_a_reason(holding, text, status, code):
    """Boundary B5 (abuse case 13)."""
    answer = holding.push(text)
    assert answer.status == status, answer.data
    if status >= 400:
        assert code is None or refused(answer) == (status, code)
        assert holding.keys() == []


def test_more_than_a_push_may_bring_is_refused(holding):
    answer = holding.push("# " + "x\n# " * 400_000)
    assert refused(answer) == (413, "body-too-large")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("job/x", {"job": "x"}),
        ("job/x/step/3", {"job": "x", "step": "3"}),
        ("job@base64/YS9i/step/None", {"job": "a/b", "step": "None"}),
        ("job/x/empty@base64/=", {"job": "x", "empty": ""}),
        ("job/x/step/", {"job": "x", "step": ""}),
    ],
)
def test_the_address_says_who_pushes_and_which_step_it_is(path, found):
    assert grouping(path) == found


@pytest.mark.parametrize("path", ["", "job", "job/", "x/y", "job/x/step", "job@base64/*", "job/x" * 30])
def test_an_address_that_says_nothing_is_refused(path):
    if path == "job/":
        assert grouping(path) == {"job": ""}
        return
    with pytest.raises(GradientError):
        grouping(path)


def test_values_are_what_they_were():
    found = {key: value for key, value, _, _ in parse(b"a 1e-7\nb -Inf\nc NaN\n")}
    assert (found["a"], found["b"], math.isnan(found["c"])) == (1e-7, -math.inf, True)
