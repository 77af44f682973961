from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from gradient_jupyter.resources.errors import NoSpace, ReadOnly, ServerError
from gradient_jupyter.resources.event import Action
from gradient_jupyter.resources.job import Job, Phase, State, Target
from gradient_jupyter.store import events, jobs, projects, schema, tables
from gradient_jupyter.store.database import Database, connect, connect_read_only


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "gradient.sqlite"
    schema.prepare(found)
    return found


def run(path, work, on_commit=lambda events: None):
    async def main():
        database = Database(path, on_commit)
        database.start()
        try:
            return await work(database)
        finally:
            database.close()

    return asyncio.run(main())


def insert(name: str, value: str):
    def work(connection: Connection) -> None:
        connection.execute(tables.facts.insert().values(name=name, value=value))

    return work


def read_facts(connection: Connection) -> dict[str, str]:
    rows = connection.execute(tables.facts.select().where(tables.facts.c.name != "install"))
    return {row.name: row.value for row in rows}


def test_what_is_acknowledged_is_synced(path):
    """P1 rests on this pragma: WAL alone with NORMAL may lose the last commits at power loss."""

    async def work(database):
        return await database.write(
            lambda connection: (
                connection.exec_driver_sql("PRAGMA synchronous").scalar(),
                connection.exec_driver_sql("PRAGMA journal_mode").scalar(),
            )
        )

    assert run(path, work) == (2, "wal")


def test_a_failing_write_undoes_itself_and_not_its_neighbours(path):
    def half(connection: Connection) -> None:
        insert("half", "x")(connection)
        raise LookupError("second thoughts")

    async def work(database):
        results = await asyncio.gather(
            database.write(insert("a", "1")),
            database.write(half),
            database.write(insert("a", "again")),
            database.write(insert("b", "2")),
            return_exceptions=True,
        )
        return results, await database.read(read_facts)

    results, facts = run(path, work)
    assert facts == {"a": "1", "b": "2"}
    assert results[0] is None and results[3] is None
    assert isinstance(results[1], LookupError) and "UNIQUE" in str(results[2])


def test_a_failing_write_that_is_alone_undoes_itself(path):
    """It has no savepoint of its own, so the transaction goes with it (P1: nothing half-stored)."""

    def half(connection: Connection) -> None:
        insert("a", "1")(connection)
        raise RuntimeError("on purpose")

    async def work(database):
        with pytest.raises(RuntimeError, match="on purpose"):
            await database.write(half)
        await database.write(insert("b", "2"))
        return await database.read(read_facts)

    assert run(path, work) == {"b": "2"}


def test_many_writes_share_commits(path):
    batches = []

    async def work(database):
        await asyncio.gather(
            *(
                database.write(lambda connection, n=n: projects.create(connection, "user:u1", f"n{n}", "u1"))
                for n in range(500)
            )
        )

    run(path, work, lambda events: batches.append(len(events)))
    assert sum(batches) == 500
    assert len(batches) < 250


def test_a_reader_sees_what_was_acknowledged_and_cannot_write(path):
    async def work(database):
        await database.write(insert("seen", "yes"))
        seen = await database.read(read_facts)
        with pytest.raises(Exception, match=r"readonly|query_only"):
            await database.read(insert("from a reader", "no"))
        return seen, await database.read(read_facts)

    first, second = run(path, work)
    assert first == second == {"seen": "yes"}


