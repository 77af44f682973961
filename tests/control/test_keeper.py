"""Deleting for age, leases and leftovers: what goes, what stays, and what the clock has to say about it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import update

from gradient_jupyter.control.keeping import leftovers
from gradient_jupyter.control.keeping.clock import Clock, is_synchronised
from gradient_jupyter.control.keeping.leases import LONGEST_S, Leases
from gradient_jupyter.control.keeping.retention import Retention
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.resources.base import now_us
from gradient_jupyter.resources.job import Phase, State, Target
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import tables

sys.path.insert(0, str(Path(__file__).parent))

from sending import submit

DAY_US = 24 * 3600 * 1_000_000
A, B = "a" * 64, "b" * 64


class Hands:
    """A wall clock and a boot clock that are moved by hand."""

    def __init__(self) -> None:
        self.wall_us = 1_800_000_000_000_000
        self.boot_s = 100.0

    def pass_s(self, seconds: float) -> None:
        self.wall_us += round(seconds * 1e6)
        self.boot_s += seconds

    def clock(self, *, synchronised: bool = False) -> Clock:
        return Clock(lambda: self.wall_us, lambda: self.boot_s, lambda: synchronised)


def test_a_clock_that_runs_evenly_is_believed():
    hands = Hands()
    clock = hands.clock()
    hands.pass_s(90 * 24 * 3600)
    assert clock.doubt(hands.wall_us - 91 * DAY_US, 30 * 24 * 3600) is None
    assert clock.doubt(None, 30 * 24 * 3600) is None


def test_a_clock_that_was_set_forward_deletes_nothing_unless_a_time_server_did_it():
    """P14. Fault: the clock is set forward by a year while the server runs."""
    hands = Hands()
    doubting, corrected = hands.clock(), hands.clock(synchronised=True)
    hands.wall_us += 366 * DAY_US
    assert "366 days" in (doubting.doubt(None, 30 * 24 * 3600) or "")
    assert corrected.doubt(None, 30 * 24 * 3600) is None
    hands.wall_us -= 2 * 366 * DAY_US
    assert doubting.doubt(None, 30 * 24 * 3600) is None, "set back it makes nothing older"


def test_a_long_silence_before_the_start_is_not_taken_for_age():
    """P14. Fault: the clock is set forward by a year while no server runs."""
    hands = Hands()
    clock = hands.clock()
    assert "newest event" in (clock.doubt(hands.wall_us - 366 * DAY_US, 30 * 24 * 3600) or "")
    assert clock.doubt(hands.wall_us - 2 * DAY_US, 30 * 24 * 3600) is None
    assert clock.doubt(hands.wall_us - 4 * DAY_US, 30 * 24 * 3600) is not None


def test_the_kernel_is_asked_whether_the_clock_is_kept():
    assert is_synchronised() in (True, False)


async def ended(plane, days: float, *tags: str):
    job, _ = await submit(plane, {"a": b"a"})

    def work(connection):
        rows.change(
            connection, job, state=State.CANCELLED, phase=Phase.DONE, ended_us=now_us() - round(days * DAY_US)
        )
        rows.change(connection, rows.find(connection, job.id), tags=tags)

    await plane.database.write(work)
    return job.id


def test_retention_deletes_what_ended_long_ago_and_nothing_else(with_plane):
    async def work(plane):
        old, older = await ended(plane, 31), await ended(plane, 400, "a", "b")
        kept = await ended(plane, 400, "keep")
        young = await ended(plane, 29)
        waiting, _ = await submit(plane, {"a": b"a"})
        await plane.database.write(
            lambda connection: connection.execute(update(tables.jobs).values(created_us=0))
        )
        retention = Retention(plane, now_us(), Clock())
        assert set((await retention.apply(dry_run=True)).jobs) == {old, older}

        def targets(connection):
            return {job_id: rows.find(connection, job_id).target for job_id in everyone}

        everyone = (old, older, kept, young, waiting.id)
        assert set((await plane.database.read(targets)).values()) == {Target.RUN}
        assert set((await retention.apply()).jobs) == {old, older}
        found = await plane.database.read(targets)
        assert {job_id for job_id, target in found.items() if target is Target.DELETED} == {old, older}
        assert (await retention.apply()).jobs == ()

    with_plane(work, keep_jobs_days=30)


def test_retention_waits_while_the_clock_is_in_doubt_and_says_so(with_plane):
    async def work(plane):
        old = await ended(plane, 31)
        hands = Hands()
        clock = hands.clock()
        hands.wall_us += 366 * DAY_US
        retention = Retention(plane, None, clock)
        retired = await retention.apply()
        assert retired.jobs == () and "set forward" in retired.doubt
        assert (await retention.apply(trust_clock=True)).jobs == (old,)

    with_plane(work, keep_jobs_days=30)


def test_nothing_is_deleted_for_its_age_unless_somebody_says_so(with_plane):
    async def work(plane):
        await ended(plane, 4000)
        assert (await Retention(plane, now_us(), Clock()).apply(trust_clock=True)).jobs == ()

    with_plane(work)


def test_a_lease_lasts_its_time_by_the_clock_nobody_sets():
    hands = Hands()
    leases = Leases(3600, lambda: hands.boot_s)
    leases.take("ann", [A])
    hands.wall_us += 366 * DAY_US
    with leases.watched():
        assert leases.holds(A) and not leases.holds(B)
        leases.take("bob", [B])
        assert leases.holds(B), "what is taken while a sweep runs counts for it"
    hands.pass_s(3601)
    with leases.watched():
        assert not leases.holds(A) and not leases.holds(B)


def test_a_lease_lasts_as_long_as_its_owner_goes_on_sending_but_not_for_ever():
    hands = Hands()
    leases = Leases(3600, lambda: hands.boot_s)
    leases.take("ann", [A])
    leases.take("bob", [B])
    for _ in range(10):
        hands.pass_s(1800)
        leases.sending("ann")
    with leases.watched():
        assert leases.holds(A) and not leases.holds(B)
    for _ in range(60):
        hands.pass_s(1800)
        leases.sending("ann")
    assert hands.boot_s > LONGEST_S
    with leases.watched():
        assert not leases.holds(A)


def test_what_is_pinned_stays_however_short_a_lease_is():
    leases = Leases(0)
    with leases.pinned([A]), leases.watched():
        assert leases.holds(A)
        with leases.pinned([A]):
            pass
        assert leases.holds(A)
    with leases.watched():
        assert not leases.holds(A)


def test_leftovers_are_found_where_only_we_put_them(tmp_path):
    layout = Layout(tmp_path)
    known, gone = "j" + "0" * 12, "j" + "1" * 12
    for path in (
        f"jobs/{known}/1/workspace", f"jobs/{known}/1/workspace.partial-0", f"jobs/{known}/1/artifacts",
        f"jobs/{known}/2/tmp", f"jobs/{gone}/1", "jobs/mine", "engines/local/.trash-0",
        "engines/local/.trash-1", "engines/local/in-job-x-1-0",
    ):  # fmt: skip
        (tmp_path / path).mkdir(parents=True)
    os.utime(tmp_path / "engines/local/.trash-0", (0, 0))
    (tmp_path / "jobs" / ("j" + "2" * 12)).symlink_to("/etc")
    jobs = list(leftovers.directories_of_jobs(layout))
    assert [path.name for path in jobs] == [known, gone]
    found = leftovers.scratch([tmp_path / "jobs" / known], {(known, 2)})
    assert [left.path.name for left in found] == ["workspace", "workspace.partial-0"]
    assert [left.path.name for left in leftovers.trash(layout, time.time())] == [".trash-0"]


@pytest.mark.parametrize("dry_run", [True, False])
def test_leftovers_go_when_a_person_asks_and_are_named(with_plane, dry_run):
    async def work(plane):
        job_id = await ended(plane, 1)
        running, _ = await submit(plane, {"a": b"a"})
        stray = plane.layout.job("j" + "z" * 12)
        paths = [plane.layout.attempt(job_id, 1) / "workspace", stray]
        kept = [
            plane.layout.attempt(job_id, 1) / "artifacts",
            plane.layout.attempt(running.id, 1) / "workspace",
        ]
        for path in (*paths, *kept):
            (path / "deep").mkdir(parents=True)
            (path / "deep" / "f").write_bytes(b"x" * 5000)
        collected = await plane.keeper.collect(dry_run=dry_run)
        (item,) = [item for item in collected.items if item.kind == "leftovers"]
        assert item.count == 2 and item.bytes >= 2 * 4096
        assert all(any(str(path) in name for name in item.names) for path in paths)
        assert [path.exists() for path in paths] == [dry_run, dry_run]
        assert all(path.exists() for path in kept)

    with_plane(work)
