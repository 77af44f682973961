"""``gradient_job`` inside real jobs: not one point is lost, whatever becomes of the process or the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from urllib.parse import urlencode

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(solo, code, *arguments, **fields):
    """The job, ended."""
    return solo.finished(solo.job("python", "-c", code, *arguments, **fields)["id"])


def metrics(solo, job_id):
    answer = solo.request("GET", f"/jobs/{job_id}/metrics")
    assert answer.status == 200, answer.data
    items = answer.json()["items"]
    return {each["key"]: each for each in items if each["kind"] == "custom"}


def counts(solo, job_id):
    return {key: each["count"] for key, each in metrics(solo, job_id).items()}


def points(solo, job_id, key):
    answer = solo.request("GET", f"/jobs/{job_id}/metrics/points?{urlencode({'key': key, 'limit': 100_000})}")
    assert answer.status == 200, answer.data
    return [(step, value) for step, _, value in answer.json()["points"]]


VALUES = """
import gradient_job, numpy
gradient_job.log_metrics({"a": 1, "b": 0.1, "c": True}, step=5)
gradient_job.log_metrics({"a": numpy.float32(0.5), "b": numpy.int64(2**40), "c": numpy.array(7.0)})
gradient_job.log_metric("a", float("nan"), step=numpy.int64(-3))
gradient_job.log_metric("a", float("inf"), step=2.0)
gradient_job.log_metric("a", float("-inf"))
gradient_job.log_metrics({"old": 1}, time=1.5)
gradient_job.log_metrics({"Größe \\"ü\\" \\\\ 漢字 🚀": 1e-300})
gradient_job.log_metrics({})
gradient_job.set_progress(0.25, "quarter\\nof it")
"""


def test_numbers_arrive_as_they_were_logged_and_count_on(solo):
    final = run(solo, VALUES)
    assert final["state"] == "Stopped", solo.text(final["id"])
    assert final["progress"] == {"fraction": 0.25, "message": "quarter of it"}
    found = points(solo, final["id"], "a")
    assert found == [(-3, "nan"), (2, "inf"), (3, "-inf"), (5, 1), (6, 0.5)]
    assert points(solo, final["id"], "b") == [(5, 0.1), (6, 2.0**40)]
    assert points(solo, final["id"], "c") == [(5, 1), (6, 7)]
    assert points(solo, final["id"], 'Größe "ü" \\ 漢字 🚀') == [(0, 1e-300)]
    assert metrics(solo, final["id"])["old"]["last_time_us"] == 1_500_000
    assert solo.text(final["id"]) == ""


#: Logs, writes down how much it has logged, and ends as it is told to.
ENDING = """
import gradient_job, os, signal, sys
witness = open(os.environ["GRADIENT_STORAGE_DIR"] + "/" + os.environ["GRADIENT_JOB_ID"], "w")
for n in range(int(sys.argv[2])):
    gradient_job.log_metrics({"x": n, "y": -n}, step=n)
    witness.seek(0)
    witness.write(str(n + 1))
    witness.flush()
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "_exit":
    os._exit(0)
if sys.argv[1] == "abort":
    os.abort()
if sys.argv[1] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("ending", ["kill", "_exit", "abort", "raise", "return"])
@pytest.mark.parametrize("many", [1, 2500])
def test_a_process_may_end_as_it_likes_and_what_it_logged_is_there(solo, ending, many):
    """Fault: the process dies without a word, with points unsent. Promise: what ``log_metrics`` returned from
    is kept. Heals with the end of the attempt; the witness is a file of the job's own."""
    final = run(solo, ENDING, ending, str(many))
    (witness,) = solo.data.glob(f"storage/user/*/{final['id']}")
    assert witness.read_text() == str(many)
    assert points(solo, final["id"], "x") == [(n, n) for n in range(many)]
    assert points(solo, final["id"], "y") == [(n, -n) for n in range(many)]