def test_a_cancelled_caller_does_not_undo_a_write_under_way(path):
    async def work(database):
        task = asyncio.create_task(database.write(insert("kept", "yes")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await database.write(insert("after", "yes"))
        return await database.read(read_facts)

    assert run(path, work) == {"kept": "yes", "after": "yes"}


def test_events_are_published_after_their_commit_in_order_and_only_if_it_happened(path):
    published = []

    def create(name):
        return lambda connection: projects.create(connection, "user:u1", name, "u1")

    def create_then_fail(connection):
        create("doomed")(connection)
        raise LookupError

    async def work(database):
        await asyncio.gather(
            database.write(create("a")),
            database.write(create_then_fail),
            database.write(create("b")),
            return_exceptions=True,
        )
        return await database.read(lambda connection: events.after(connection, ["user:u1"], 0, 10))

    stored = run(path, work, published.extend)
    assert [event.seq for event in stored] == [change.event.seq for change in published]
    assert [event.action for event in stored] == [Action.CREATED, Action.CREATED]
    assert [b'"a"' in bytes(event.resource) for event in stored] == [True, False]


def test_events_of_others_do_not_exist(path):
    async def work(database):
        await database.write(lambda connection: projects.create(connection, "user:u1", "mine", "u1"))
        return await database.read(lambda connection: events.after(connection, ["user:u2"], 0, 10))

    assert run(path, work) == []


def test_the_tables_are_those_the_migrations_make(path):
    engine = connect(path)
    found = inspect(engine)
    assert set(found.get_table_names()) - {"alembic_version"} == set(tables.metadata.tables)
    for name, table in tables.metadata.tables.items():
        columns = {column["name"]: column["nullable"] for column in found.get_columns(name)}
        assert columns == {column.name: bool(column.nullable) for column in table.columns}, name
        assert {index["name"] for index in found.get_indexes(name)} >= {index.name for index in table.indexes}
    engine.dispose()


def test_the_known_head_is_the_newest_migration():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "gradient_jupyter.store:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_preparing_again_keeps_the_install_id(path):
    assert schema.prepare(path) == schema.prepare(path) != ""


def test_a_newer_schema_is_refused_and_left_alone(path):
    engine = connect(path)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    before = path.read_bytes()
    with pytest.raises(schema.SchemaRefused, match="newer version"):
        schema.prepare(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    """P13: damage is named, never replaced by something empty."""
    path = tmp_path / "gradient.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    before = path.read_bytes()
    with pytest.raises(schema.SchemaRefused, match="cannot be read"):
        schema.prepare(path)
    assert path.read_bytes() == before


def test_an_illegal_transition_is_refused_by_the_store(path):
    def work(connection: Connection) -> None:
        project = projects.create(connection, "user:u1", "p", "u1")
        job = Job(
            id="j1", name="n", project_id=project.id, project="p", owner="user:u1", created_by="u1", number=1,
            command=("x",), snapshot="a" * 64, machine_type="local", state=State.PENDING, phase=Phase.QUEUED,
            target=Target.RUN, created_us=1,
        )  # fmt: skip
        jobs.create(connection, job, None)
        with pytest.raises(jobs.IllegalTransition):
            jobs.change(connection, job, state=State.STOPPED)
        ended = jobs.change(connection, job, state=State.CANCELLED, phase=Phase.DONE)
        with pytest.raises(jobs.IllegalTransition):
            jobs.change(connection, ended, exit_code=0)
        assert jobs.change(connection, ended, target=Target.DELETED).target is Target.DELETED

    run(path, lambda database: database.write(work))


def limit_pages(connection: Connection) -> None:
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


def unlimit_pages(connection: Connection) -> None:
    connection.exec_driver_sql("PRAGMA max_page_count=1000000")


def test_a_full_database_refuses_and_keeps_nothing_of_what_it_refused(path):
    """Fault: the database cannot grow (SQLITE_FULL) in the middle of a group. P1, P12: what was answered with
    no-space is not stored, also where SQLite undid the whole transaction; it heals as soon as it may grow."""

    async def work(database):
        await database.write(insert("before", "1"))
        await database.write(limit_pages)
        results = await asyncio.gather(
            database.write(insert("a", "x")),
            database.write(insert("large", "x" * 200_000)),
            database.write(insert("b", "x")),
            database.write(insert("c", "x")),
            return_exceptions=True,
        )
        # The space of its log was given back: a full disk can use it.
        assert path.with_name(f"{path.name}-wal").stat().st_size == 0
        during = await database.read(read_facts)
        await database.write(unlimit_pages)
        await database.write(insert("after", "1"))
        return results, during, await database.read(read_facts)

    results, during, healed = run(path, work)
    assert isinstance(results[1], NoSpace) and results[1].next
    for name, result in zip(("a", "large", "b", "c"), results, strict=True):
        assert (name in during) == (result is None), (name, result)
    assert healed == {**during, "after": "1"} and "before" in during


def damage(path, page=4096):
    """Overwrites every page but the first, which holds the list of tables."""
    data = bytearray(path.read_bytes())
    for at in range(page, len(data), page):
        data[at : at + 16] = b"\xff" * 16
    path.write_bytes(data)
    return bytes(data)


def test_a_damaged_database_is_named_and_left_as_it_is(path):
    """Fault: its pages are overwritten. P13: found at the start, before anything is written."""
    install = schema.prepare(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        query = "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = 'jobs'"
        (page,) = database.execute(query).fetchone()
    data = bytearray(path.read_bytes())
    # All facts can still be read.
    data[(page - 1) * 4096 : (page - 1) * 4096 + 16] = b"\xff" * 16
    path.write_bytes(data)
    with pytest.raises(schema.Damaged) as found:
        schema.prepare(path)
    assert found.value.install == install and str(found.value)
    assert path.read_bytes() == bytes(data)


def test_a_database_damaged_beyond_its_facts_is_refused_and_left_as_it_is(path):
    """Fault: every page but the first is overwritten. P13."""
    data = damage(path)
    with pytest.raises(schema.SchemaRefused, match="cannot be read"):
        schema.prepare(path)
    assert path.read_bytes() == data


def test_damage_that_shows_while_it_is_used_ends_all_writing(path):
    """Fault: pages are overwritten under a running database. P13: named to the reader who meets it, and from
    then on every write is refused with the file's name and the way out."""

    async def work(database):
        # Nothing of it may stand in the log, which would be read in its place.
        damage(path)
        with pytest.raises(ServerError) as met:
            await database.read(read_facts)
        with pytest.raises(ReadOnly) as refused:
            await database.write(insert("more", "1"))
        return met.value, refused.value

    met, refused = run(path, work)
    assert met.code == "database-damaged" and str(path) in met.message
    assert refused.code == "read-only" and str(path) in refused.next


@pytest.mark.parametrize("engine", [connect, connect_read_only])
def test_what_the_database_refuses_does_not_say_what_it_was_given(path, engine):
    """Asset: the values of variables (A2), against who may read the server's log."""
    with engine(path).connect() as connection, pytest.raises(DBAPIError) as error:
        connection.execute(text("INSERT INTO facts (name, nothing) VALUES (:a, 1)"), {"a": "canary-7"})
    assert "canary-7" not in f"{error.value} {error.value!r}"


def test_an_unforeseen_error_of_the_database_tells_the_log_no_value(own_solo):
    """The same from outside: a variable's value, a file's name."""
    own_solo.start()
    own_solo.kill()
    with contextlib.closing(sqlite3.connect(own_solo.data / "gradient.sqlite")) as database:
        database.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'unforeseen'); END"
        )
        database.commit()
    own_solo.start()
    empty = own_solo.request("POST", "/snapshots", json_body={"entries": []}).json()["id"]
    asked = {"command": ["true", "canary-8"], "snapshot": empty, "project": "p", "env": {"K": "canary-9"}}
    assert own_solo.request("POST", "/jobs", json_body=asked).status == 500
    assert "unforeseen" in own_solo.log() and "INSERT INTO jobs" in own_solo.log()
    assert "canary" not in own_solo.log()


def test_a_read_only_database_is_read_and_not_written(path):
    async def fill(database):
        await database.write(insert("kept", "1"))

    run(path, fill)
    before = path.read_bytes()

    async def work():
        database = Database(path, read_only="because")
        database.start()
        try:
            with pytest.raises(ReadOnly, match="because"):
                await database.write(insert("more", "1"))
            return await database.read(read_facts)
        finally:
            database.close()

    assert asyncio.run(work()) == {"kept": "1"}
    assert path.read_bytes() == before


def test_a_database_that_cannot_be_opened_answers_and_is_opened_again(tmp_path, path):
    """Fault: no descriptor or no space when the writer opens its file. Nobody waits for ever; the next write
    is stored."""

    async def work(database):
        hidden = tmp_path / "hidden"
        path.rename(hidden)
        path.mkdir()
        try:
            with pytest.raises(ServerError, match="refuses to work"):
                await database.write(insert("lost", "1"))
        finally:
            path.rmdir()
            hidden.rename(path)
        await database.write(insert("kept", "1"))
        return await database.read(read_facts)

    assert run(path, work) == {"kept": "1"}
