"""T4: every file of a data root damaged at rest, one at a time; then the server is started and all is used.

Fault: a file is cut, emptied, has a bit flipped, is a directory or a link; the whole disk is read-only. P13:
damaged data are named, never served and never silently replaced; the server starts read-only rather than
empty. It heals when the file is put back.

Not seen by anybody: a flipped bit inside a value of the database that leaves a value (SQLite has no
checksums), and in the log of its last commits, which SQLite takes for the torn end of a crash. The log of a
job that ended while no server ran, and was cut before the next one started, looks like one whose writer was
killed: it is shown as far as it goes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import blake3
import pytest
from disks import bound, need_mounts, tmpfs
from solo import PATIENCE_S, SoloServer

from gradient_jupyter.resources.snapshot import File
from gradient_jupyter.workspace.packs import pack

DATA = b"what was sent\n" * 3000
SCRIPT = """
import os, sys
for n in range(8000): print("line", n, "of", sys.argv[1])
with open(os.environ["GRADIENT_ARTIFACTS_DIR"] + "/left", "wb") as file: file.write(b"kept" * 9000)
if len(sys.argv) > 2:
    with open(sys.argv[2], "a+") as witness:
        witness.write(sys.argv[1] + "\\n")
        witness.seek(0)
        if len(witness.readlines()) > 1: sys.exit("started twice")
    with open(sys.argv[3], "w") as tell: tell.write("running")
    with open(sys.argv[4]) as go: go.read()
"""
SOCKETS = shutil.ignore_patterns(".hints")
KINDS = ("empty", "half", "first", "middle", "last")


def slow(*values: str):
    return pytest.param(*values, marks=pytest.mark.slow)


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    match kind:
        case "empty":
            data = bytearray()
        case "half":
            del data[len(data) // 2 :]
        case _ if not data:
            data = bytearray(b"\x10")
        case _:
            data[{"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[kind]] ^= 0x10
    mode = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(mode.st_atime_ns, mode.st_mtime_ns))


class Root:
    """A data root as a killed server left it: one job is over, one has ended while nobody looked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "kept"
        self.witness = root / "witness"
        server = SoloServer(root / "made", "--isolation=none")
        server.start()
        try:
            file = File(path="data", size=len(DATA), digest=blake3.blake3(DATA).hexdigest())
            (one,) = pack([file], lambda _, offset: io.BytesIO(DATA[offset:]))
            assert server.request("POST", "/blobs", body=b"".join(one)).status == 201
            entry = {"kind": "file", "path": "data", "size": file.size, "digest": file.digest}
            answer = server.request("POST", "/snapshots", json_body={"entries": [entry]})
            self.snapshot = answer.json()["id"]
            self.blobs = {self.snapshot, file.digest}
            over = server.job(sys.executable, "-c", SCRIPT, "over", snapshot=self.snapshot)
            self.over = server.finished(over["id"])
            self.artifact = server.request("GET", f"/jobs/{over['id']}/artifacts/left").data
            assert self.over["state"] == "Stopped" and self.artifact
            # In the database itself, not only in its log: the log is a case of its own.
            server.stop()
            shutil.copyfile(server.data / "gradient.sqlite", root / "older.sqlite")
            server.start()
            tell, go = root / "tell", root / "go"
            os.mkfifo(tell)
            os.mkfifo(go)
            argv = (sys.executable, "-c", SCRIPT, "unseen", str(self.witness), str(tell), str(go))
            self.unseen = server.job(*argv, snapshot=self.snapshot)["id"]
            assert tell.read_text() == "running"
            for event, _, job in server.events(f"/jobs/{self.unseen}/logs?follow=true"):
                if event == "job" and job["state"] == "Running":
                    break
            server.kill()
            go.write_text("go")
            (private,) = (server.data / "engines" / "local").glob("*-job-*")
            subprocess.run(
                ["flock", private / "lock", "true"], check=True, timeout=PATIENCE_S
            )  # until its supervisor has ended
            assert (private / "exit.json").exists()
        finally:
            server.stop()
        shutil.copyfile(root / "older.sqlite", server.data / "gradient.sqlite.before-0001")
        shutil.copytree(server.data, self.data, ignore=SOCKETS)
        assert (self.data / "gradient.sqlite-wal").stat().st_size

    @contextlib.contextmanager
    def copy(self):
        """A server on a fresh copy, in the place where it was made: paths are part of what it knows. Not
        started."""
        server = SoloServer(self.root / "made", "--isolation=none", "--GradientServer.reserve_bytes=0")
        try:
            shutil.rmtree(server.data, ignore_errors=True)
            shutil.copytree(self.data, server.data)
            yield server
        finally:
            server.stop()
        assert self.witness.read_text().splitlines().count("unseen") == 1, "P3, P4: it was started again"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Root:
    return Root(tmp_path_factory.mktemp("kept"))


