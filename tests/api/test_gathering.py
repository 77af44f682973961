"""Points that no run sends: TensorBoard's files while a job runs and at its end, and whatever stands in its
spool."""

from __future__ import annotations

import sys
import time

import pytest

TAILED = """
import os, sys, time
from tensorboardX import SummaryWriter
go = os.environ["GRADIENT_STORAGE_DIR"] + "/go-" + os.environ["GRADIENT_JOB_ID"]
root = SummaryWriter(os.environ["GRADIENT_ARTIFACTS_DIR"])
validation = SummaryWriter(os.environ["GRADIENT_ARTIFACTS_DIR"] + "/logs/validation")
for step in range(100):
    root.add_scalar("loss", step / 4, step)
    validation.add_scalar("loss", step, step)
print("up", flush=True)
while not os.path.exists(go):
    root.flush()
    validation.flush()
    time.sleep(0.05)
for step in range(100, 200):
    root.add_scalar("loss", step / 4, step)
root.close()
os._exit(0)
"""


def counts(solo, job_id):
    answer = solo.request("GET", f"/jobs/{job_id}/metrics")
    assert answer.status == 200, answer.data
    return {each["key"]: each["count"] for each in answer.json()["items"] if each["kind"] == "custom"}


def until(condition):
    """For what announces itself to nobody."""
    while not condition():
        time.sleep(0.05)


def test_tensorboard_files_are_read_while_a_job_runs_and_to_their_end_when_it_is_over(own_solo):
    """Fault: the server is killed meanwhile; what the next one reads again is stored once."""
    own_solo.start()
    job = own_solo.job(sys.executable, "-c", TAILED)["id"]
    own_solo.printed(job, "up\n")
    seen = {"loss": 100, "logs/validation/loss": 100}
    until(lambda: counts(own_solo, job) == seen)
    own_solo.kill()
    own_solo.start()
    (storage,) = (own_solo.data / "storage" / "user").iterdir()
    assert counts(own_solo, job) == seen
    (storage / f"go-{job}").touch()
    final = own_solo.finished(job)
    assert final["state"] == "Stopped", own_solo.text(job)
    assert counts(own_solo, job) == {**seen, "loss": 200}
    read = own_solo.request("GET", f"/jobs/{job}/metrics/points?key=loss").json()["points"]
    assert [(step, value) for step, _, value in read] == [(step, step / 4) for step in range(200)]


def test_each_attempt_has_what_it_left_also_when_it_is_tried_again(solo):
    code = TAILED.replace("while not os.path.exists(go):", "while False:").replace(
        "os._exit(0)", "os._exit(1)"
    )
    final = solo.finished(solo.job(sys.executable, "-c", code, retries=1)["id"])
    assert (final["state"], final["attempt"]) == ("Failed", 2)
    for attempt in (1, 2):
        items = solo.request("GET", f"/jobs/{final['id']}/metrics?attempt={attempt}").json()["items"]
        found = {each["key"]: each["count"] for each in items if each["kind"] == "custom"}
        assert found["loss"] == 200


HOSTILE = """
import os, sys
spool = os.environ["GRADIENT_SPOOL_DIR"]
os.chdir(spool)
def put(name, data, mode="w"):
    with open(name, mode) as file:
        file.write(data)
good = '["good",1,%d,5]\\n'
put("1-00000000-1.points", good % 1 + good % 2)
put("1-00000000-2.points", good % 3 + "nonsense\\n" + good % 4 + '["good",1,' )
wrong = ['["' + "k" * 251 + '",1,1,1]', '["good","1",1,1]', "[]", "{}", '[["good",1,1,1]]', '["good",1,1,-1]']
put("1-00000000-3.points", "\\n".join(wrong) + "\\n" + good % 5)
put("1-00000000-4.points", b"\\xff\\xfe\\n" + (good % 6).encode() + b"\\0\\n", "wb")
put("1-00000000-5.points", "[" * 100000 + "\\n" + good % 7)
with open("1-00000000-6.points", "wb") as file:
    file.write((good % 8).encode())
    file.seek(1 << 40)
    file.write((good % 999).encode())
put("other.points", good % 999)
put("1-00000000-7.txt", good % 999)
outside = os.environ["GRADIENT_STORAGE_DIR"] + "/outside"
put(outside, good % 999)
os.symlink(outside, "1-00000000-8.points")
try:
    os.link(outside, "1-00000000-9.points")
except OSError:
    pass  # another file system, in the world of its own
put("linked", good % 999)
os.link("linked", "1-00000000-10.points")
os.mkfifo("1-00000000-11.points")
os.mkdir("1-00000000-12.points")
os.makedirs("deep/er")
put("deep/er/1-00000000-1.points", good % 999)
put("1-00000000-13.points", '["good",1,9,5],["good",1,10,5]\\n')
"""


@pytest.fixture(params=["auto", "none"])
def either_world(request, own_solo):
    own_solo.options = (*own_solo.options, f"--GradientServer.isolation={request.param}")
    return own_solo.start()


def test_whatever_a_job_puts_into_its_spool_only_points_are_stored(either_world):
    """Boundary B4 (abuse cases 9 and 13): links, pipes, second names, sparse files, depth, and lines that are
    none."""
    solo = either_world
    final = solo.finished(solo.job(sys.executable, "-c", HOSTILE)["id"])
    assert final["state"] == "Stopped", solo.text(final["id"])
    read = solo.request("GET", f"/jobs/{final['id']}/metrics/points?key=good").json()["points"]
    assert [step for step, _, _ in read] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert counts(solo, final["id"]) == {"good": 10}
    (warning,) = final["warnings"]
    assert "cannot be read" in warning


def test_a_spool_that_is_no_directory_any_more_keeps_no_job_from_ending(solo):
    """The job removes it, and puts a link in its place, as far as its world lets it."""
    code = (
        "import os, shutil\n"
        "spool = os.environ['GRADIENT_SPOOL_DIR']\n"
        "shutil.rmtree(spool, ignore_errors=True)\n"
        "try: os.symlink('/etc', spool)\n"
        "except OSError: os.chmod(spool, 0)\n"
        "import gradient_job\n"
        "gradient_job.log_metric('x', 1)\n"
    )
    final = solo.finished(solo.job(sys.executable, "-c", code)["id"])
    assert (final["state"], final["warnings"]) == ("Stopped", [])
    assert counts(solo, final["id"]) == {"x": 1}


def test_what_is_beyond_a_jobs_limit_is_said_on_the_job(own_solo):
    own_solo.options = (*own_solo.options, "--GradientServer.max_metric_points=1000")
    own_solo.start()
    code = (
        "import os, time\n"
        "with open(os.environ['GRADIENT_SPOOL_DIR'] + '/1-00000000-1.points', 'w') as file:\n"
        "    for n in range(200_000): file.write('[\"x\",1,%d,5]\\n' % n)\n"
    )
    final = own_solo.finished(own_solo.job(sys.executable, "-c", code)["id"])
    assert final["state"] == "Stopped"
    (warning,) = final["warnings"]
    assert "Not all metrics were stored" in warning and "1,000 are the most" in warning


def test_a_deleted_jobs_files_are_not_read(solo):
    code = TAILED.replace("while not os.path.exists(go):", "while True:")
    job = solo.job(sys.executable, "-c", code)["id"]
    solo.printed(job, "up\n")
    solo.deleted(job)
    assert solo.request("GET", f"/jobs/{job}/metrics").status == 404
