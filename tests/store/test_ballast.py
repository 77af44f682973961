"""P12: on a full disk things can be deleted, because there is something to throw off first."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection

from gradient_jupyter.resources.errors import NoSpace
from gradient_jupyter.store import schema, tables
from gradient_jupyter.store.ballast import Ballast
from gradient_jupyter.store.database import Database


def test_it_takes_its_space_and_gives_it_back(tmp_path):
    ballast = Ballast(tmp_path / "ballast", 1 << 20)
    assert ballast.load(0)
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= 1 << 20
    assert ballast.load(1 << 60), "what is there stays, however little is free"
    assert ballast.drop() and not ballast.drop()
    assert not ballast.load(1 << 60), "it is no reason to go below the reserve"
    assert not list(tmp_path.iterdir())
    assert not Ballast(tmp_path / "none", 0).load(0)


def test_one_that_was_cut_short_is_made_anew(tmp_path):
    (tmp_path / "ballast").write_bytes(b"short")
    (tmp_path / "ballast.new").write_bytes(b"of a server that was killed")
    assert Ballast(tmp_path / "ballast", 1 << 20).load(0)
    assert [path.name for path in tmp_path.iterdir()] == ["ballast"]
    assert (tmp_path / "ballast").stat().st_size == 1 << 20


def test_a_write_that_finds_the_disk_full_is_run_again_once_there_is_space(tmp_path):
    """P12. Fault: SQLITE_FULL, by SQLite's own limit. Every write of the group goes through, once."""
    path = tmp_path / "gradient.sqlite"
    schema.prepare(path)
    writer: list[Connection] = []
    asked = []

    def give() -> bool:
        asked.append(1)
        if len(asked) > 1:
            return False
        writer[0].connection.driver_connection.execute("PRAGMA max_page_count=100000")
        return True

    def insert(name: str):
        def work(connection: Connection) -> str:
            connection.execute(tables.facts.insert().values(name=name, value="x" * 100_000))
            return name

        return work

    def limit(connection: Connection) -> None:
        writer[:] = [connection]
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # as many as there are already

    async def main() -> None:
        database = Database(path, on_full=give)
        database.start()
        try:
            await database.write(limit)
            assert await asyncio.gather(*(database.write(insert(name)) for name in "abc")) == ["a", "b", "c"]
            assert len(asked) == 1
            await database.write(limit)
            with pytest.raises(NoSpace, match="nothing was changed"):
                await database.write(insert("d"))
            # It ends when space returns: the writer is not stuck in what SQLite has undone by itself.
            writer[0].connection.driver_connection.execute("PRAGMA max_page_count=100000")
            writer[0].rollback()
            assert await database.write(insert("e")) == "e"
            names = await database.read(
                lambda connection: set(connection.execute(tables.facts.select()).scalars())
            )
            assert {"a", "b", "c", "e"} <= names and "d" not in names
        finally:
            database.close()

    asyncio.run(main())
