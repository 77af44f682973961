"""What is remembered of the idempotency keys of erased jobs. P1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from gradient_jupyter.resources.job import Job, Phase, State, Target
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import projects, schema, spent_keys, tables, users
from gradient_jupyter.store.database import _CHANGES, connect


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    schema.prepare(tmp_path / "db")
    engine = connect(tmp_path / "db")
    with engine.connect() as connection, connection.begin():
        connection.info[_CHANGES] = []
        yield connection
    engine.dispose()


def test_the_newest_are_kept(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spent_keys, "KEPT", 3)
    spent_keys.trim(connection)
    for n in range(5):
        connection.execute(insert(tables.spent_keys).values(created_by="u1", key=f"k{n}", job_id=f"j{n}"))
    spent_keys.trim(connection)
    found = [spent_keys.job_of(connection, "u1", f"k{n}") for n in range(5)]
    assert found == [None, None, "j2", "j3", "j4"]
    assert spent_keys.job_of(connection, "u2", "k4") is None


def test_jobs_without_a_key_leave_none_and_of_two_with_one_the_first_counts(connection: Connection) -> None:
    """Before a key was its sender's, it was the owner's: one person may have used it for two owners."""
    users.ensure(connection, "solo", "ann")
    for owner, job_id, key in (("user:a", "j1", "same"), ("group:b", "j2", "same"), ("group:b", "j3", None)):
        project = projects.create(connection, owner, job_id, "u1")
        job = Job(
            id=job_id, name="n", project_id=project.id, project=project.name, owner=owner, created_by="u1",
            number=1, command=("true",), snapshot="a" * 64, machine_type="local", state=State.PENDING,
            phase=Phase.QUEUED, target=Target.RUN, created_us=1,
        )  # fmt: skip
        rows.create(connection, job, key)
        rows.erase(connection, job)
    assert rows.find(connection, "j2") is None
    assert spent_keys.job_of(connection, "u1", "same") == "j1"
    assert connection.execute(tables.spent_keys.select()).all() == [(1, "u1", "same", "j1")]
