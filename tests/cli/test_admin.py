"""``gradient admin``: df, gc and doctor, with a server, without one, and where none can start."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from older import to_version

from gradient_jupyter.control.keeping import floors
from gradient_jupyter.workspace.space import file_system, space_of

KINDS = {
    "artifacts",
    "logs",
    "metrics",
    "runs",
    "workspaces",
    "files",
    "storage",
    "database",
    "engines",
    "trash",
    "ballast",
    "other",
}


def test_df_tells_what_takes_space_by_kind_project_and_owner(alone, gradient, directory):
    assert gradient("run", "train.py", server=alone).code == 0
    use = gradient("admin", "df", "--json", server=alone).json
    kinds = {item["kind"]: item for item in use["items"]}
    assert kinds.keys() >= KINDS
    assert kinds["files"]["bytes"] >= 4096 and kinds["ballast"]["bytes"] >= 16 << 20
    assert kinds["artifacts"]["files"] == 2 and all(item["complete"] for item in use["items"])
    measured = sum(item["bytes"] for item in use["items"])
    assert abs(measured - space_of(alone.data).bytes) < 1 << 20
    (project,) = use["projects"]
    assert (project["name"], project["jobs"]) == (directory.name, 1) and project["bytes"] > 0
    (owner,) = use["owners"]
    assert owner["bytes"] == (directory / "train.py").stat().st_size
    assert use["collectable"] == 0 and 0 < use["free"] < use["total"]
    shown = gradient("admin", "df", "--quick", server=alone)
    assert shown.code == 0 and "what was sent, each content once" in shown.out and "Can go" not in shown.out


def test_gc_tells_first_and_then_removes_and_reports_the_bytes(alone, gradient, directory):
    alone.options = ("--GradientServer.garbage_grace_s=0",)
    alone.start()
    (directory / "data.bin").write_bytes(bytes(range(256)) * 8192)
    job = json.loads(gradient("jobs", "create", "--json", "--", "true", server=alone).out)
    alone.finished(job["id"])
    assert "Nothing can go" in gradient("admin", "gc", server=alone).out
    gradient("jobs", "delete", job["id"], server=alone)
    install = alone.request("GET", "/server").json()["install"]
    for _, _, event in alone.events("/events", headers={"Last-Event-ID": f"{install}-0"}):
        if event["action"] == "deleted":
            break
    told = gradient("admin", "gc", "--dry-run", "--json", server=alone).json
    assert told["dry_run"] and told["bytes"] > 0
    shown = gradient("admin", "gc", "--dry-run", server=alone).out
    assert "Would go" in shown and "Nothing was removed" in shown
    gone = gradient("admin", "gc", "--json", server=alone).json
    counts = [{item["kind"]: (item["count"], item["bytes"]) for item in one["items"]} for one in (told, gone)]
    assert counts[0] == counts[1]
    assert counts[1]["files"][0] == 3 and counts[1]["snapshots"][0] == 1  # two files and the manifest
    assert not [path for path in (alone.data / "blobs").rglob("*") if path.is_file()]


@pytest.mark.parametrize("full", [(), ("--full",)])
def test_doctor_looks_at_a_running_server_and_at_none(alone, gradient, full):
    assert gradient("run", "train.py", server=alone).code == 0
    running = gradient("admin", "doctor", "--json", *full, server=alone)
    assert running.code == 0 and running.json["running"]
    gradient("server", "stop", server=alone)
    stopped = gradient("admin", "doctor", "--json", *full, server=alone)
    assert stopped.code == 0 and not stopped.json["running"]
    for found in (running.json, stopped.json):
        names = [check["name"] for check in found["checks"]]
        assert {"program", "data root", "server", "disk", "database", "clock", "files", "leftovers",
                "descriptors", "isolation", "GPUs"} <= set(names)  # fmt: skip
        assert all(check["level"] == "ok" or check["next"] for check in found["checks"])
    assert not list((alone.root / "runtime").glob("gradient-*.json")), "doctor started a server"


def test_doctor_works_where_there_is_nothing_yet_and_leaves_it_so(own_solo, gradient):
    found = gradient("admin", "doctor", server=own_solo)
    assert found.code == 0 and "is not there yet" in found.out
    assert not own_solo.data.exists()


def test_doctor_names_a_damaged_database_with_which_no_server_starts(alone, gradient):
    """Fault: pages of the database are overwritten. P13: it is named, with what to do, and left as it is."""
    gradient("run", "train.py", server=alone)
    gradient("server", "stop", server=alone)
    path = alone.data / "gradient.sqlite"
    damaged = bytearray(path.read_bytes())
    damaged[3000:9000] = b"\xa5" * 6000
    path.write_bytes(damaged)
    found = gradient("admin", "doctor", server=alone)
    assert found.code == 1
    assert "✗ fail" in found.out and str(path) in found.out and "Nothing was changed" in found.out
    assert path.read_bytes() == bytes(damaged)
    assert gradient("admin", "doctor", "--json", server=alone).code == 1


def test_doctor_names_what_is_missing_or_damaged_and_who_is_unknown(alone, gradient):
    """Fault: a stored file is damaged, an artifact is gone, a log was cut, somebody unknown lies about."""
    gradient("run", "train.py", server=alone)
    gradient("server", "stop", server=alone)
    for path in (alone.data / "blobs").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    (job,) = (alone.data / "jobs").iterdir()
    (job / "1" / "artifacts").chmod(0o700)
    (job / "1" / "artifacts" / "model.bin").unlink()
    os.truncate(job / "1" / "log", 20)
    (job / "1" / "metrics.sqlite").write_bytes(b"x" * 5000)
    (alone.data / "jobs" / ("j" + "0" * 12)).mkdir()
    (alone.data / "ballast").unlink()
    alone.data.chmod(0o755)
    found = gradient("admin", "doctor", "--json", server=alone)
    assert found.code == 1
    wrong = [check["message"] for check in found.json["checks"] if check["level"] != "ok"]
    for words in (
        "2 sent files",
        "model.bin",
        f"{job.name} attempt 1: its last",
        f"{job.name} attempt 1: The metrics in",
        "j" + "0" * 12,
        "ballast",
        "mode 0755",
    ):
        assert any(words in message for message in wrong), (words, wrong)


def test_doctor_looks_at_what_an_older_version_left(alone, gradient):
    """Between an upgrade and the next server the database does not know yet how long logs were."""
    gradient("run", "train.py", server=alone)
    gradient("server", "stop", server=alone)
    to_version(alone.data / "gradient.sqlite", "0002")
    checks = gradient("admin", "doctor", "--json", server=alone).json["checks"]
    said = [check["message"] for check in checks if check["name"] == "files"]
    assert said == [
        "2 of 2 sent files were read and are right.", "1 of 1 artifacts were read and are right.",
        "0 of 0 logs were read and are right.", "1 of 1 runs' metrics were read and are right.",
    ]  # fmt: skip


def test_doctor_of_a_named_server_is_that_servers_and_never_this_machines(gradient, solo):
    named = {"GRADIENT_URL": solo.runtime.url, "GRADIENT_TOKEN": solo.runtime.token}
    assert gradient("admin", "doctor", "--json", **named).json["data"] == str(solo.data)
    gone = gradient("admin", "doctor", GRADIENT_URL="http://127.0.0.1:9", GRADIENT_TOKEN="x")
    assert gone.code == 1 and "cannot be reached" in gone.err and not gone.out


def test_releases_older_than_a_fix_are_named(monkeypatch):
    packages = {"tornado": "6.5.3", "jupyterlab": "4.6.1", "notebook": "7.6", "torch": "2.6.0+cu126"}

    def version(name: str) -> str:
        if name not in packages:
            raise floors.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(floors, "version", version)
    assert [(each.package, each.floor) for each in floors.below()] == [("jupyterlab", "4.6.2")]


def test_the_file_system_of_a_path_is_the_innermost_that_is_mounted(tmp_path):
    here = tmp_path.resolve()
    mounts = (
        "1 0 8:1 / / rw - ext4 /dev/root rw\n"
        f"2 1 0:5 / {here}/a\\040b rw shared:1 - nfs4 host:/x rw\n"
        f"3 1 0:6 / {here}/a rw - tmpfs tmpfs rw\n"
    )
    assert file_system(here, mounts) == "ext4"
    assert file_system(here / "a b" / "c", mounts) == "nfs4"
    assert file_system(here / "a", mounts) == "tmpfs"
    assert file_system(here / "ab", mounts) == "ext4"


def test_measuring_ends_when_its_time_is_over(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "f").write_bytes(b"x" * 5000)
    (tmp_path / "out").symlink_to("/")
    whole = space_of(tmp_path)
    assert whole.complete and whole.files == 42 and whole.bytes >= 20 * 5000
    assert not space_of(tmp_path, time.monotonic() - 1).complete
    assert space_of(tmp_path / "gone") == (0, 0, True)
    shutil.rmtree(tmp_path / "0")
    assert space_of(tmp_path).files == 40
