"""Kill the migration of a database at every effect (technique T1), and upgrade under running jobs.

Fault: SIGKILL of a process that brings a database of the release before to this one's schema. Promise: P15,
nothing of it is lost, and the copy beside it is whole wherever it has its name. Heals: with the next start.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import witness
from faults.killing import Killer, place
from faults.victim import Victim
from older import to_version

from gradient_jupyter.store import schema

OLD = "0001"
JOBS = 100
ROWS = {
    "facts": "INSERT INTO facts VALUES ('install', 'in0123456789ab')",
    "users": "INSERT INTO users VALUES ('u1', 'me', 'solo', 1)",
    "projects": "INSERT INTO projects VALUES (1, 'pr1', 'user:u1', 'p', 'u1', 1, 0, 100)",
    "jobs": (
        "INSERT INTO jobs SELECT value, 'j' || value, 'pr1', 'user:u1', 'u1', value, 'n', 1, '[\"true\"]',"
        " 's', 'local', '{}', NULL, 'run', 'Stopped', 'done', NULL, 0, 1, 'local', 1, 2, '[]', '[]',"
        " 'key' || value FROM generate"
    ),
    "attempts": "INSERT INTO attempts SELECT 'j' || value, 1, 'k' || value, 'local', 1, 2, 0 FROM generate",
}
_GENERATE = (
    "CREATE TEMP TABLE generate AS WITH RECURSIVE g(value) AS "
    f"(SELECT 1 UNION ALL SELECT value + 1 FROM g WHERE value < {JOBS}) SELECT value FROM g"
)

#: Migrates one database after the other, each in a child that can be traced from before its first call: so
#: that what takes the longest, to import everything, is done once.
MIGRATOR = """
import os, signal, sys
from pathlib import Path
import alembic.command, alembic.config
from gradient_jupyter.store import schema, tables
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), signal.SIGSTOP)
        schema.prepare(Path(line.strip()))
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the release before wrote it, with what it wrote last still in its WAL file."""
    path = tmp_path_factory.mktemp("old") / "gradient.sqlite"
    to_version(path, OLD)
    connection = sqlite3.connect(path)
    connection.execute(_GENERATE)
    for statement in ROWS.values():
        connection.execute(statement)
    connection.commit()
    shutil.copy(f"{path}-wal", path.with_name("wal"))
    shutil.copy(path, path.with_name("main"))
    connection.close()
    return path.parent


@pytest.fixture
def migrator(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", MIGRATOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process


def contents(path: Path) -> dict[str, list[object]]:
    """Version and rows, by the columns that both releases have. Raises where it is no whole database."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        known = {
            "jobs": "seq, id, command, state, idempotency_key",
            "attempts": "job_id, attempt, key, exit_code",
        }
        return {
            name: connection.execute(f"SELECT {known.get(name, '*')} FROM {name} ORDER BY 1").fetchall()
            for name in ("alembic_version", *ROWS)
        }
    finally:
        connection.close()


def check(path: Path, before: dict[str, list[object]]) -> None:
    """What a kill left; then what the next start makes of it."""
    backup = path.with_name(f"{path.name}.before-{OLD}")
    if backup.exists():
        assert contents(backup) == before
    assert schema.prepare(path) == "in0123456789ab"
    after = contents(path)
    assert after.pop("alembic_version") == [(schema.HEAD,)]
    assert after == {name: rows for name, rows in before.items() if name != "alembic_version"}
    assert contents(backup) == before
    names = {path.name for path in path.parent.iterdir()} - {path.name + "-wal", path.name + "-shm"}
    assert names == {path.name, backup.name}


