"""Whose turn it is: which waiting job gets which machine. Pure.

Between owners, dominant resource fairness (Ghodsi et al., NSDI 2011) over what they hold now: next is the
owner whose largest share of any one resource is the smallest; of equals, the one whose last turn is the
longest ago (who came meanwhile stands before the one who was served last). An owner's own jobs go by
priority, then in the order of arrival, so a priority never outranks a stranger.

A job whose turn it is and that does not fit *reserves* what it needs on the node where least is missing:
what becomes free there is kept for it; others further on in the order may reserve too. Those behind use what
is left. While GPUs are what it lacks a job keeps GPUs only, for it could not use the cores yet; once it has
them, cores and memory too. The first that reserves keeps its turn until it is placed, whatever the shares
become meanwhile.

Nobody starves. A line that was passed over by more than ``PATIENCE`` placements of others for each line that
waits goes before those that were not, whatever the shares; of several the one passed over most. From then on
only the one that keeps its turn and those passed over more go before it, with one job each, and nothing that
its own job needs is given to anybody else: after those it starts at the latest when the jobs that hold its
GPUs, and then those that hold the cores it lacks, have ended.

What may not run (an owner at a limit, a machine type that is gone or fits no node that is up) waits for that
and not for its turn: it reserves nothing and is not passed over.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from gradient_jupyter.control.scheduling.machines import Room, Size, fits, rooms
from gradient_jupyter.control.scheduling.queue import Held, Limits, Line, Owner, Queue, Reservation
from gradient_jupyter.engines.base import Node
from gradient_jupyter.store.ledger import Claim

#: How often each line that waits may be served by others' turns before one that never was goes first.
PATIENCE = 4


def place(queue: Queue, sizes: Mapping[str, Size], nodes: Sequence[Node], limits: Limits) -> list[Claim]:
    """Gives out what can be given out; ``queue`` holds it for those who got it, and says in ``reserved`` what
    is kept for whom. Ends as soon as nothing that waits fits into what is left."""
    left = rooms(nodes, queue.claims.values())
    queue.reserved = ()
    waiting = {line.machine_type for line in queue.lines()} & sizes.keys()
    if not any(room.holds(sizes[name]) for name in waiting for room in left):
        return []
    return _Round(queue, sizes, nodes, limits).give(left)


class _Round:
    """One look at all lines."""

    def __init__(
        self, queue: Queue, sizes: Mapping[str, Size], nodes: Sequence[Node], limits: Limits
    ) -> None:
        self._queue = queue
        self._limits = limits
        self._empty = {room.node: room for room in rooms(nodes)}
        self._whole = total(nodes)
        possible = {name: size for name, size in sizes.items() if fits(size, self._empty.values())}
        self._turns: list[tuple[Line, Size]] = []
        self._lines: dict[str, list[Line]] = defaultdict(list)
        self._first: dict[str, Line] = {}
        for line in queue.lines():
            size = possible.get(line.machine_type)
            if size is None or limits.reached(queue.owners[line.owner].held, size.gpus):
                line.served(queue.others(line))
            else:
                self._turns.append((line, size))
                self._lines[line.owner].append(line)
        for line, _ in self._turns:
            line.overdue |= queue.others(line) - line.since > PATIENCE * len(self._turns)
        for name in self._lines:
            self._find_first(name)
        if queue.turn not in self._first:
            queue.turn = None

    def give(self, left: list[Room]) -> list[Claim]:
        queue, turns = self._queue, self._turns
        heap = [(*self._turn(line), index) for index, (line, _) in enumerate(turns)]
        heapq.heapify(heap)
        sizes = {line.machine_type: size for line, size in turns}
        lines = Counter(line.machine_type for line, _ in turns)
        placed: list[Claim] = []
        reserved: list[Reservation] = []
        while any(lines[name] and any(room.holds(sizes[name]) for room in left) for name in lines):
            index = heap[0][-1]
            line, size = turns[index]
            now = (*self._turn(line), index)
            if now > heap[0]:
                heapq.heapreplace(heap, now)  # its owner had a turn meanwhile
                continue
            heapq.heappop(heap)
            if not self._limits.reached(queue.owners[line.owner].held, size.gpus):
                room = next((room for room in left if room.holds(size)), None)
                if room is not None:
                    placed.append(self._place(line, size, room))
                    if line.jobs:
                        heapq.heappush(heap, (*self._turn(line), index))
                        continue
                else:
                    if queue.turn is None and not reserved and self._first[line.owner] is line:
                        queue.turn = line.owner
                    reserved.append(_reserve(line, size, left, self._empty))
            lines[line.machine_type] -= 1
        queue.reserved = tuple(reserved)
        return placed

    def _place(self, line: Line, size: Size, room: Room) -> Claim:
        queue = self._queue
        waiting = queue.get(line.head[2])
        assert waiting is not None
        claim = Claim(
            job_id=waiting.job_id, attempt=waiting.attempt + 1, node=room.node,
            machine_type=line.machine_type, cpus=size.cpus, memory_bytes=size.memory_bytes,
            gpus=room.take(size), owner=line.owner, seq=waiting.seq,
        )  # fmt: skip
        if queue.turn == line.owner and self._first[line.owner] is line:
            queue.turn = None
        queue.hold(claim)
        self._find_first(line.owner)
        return claim

    def _turn(self, line: Line) -> tuple[float, int, int, tuple[int, int, str]]:
        """Sorts lines, the next one first: priorities count within an owner only. By a turn of its owner's it
        only grows."""
        queue, owner = self._queue, self._queue.owners[line.owner]
        if queue.turn == line.owner and self._first[line.owner] is line:
            return -2.0, 0, 0, line.head
        if line.overdue:
            return -1.0, line.since - queue.others(line), owner.came, line.head
        return *_owner_turn(owner, self._whole), line.head

    def _find_first(self, name: str) -> None:
        """Which of this owner's lines that may be served is the first by its own order."""
        lines = [line for line in self._lines[name] if line.jobs]
        if lines:
            self._first[name] = min(lines, key=lambda line: line.head)