def start(server: SoloServer) -> str:
    """Starts it; or what it said when it refused."""
    before = len(server.log()) if (server.root / "server.log").exists() else 0
    try:
        server.start()
    except AssertionError:
        assert server.process is not None
        assert server.process.wait(PATIENCE_S) == 4, server.log()
        server.process = None
        said = server.log()[before:]
        assert said.startswith("gradient server: ") and "Traceback" not in said, said
        return said
    return ""


def expect_whole(server: SoloServer, kept: Root) -> None:
    """All that the undamaged root held, as it was."""
    assert server.request("GET", f"/jobs/{kept.over['id']}").json() == kept.over
    assert read_log(server, kept.over["id"], "over") == "whole"
    path = f"/jobs/{kept.over['id']}/artifacts/left"
    assert server.request("GET", path).data == kept.artifact


def read_log(server: SoloServer, job_id: str, name: str) -> str:
    """How much of it is shown. Never other lines than the job's own, in their order."""
    answer = server.request("GET", f"/jobs/{job_id}/logs")
    if answer.status != 200:
        return told(answer)
    shown, named, event = "", False, ""
    for line in answer.data.decode().splitlines():
        field, _, value = line.partition(": ")
        event = value if field == "event" else event
        if field == "data" and event == "log":
            piece = json.loads(value)
            shown += piece["text"] if piece["stream"] == "stdout" else ""
            named = named or (piece["stream"] == "platform" and "damaged" in piece["text"])
    lines = "".join(f"line {n} of {name}\n" for n in range(8000))
    assert lines.startswith(shown), "other bytes were shown"
    if shown == lines:
        return "whole"
    return "damaged" if named else "none" if not shown else "short"


def told(answer) -> str:
    """The code of a refusal that says what is wrong and what to do."""
    error = answer.json()["error"]
    assert error["message"] and error["next"], error
    return error["code"]


def use(server: SoloServer, kept: Root) -> set[str]:
    """Everything once. What was named, by code; other bytes than the true ones fail."""
    named: set[str] = set()
    info = server.request("GET", "/server").json()
    read_only = bool(info["read_only"])
    if read_only:
        named.add("read-only")
    listed = server.request("GET", "/jobs")
    if listed.status == 200:
        ids = {job["id"] for job in listed.json()["items"]}
        assert ids <= {kept.over["id"], kept.unseen}
    else:
        named.add(told(listed))
    for job_id, name in ((kept.over["id"], "over"), (kept.unseen, "unseen")):
        answer = server.request("GET", f"/jobs/{job_id}")
        if answer.status != 200:
            named.add(told(answer))
            continue
        job = answer.json() if read_only else server.finished(job_id)
        if job_id == kept.over["id"]:
            assert job == kept.over
        elif not read_only:
            assert (job["state"], job["exit_code"]) in (("Stopped", 0), ("Error", None)), job
            if job["state"] == "Error":
                named.add(job["reason"]["code"])
        named.add("log " + read_log(server, job_id, name))
    sent = server.request("POST", "/snapshots", json_body={"entries": []})
    if read_only:
        assert (sent.status, told(sent)) == (423, "read-only")
        return named
    job = server.job("cmp", "data", "data", snapshot=kept.snapshot)
    final = server.finished(job["id"])
    if final["state"] != "Stopped":
        assert final["reason"]["code"] == "blob-damaged", final
        assert any(digest in final["reason"]["message"] for digest in kept.blobs), final
        named.add("blob-damaged")
    return named


FINE = {"log whole"}


