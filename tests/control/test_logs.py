"""Following a job's log while the job changes: attempts, ends, damage, and the order of the two.

No engine and no reconciler run here: the test writes the log and the row, so each moment is a known one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection

from gradient_jupyter.control.following import logs
from gradient_jupyter.control.following.tails import Piece, Position
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane, Settings
from gradient_jupyter.engines.framedlog import Writer
from gradient_jupyter.engines.local import LocalEngine
from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.errors import NotFound, ServerError
from gradient_jupyter.resources.job import Job, Moment, Phase, State, Target
from gradient_jupyter.resources.log import Ended, Truncated
from gradient_jupyter.store import attempts as attempt_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import projects, schema, users
from gradient_jupyter.workspace.blobs import BlobStore

PATIENCE_S = 60.0


def encode(pieces: Sequence[Piece]) -> bytes:
    return msgspec.json.encode([(str(each.after), each.piece.stream, each.piece.text) for each in pieces])


class Place:
    """One job in a real store, and its logs."""

    def __init__(self, plane: Plane, principal: Principal, job_id: str) -> None:
        self.plane = plane
        self.principal = principal
        self.id = job_id

    async def becomes(self, **values: object) -> None:
        await self.plane.database.write(
            lambda connection: rows.change(connection, rows.find(connection, self.id), **values)
        )

    async def ends(self, attempt: int, log_bytes: int) -> None:
        """The attempt has failed, and its log had so many bytes then."""

        def work(connection: Connection) -> None:
            key = f"task-{attempt}"
            attempt_rows.begin(connection, self.id, attempt, key, "local")
            job = msgspec.structs.replace(rows.find(connection, self.id), attempt=attempt)
            attempt_rows.end(connection, job, State.FAILED, None, 1, None, now_us(), log_bytes)
            if attempt == rows.find(connection, self.id).attempt:
                rows.change(connection, rows.find(connection, self.id), state=State.FAILED, phase=Phase.DONE)

        await self.plane.database.write(work)

    def queries(self) -> list[object]:
        """Every read of the store from here on."""
        read, made = self.plane.database.read, []

        async def counted(work):
            made.append(work)
            return await read(work)

        self.plane.database.read = counted  # type: ignore[method-assign]
        return made

    def log(self, attempt: int) -> Writer:
        directory = self.plane.layout.attempt(self.id, attempt)
        directory.mkdir(parents=True, exist_ok=True)
        return Writer(directory / "log")

    def write(self, attempt: int, text: str, stream: int = 1) -> int:
        """Returns the log's epoch. Gives no hint."""
        with self.log(attempt) as writer:
            writer.append(stream, text.encode(), now_us())
            return writer.epoch

    def follow(self, start: str = "", attempt: int | None = None, follow: bool = True) -> Told:
        position = logs.parse_position(start)
        return Told(
            logs.follow(self.plane, self.principal, self.id, position, follow, encode, attempt), self.plane
        )


class Told:
    """What a follower is told, as short words."""

    def __init__(self, source: AsyncIterator[object], plane: Plane) -> None:
        self._source = source
        self._plane = plane

    async def next(self) -> object:
        async with asyncio.timeout(PATIENCE_S):
            item = await anext(self._source)
        match item:
            case bytes():
                return [(stream, text) for _, stream, text in self.pieces(item)]
            case Job():
                return f"{item.state} {item.attempt}"
            case Truncated():
                return f"truncated {item.offset} of {item.size}"
            case Ended():
                return f"end {item.final}"
        raise AssertionError(item)

    async def raw(self) -> list[tuple[str, str, str]]:
        async with asyncio.timeout(PATIENCE_S):
            item = await anext(self._source)
        assert isinstance(item, bytes)
        return self.pieces(item)

    def pieces(self, item: bytes) -> list[tuple[str, str, str]]:
        return msgspec.json.decode(item, type=list[tuple[str, str, str]])

    async def rest(self) -> list[object]:
        found: list[object] = []
        while not str(found[-1:]).startswith("['end"):
            found.append(await self.next())
        return found

    async def close(self) -> None:
        await self._source.aclose()  # type: ignore[attr-defined]