def test_a_process_killed_from_outside_while_it_logs_loses_nothing_that_it_had_logged(solo):
    """The kill comes in the middle of the loop, not at its end."""
    job = solo.job("python", "-c", "print('up', flush=True)\n" + ENDING, "return", "100000000")
    solo.printed(job["id"], "up\n")
    (witness,) = until(lambda: list(solo.data.glob(f"storage/user/*/{job['id']}")))
    until(lambda: len(witness.read_text()) > 3)
    for path in os.listdir("/proc"):
        if path.isdecimal() and marked(path, str(job["id"])):
            os.kill(int(path), signal.SIGKILL)
    solo.finished(job["id"])
    logged = int(witness.read_text())
    found = points(solo, job["id"], "x")
    assert len(found) in (logged, logged + 1)  # the last may not have been written down any more
    assert found == [(n, n) for n in range(len(found))]


def until(condition):
    """For what announces itself to nobody."""
    while not (found := condition()):
        time.sleep(0.02)
    return found


def marked(pid, job_id):
    """Whether this is the job's own Python, not what stands beside it."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline, open(f"/proc/{pid}/environ", "rb") as environ:
            own = cmdline.read().startswith(b"python\0")
            return own and f"GRADIENT_JOB_ID={job_id}\0".encode() in environ.read()
    except OSError:
        return False


FAMILY = """
import gradient_job, multiprocessing, os, sys, threading

def work(name):
    for n in range(300):
        gradient_job.log_metric(name, n)

