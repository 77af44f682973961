"""What a waiting job is told: its position, and the first thing that it waits for. Pure.

The position is exact where one owner's jobs wait. Across owners it is an estimate, for shares move as jobs
end: it counts as if the owners took turns, in the order in which they stand now. Either way it is 1 for the
next one, and no two jobs have the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradient_jupyter.control.scheduling import placing
from gradient_jupyter.control.scheduling.machines import Room, Size, fits, rooms
from gradient_jupyter.control.scheduling.queue import Limits, Owner, Queue
from gradient_jupyter.engines.base import Node
from gradient_jupyter.resources.job import PLACED, Job, Reason
from gradient_jupyter.store.jobs import Waiting

_SMALLER = (
    "It starts by itself. Smaller machine types, where there are any, run side by side: gradient machineTypes"
)


class Standing:
    """A view of the queue as it is now; of no use once the queue has changed."""

    def __init__(
        self, queue: Queue, sizes: Mapping[str, Size], nodes: Sequence[Node], limits: Limits
    ) -> None:
        self._queue = queue
        self._sizes = sizes
        self._limits = limits
        self._whole = rooms(nodes)
        self._left = rooms(nodes, queue.claims.values())
        order = placing.order(queue, placing.total(nodes))
        # Whoever is at a limit stands behind those who are not.
        order.sort(key=lambda name: limits.reached(queue.owners[name].held, 0))
        self._counts = [(name, self._count(queue.owners[name])) for name in order]
        self._before = {name: index for index, name in enumerate(order)}

    def position(self, job_id: str) -> int | None:
        """1 is next. None for a job that does not wait, or for a machine type that is gone."""
        waiting = self._queue.get(job_id)
        if waiting is None or waiting.machine_type not in self._sizes:
            return None
        rank = self._rank(waiting)
        before = self._before[waiting.owner]
        others = sum(
            min(count, rank if index < before else rank - 1)
            for index, (name, count) in enumerate(self._counts)
            if index != before
        )
        return rank + others

    def reason(self, job: Job) -> Reason:
        """Why this job still waits."""
        if job.id in self._queue.claims:
            return Reason(code=PLACED, message="Its turn has come: a machine is taken for it.", next="")
        if self._queue.trouble is not None:
            return self._queue.trouble
        size = self._sizes.get(job.machine_type)
        stop = f"Stop it (gradient jobs stop {job.id}) and send it to another: gradient machineTypes"
        if size is None:
            return Reason(
                code="machine-type-gone",
                message=f"The machine type {job.machine_type} is no longer configured.",
                next=stop,
            )
        if not fits(size, self._whole):
            return Reason(
                code="no-machine",
                message=f"Waits for {job.machine_type}: no machine that is up now is as large.",
                next=f"It starts when there is one again. Or: {stop[0].lower()}{stop[1:]}",
            )
        owner = self._queue.owners.get(job.owner)
        position = self.position(job.id)
        limit = _limit(owner, size, self._limits) if owner else None
        if limit is not None:
            return Reason(
                code="limit",
                message=f"Waits for {job.machine_type}. Limit: {limit}{_behind(position)}.",
                next="It starts when one of them has ended.",
            )
        if not any(room.holds(size) for room in self._left):
            return Reason(
                code="queued",
                message=f"Waits for {job.machine_type}: {self._short(size)}{_behind(position)}."
                + self._running(owner),
                next=_SMALLER,
            )
        if self._kept(job, size):
            return Reason(
                code="reserved",
                message=f"Waits for {job.machine_type}: what is free is kept for a larger job whose turn it "
                f"is{_behind(position)}.",
                next="It starts by itself.",
            )
        return Reason(
            code="queued", message=f"Waits for {job.machine_type}{_behind(position)}.", next=_SMALLER
        )

    def _count(self, owner: Owner) -> int:
        return sum(len(line.jobs) for name, line in owner.lines.items() if name in self._sizes)

    def _rank(self, job: Waiting) -> int:
        lines = self._queue.owners[job.owner].lines
        key = (-job.priority, job.seq, job.job_id)
        return 1 + sum(line.rank(key) for name, line in lines.items() if name in self._sizes)

    def _short(self, size: Size) -> str:
        """What of it is missing, on the machine where least is."""
        room = min(
            (room for room, whole in zip(self._left, self._whole, strict=True) if whole.holds(size)),
            key=lambda room: placing.missing(room, size),
        )
        whole = next(each for each in self._whole if each.node == room.node)
        where = " on the machine with the most room" if len(self._whole) > 1 else ""
        return f"needs {_first_short(room, whole, size)} free{where}"

    def _kept(self, job: Job, size: Size) -> bool:
        """Whether it would fit, were nothing kept for others."""
        left = rooms_without(self._left, self._queue, job.id)
        return bool(self._queue.reserved) and not any(room.holds(size) for room in left)

    def _running(self, owner: Owner | None) -> str:
        """Its owner's own jobs that hold machines, where those are all and few."""
        claims = self._queue.claims
        if owner is None or not claims or len(claims) != owner.held.jobs or len(claims) > 3:
            return ""
        return f" Now there: {', '.join(claims)}."


def rooms_without(left: Sequence[Room], queue: Queue, job_id: str) -> list[Room]:
    """``left`` less what is reserved for other jobs."""
    kept = {
        room.node: Room(node=room.node, cpus=room.cpus, memory_bytes=room.memory_bytes, gpus=list(room.gpus))
        for room in left
    }
    for each in queue.reserved:
        room = kept.get(each.node)
        if room is not None and each.job_id != job_id:
            room.cpus -= each.cpus
            room.memory_bytes -= each.memory_bytes
            room.gpus = [gpu for gpu in room.gpus if gpu not in each.gpus]
    return list(kept.values())


def _first_short(room: Room, whole: Room, size: Size) -> str:
    if len(room.gpus) < size.gpus:
        return f"{_gpus(size.gpus)}, {len(room.gpus)} of {len(whole.gpus)}"
    if room.cpus + 0.0005 < size.cpus:
        cores = f"{size.cpus:g} {'core' if size.cpus == 1 else 'cores'}"
        return f"{cores}, {max(0.0, round(room.cpus, 2)):g} of {whole.cpus:g}"
    free, has = (max(0, each.memory_bytes) / 2**30 for each in (room, whole))
    return f"{size.memory_bytes / 2**30:.1f} GiB of memory, {free:.1f} of {has:.1f}"


def _limit(owner: Owner, size: Size, limits: Limits) -> str | None:
    held = owner.held
    if limits.max_running_jobs is not None and held.jobs >= limits.max_running_jobs:
        return f"{held.jobs} of your {limits.max_running_jobs} jobs run"
    if limits.reached(held, size.gpus):
        return f"it needs {_gpus(size.gpus)}, and {held.gpus} of your {limits.max_gpus} are in use"
    return None


def _behind(position: int | None) -> str:
    match position:
        case None | 1:
            return "; it is next" if position else ""
        case 2:
            return "; 1 job in front of it"
    return f"; {position - 1} jobs in front of it"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