def where(kept: Root, which: str) -> str:
    """A file of the root by its kind."""
    over, unseen = kept.over["id"], kept.unseen
    (engine,) = (kept.data / "engines" / "local").glob("*-job-*")
    known = {
        "log": f"jobs/{over}/1/log",
        "index": f"jobs/{over}/1/log.index",
        "unseen log": f"jobs/{unseen}/1/log",
        "manifest": f"blobs/{kept.snapshot[:2]}/{kept.snapshot}",
        **{f"engine {name}": f"engines/local/{engine.name}/{name}" for name in ("spec", "started", "pid",
           "lock", "unpacked", "exit.json")},
        "blob": next(f"blobs/{each[:2]}/{each}" for each in kept.blobs if each != kept.snapshot),
        "database": "gradient.sqlite",
        "wal": "gradient.sqlite-wal",
        "shm": "gradient.sqlite-shm",
        "backup": "gradient.sqlite.before-0001",
        "install": "install",
        "server lock": "lock",
    }  # fmt: skip
    assert (kept.data / known[which]).is_file(), which
    return known[which]


#: Which file, and what may be named when it is damaged (besides ``FINE``). One of ``must`` has to be.
FILES: dict[str, tuple[set[str], bool]] = {
    "log": ({"log damaged"}, True),
    "index": (set(), False),
    "unseen log": ({"log damaged", "log none", "log short"}, True),
    "manifest": ({"blob-damaged"}, True),
    "blob": ({"blob-damaged"}, True),
    "engine spec": ({"lost"}, True),
    "engine started": (set(), False),
    "engine pid": (set(), False),
    "engine lock": (set(), False),
    "engine unpacked": (set(), False),
    "engine exit.json": ({"lost"}, True),
    "wal": ({"no-such-job"}, False),
    "shm": (set(), False),
    "backup": (set(), False),
    "server lock": (set(), False),
}
SHORT = {
    ("log", "middle"), ("index", "half"), ("manifest", "last"), ("blob", "middle"), ("engine spec", "first"),
    ("engine exit.json", "middle"), ("wal", "half"), ("shm", "middle"), ("unseen log", "empty"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("which", "kind"),
    [
        pytest.param(which, kind, marks=() if (which, kind) in SHORT else pytest.mark.slow)
        for which in FILES
        for kind in KINDS
    ],
)
def test_damage_in_any_file_is_named_and_nothing_else_is_served(kept, tmp_path, which, kind):
    allowed, must = FILES[which]
    with kept.copy() as server:
        damage(server.data / where(kept, which), kind)
        assert start(server) == ""
        named = use(server, kept)
        assert named <= FINE | allowed, named
        assert not must or named - FINE, "nothing was said of it"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "first" else pytest.mark.slow) for kind in KINDS]
)
@pytest.mark.parametrize("which", ["database", "install"])
def test_a_root_whose_identity_is_damaged_is_refused_and_left_as_it_is(kept, tmp_path, which, kind):
    """The database's head, or the mark of the installation. P13: refused by name; nothing is made anew."""
    with kept.copy() as server:
        path = server.data / where(kept, which)
        if which == "database":
            for name in ("wal", "shm"):
                (server.data / f"gradient.sqlite-{name}").unlink(missing_ok=True)
        good = path.read_bytes()
        damage(path, kind)
        bad = path.read_bytes()
        said = start(server)
        if (which, kind) in {("install", "empty")} or (which == "database" and not said):
            assert use(server, kept) - FINE <= {"read-only", "database-damaged", "no-such-job", "log none"}
        else:
            assert str(path) in said, said
            assert path.read_bytes() == bad
        server.stop()
        path.write_bytes(good)
        assert start(server) == ""
        expect_whole(server, kept)


