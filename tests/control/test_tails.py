"""Logs that many follow: everyone gets the whole, whoever comes, lags, leaves, whichever hints are lost."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import descriptors
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_jupyter.control.changes import Changes
from gradient_jupyter.control.following import tails as module
from gradient_jupyter.control.following.feeds import Batch, Bell, Feed, Kept
from gradient_jupyter.control.following.tails import READ, Piece, Tail, Tails
from gradient_jupyter.control.scheduling.queue import Queue
from gradient_jupyter.engines.framedlog import Writer
from gradient_jupyter.resources.errors import ServerError

PATIENCE_S = 60.0


def encode(pieces: Sequence[Piece]) -> bytes:
    return msgspec.json.encode([(each.after.offset, each.piece.stream, each.piece.text) for each in pieces])


def pieces(batch: Batch) -> list[tuple[int, str, str]]:
    return msgspec.json.decode(batch.wire, type=list[tuple[int, str, str]])


class Log:
    """A log that is written and followed in one test."""

    def __init__(self, directory: Path, kept: Kept | None = None) -> None:
        self.path = directory / "log"
        self.writer = Writer(self.path)
        self.text = ""
        self.changes = Changes(Queue())
        self.tails = Tails(self.changes, kept or Kept())

    def write(self, text: str, stream: int = 1) -> None:
        self.writer.append(stream, text.encode(), 1)
        self.text += text

    def hint(self) -> None:
        self.changes.log_grew("j")

    async def __aenter__(self) -> Log:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.tails.close()


class Follower:
    def __init__(self, log: Log, start: int) -> None:
        self.start = self.offset = start
        self.text = ""
        self.seen = [start]
        self.bell = Bell()
        self._log = log
        self._held = log.tails.open("j", log.path, encode)
        self.tail: Tail = self._held.__enter__()
        self._ringing = self.tail.followers.with_(self.bell)
        self._ringing.__enter__()

    async def step(self) -> bool:
        batch = await self.tail.read(self.offset)
        if batch is None:
            return False
        for after, _, text in pieces(batch):
            self.text += text
            self.seen.append(after)
        self.offset = batch.after
        return True

    async def until(self, size: int) -> None:
        """As followers do: sleeps whenever there is nothing."""
        while self.offset < size:
            self.bell.mute()
            while await self.step():
                pass
            if self.offset < size:
                await self.bell.wait()

    def leave(self) -> None:
        self._ringing.__exit__(None, None, None)
        self._held.__exit__(None, None, None)

    def check(self) -> None:
        """P7: what it got is what stands in the log from its beginning to its place, and every id is true."""
        whole = self._log.text.encode()
        assert self.text.encode() == whole[self.start : self.offset]
        assert self.seen == sorted(self.seen)


texts = st.one_of(
    st.text(st.sampled_from("aü€😀\n"), min_size=1, max_size=30),
    st.integers(1, 3 * READ).map(lambda count: (f"€uro {count}\n" * (count // 6 + 1))[:count]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), texts, st.integers(1, 3)),
        st.tuples(st.just("hint")),
        st.tuples(st.just("look")),
        st.tuples(st.just("join"), st.integers(0, 99), st.integers(0, 99)),
        st.tuples(st.just("read"), st.integers(0, 99), st.integers(1, 4)),
        st.tuples(st.just("leave"), st.integers(0, 99)),
    ),
    max_size=40,
)


@given(steps, st.sampled_from([0, 3000, 4 * READ]))
@settings(max_examples=150)
def test_everyone_gets_the_whole_from_any_piece_on(script, budget):
    """P7, whatever is kept of it: followers join at the beginning or at any piece, lag, leave."""

    async def run(directory: Path) -> None:
        async with Log(directory, Kept(budget)) as log:
            followers: list[Follower] = []
            places = [0]
            for step in script:
                match step:
                    case ("write", text, stream):
                        log.write(text, stream)
                    case ("hint",):
                        log.hint()
                    case ("look",):
                        await log.tails.look()
                    case ("join", which, _):
                        followers.append(Follower(log, places[which % len(places)]))
                    case ("read", which, count) if followers:
                        some = [followers[(which + n) % len(followers)] for n in range(count)]
                        await asyncio.gather(*(each.step() for each in dict.fromkeys(some)))
                        places += some[0].seen[-2:]
                    case ("leave", which) if followers:
                        gone = followers.pop(which % len(followers))
                        gone.check()
                        gone.leave()
            await log.tails.look()
            followers.append(Follower(log, 0))
            size = len(log.text.encode())
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(each.until(size) for each in followers))
            for each in followers:
                each.check()
                assert each.offset == size
                each.leave()
            assert log.tails.kept.size == 0, "what nobody follows is not kept"

    with tempfile.TemporaryDirectory(prefix="tails-") as directory:
        asyncio.run(run(Path(directory)))


@given(st.lists(st.tuples(texts, st.sampled_from(["hint", "lost", "late"])), min_size=1, max_size=15))
@settings(max_examples=60)
def test_whoever_sleeps_is_woken_by_the_hint_or_by_the_next_look(script):
    """P7 while hints come early, late or never; heals with the next look. A wake-up lost in a read that was
    under way would leave a follower asleep for ever."""

    async def run(directory: Path) -> None:
        async with Log(directory) as log:
            followers = [Follower(log, 0) for _ in range(5)]
            size = sum(len(text.encode()) for text, _ in script)
            following = [asyncio.create_task(each.until(size)) for each in followers]
            lost = False
            for text, hint in script:
                if hint == "late":
                    log.hint()
                await asyncio.sleep(0)
                log.write(text)
                if hint == "hint":
                    log.hint()
                lost = hint != "hint"
            if lost:
                await log.tails.look()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*following)
            for each in followers:
                each.check()
                each.leave()

    with tempfile.TemporaryDirectory(prefix="tails-") as directory:
        asyncio.run(run(Path(directory)))


def test_a_growth_told_during_a_read_is_not_taken_for_read():
    """The read began before the growth: its "nothing there" must not put anybody to sleep."""

    async def run() -> None:
        there = 0
        began, go_on = asyncio.Event(), asyncio.Event()

        async def fetch(position: int) -> Batch | None:
            found = Batch(there, b"new", False) if there > position else None
            began.set()
            await go_on.wait()
            return found

        feed = Feed(Kept(), fetch)
        early = asyncio.create_task(feed.read(0))
        await began.wait()
        there = 3
        feed.stir()
        late = asyncio.create_task(feed.read(0))
        await asyncio.sleep(0)
        go_on.set()
        assert await early is None
        assert await late == Batch(3, b"new", False)

    asyncio.run(run())


def test_two_hundred_followers_cost_one_read_and_no_descriptor(tmp_path):
    async def run() -> None:
        async with Log(tmp_path) as log:
            log.write("x" * 50_000)
            fetched: list[int] = []
            before = descriptors.held()
            followers = [Follower(log, 0) for _ in range(200)]
            tail = followers[0].tail
            read = tail._read
            tail._read = lambda offset: (fetched.append(offset), read(offset))[1]  # type: ignore[method-assign]
            await asyncio.gather(*(each.step() for each in followers))
            assert fetched == [0]
            assert {each.text for each in followers} == {log.text}
            # The end was seen by that read, so nobody looks for it again until somebody says it grew.
            await asyncio.gather(*(each.step() for each in followers))
            assert fetched == [0]
            assert descriptors.held() - before <= 6, "the pool's and the loop's own"
            for each in followers:
                each.leave()

    asyncio.run(run())


def test_two_thousand_logs_hold_no_descriptor(tmp_path):
    async def run() -> None:
        changes = Changes(Queue())
        tails = Tails(changes, Kept())
        before = descriptors.held()
        held = []
        for n in range(2000):
            path = tmp_path / str(n)
            with Writer(path) as writer:
                writer.append(1, b"line\n", 1)
            opened = tails.open(f"j{n}", path, encode)
            tail = opened.__enter__()
            held.append(opened)
            assert (await tail.read(0)) is not None
        assert descriptors.held() - before <= 6
        for opened in held:
            opened.__exit__(None, None, None)
        await tails.close()

    asyncio.run(run())


def test_one_look_is_bounded_and_every_log_has_its_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOKED_AT", 3)

    async def run() -> None:
        tails = Tails(Changes(Queue()), Kept())
        opened = [tails.open(f"j{n}", tmp_path / str(n), encode) for n in range(7)]
        tail_of = [each.__enter__() for each in opened]
        for _ in range(3):
            await tails.look()
        assert all(tail.file_size == -1 for tail in tail_of)
        for each in opened:
            each.__exit__(None, None, None)
        await tails.close()

    asyncio.run(run())


def test_what_is_kept_has_one_budget_and_the_rest_is_read_again(tmp_path):
    async def run() -> None:
        async with Log(tmp_path, Kept(2 * READ)) as log:
            log.write("".join(f"{n:07}\n" for n in range(10 * READ // 8)))
            first, second = Follower(log, 0), Follower(log, 0)
            while await first.step():
                assert log.tails.kept.size <= 2 * READ
            while await second.step():
                assert log.tails.kept.size <= 2 * READ
            for each in (first, second):
                each.check()
                assert each.offset == len(log.text)
                each.leave()

    asyncio.run(run())


def test_a_log_that_another_one_replaced_is_damage_and_never_other_bytes(tmp_path):
    """P13."""

    async def run() -> None:
        async with Log(tmp_path) as log:
            log.write("first\n")
            follower = Follower(log, 0)
            assert await follower.step()
            log.path.unlink()
            with Writer(log.path) as other:
                other.append(1, b"other bytes\n" * 2, 1)
            log.hint()
            with pytest.raises(ServerError, match="another log has taken its place"):
                await follower.step()
            follower.leave()

    asyncio.run(run())


def test_a_follower_that_leaves_does_not_take_the_answer_from_the_others(tmp_path):
    async def run() -> None:
        async with Log(tmp_path) as log:
            log.write("here\n")
            followers = [Follower(log, 0) for _ in range(3)]
            reading = [asyncio.create_task(each.step()) for each in followers]
            await asyncio.sleep(0)
            reading[0].cancel()
            assert await asyncio.gather(*reading[1:]) == [True, True]
            for each in followers:
                each.leave()

    asyncio.run(run())


def test_a_bell_that_rings_while_its_follower_works_is_heard():
    async def run() -> None:
        bell = Bell()
        bell.ring()
        async with asyncio.timeout(PATIENCE_S):
            await bell.wait()
        bell.mute()
        sleeping = asyncio.create_task(bell.wait())
        await asyncio.sleep(0)
        assert not sleeping.done()
        bell.ring()
        bell.ring()
        await sleeping

    asyncio.run(run())


def test_a_frame_that_is_longer_than_one_read_is_cut_between_characters(tmp_path):
    async def run() -> None:
        async with Log(tmp_path) as log:
            log.write("a" + "€" * READ)
            follower = Follower(log, 0)
            while await follower.step():
                pass
            assert len(follower.seen) > 3 and follower.text == log.text
            follower.check()
            follower.leave()

    asyncio.run(run())


def test_what_stands_before_a_damage_is_not_taken_for_the_end(tmp_path):
    """P13: the same read returns what is whole and meets the damage; the next one must name it."""

    async def run() -> None:
        async with Log(tmp_path) as log:
            for text in ("whole\n", "flipped\n", "behind\n"):
                log.write(text)
            data = bytearray(log.path.read_bytes())
            data[data.index(b"flipped")] ^= 1
            log.path.write_bytes(data)
            follower = Follower(log, 0)
            assert await follower.step()
            assert follower.text == "whole\n"
            with pytest.raises(ServerError, match="damaged"):
                await follower.step()
            follower.leave()

    asyncio.run(run())
