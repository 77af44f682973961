"""Boundary B4: what a run's code may put in place of its metrics. Nobody hangs, nothing of it is run."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gradient_jupyter.resources.errors import ServerError
from gradient_jupyter.resources.metric import Kind, Sample
from gradient_jupyter.store import guarded, pointfile, series
from gradient_jupyter.store.pointfile import NAME
from gradient_jupyter.store.points import PointFile

SAMPLES = [Sample("x", 1.0, 1, 1)]
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id, 'a', 'b' FROM n"


def filled(directory: Path) -> Path:
    file = PointFile(directory, 100, 10)
    file.append(Kind.CUSTOM, [SAMPLES])
    file.close()
    return directory / NAME


def refused(directory: Path, code: str = "metrics-damaged") -> str:
    """What writers and readers are told."""
    said = set()
    for attempt in (
        lambda: PointFile(directory, 100, 10),
        lambda: series.summaries(directory),
        lambda: series.points(directory, Kind.CUSTOM, "x", None, 10),
        lambda: pointfile.problem(directory / NAME),
    ):
        with pytest.raises(ServerError) as told:
            attempt()
        assert told.value.code == code
        said.add(told.value.message)
    (message,) = said
    return message


def linked(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def named_twice(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    path.hardlink_to(other)


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("put", [os.mkfifo, linked, dangling, named_twice, os.mkdir])
def test_what_is_no_file_of_ours_alone_is_not_opened(tmp_path, put: Callable[[Path], None], ending):
    path = filled(tmp_path)
    if not ending:
        path.unlink()
    put(path.with_name(NAME + ending))
    assert refused(tmp_path).startswith(f"The metrics in {path} are damaged: {NAME}{ending} ")


def test_a_file_of_another_user_is_not_opened(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = filled(tmp_path)
    os.chown(path, 12345, -1)
    assert "another user" in refused(tmp_path)


@pytest.mark.parametrize("put", [os.mkfifo, linked, named_twice])
def test_to_sync_what_is_no_file_of_ours_fails_at_once(tmp_path, put):
    put(tmp_path / f"{NAME}-wal")
    with pytest.raises(OSError):
        guarded.sync(tmp_path / NAME)


@pytest.mark.parametrize(
    "script",
    [
        f"DROP TABLE series; CREATE VIEW series AS {ENDLESS}",
        f"CREATE VIEW more AS {ENDLESS}",
        "CREATE TRIGGER more AFTER INSERT ON recent BEGIN DELETE FROM series; END",
        "CREATE TABLE more (id)",
        "CREATE INDEX more ON recent (abs(id))",
        "ALTER TABLE recent ADD COLUMN more AS (hex(zeroblob(id)))",
        "DROP INDEX recent_of",
        "PRAGMA user_version = 0",
    ],
)
def test_a_file_with_other_tables_than_ours_is_not_read(tmp_path, script):
    """An endless view in place of a table held up a reader for ever."""
    path = filled(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript(script)
    assert "other tables" in refused(tmp_path)


def test_a_trigger_that_comes_while_it_is_written_does_not_run(tmp_path):
    file = PointFile(tmp_path, 100, 10)
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as other:
        other.executescript(
            "CREATE TABLE ran (id);"
            "CREATE TRIGGER more AFTER INSERT ON recent BEGIN "
            f"INSERT INTO ran SELECT id FROM ({ENDLESS}); END"
        )
        with pytest.raises(ServerError) as told:
            file.append(Kind.CUSTOM, [SAMPLES])
        assert told.value.code == "metrics-damaged"
        assert other.execute("SELECT count(*) FROM ran").fetchone() == (0,)
    file.close()


def test_reading_that_takes_too_long_is_given_up(tmp_path):
    path = filled(tmp_path)
    file = PointFile(tmp_path, 100, 10)
    file.append(Kind.CUSTOM, [[Sample(f"y{n}", 1.0, 1, 1) for n in range(9)]])
    file.close()
    with (
        pytest.raises(ServerError) as told,
        pointfile.reading(path, within_s=0.05) as connection,
    ):
        assert connection is not None
        tables = ", ".join(f"series AS s{n}" for n in range(15))
        connection.execute(f"SELECT count(*) FROM {tables}").fetchone()
    assert told.value.code == "metrics-damaged" and "too long" in told.value.message


def test_what_we_make_ourselves_is_ours(tmp_path):
    file = PointFile(tmp_path, 100, 10)
    file.append(Kind.CUSTOM, [SAMPLES])
    assert {each.name for each in tmp_path.iterdir()} >= {NAME, NAME + "-wal"}
    assert len(series.summaries(tmp_path)) == 1
    guarded.sync(tmp_path / NAME)
    file.close()
    assert pointfile.problem(tmp_path / NAME) == ""
    assert stat.S_ISREG((tmp_path / NAME).lstat().st_mode)