def main():
    gradient_job.log_metric("before", 1)
    forked = [multiprocessing.get_context("fork").Process(target=work, args=("forked",)) for _ in range(3)]
    spawned = [multiprocessing.get_context("spawn").Process(target=work, args=("spawned",)) for _ in range(2)]
    for child in forked + spawned:
        child.start()
    pid = os.fork()
    if not pid:
        work("child")
        os._exit(0)
    threads = [threading.Thread(target=work, args=("threads",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for one in forked + spawned + threads:
        one.join()
    os.waitpid(pid, 0)
    gradient_job.log_metric("before", 2)

if __name__ == "__main__":
    main()
"""


def test_threads_and_children_of_every_kind_log_beside_each_other(solo):
    final = run_file(solo, FAMILY)
    assert final["state"] == "Stopped", solo.text(final["id"])
    assert counts(solo, final["id"]) == {
        "before": 2, "forked": 900, "spawned": 600, "child": 300, "threads": 2400,
    }  # fmt: skip
    # Threads share a count, and each of its steps is there once.
    assert [step for step, _ in points(solo, final["id"], "threads")] == list(range(2400))
    assert solo.text(final["id"]) == ""


def run_file(solo, text):
    """Children that are spawned import the script, so it must be a file."""
    write = f"import os\nopen('script.py', 'w').write({text!r})\nos.execvp('python', ['python', 'script.py'])"
    return run(solo, write)


INTERRUPTED = """
import gradient_job, signal
seen = 0
def handler(number, frame):
    global seen
    seen += 1
    gradient_job.log_metric("inside", seen)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for n in range(20000):
    gradient_job.log_metric("outside", n)
signal.setitimer(signal.ITIMER_REAL, 0)
print(seen)
"""


def test_a_signals_handler_may_log_in_the_middle_of_logging(solo):
    final = run(solo, INTERRUPTED)
    found = counts(solo, final["id"])
    assert found["outside"] == 20000
    assert found.get("inside", 0) == int(solo.text(final["id"]))


FULL = """
import gradient_job, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for n in range(5000):
    gradient_job.log_metric("x", n)
"""


def test_where_nothing_can_be_written_down_points_are_sent_from_memory(solo):
    """Fault: the file cannot grow (as on a full disk), also in the middle of a line."""
    final = run(solo, FULL)
    assert points(solo, final["id"], "x") == [(n, n) for n in range(5000)]
    assert solo.text(final["id"]) == ""


LONG = """
import gradient_job, os, time
go = os.environ["GRADIENT_STORAGE_DIR"] + "/go"
print("up", flush=True)
n = 0
while not os.path.exists(go):
    gradient_job.log_metrics({"x": n, "y": -n})
    n += 1
    time.sleep(0.0005)
print(n, gradient_job.flush(60))
"""


def test_the_server_is_killed_again_and_again_while_jobs_log_and_no_point_is_missing(own_solo):
    """Fault: SIGKILL to the server, twice; heals with the next start."""
    own_solo.options = (
        *own_solo.options,
        "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
        "--GradientServer.default_machine_type=small",
    )
    own_solo.start()
    storage = own_solo.storage()
    jobs = [own_solo.job("python", "-c", LONG)["id"] for _ in range(3)]
    for job in jobs:
        own_solo.printed(job, "up\n")
    for round in range(2):
        for job in jobs:  # the points of this round are coming in
            before = counts(own_solo, job).get("x", 0)
            until(lambda job=job, before=before: counts(own_solo, job).get("x", 0) > before)
        own_solo.kill()
        if round == 1:
            (storage / "go").touch()
        own_solo.start()
    for job in jobs:
        own_solo.finished(job)
        logged, sent = own_solo.text(job).splitlines()[-1].split()
        assert (counts(own_solo, job), sent) == ({"x": int(logged), "y": int(logged)}, "True")


def test_a_server_that_never_comes_back_keeps_nobody_from_ending(own_solo, tmp_path):
    """Fault: the server is gone when the process ends. The next one reads what was not sent."""
    own_solo.start()
    job = own_solo.job("python", "-c", LONG)["id"]
    own_solo.printed(job, "up\n")
    (storage,) = (own_solo.data / "storage" / "user").iterdir()
    own_solo.kill()
    code = (
        "import gradient_job, os\n"
        "for n in range(100): gradient_job.log_metric('x', n)\n"
        "print(gradient_job.flush(0.01))\n"
    )
    environment = {
        **os.environ, "GRADIENT_JOB_URL": f"{own_solo.runtime.url}/api/v1/jobs/{job}",
        "GRADIENT_JOB_TOKEN": "x", "PYTHONPATH": ROOT, "GRADIENT_SPOOL_DIR": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    (spooled,) = tmp_path.glob("*.points")
    assert len(spooled.read_text().splitlines()) == 100
    (storage / "go").touch()
    own_solo.start()
    own_solo.finished(job)
    logged = int(own_solo.text(job).splitlines()[-1].split()[0])
    assert counts(own_solo, job) == {"x": logged, "y": logged}


def outside(solo, job_id, token, code):
    """What a process of this host does with a job's address: (stdout, stderr)."""
    environment = {
        **os.environ, "GRADIENT_JOB_URL": f"{solo.runtime.url}/api/v1/jobs/{job_id}",
        "GRADIENT_JOB_TOKEN": token, "PYTHONPATH": ROOT,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


LOGS_ON = """
import gradient_job
for n in range(3000):
    gradient_job.log_metric("late", n)
print(gradient_job.flush(60))
gradient_job.log_metric("late", 1)
gradient_job.set_progress(1)
print(gradient_job.flush(60))
"""


#: Leaves its token in /storage; in its log it would be masked.
TELLS = (
    "import os; open(os.environ['GRADIENT_STORAGE_DIR'] + '/token-' + os.environ['GRADIENT_JOB_ID'], 'w')"
    ".write(os.environ['GRADIENT_JOB_TOKEN'])\n"
)


def told(solo, job_id):
    return (solo.storage() / f"token-{job_id}").read_text()


def test_an_attempt_that_is_over_stops_sending_and_says_so_once(solo):
    """P2, boundary B5: a process that outlived its attempt."""
    final = run(solo, TELLS)
    token = told(solo, final["id"])
    said, complaint = outside(solo, final["id"], token, LOGS_ON)
    assert said == "False\nFalse\n"
    assert complaint == "gradient_job: this attempt of the job is over, so nothing is sent any more\n"
    assert counts(solo, final["id"]) == {}


def test_a_foreign_token_logs_nothing(solo):
    """Asset A7, boundary B5 (abuse case 4)."""
    ready = TELLS + "import time; print('up', flush=True); time.sleep(600)"
    mine, other = (solo.job("python", "-c", ready)["id"] for _ in range(2))
    tokens = {}
    for job in (mine, other):
        solo.printed(job, "up\n")
        tokens[job] = told(solo, job)
    for token in (tokens[other], "grj_" + "0" * 64, ""):
        said, complaint = outside(solo, mine, token, LOGS_ON)
        assert said == "False\nFalse\n"
        assert complaint.startswith("gradient_job: nothing is sent any more: ") and complaint.count("\n") == 1
    assert counts(solo, mine) == counts(solo, other) == {}
    for job in (mine, other):
        solo.request("POST", f"/jobs/{job}/stop")


def test_beyond_a_jobs_limits_the_rest_is_refused_and_said_once(own_solo):
    own_solo.options = (
        *own_solo.options, "--GradientServer.max_metrics=20", "--GradientServer.max_metric_points=2000",
        "--GradientServer.system_metrics_s=0",
    )  # fmt: skip
    own_solo.start()
    names = run(
        own_solo,
        "import gradient_job\n"
        "for n in range(10):\n"
        "    for key in range(30): gradient_job.log_metric('m%d' % key, n)\n"
        "    gradient_job.flush()\n"
        "gradient_job.set_progress(0.5)\n",
    )
    found = counts(own_solo, names["id"])
    assert (len(found), set(found.values())) == (20, {10})
    assert own_solo.text(names["id"]).count("\n") == 1 and "20 are the most" in own_solo.text(names["id"])
    assert names["progress"]["fraction"] == 0.5
    many = run(
        own_solo,
        "import gradient_job\n"
        "for n in range(5000): gradient_job.log_metric('x', n)\n"
        "gradient_job.flush()\n"
        "gradient_job.set_progress(0.5)\n",
    )
    assert counts(own_solo, many["id"])["x"] in range(1000, 2001)
    assert own_solo.text(many["id"]).count("\n") == 1 and "2,000 are the most" in own_solo.text(many["id"])
    assert many["progress"]["fraction"] == 0.5 and many["state"] == "Stopped"


RATE = """
import gradient_job, sys, time
gradient_job.flush()
print("up", flush=True)
began = time.monotonic()
for n in range(3000):
    gradient_job.log_metric("x", n)
    ahead = began + n / 1000 - time.monotonic()
    if ahead > 0.005:
        time.sleep(ahead)
"""


def test_twenty_jobs_of_a_thousand_points_a_second_lose_none(solo):
    jobs = [solo.job("python", "-c", RATE)["id"] for _ in range(20)]
    for job in jobs:
        solo.finished(job)
    assert [counts(solo, job) for job in jobs] == [{"x": 3000}] * 20


HALF_WRITTEN = """
import gradient_job, os, signal
gradient_job.log_metric("x", 0)
assert gradient_job.flush()
write, armed = os.write, [True]
def interrupted(fd, data):
    done = write(fd, data)
    if armed and data.startswith(b'["x"'):
        armed.clear()
        signal.raise_signal(signal.SIGUSR1)
    return done
def handler(*_):
    gradient_job.set_progress(0.5)
    print(gradient_job.flush(60), flush=True)
signal.signal(signal.SIGUSR1, handler)
os.write = interrupted
gradient_job.log_metric("x", 1)
print(gradient_job.flush(), gradient_job._logger._spool.done, flush=True)
"""


def test_a_handler_that_flushes_in_the_middle_of_a_write_loses_nothing_and_is_told_the_truth(solo):
    """Fault: a signal between the file's having the point and our knowing it."""
    final = run(solo, HALF_WRITTEN)
    assert solo.text(final["id"]) == "False\nTrue 2\n"
    assert points(solo, final["id"], "x") == [(0, 0), (1, 1)]
    assert final["progress"]["fraction"] == 0.5
