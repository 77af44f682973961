"""The queue under a long, uneven load: who waits how long, and who gets how much. Seeded, in virtual time."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict

import pytest
from queueing import GB, Site, node

from gradient_jupyter.control.scheduling import placing
from gradient_jupyter.control.scheduling.machines import Size
from gradient_jupyter.resources.job import State

SIZES = {
    "one": Size(cpus=1, memory_bytes=2 * GB),
    "four": Size(cpus=4, memory_bytes=8 * GB),
    "node": Size(cpus=32, memory_bytes=100 * GB),
    "gpu": Size(cpus=4, memory_bytes=16 * GB, gpus=1),
    "gpus": Size(cpus=16, memory_bytes=64 * GB, gpus=4),
}
LONGEST = 2000.0


class Simulation:
    """Jobs arrive, start and end. Notes how often each line was passed over, and how long it was first."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.now = 0.0
        self.events: list[tuple[float, int, str, tuple]] = []
        self.number = 0
        self.durations: dict[str, float] = {}
        self.started: dict[str, float] = {}
        self.ended: dict[str, float] = {}
        self.used: Counter[str] = Counter()
        """Core seconds by owner, up to ``until``."""
        self.until = float("inf")
        self.most_lines = 0
        self.most_at_once = 0
        self.passed: dict[str, list[int]] = defaultdict(list)
        """By machine type: how many placements of others each turn took."""
        self.first_since: dict[tuple[str, str], float] = {}
        self.first_waits: list[float] = []
        """How long a line stood at the very front before it was served."""

    def at(self, time: float, what: str, *details: object) -> None:
        self.number += 1
        heapq.heappush(self.events, (time, self.number, what, details))

    def run(self) -> None:
        while self.events:
            self.now, _, what, details = heapq.heappop(self.events)
            if what == "submit":
                owner, machine_type, duration = details
                self.durations[self.site.submit(owner, machine_type)] = duration
            else:
                (job_id,) = details
                self.ended[job_id] = self.now
                self.site.end(job_id)
            self.place()

    def place(self) -> None:
        queue = self.site.queue
        lines = list(queue.lines())
        self.most_lines = max(self.most_lines, len(lines))
        waited = {(line.owner, line.machine_type): queue.others(line) - line.since for line in lines}
        new = self.site.place()
        self.most_at_once = max(self.most_at_once, len(new))
        for job_id in new:
            job = self.site.jobs[job_id]
            self.started[job_id] = self.now
            duration = self.durations[job_id]
            self.at(self.now + duration, "end", job_id)
            counted = max(0.0, min(self.now + duration, self.until) - min(self.now, self.until))
            self.used[job.owner] += counted * self.site.sizes[job.machine_type].cpus
            self.passed[job.machine_type].append(waited[job.owner, job.machine_type])
        if new:
            self.site.check_nothing_is_given_out_twice()
        self.watch_the_front()

    def watch_the_front(self) -> None:
        queue = self.site.queue
        most = max((passed(queue, line) for line in queue.lines() if line.overdue), default=0)
        front = {
            (line.owner, line.machine_type)
            for line in queue.lines()
            if line.overdue and passed(queue, line) == most
        }
        if queue.turn is not None:
            line = min(queue.owners[queue.turn].lines.values(), key=lambda line: line.head)
            front.add((line.owner, line.machine_type))
        for gone in [key for key in self.first_since if key not in front]:
            self.first_waits.append(self.now - self.first_since.pop(gone))
        for key in front:
            self.first_since.setdefault(key, self.now)


def passed(queue, line) -> int:
    return queue.others(line) - line.since


def load(seed: int, jobs: int, users: int) -> Simulation:
    """A flooding user, bursts, heavy tails: few users send most, few jobs are long, some need GPUs or a whole
    node."""
    random_ = random.Random(seed)
    site = Site(
        node("cpu1", cpus=32, memory=128), node("cpu2", cpus=32, memory=128),
        node("gpu1", cpus=32, memory=128, gpus=4), sizes=SIZES,
    )  # fmt: skip
    simulation = Simulation(site)
    names = [f"u{number}" for number in range(users)]
    weights = [1 / (rank + 1) for rank in range(users)]
    for _ in range(jobs * 3 // 10):
        simulation.at(0.0, "submit", "flood", "one", random_.uniform(50, 150))
    for _ in range(jobs - jobs * 3 // 10):
        (owner,) = random_.choices(names, weights)
        (kind,) = random_.choices(list(SIZES), (60, 20, 2, 15, 3))
        duration = min(LONGEST, random_.paretovariate(1.3) * 20)
        simulation.at(random_.uniform(0, jobs * 1.5) // 40 * 40, "submit", owner, kind, duration)
    return simulation


def check(simulation: Simulation, jobs: int) -> None:
    assert len(simulation.ended) == jobs, "somebody's job never ran"
    assert not simulation.site.queue and not simulation.site.queue.owners
    # The smallest size fits wherever anything became free: passed over no oftener than the bound says.
    bound = (placing.PATIENCE + 1) * simulation.most_lines + simulation.most_at_once
    assert max(simulation.passed["one"]) <= bound
    # The others: once at the very front, when the holders of the GPUs and then of the cores have ended.
    assert max(simulation.first_waits) <= 2 * LONGEST
    for job_id, job in simulation.site.jobs.items():
        assert job.state is State.STOPPED, job_id


def test_two_thousand_jobs_of_twenty_users_all_run_and_nobody_is_passed_over_for_ever():
    simulation = load(seed=7, jobs=2000, users=20)
    simulation.run()
    check(simulation, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_jobs_of_fifty_users_all_run_and_nobody_is_passed_over_for_ever(seed):
    simulation = load(seed, jobs=10_000, users=49)
    simulation.run()
    check(simulation, 10_000)


def test_who_always_has_something_waiting_gets_the_same_however_much_they_send():
    """Ten users and one who sends ten times as much: each gets an eleventh of the cores, within a tenth."""
    random_ = random.Random(1)
    simulation = Simulation(Site(node(cpus=33, memory=512), sizes=SIZES))
    simulation.until = 3000.0
    for owner, count in [("flood", 3000), *((f"u{number}", 300) for number in range(10))]:
        for _ in range(count):
            simulation.at(0.0, "submit", owner, "one", random_.uniform(10, 50))
    simulation.run()
    assert min(simulation.started[job] for job in simulation.started) == 0.0
    equal = 33 * simulation.until / 11
    assert all(abs(used - equal) <= equal / 10 for used in simulation.used.values()), simulation.used


def test_whoever_comes_late_is_served_at_once_beside_a_flood():
    simulation = Simulation(Site(node(cpus=8, memory=64), sizes=SIZES))
    for _ in range(1000):
        simulation.at(0.0, "submit", "flood", "one", 10.0)
    for number in range(20):
        simulation.at(100.5 + number * 50, "submit", "late", "one", 10.0)
    simulation.run()
    waits = [
        simulation.started[job_id] - (100.5 + number * 50)
        for number, job_id in enumerate(
            job_id for job_id, job in simulation.site.jobs.items() if job.owner == "late"
        )
    ]
    assert max(waits) <= 10.0, "longer than one job of the flood"
