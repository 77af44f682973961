"""The queue and who gets a machine, as properties: nothing twice, order, no idling, limits, positions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from queueing import GB, SIZES, Site, node

from gradient_jupyter.control.scheduling import placing
from gradient_jupyter.control.scheduling.machines import Size
from gradient_jupyter.control.scheduling.queue import Limits
from gradient_jupyter.resources.job import PLACED, Reason, State, Target


class QueueMachine(RuleBasedStateMachine):
    """Any order of submits, ends, cancels, retries, deletions and relists, on any machines."""

    @initialize(
        nodes=st.lists(
            st.tuples(st.integers(1, 8), st.integers(1, 16), st.integers(0, 3)), min_size=1, max_size=3
        ),
        limits=st.builds(
            Limits,
            max_running_jobs=st.none() | st.integers(1, 4),
            max_gpus=st.none() | st.integers(0, 3),
        ),
    )
    def begin(self, nodes, limits) -> None:
        self.site = Site(*(node(f"n{i}", *each) for i, each in enumerate(nodes)), limits=limits)

    def pick(self, data, among):
        return data.draw(st.sampled_from(sorted(among)))

    @rule(
        owner=st.sampled_from("abc"),
        machine_type=st.sampled_from([*SIZES, "gone"]),
        priority=st.integers(-2, 2),
        count=st.integers(1, 4),
    )
    def submit(self, owner, machine_type, priority, count) -> None:
        for _ in range(count):
            self.site.submit(owner, machine_type, priority)

    @rule(data=st.data())
    def end(self, data) -> None:
        if not self.site.running():
            return
        self.site.end(self.pick(data, self.site.running()))

    @rule(data=st.data())
    def retry(self, data) -> None:
        if not self.site.running():
            return
        self.site.become(self.pick(data, self.site.running()), state=State.PENDING)

    @rule(data=st.data())
    def ask_to_cancel(self, data) -> None:
        if not self.site.waiting():
            return
        self.site.become(self.pick(data, self.site.waiting()), target=Target.CANCELLED)

    @rule(data=st.data())
    def delete(self, data) -> None:
        if not self.site.waiting():
            return
        job_id = self.pick(data, self.site.waiting())
        del self.site.jobs[job_id]
        self.site.queue.gone(job_id)

    @rule()
    def lose_the_last_node(self) -> None:
        if len(self.site.nodes) == 1:
            return
        lost = self.site.nodes[-1]
        for job_id in [claim.job_id for claim in self.site.queue.claims.values() if claim.node == lost.name]:
            self.site.become(job_id, state=State.ERROR)
        self.site.nodes = self.site.nodes[:-1]

    @rule()
    def place(self) -> None:
        site = self.site
        lines: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for row in sorted(site.rows(), key=lambda row: (-row.priority, row.seq)):
            lines.setdefault((row.owner, row.machine_type), []).append((-row.priority, row.seq, row.job_id))
        for job_id in site.place():
            job = site.jobs[job_id]
            line = lines[job.owner, job.machine_type]
            assert line.pop(0)[2] == job_id, "not the first of its owner's"
        site.check_nobody_waits_for_nothing()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "site"):
            self.site.check_nothing_is_given_out_twice()
            self.site.check_limits()
            self.site.check_positions()
            self.site.check_the_rows_agree()


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueMachine = QueueMachine.TestCase


@given(st.lists(st.tuples(st.sampled_from(["small", "big"]), st.integers(-3, 3)), min_size=1, max_size=12))
def test_of_one_owner_positions_are_the_order_of_start_and_only_count_down(asked):
    site = Site(node(cpus=4, memory=64))
    site.submit("a", "big")
    (running,) = site.place()
    jobs = [site.submit("a", machine_type, priority) for machine_type, priority in asked]
    # One machine, so strictly the order of priority and arrival; a big one takes all of it.
    expected = sorted(jobs, key=lambda job_id: (-site.jobs[job_id].priority, site.seqs[job_id]))
    assert [site.position(job_id) for job_id in expected] == list(range(1, len(jobs) + 1))
    before = {job_id: site.position(job_id) for job_id in jobs}
    started: list[str] = []
    held = [running]
    while held:
        site.end(held.pop(0))
        new = site.place()
        started += new
        held += new
        for job_id in site.waiting():
            now = site.position(job_id)
            assert now is not None and now <= before[job_id]
            before[job_id] = now
    assert started == expected


@pytest.mark.parametrize("shout", [0, 100])
def test_a_priority_never_outranks_a_stranger(shout):
    site = Site(node(cpus=1))
    first = [site.submit(owner, priority=shout if owner == "loud" else 0) for owner in ("calm", "loud") * 3]
    order = []
    while site.waiting():
        order += site.place()
        site.end(order[-1])
    assert order == first


def test_an_owner_who_holds_less_goes_first_however_many_the_other_sent():
    site = Site(node(cpus=4))
    for _ in range(50):
        site.submit("flood")
    site.place()
    late = [site.submit("late") for _ in range(3)]
    started = []
    for _ in range(2):
        site.end(next(job_id for job_id in site.running() if site.jobs[job_id].owner == "flood"))
        started += site.place()
    assert started == late[:2]
    assert site.position(late[2]) in (1, 2)


def test_shares_are_of_the_scarcest_resource():
    """Dominant resources: half of the GPUs weighs as much as half of the cores."""
    site = Site(node(cpus=16, memory=64, gpus=2))
    site.submit("g", "gpu")  # a half of the GPUs
    for _ in range(4):
        site.submit("c", "small")  # a quarter of the cores
    site.place()
    blocker = [site.submit("x", "big") for _ in range(3)]  # fills what is left of the cores, and waits
    site.place()
    assert [site.jobs[job_id].state for job_id in blocker].count(State.PROVISIONING) == 2
    site.become(blocker[2], target=Target.CANCELLED)
    for _ in range(2):
        site.submit("g", "small")
        site.submit("c", "small")
    site.place()
    mine = [job_id for job_id in site.waiting() if site.jobs[job_id].owner == "c"]
    site.end(blocker[0])
    site.place()
    assert not set(mine) & set(site.waiting())


def test_a_gpu_job_that_waits_leaves_the_cores_to_others():
    site = Site(node(cpus=4, gpus=1))
    first = site.submit("a", "gpu")
    site.place()
    second = site.submit("b", "gpu")
    small = [site.submit("c") for _ in range(6)]
    site.place()
    assert [job_id in site.running() for job_id in small] == [True, True] + [False] * 4
    # The GPU is free now, and kept; so is every core that becomes free, until there are two.
    for job_id in small[:2]:
        site.become(job_id, state=State.RUNNING)
    other = site.submit("d", "gpu")
    site.end(first)
    site.place()
    assert second in site.running() and other in site.waiting()
    site.check_nobody_waits_for_nothing()


def test_a_large_job_is_not_starved_by_a_stream_of_small_ones():
    """It starts when the jobs have ended that held the machine when its turn came; none is let in after."""
    site = Site(node(cpus=4))
    for _ in range(4):
        site.submit("stream")
    before = site.place()
    big = site.submit("b", "big")
    after = []
    for job_id in before:
        assert big in site.waiting()
        after.append(site.submit("stream"))
        site.end(job_id)
        site.place()
    assert big in site.running()
    assert set(after) <= set(site.waiting())
    assert site.reason(after[0]).code == "queued"


def test_whoever_was_passed_over_too_often_goes_first_whatever_the_shares():
    """``hog`` holds most of the machine, so by shares it would never be its turn while others come."""
    site = Site(node(cpus=8, memory=64))
    site.submit("hog", "big")
    site.place()
    for _ in range(4):
        site.submit("s")
    site.place()
    waits = site.submit("hog")
    for passed in range(4 * 2 + 2):  # the documented four times for each of two lines
        site.submit(f"new{passed}")  # always somebody who holds nothing
        site.end(next(job_id for job_id in site.running() if site.jobs[job_id].machine_type == "small"))
        if site.place() == [waits]:
            break
    assert waits in site.running()
    assert passed > 4, "by shares alone it would have had to wait"


def test_whoever_is_at_a_limit_is_not_passed_over_and_does_not_go_first_afterwards():
    site = Site(node(cpus=4), limits=Limits(max_running_jobs=2))
    own = [site.submit("a"), site.submit("a")]
    site.place()
    waits = site.submit("a")
    for number in range(placing.PATIENCE * 5):
        other = site.submit(f"o{number}")
        site.place()
        site.end(other)
    assert site.reason(waits).code == "limit"
    assert "2 of your 2 jobs run" in site.reason(waits).message
    for _ in range(2):
        site.submit("b")
    site.place()
    new = site.submit("c")
    site.end(own[0])
    site.place()
    assert new in site.running() and waits in site.waiting(), "it holds more than the other"


def test_whoever_reserves_first_keeps_the_turn_whoever_comes():
    site = Site(node(cpus=4), sizes={**SIZES, "pair": Size(cpus=2, memory_bytes=1 * GB)})
    site.submit("b")
    others = [site.submit(owner) for owner in "xyz"]
    site.place()
    pair = site.submit("b", "pair")
    new = site.submit("x")
    site.become(new, target=Target.CANCELLED)
    waits = site.submit("y")
    site.end(others[0])
    site.place()
    assert pair in site.waiting() and waits in site.waiting()
    new = site.submit("n")  # holds nothing, so by shares it would be before them
    site.place()
    assert new in site.waiting(), "what is free is kept"
    site.end(others[2])
    site.place()
    assert pair in site.running()


def test_a_job_that_is_tried_again_has_its_old_place():
    site = Site(node(cpus=1))
    first, second = site.submit("a"), site.submit("a")
    assert site.place() == [first]
    site.become(first, state=State.PENDING)
    assert (site.position(first), site.position(second)) == (1, 2)
    assert site.place() == [first]
    assert site.queue.claims[first].attempt == 2


def test_what_changes_while_the_rows_are_read_is_newer_than_they_are():
    site = Site(node(cpus=1))
    old, cancelled = site.submit("a"), site.submit("a")
    site.queue.begin_reload()
    rows, claims = site.rows(), list(site.queue.claims.values())
    new = site.submit("a")
    site.become(cancelled, target=Target.CANCELLED)
    assert site.queue.reload(rows, claims) == []
    assert [site.position(job_id) for job_id in (old, new, cancelled)] == [1, 2, None]


def test_the_rows_correct_what_the_queue_thought():
    """A missed change heals with the next relist."""
    site = Site(node(cpus=2))
    kept, lost, ran = site.submit("a"), site.submit("b"), site.submit("c")
    (claim, _) = placing.place(site.queue, SIZES, site.nodes, site.limits)
    waiting = [row for row in site.rows() if row.job_id != claim.job_id]
    site.queue.begin_reload()
    assert set(site.queue.reload(waiting, [claim])) == {lost}
    assert list(site.queue.claims) == [kept]
    assert lost in site.queue and ran in site.queue
    site.queue.begin_reload()
    assert set(site.queue.reload([], [])) == {kept, lost, ran}
    assert not site.queue and not site.queue.owners


def test_each_cause_is_named_with_numbers():
    site = Site(node("n1", cpus=4, gpus=2))
    running = [site.submit("a", "gpu"), site.submit("b", "gpu")]
    site.place()
    ahead = [site.submit("c", "gpu") for _ in range(2)]
    last = site.submit("c", "gpu")
    assert site.reason(last).message == ("Waits for gpu: needs 1 GPU, 0 of 2 free; 2 jobs in front of it.")
    assert site.reason(ahead[0]).message.endswith("0 of 2 free; it is next.")
    small = site.submit("d", "small")
    assert "needs 1 core, 0 of 4 free" in site.reason(small).message
    site.end(running[0])
    big = site.submit("e", "big")
    for job_id in ahead:
        site.become(job_id, target=Target.CANCELLED)
    site.become(last, target=Target.CANCELLED)
    site.become(small, target=Target.CANCELLED)
    site.place()
    behind = site.submit("e", "small")
    site.place()
    assert site.reason(behind).code == "reserved", site.reason(behind)
    assert "needs 4 cores, 2 of 4 free" in site.reason(big).message
    assert site.reason(site.submit("f", "gone")).code == "machine-type-gone"
    assert site.reason(site.submit("f", "huge")).code == "no-machine"


def test_a_limit_of_gpus_leaves_jobs_without_them_alone():
    site = Site(node(cpus=8, gpus=2), limits=Limits(max_gpus=1))
    first, second = site.submit("a", "gpu"), site.submit("a", "gpu")
    small = site.submit("a", "small")
    site.place()
    assert set(site.running()) == {first, small}
    assert site.reason(second).code == "limit"
    assert "it needs 1 GPU, and 1 of your 1 are in use" in site.reason(second).message


def test_while_nothing_can_be_placed_everybody_is_told_why():
    site = Site(node("n1", cpus=1))
    job_id = site.submit("a", "small")
    trouble = Reason(code="no-space", message="The disk is full.", next="Free some space.")
    site.queue.hindered(trouble)
    assert site.reason(job_id) == trouble
    site.queue.hindered(None)
    assert site.reason(job_id).code == "queued"


def test_one_that_was_between_two_attempts_when_we_came_has_its_place_looked_up():
    """A new server does not know its place in the order of arrival."""
    site = Site(node("n1", cpus=1))
    site.queue.begin_reload()
    site.queue.reload([], [])
    assert not site.queue.doubtful
    again = msgspec.structs.replace(site.jobs[site.submit("a", "small")], id="jagain", attempt=1)
    site.queue.changed(again)
    assert again.id in site.queue and site.queue.doubtful


def test_a_job_that_was_just_placed_does_not_wait_for_itself():
    """Its row is read before the placing is stored; its machine is held by nobody else."""
    site = Site(node("n1", cpus=1))
    job_id = site.submit("a", "small")
    row = site.jobs[job_id]
    site.place()
    assert site.standing().reason(row).code == PLACED
    assert site.standing().position(job_id) is None