def test_a_damaged_database_is_served_read_only(kept, tmp_path):
    """Fault: a page of an index is overwritten. P13: what can be read is, every write is refused by name,
    nothing is reconciled, and the file stays as it is."""
    with kept.copy() as server:
        path = server.data / "gradient.sqlite"
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (page,) = database.execute(
                "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'snapshots'"
            ).fetchone()
            (size,) = database.execute("PRAGMA page_size").fetchone()
        data = bytearray(path.read_bytes())
        data[(page - 1) * size : (page - 1) * size + 8] = b"\xff" * 8
        path.write_bytes(data)
        assert start(server) == ""
        info = server.request("GET", "/server").json()
        assert str(path) in info["read_only"] and "gradient.sqlite.before-0001" in info["read_only"]
        expect_whole(server, kept)
        unseen = server.request("GET", f"/jobs/{kept.unseen}").json()
        assert unseen["state"] == "Running", "it was reconciled"
        for method, where_to in (
            ("POST", "/snapshots"), ("POST", f"/jobs/{kept.unseen}/stop"),
            ("DELETE", f"/jobs/{kept.over['id']}"),
        ):  # fmt: skip
            answer = server.request(method, where_to, json_body={} if where_to == "/snapshots" else None)
            assert (answer.status, told(answer)) == (423, "read-only"), answer.data
            assert str(path) in answer.json()["error"]["next"]
        status = subprocess.run(
            [sys.executable, "-m", "gradient_jupyter.cli", "server", "status"],
            env=server.environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "Read-only" in status and "is damaged" in status
        assert server.request("POST", "/server/stop").status == 202
        assert server.process.wait(PATIENCE_S) == 0
        assert path.read_bytes() == bytes(data)


def test_a_database_of_another_installation_is_refused(kept, tmp_path):
    """Fault: the log of another database lies beside ours, or all of the other. P13."""
    other = SoloServer(tmp_path / "other", "--isolation=none").start()
    other.job("true")
    other.kill()
    with kept.copy() as server:
        for name in ("gradient.sqlite", "gradient.sqlite-wal"):
            shutil.copyfile(other.data / name, server.data / name)
        (server.data / "gradient.sqlite-shm").unlink(missing_ok=True)
        said = start(server)
        assert str(server.data / "install") in said and str(server.data / "gradient.sqlite") in said


def test_the_log_of_another_database_is_not_believed(kept, tmp_path):
    """Fault: only the other's -wal beside our database. SQLite takes it for its own, so it is looked at whose
    it is before anything is written."""
    other = SoloServer(tmp_path / "other", "--isolation=none").start()
    other.finished(other.job("true")["id"])
    other.kill()
    with kept.copy() as server:
        for name in ("-wal", "-shm"):
            (server.data / f"gradient.sqlite{name}").unlink(missing_ok=True)
        shutil.copyfile(other.data / "gradient.sqlite-wal", server.data / "gradient.sqlite-wal")
        before = (server.data / "gradient.sqlite").read_bytes()
        assert str(server.data / "gradient.sqlite") in start(server)
        assert (server.data / "gradient.sqlite").read_bytes() == before


@pytest.mark.parametrize("how", [slow("gone"), "empty", "gone with its mark"])
def test_a_root_without_its_database_is_refused_rather_than_begun_anew(kept, tmp_path, how):
    with kept.copy() as server:
        for path in server.data.glob("gradient.sqlite*"):
            path.unlink()
        if how == "empty":
            (server.data / "gradient.sqlite").touch()
        elif how == "gone with its mark":
            (server.data / "install").unlink()
        said = start(server)
        assert str(server.data / "gradient.sqlite") in said and "Restore" in said
        assert not (server.data / "gradient.sqlite").exists() or how == "empty"


def test_a_database_without_its_log_shows_what_it_had_and_removes_no_files(kept, tmp_path):
    """Fault: the data root was copied without the -wal file. P13: no file of a run is touched."""
    with kept.copy() as server:
        for name in ("wal", "shm"):
            (server.data / f"gradient.sqlite-{name}").unlink(missing_ok=True)
        assert start(server) == ""
        named = use(server, kept)
        assert named <= {*FINE, "no-such-job"}
        assert (server.data / "jobs" / kept.unseen / "1" / "log").stat().st_size
        assert (server.data / "jobs" / kept.unseen / "1" / "artifacts" / "left").exists()


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("gradient.sqlite", "link"),
        ("lock", "directory"),
        slow("gradient.sqlite", "directory"),
        slow("install", "directory"),
        slow("install", "link"),
        slow("lock", "link"),
    ],
)
def test_something_else_in_the_place_of_a_file_is_refused_by_name(kept, tmp_path, what, how):
    with kept.copy() as server:
        path = server.data / what
        path.rename(tmp_path / "moved")
        path.mkdir() if how == "directory" else path.symlink_to(tmp_path / "moved")
        said = start(server)
        assert str(path) in said, said
        assert (tmp_path / "moved").is_file()


@pytest.mark.parametrize("what", [slow("blobs"), "jobs", slow("engines")])
def test_a_directory_that_is_on_a_disk_that_is_not_there_is_refused_by_name(kept, tmp_path, what):
    """Fault: a link to another disk, which is not mounted. With the disk all is as it was."""
    with kept.copy() as server:
        path = server.data / what
        path.rename(tmp_path / "disk")
        path.symlink_to(tmp_path / "elsewhere")
        said = start(server)
        assert str(path) in said and "leads to no directory" in said
        (tmp_path / "disk").rename(tmp_path / "elsewhere")
        assert start(server) == ""
        expect_whole(server, kept)