class Fault:
    """One migration of a database of the old release, with a killer behind it."""

    def __init__(self, old: Path, root: Path, migrator: subprocess.Popen[str]) -> None:
        self._old = old
        self._root = root
        self._migrator = migrator
        path = self._copy("before")
        self._before = contents(path)
        assert self._before["alembic_version"] == [(OLD,)] and len(self._before["jobs"]) == JOBS

    def __call__(self, nth: int, where: str = "") -> str | None:
        """Kills it there, and checks what comes of it. The place; None: it came to its end before."""
        assert self._migrator.stdin and self._migrator.stdout
        path = self._copy("now")
        self._migrator.stdin.write(f"{path}\n")
        pid = int(self._migrator.stdout.readline())
        with Killer(pid, nth, where=where) as killer:
            os.kill(pid, signal.SIGCONT)
            status = int(self._migrator.stdout.readline())
        assert status == (-signal.SIGKILL if killer.fired else 0)
        check(path, self._before)
        shutil.rmtree(path.parent)
        return place(killer.sites[-1], path.parent) if killer.fired else None

    def _copy(self, name: str) -> Path:
        path = self._root / name / "gradient.sqlite"
        path.parent.mkdir()
        shutil.copy(self._old / "main", path)
        shutil.copy(self._old / "wal", f"{path}-wal")
        return path


STEPS = (
    (1, r"pwrite64 .*\.backing-up$"),
    (2, r"pwrite64 .*\.backing-up$"),
    (1, r"sync .*\.backing-up$"),
    (1, rf"rename .*\.before-{OLD}$"),
    (1, r"pwrite64 .*-wal$"),
    (5, r"pwrite64 .*-wal$"),
    (1, r"fdatasync .*-wal$"),
)


def test_a_migration_killed_in_any_step_loses_nothing(
    old: Path, tmp_path: Path, migrator: subprocess.Popen[str]
) -> None:
    fault = Fault(old, tmp_path, migrator)
    for nth, where in STEPS:
        assert fault(nth, where), f"never came by {where}"


@pytest.mark.slow
def test_a_migration_killed_at_any_effect_loses_nothing(
    old: Path, tmp_path: Path, migrator: subprocess.Popen[str]
) -> None:
    fault = Fault(old, tmp_path, migrator)
    places: Counter[str] = Counter()
    n = 1
    while killed_at := fault(n):
        places[killed_at] += 1
        n += 1
    print(f"\nkilled {n - 1} times, at {dict(places)}")


def test_a_copy_that_cannot_be_made_keeps_the_database_as_it_is(old: Path, tmp_path: Path) -> None:
    """Fault: there is no place for the copy. P12, P15: it is said, and nothing was changed."""
    path = tmp_path / "gradient.sqlite"
    shutil.copy(old / "main", path)
    shutil.copy(old / "wal", f"{path}-wal")
    (tmp_path / f"{path.name}.before-{OLD}").mkdir()
    with pytest.raises(schema.SchemaRefused, match="cannot be backed up"):
        schema.prepare(path)
    assert contents(path)["alembic_version"] == [(OLD,)]
    assert not (tmp_path / f"{path.name}.backing-up").exists()


def test_jobs_that_run_while_the_server_is_upgraded_go_on(tmp_path: Path) -> None:
    """Fault: the server is killed and one of another schema takes over, with a job running and one waiting.
    P15, P3, P4: both end well, each started once."""
    server = Victim(tmp_path, "--isolation=none")
    server.start()
    try:
        gate = server.storage() / "gate"
        os.mkfifo(gate)
        script = witness.SHELL + 'begin; echo up; read -r go < "$GRADIENT_STORAGE_DIR/gate"; echo down; end'
        running = server.job("sh", "-c", script)["id"]
        waiting = server.job("sh", "-c", witness.SHELL + "begin; end")["id"]
        server.printed(running, "up\n")
        server.kill()
        to_version(server.data / "gradient.sqlite", OLD)
        server.start()
        assert (server.data / f"gradient.sqlite.before-{OLD}").exists()
        gate.write_text("go\n")
        assert [server.finished(each)["state"] for each in (running, waiting)] == ["Stopped", "Stopped"]
        assert server.text(running).endswith("up\ndown\n")
        assert witness.check(witness.read(server.storage()), one_at_a_time=True) == {running: 1, waiting: 1}
    finally:
        server.stop()