@asynccontextmanager
async def place(root: Path) -> AsyncIterator[Place]:
    layout = Layout(root)
    root.mkdir()
    install = schema.prepare(layout.database)
    plane = Plane(
        layout,
        install,
        Settings(),
        BlobStore(layout.blobs),
        lambda plane: LocalEngine(layout.engines / "local", plane.unpack, install=install, isolation="none"),
        b"k" * 32,
        "http://127.0.0.1:9",
    )
    plane.database.start()
    try:
        user = await plane.database.write(lambda connection: users.ensure(connection, "solo", "ada"))
        principal = Principal(user_id=user.id, name="ada")
        now = now_us()

        def work(connection):
            project = projects.create(connection, principal.owner, "leaves", user.id)
            job = Job(
                id=new_id("j"), name="train", project_id=project.id, project=project.name,
                owner=principal.owner, created_by=user.id, number=1, command=("train",), snapshot="none",
                machine_type="local", state=State.PENDING, phase=Phase.QUEUED, target=Target.RUN,
                created_us=now, history=(Moment(state=State.PENDING, phase=Phase.QUEUED, time_us=now),),
            )  # fmt: skip
            rows.create(connection, job, None)
            rows.change(connection, job, state=State.PROVISIONING, phase=Phase.STARTING, attempt=1)
            return job.id

        yield Place(plane, principal, await plane.database.write(work))
    finally:
        await plane.followed.close()
        await asyncio.to_thread(plane.database.close)


def run(scene, root: Path) -> None:
    async def scenario() -> None:
        async with place(root / "data") as there:
            await scene(there)

    asyncio.run(scenario())


OUT = "stdout"


def test_the_next_attempts_log_follows_with_a_line_that_says_so(tmp_path):
    async def scene(job: Place) -> None:
        job.write(1, "one\n")
        told = job.follow()
        assert await told.next() == "Provisioning 1"
        assert await told.next() == [(OUT, "one\n")]
        job.write(1, "last of one\n")  # no hint, and the attempt is over
        await job.becomes(state=State.RUNNING, phase=Phase.RUNNING, attempt=2)
        assert await told.next() == [(OUT, "last of one\n")]
        assert await told.next() == "Running 2"
        second = job.write(2, "two\n")
        job.plane.changes.log_grew(job.id)
        said = await told.raw()
        assert said[0][:2] == (f"{second}-0", "platform") and "attempt 2" in said[0][2]
        assert await told.next() == [(OUT, "two\n")]
        await job.becomes(state=State.STOPPED, phase=Phase.DONE)
        assert await told.rest() == ["Stopped 2", "end True"]
        # From the line on, as a client does whose connection was cut right behind it: nothing twice.
        again = job.follow(start=said[0][0])
        assert await again.rest() == ["Stopped 2", [(OUT, "two\n")], "end True"]

    run(scene, tmp_path)


def test_a_place_in_an_earlier_attempts_log_is_gone_on_from_there(tmp_path):
    """P7: the client was away while the job was tried again."""

    async def scene(job: Place) -> None:
        first = job.write(1, "seen\nmissed\n")
        job.write(2, "two\n")
        await job.becomes(state=State.RUNNING, phase=Phase.RUNNING, attempt=3)
        job.write(3, "three\n")
        await job.becomes(state=State.STOPPED, phase=Phase.DONE)
        told = await job.follow(start=f"{first}-5").rest()
        assert told[:2] == ["Stopped 3", [(OUT, "missed\n")]]
        assert "attempt 2" in str(told[2]) and "attempt 3" in str(told[4])
        assert [told[3], told[5], told[6]] == [[(OUT, "two\n")], [(OUT, "three\n")], "end True"]

    run(scene, tmp_path)