@pytest.mark.parametrize("which", ["log", slow("blob"), slow("manifest")])
def test_a_directory_in_the_place_of_a_stored_file_is_named(kept, tmp_path, which):
    with kept.copy() as server:
        path = server.data / where(kept, which)
        path.unlink()
        path.mkdir()
        assert start(server) == ""
        assert use(server, kept) - FINE <= {"blob-damaged", "log log-damaged", "log damaged"}


def test_times_of_files_mean_nothing(kept, tmp_path):
    """Fault: a clock was wrong, or a copy kept no times: files of the year 2100, and of 1970."""
    with kept.copy() as server:
        for number, path in enumerate(sorted(server.data.rglob("*"))):
            if path.is_file():
                os.utime(path, (4102444800, 4102444800) if number % 2 else (0, 0))
        assert start(server) == ""
        assert use(server, kept) == FINE
        expect_whole(server, kept)


@pytest.mark.parametrize(
    "ended", [slow("stopped"), slow("killed"), "killed, and copied without its shared memory"]
)
def test_a_disk_that_takes_no_writes_is_shown(kept, tmp_path, ended):
    """Fault: the whole disk is read-only, as after an error of its file system. Heals with the next start,
    once it takes writes."""
    need_mounts()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(kept.copy())
        disk = stack.enter_context(tmpfs(server.data, 64 << 20))
        stack.callback(server.stop)
        shutil.copytree(kept.data, disk.path, dirs_exist_ok=True)
        if ended == "stopped":
            server.start()
            server.finished(kept.unseen)
            server.stop()
        elif "without" in ended:
            (server.data / "gradient.sqlite-shm").unlink()
        disk.read_only()
        assert start(server) == ""
        info = server.request("GET", "/server").json()
        assert "takes no writes" in info["read_only"]
        expect_whole(server, kept)
        assert server.request("GET", f"/jobs/{kept.unseen}").status == 200
        answer = server.request("POST", f"/jobs/{kept.unseen}/stop")
        assert (answer.status, told(answer)) == (423, "read-only")
        server.stop()
        disk.read_only(False)
        assert start(server) == ""
        assert use(server, kept) == FINE


def test_the_client_starts_a_server_on_a_disk_that_takes_no_writes(kept, tmp_path):
    """Fault: as above, and nobody has started the server: its log cannot lie beside its data."""
    need_mounts()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(kept.copy())
        stack.enter_context(bound(server.data, server.data))
        subprocess.run(["mount", "-o", "remount,bind,ro", server.data], check=True)

        def gradient(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "gradient_jupyter.cli", *words],
                env=server.environment, capture_output=True, text=True, check=False, cwd=tmp_path,
            )  # fmt: skip

        stack.callback(gradient, "server", "stop")
        listed = gradient("jobs", "list")
        assert listed.returncode == 0 and kept.over["id"] in listed.stdout, listed.stderr
        refused = gradient("jobs", "stop", kept.unseen)
        assert refused.returncode == 1 and "read-only" in refused.stderr
        assert "takes no writes" in refused.stderr


@pytest.mark.parametrize("index", ["ix_jobs_state_seq", "sqlite_autoindex_attempts_1"])
def test_what_can_be_told_without_the_damaged_part_is_told(kept, index):
    """Fault: a page of an index is damaged. P13: the server says so where it is asked how it does, and every
    log can be read to its end, though what is known of its attempt cannot."""
    with kept.copy() as server:
        path = server.data / "gradient.sqlite"
        for name in ("wal", "shm"):
            (server.data / f"gradient.sqlite-{name}").unlink()
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
            (page,) = database.execute(query, (index,)).fetchone()
        data = bytearray(path.read_bytes())
        data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
        path.write_bytes(data)
        assert start(server) == ""
        info = server.request("GET", "/server").json()
        assert str(path) in info["read_only"]
        assert (info["jobs"] is None) == (index == "ix_jobs_state_seq")
        over = kept.over["id"]
        assert read_log(server, over, "over") == "whole"
        whole = server.request("GET", f"/jobs/{over}/log")
        assert whole.status == 200 and b"line 7999 of over\n" in whole.data
