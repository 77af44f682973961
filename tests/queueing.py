"""A queue with machines under it, for tests: jobs arrive, start and end as the store would say it."""

from __future__ import annotations

import itertools

import msgspec

from gradient_jupyter.control.scheduling import placing
from gradient_jupyter.control.scheduling.machines import Size, fits, rooms
from gradient_jupyter.control.scheduling.queue import Limits, Queue
from gradient_jupyter.control.scheduling.standing import Standing
from gradient_jupyter.engines.base import Node
from gradient_jupyter.resources.job import Job, Phase, State, Target
from gradient_jupyter.resources.machine_type import Gpu
from gradient_jupyter.store.jobs import Waiting

GB = 2**30
SIZES = {
    "small": Size(cpus=1, memory_bytes=1 * GB),
    "tenth": Size(cpus=0.1, memory_bytes=1 * GB),
    "big": Size(cpus=4, memory_bytes=8 * GB),
    "gpu": Size(cpus=2, memory_bytes=4 * GB, gpus=1),
    "gpus": Size(cpus=1, memory_bytes=1 * GB, gpus=2),
    "huge": Size(cpus=64, memory_bytes=1 * GB),
}


def node(name="n1", cpus=4, memory=16, gpus=0) -> Node:
    found = tuple(Gpu(uuid=f"GPU-{name}-{n}", name="fake", memory_bytes=1) for n in range(gpus))
    return Node(name=name, up=True, cpus=cpus, memory_bytes=memory * GB, gpus=found)


class Site:
    """A queue with machines under it. Every change goes through the same door as the store's."""

    def __init__(self, *nodes: Node, limits: Limits | None = None, sizes=SIZES) -> None:
        self.queue = Queue()
        self.nodes = nodes or (node(),)
        self.limits = limits or Limits()
        self.sizes = dict(sizes)
        self.jobs: dict[str, Job] = {}
        self.seqs: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def submit(self, owner: str, machine_type: str = "small", priority: int = 0) -> str:
        number = next(self._numbers)
        job = Job(
            id=f"j{number}", name="n", project_id="p", project="p", owner=owner, created_by=owner, number=1,
            command=("true",), snapshot="a", machine_type=machine_type, state=State.PENDING,
            phase=Phase.QUEUED, target=Target.RUN, created_us=0, priority=priority,
        )  # fmt: skip
        self.seqs[job.id] = number
        self.jobs[job.id] = job
        self.queue.changed(job, number)
        return job.id

    def become(self, job_id: str, **values: object) -> None:
        self.jobs[job_id] = msgspec.structs.replace(self.jobs[job_id], **values)
        self.queue.changed(self.jobs[job_id])

    def end(self, job_id: str) -> None:
        self.become(job_id, state=State.STOPPED)

    def place(self) -> list[str]:
        claims = placing.place(self.queue, self.sizes, self.nodes, self.limits)
        for claim in claims:
            self.become(claim.job_id, state=State.PROVISIONING, attempt=claim.attempt)
        return [claim.job_id for claim in claims]

    def standing(self) -> Standing:
        return Standing(self.queue, self.sizes, self.nodes, self.limits)

    def position(self, job_id: str) -> int | None:
        return self.standing().position(job_id)

    def reason(self, job_id: str):
        return self.standing().reason(self.jobs[job_id])

    def rows(self) -> list[Waiting]:
        return [
            Waiting(
                job_id=job.id, owner=job.owner, machine_type=job.machine_type, priority=job.priority,
                seq=self.seqs[job.id], attempt=job.attempt,
            )
            for job in self.jobs.values()
            if job.state is State.PENDING and job.target is Target.RUN
        ]  # fmt: skip

    def waiting(self, owner: str | None = None) -> list[str]:
        return [row.job_id for row in self.rows() if owner in (None, row.owner)]

    def running(self) -> list[str]:
        return list(self.queue.claims)

    # The oracles count from the claims and the rows alone.

    def check_nothing_is_given_out_twice(self) -> None:
        for here in self.nodes:
            claims = [claim for claim in self.queue.claims.values() if claim.node == here.name]
            assert sum(claim.cpus for claim in claims) <= here.cpus + 0.01
            assert sum(claim.memory_bytes for claim in claims) <= here.memory_bytes
            gpus = [gpu for claim in claims for gpu in claim.gpus]
            assert len(gpus) == len(set(gpus))
            assert set(gpus) <= {gpu.uuid for gpu in here.gpus}
        for claim in self.queue.claims.values():
            assert len(claim.gpus) == self.sizes[claim.machine_type].gpus

    def check_limits(self) -> None:
        for owner in {job.owner for job in self.jobs.values()}:
            claims = [claim for claim in self.queue.claims.values() if claim.owner == owner]
            if self.limits.max_running_jobs is not None:
                assert len(claims) <= self.limits.max_running_jobs
            if self.limits.max_gpus is not None:
                assert sum(len(claim.gpus) for claim in claims) <= self.limits.max_gpus

    def check_nobody_waits_for_nothing(self) -> None:
        """What waits and may run either does not fit, or would take what is kept for a job that does not."""
        free = rooms(self.nodes, self.queue.claims.values())
        kept = {room.node: room for room in rooms(self.nodes, self.queue.claims.values())}
        for each in self.queue.reserved:
            wanted = self.sizes[self.jobs[each.job_id].machine_type]
            assert each.job_id in self.waiting()
            assert not any(room.holds(wanted) for room in kept.values()), "it fits, so why does it wait?"
            assert each.cpus <= wanted.cpus and each.memory_bytes <= wanted.memory_bytes
            assert len(each.gpus) <= wanted.gpus
            if len(each.gpus) < wanted.gpus:
                assert not each.cpus and not each.memory_bytes, "cores are kept that it could not use yet"
            room = kept[each.node]
            room.cpus -= each.cpus
            room.memory_bytes -= each.memory_bytes
            room.gpus = [gpu for gpu in room.gpus if gpu not in each.gpus]
        for job_id in self.waiting():
            job = self.jobs[job_id]
            size = self.sizes.get(job.machine_type)
            if size is None or not fits(size, rooms(self.nodes)):
                continue
            held = [claim for claim in self.queue.claims.values() if claim.owner == job.owner]
            if self.limits.max_running_jobs is not None and len(held) >= self.limits.max_running_jobs:
                continue
            gpus = sum(len(claim.gpus) for claim in held) + size.gpus
            if self.limits.max_gpus is not None and size.gpus and gpus > self.limits.max_gpus:
                continue
            assert not any(room.holds(size) for room in kept.values()), f"{job_id} waits although it fits"
            if not self.queue.reserved:
                assert not any(room.holds(size) for room in free)

    def check_positions(self) -> None:
        standing = self.standing()
        known = [row.job_id for row in self.rows() if row.machine_type in self.sizes]
        assert sorted(standing.position(job_id) or 0 for job_id in known) == list(range(1, len(known) + 1))

    def check_the_rows_agree(self) -> None:
        self.queue.begin_reload()
        assert self.queue.reload(self.rows(), list(self.queue.claims.values())) == []