def test_a_place_in_a_log_that_is_gone_is_said_to_be_truncated(tmp_path):
    async def scene(job: Place) -> None:
        first = job.write(1, "one\n")
        await job.becomes(state=State.RUNNING, phase=Phase.RUNNING, attempt=2)
        job.write(2, "two\n")
        shutil.rmtree(job.plane.layout.attempt(job.id, 1))
        await job.becomes(state=State.STOPPED, phase=Phase.DONE)
        told = await job.follow(start=f"{first}-4").rest()
        assert told == ["Stopped 2", "truncated 4 of 4", [(OUT, "two\n")], "end True"]

    run(scene, tmp_path)


def test_one_attempt_can_be_read_by_itself(tmp_path):
    async def scene(job: Place) -> None:
        job.write(1, "one\n")
        await job.becomes(state=State.RUNNING, phase=Phase.RUNNING, attempt=2)
        job.write(2, "two\n")
        assert await job.follow(attempt=1).rest() == ["Running 2", [(OUT, "one\n")], "end False"]
        for attempt, text in ((1, b"one\n"), (2, b"two\n"), (None, b"two\n")):
            pieces = await logs.whole(job.plane, job.principal, job.id, attempt)
            assert b"".join([piece async for piece in pieces]) == text
        for wrong in (0, 3):
            with pytest.raises(NotFound) as refused:
                await job.follow(attempt=wrong).next()
            assert refused.value.code == "no-such-attempt" and refused.value.next

    run(scene, tmp_path)


def test_what_was_written_before_a_change_is_told_before_it_though_no_hint_came(tmp_path):
    async def scene(job: Place) -> None:
        job.write(1, "a")
        told = job.follow()
        assert [await told.next(), await told.next()] == ["Provisioning 1", [(OUT, "a")]]
        for state, phase in ((State.RUNNING, Phase.RUNNING), (State.RUNNING, Phase.COLLECTING)):
            waiting = asyncio.create_task(told.next())
            await asyncio.sleep(0)
            job.write(1, phase)
            await job.becomes(state=state, phase=phase)
            assert await waiting == [(OUT, phase)]
            assert await told.next() == f"{state} 1"
        job.write(1, "the end")
        await job.becomes(state=State.FAILED, phase=Phase.DONE)
        assert await told.rest() == [[(OUT, "the end")], "Failed 1", "end True"]

    run(scene, tmp_path)


def test_a_log_that_begins_after_its_follower_came(tmp_path):
    async def scene(job: Place) -> None:
        told = job.follow()
        assert await told.next() == "Provisioning 1"
        waiting = asyncio.create_task(told.next())
        await asyncio.sleep(0)
        job.write(1, "at last\n")
        await job.plane.followed.tails.look()  # no hint: heals with the next look
        assert await waiting == [(OUT, "at last\n")]
        await told.close()

    run(scene, tmp_path)


def test_a_damaged_log_is_told_once_and_the_next_attempt_is_read(tmp_path):
    """P13."""

    async def scene(job: Place) -> None:
        job.write(1, "good\n")
        job.write(1, "bad\n" * 100)
        job.write(1, "behind\n")
        path = job.plane.layout.attempt(job.id, 1) / "log"
        data = bytearray(path.read_bytes())
        data[data.index(b"bad")] ^= 1
        path.write_bytes(data)
        told = job.follow()
        assert [await told.next(), await told.next()] == ["Provisioning 1", [(OUT, "good\n")]]
        ((stream, text),) = await told.next()
        assert stream == "platform" and "damaged" in text
        await job.becomes(state=State.RUNNING, phase=Phase.RUNNING, attempt=2)
        assert await told.next() == "Running 2"
        job.write(2, "two\n")
        await job.becomes(state=State.STOPPED, phase=Phase.DONE)
        assert "attempt 2" in str(await told.next())
        assert await told.rest() == [[(OUT, "two\n")], "Stopped 2", "end True"]

    run(scene, tmp_path)


