"""``gradient jobs metrics``: read aloud, watched, and as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from gradient_jupyter.cli.jobs_metrics import curve
from gradient_jupyter.resources.metric import Bucket

from .conftest import environment

SCRIPT = """
import json, math, os, urllib.request
def log(*points):
    request = urllib.request.Request(
        os.environ["GRADIENT_JOB_URL"] + "/metrics", json.dumps({"points": points}).encode(),
        {"Authorization": "Bearer " + os.environ["GRADIENT_JOB_TOKEN"]})
    urllib.request.urlopen(request).read()
log(*(["loss", math.exp(-n / 20), n, 1000000 * n] for n in range(100)))
log(*(["val/accuracy", 1 - math.exp(-n / 20), 10 * n, 10000000 * n] for n in range(10)), ["seed", 42, 0, 0])
log(["odd", "nan", 0, 0])
log(["\\u202eevil \\u2028name", 1, 0, 0])
"""


@pytest.fixture(scope="module")
def trained(solo):
    job = solo.finished(solo.job(sys.executable, "-c", SCRIPT)["id"])
    assert job["state"] == "Stopped", solo.text(job["id"])
    return str(job["id"])


def test_the_table_shows_each_metric_with_its_extremes_and_its_curve(gradient, trained):
    ended = gradient("jobs", "metrics", trained, "--custom", COLUMNS="100")
    assert ended.code == 0, ended.err
    lines = {line.split()[0]: line for line in ended.out.splitlines() if line.strip() and "──" not in line}
    assert set(lines) == {"Metric", "evil", "loss", "odd", "seed", "val/accuracy"}
    assert lines["loss"].split()[1:6] == ["0.007083", "99", "0.007083", "1", "100"]
    assert lines["loss"].rstrip().endswith("▁") and "█" in lines["loss"]
    assert lines["seed"].split() == ["seed", "42", "0", "42", "42", "1"]
    assert lines["odd"].split()[1:] == ["nan", "0", "–", "–", "1"]
    assert "\u202e" not in ended.out


def test_names_choose_and_a_star_completes_them(gradient, trained):
    ended = gradient("jobs", "metrics", trained, "val/*", "seed")
    assert [line.split()[0] for line in ended.out.splitlines()[2:]] == ["seed", "val/accuracy"]
    missing = gradient("jobs", "metrics", trained, "nothing")
    assert missing.code == 1
    assert "There is no metric 'nothing' here." in missing.err


def test_json_is_summaries_points_or_buckets(gradient, trained):
    whole = json.loads(gradient("jobs", "metrics", trained, "--json").out)
    assert {each["key"] for each in whole} >= {"loss", "seed", "odd"}
    (loss,) = json.loads(gradient("jobs", "metrics", trained, "loss", "--json").out)
    assert [point[0] for point in loss["points"]] == list(range(100))
    (loss,) = json.loads(gradient("jobs", "metrics", trained, "loss", "--json", "--buckets", "10").out)
    assert [bucket[2] for bucket in loss["buckets"]] == [10] * 10
    some = gradient("jobs", "metrics", trained, "loss", "--json", "--end", "1970-01-01T00:00:10+00:00")
    assert len(json.loads(some.out)[0]["points"]) == 11


def test_gradients_own_words_are_understood(gradient, trained):
    as_typed = gradient("jobs", "metrics", "get", "--id", trained, "loss")
    assert as_typed.code == 0 and "loss" in as_typed.out


def test_what_is_followed_ends_with_the_job(gradient, trained):
    ended = gradient("jobs", "metrics", trained, "seed", "loss", "--follow")
    assert ended.code == 0
    assert sorted(ended.out.splitlines()) == ["loss  0.007083  step 99", "seed  42  step 0"]
    lines = gradient("jobs", "metrics", "stream", "--jobId", trained, "seed", "--json").out.splitlines()
    assert [json.loads(line)["last"] for line in lines] == [42]


def test_on_a_terminal_the_table_is_drawn_where_it_stands(gradient, trained, solo):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "gradient_jupyter.cli", "jobs", "metrics", trained, "loss", "-f"],
        env=environment(solo, TERM="xterm", COLUMNS="80"), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    assert process.wait() == 0
    os.close(ours)
    assert "loss" in seen.decode() and "█" in seen.decode()


def test_a_job_without_numbers_says_how_to_write_some(gradient, solo):
    job = solo.finished(solo.job("true")["id"])["id"]
    ended = gradient("jobs", "metrics", str(job))
    assert (ended.code, ended.out) == (0, "")
    assert "left no numbers" in ended.err and "log_metrics" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Name one job"),
        (("JOB", "--system", "--custom"), "leave nothing"),
        (("JOB", "--follow", "--buckets", "3"), "--follow shows what comes now"),
        (("JOB", "--buckets", "3"), "--buckets is for --json"),
        (("JOB", "--start", "yesterday"), "is no time"),
    ],
)
def test_what_makes_no_sense_is_said(gradient, words, said):
    ended = gradient("jobs", "metrics", *words)
    assert ended.code == 2
    assert said in ended.err


def test_a_curve_goes_from_the_least_to_the_greatest():
    def bucket(mean):
        return Bucket(0, 0, 1, mean, mean, mean, 0.0)

    assert curve([bucket(float(n)) for n in range(8)]) == "▁▂▃▄▅▆▇█"
    assert curve([bucket(1.0), bucket(None), bucket(1.0)]) == "▄·▄"
    assert curve([bucket(None)]) == ""
    assert curve([bucket("inf"), bucket(0.0), bucket(1.0)]) == "·▁█"
    assert curve([bucket(-1e308), bucket(1e308)]) == "▄▄"
    assert curve([bucket(0.0), bucket(0.0)], 0.0) == "▁▁", "an idle machine"
    assert curve([bucket(50.0), bucket(50.0)], 0.0) == "██", "a busy one"
    assert curve([bucket(-4.0), bucket(4.0)], 0.0) == "▁█"