def total(nodes: Sequence[Node]) -> Held:
    """Everything there is."""
    up = [node for node in nodes if node.up]
    return Held(
        cpus=sum(node.cpus for node in up), memory_bytes=sum(node.memory_bytes for node in up),
        gpus=sum(len(node.gpus) for node in up),
    )  # fmt: skip


def share(held: Held, whole: Held) -> float:
    """The largest share of any one resource."""
    return round(
        max(
            held.cpus / whole.cpus if whole.cpus else 0,
            held.memory_bytes / whole.memory_bytes if whole.memory_bytes else 0,
            held.gpus / whole.gpus if whole.gpus else 0,
        ),
        9,
    )


def order(queue: Queue, whole: Held) -> list[str]:
    """The owners who wait, the next one first, as their shares are now."""
    waiting = [(name, owner) for name, owner in queue.owners.items() if owner.lines]
    waiting.sort(key=lambda each: (each[0] != queue.turn, _owner_turn(each[1], whole)))
    return [name for name, _ in waiting]


def _owner_turn(owner: Owner, whole: Held) -> tuple[float, int, int]:
    return share(owner.held, whole), owner.served, owner.came


def _reserve(line: Line, size: Size, left: Sequence[Room], empty: Mapping[str, Room]) -> Reservation:
    """Takes from ``left`` what is kept for this line's head. Where least is missing: what is kept there only
    becomes less missing, so the choice does not wander for ever."""
    possible = [room for room in left if empty[room.node].holds(size)]
    room = min(possible, key=lambda room: (*missing(room, size), room.node))
    gpus, room.gpus = tuple(room.gpus[: size.gpus]), room.gpus[size.gpus :]
    cpus, memory_bytes = 0.0, 0
    if len(gpus) == size.gpus:
        cpus, memory_bytes = size.cpus, size.memory_bytes
        room.cpus -= cpus
        room.memory_bytes -= memory_bytes
    return Reservation(
        job_id=line.head[2], owner=line.owner, node=room.node, cpus=cpus, memory_bytes=memory_bytes, gpus=gpus
    )


def missing(room: Room, size: Size) -> tuple[int, float]:
    """How much of ``size`` this room lacks: GPUs, then the worse of cores and memory as a part of it."""
    return max(0, size.gpus - len(room.gpus)), max(
        (size.cpus - room.cpus) / size.cpus if size.cpus else 0,
        (size.memory_bytes - room.memory_bytes) / size.memory_bytes if size.memory_bytes else 0,
    )