@pytest.mark.parametrize("left", [40, 11, 0, None])
def test_a_log_that_lost_its_end_at_rest_says_so(tmp_path, left):
    """Fault: the file is cut to its first bytes, or gone, after its attempt has ended. P13."""

    async def scene(job: Place) -> None:
        job.write(1, "one\n")
        job.write(1, "two\n")
        await job.ends(1, 8)
        path = job.plane.layout.attempt(job.id, 1) / "log"
        if left is None:
            path.unlink()
        else:
            os.truncate(path, left)
        shown = [[(OUT, "one\n")]] if left == 40 else []
        missing = 4 if left == 40 else 8
        for follow in (True, False):
            first, *told, said, end = await job.follow(follow=follow).rest()
            assert (first, told, end) == ("Failed 1", shown, "end True")
            assert "damaged" in str(said) and f"{missing} bytes" in str(said)
        got = b""
        with pytest.raises(ServerError, match=f"{missing} bytes") as refused:
            async for piece in await logs.whole(job.plane, job.principal, job.id):
                got += piece
        assert refused.value.code == "log-damaged"
        assert got == (b"one\n" if shown else b"")

    run(scene, tmp_path)


def test_an_earlier_attempts_log_that_lost_its_end_says_so_before_the_next(tmp_path):
    """P13."""

    async def scene(job: Place) -> None:
        job.write(1, "one\n")
        job.write(2, "two\n")
        await job.becomes(state=State.RUNNING, phase=Phase.RUNNING, attempt=2)
        await job.ends(1, 6)
        await job.ends(2, 4)
        told = await job.follow(f"{job.write(1, '')}-0").rest()
        assert [str(each) for each in told[1:2]] == [str([(OUT, "one\n")])]
        assert "2 bytes" in str(told[2]) and "attempt 2" in str(told[3])
        assert told[4:] == [[(OUT, "two\n")], "end True"]

    run(scene, tmp_path)


def test_a_log_that_lost_its_end_costs_one_query_however_many_follow_it(tmp_path):
    async def scene(job: Place) -> None:
        job.write(1, "one\n")
        told = [job.follow() for _ in range(50)]
        for each in told:
            assert [await each.next(), await each.next()] == ["Provisioning 1", [(OUT, "one\n")]]
        queries = job.queries()
        rests = [asyncio.create_task(each.rest()) for each in told]
        await job.ends(1, 5)
        for rest in await asyncio.gather(*rests):
            assert "1 bytes" in str(rest[-2])
        assert len(queries) == 2  # the job, and how long its log was

    run(scene, tmp_path)


def test_a_job_that_is_deleted_ends_its_followers(tmp_path):
    async def scene(job: Place) -> None:
        job.write(1, "one\n")
        told = [job.follow() for _ in range(3)]
        for each in told:
            assert [await each.next(), await each.next()] == ["Provisioning 1", [(OUT, "one\n")]]
        shutil.rmtree(job.plane.layout.job(job.id))
        await job.plane.database.write(
            lambda connection: rows.erase(connection, rows.find(connection, job.id))
        )
        for each in told:
            with pytest.raises(NotFound):
                await each.next()

    run(scene, tmp_path)


def test_followers_of_one_job_share_what_is_read_of_it(tmp_path):
    async def scene(job: Place) -> None:
        told = [job.follow() for _ in range(50)]
        queries = job.queries()
        await asyncio.gather(*(each.next() for each in told))
        assert len(queries) == 1
        waiting = [asyncio.create_task(each.next()) for each in told]
        await job.becomes(state=State.RUNNING, phase=Phase.RUNNING)
        assert set(await asyncio.gather(*waiting)) == {"Running 1"}
        assert len(queries) == 2
        for each in told:
            await each.close()

    run(scene, tmp_path)


def test_nothing_is_kept_of_what_nobody_follows_any_more(tmp_path):
    """T14."""

    async def scene(job: Place) -> None:
        job.write(1, "one\n")
        told = [job.follow() for _ in range(10)]
        for each in told:
            assert [await each.next(), await each.next()] == ["Provisioning 1", [(OUT, "one\n")]]
        for each in told:
            await each.close()
        followed, changes = job.plane.followed, job.plane.changes
        assert not followed._jobs and not followed.tails._open and not changes._of_job
        assert followed.tails._looking is None and followed.tails.kept.size == 0

    run(scene, tmp_path)


def test_a_position_says_what_it_is():
    assert str(logs.parse_position("7-12")) == "7-12"
    assert logs.parse_position(None) == Position()
