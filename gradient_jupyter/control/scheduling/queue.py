"""The queue: who waits for a machine, in which order, and how often each was passed over. Pure, in memory.

The rows are the truth. This is what of them placing needs, so that it need not read thousands of rows to
start one job: loaded at the start, kept up with every committed change (``changed``), and compared with
the rows by every relist (``reload``). Whose turn it is and what fits is ``placing``'s.

A *line* is what one owner has waiting for one machine type, by priority and then in the order of arrival.
Nothing here reads a clock: waiting is counted in placements.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

import msgspec

from gradient_jupyter.resources.job import Job, Phase, Reason, State, Target
from gradient_jupyter.store.jobs import Waiting
from gradient_jupyter.store.ledger import Claim


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner may have at a time. None: as much as there is."""

    max_running_jobs: int | None = None
    max_queued_jobs: int | None = None
    max_gpus: int | None = None

    def reached(self, held: Held, gpus: int) -> bool:
        """Whether one more job with that many GPUs would be too much for who holds that."""
        return (self.max_running_jobs is not None and held.jobs >= self.max_running_jobs) or (
            self.max_gpus is not None and gpus > 0 and held.gpus + gpus > self.max_gpus
        )


class Held(msgspec.Struct):
    """What an owner's jobs hold now, in all."""

    jobs: int = 0
    cpus: float = 0
    memory_bytes: int = 0
    gpus: int = 0

    def add(self, claim: Claim, sign: int = 1) -> None:
        self.jobs += sign
        self.cpus += sign * claim.cpus
        self.memory_bytes += sign * claim.memory_bytes
        self.gpus += sign * len(claim.gpus)
        if not self.jobs:
            self.cpus = 0  # fractions of cores add up inexactly, and nothing is exactly nothing


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept on a node for a job whose turn it is and that does not fit yet."""

    job_id: str
    owner: str
    node: str
    cpus: float
    memory_bytes: int
    gpus: tuple[str, ...]
    """Those of it that are free already."""


class Line:
    """One owner's jobs that wait for one machine type."""

    def __init__(self, owner: str, machine_type: str) -> None:
        self.owner = owner
        self.machine_type = machine_type
        self.jobs: list[tuple[int, int, str]] = []
        """(minus the priority, sequence number, job), sorted."""
        self.since = 0
        """The count of others' placements (``Queue.others``) at its last turn, or when it came."""
        self.overdue = False
        """It was passed over too often: it goes before those that were not, until its next turn."""

    def rank(self, key: tuple[int, int, str]) -> int:
        """How many of its jobs stand before this one."""
        return bisect_left(self.jobs, key)

    def served(self, others: int) -> None:
        self.since = others
        self.overdue = False

    @property
    def head(self) -> tuple[int, int, str]:
        return self.jobs[0]


class Owner:
    """One owner's lines, and when it had its last turn."""

    def __init__(self, served: int, came: int) -> None:
        self.lines: dict[str, Line] = {}
        self.held = Held()
        self.served = served
        """When it had its last turn, or came: twice the count of all placements then, less one if it came."""
        self.came = came
        """The sequence number of the job with which it came."""
        self.placed = 0
        """How many of the placements were its own."""


class Queue:
    """Every waiting job and every claim, by owner. Of one thread."""

    def __init__(self) -> None:
        self.owners: dict[str, Owner] = {}
        self.placements = 0
        """How many there have been."""
        self.version = 0
        """Another after every change, so that what was concluded from it can be kept until then."""
        self.claims: dict[str, Claim] = {}
        self.turn: str | None = None
        """The owner whose turn it was, and whose job did not fit: it is its turn until it does."""
        self.doubtful = True
        """It may differ from the rows, and is to be loaded anew before it is used."""
        self.trouble: Reason | None = None
        """Why nothing can be placed at all."""
        self.reserved: tuple[Reservation, ...] = ()
        """What the last look at the queue kept for whom."""
        self._waiting: dict[str, Waiting] = {}
        self._returning: dict[str, int] = {}
        """Jobs between two attempts, and their places in the order of arrival."""
        self._touched: set[str] | None = None
        self._last_seq = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._waiting

    def lines(self) -> Iterator[Line]:
        for owner in self.owners.values():
            yield from owner.lines.values()

    def get(self, job_id: str) -> Waiting | None:
        return self._waiting.get(job_id)

    def others(self, line: Line) -> int:
        """How many placements of others there have been, as far as this line's owner is concerned."""
        return self.placements - self.owners[line.owner].placed

    # What changes it.

    def hindered(self, trouble: Reason | None) -> None:
        """Nothing can be placed, or it can again."""
        if trouble != self.trouble:
            self.version += 1
            self.trouble = trouble

    def changed(self, job: Job, seq: int | None = None) -> None:
        """A change of this job is on disk. ``seq`` is its row's place in the order of arrival; it must be
        given when the job is new, and may be left out afterwards."""
        self._touch(job.id)
        if job.state is State.PENDING:
            claim = self.release(job.id)
            known = self._waiting.get(job.id)
            seq = seq or (known.seq if known else claim.seq if claim else self._returning.pop(job.id, 0))
            if job.phase is Phase.RETRYING:
                self._returning[job.id] = seq
            elif job.target is Target.RUN:
                if not seq:  # it was between two attempts when we came
                    seq, self.doubtful = self._last_seq + 1, True
                self._enter(
                    Waiting(
                        job_id=job.id, owner=job.owner, machine_type=job.machine_type,
                        priority=job.priority, seq=seq, attempt=job.attempt,
                    )
                )  # fmt: skip
                return
        elif job.final:
            self.release(job.id)
            self._returning.pop(job.id, None)
        self._leave(job.id)

    def gone(self, job_id: str) -> None:
        """Its row was deleted."""
        self._touch(job_id)
        self.release(job_id)
        self._returning.pop(job_id, None)
        self._leave(job_id)

    def hold(self, claim: Claim) -> None:
        """This job gets these resources: it had its turn. Said before the claim is stored, so that nobody
        else is given the same meanwhile; when it could not be stored, a reload takes it back."""
        self._touch(claim.job_id)
        waiting = self._waiting.get(claim.job_id)
        self._leave(claim.job_id)
        owner = self._owner(claim.owner, claim.seq)
        self.placements += 1
        owner.placed += 1
        owner.served = 2 * self.placements
        if waiting is not None and (line := owner.lines.get(waiting.machine_type)):
            line.served(self.others(line))
        self._hold(claim)

    def release(self, job_id: str) -> Claim | None:
        """Whatever it held is free. Returns what that was."""
        claim = self.claims.pop(job_id, None)
        if claim is not None:
            self._touch(job_id)
            self.version += 1
            self.owners[claim.owner].held.add(claim, -1)
            self._forget(claim.owner)
        return claim

    def begin_reload(self) -> None:
        """The rows are about to be read. Whatever changes from here on is newer than what they will say."""
        self._touched = set()

    def reload(self, waiting: Iterable[Waiting], claims: Iterable[Claim]) -> list[str]:
        """Becomes what the rows say. Returns the jobs of which it had thought otherwise."""
        newer, self._touched = self._touched or set(), None
        self.doubtful = False
        rows = {each.job_id: each for each in waiting if each.job_id not in newer}
        held = {each.job_id: each for each in claims if each.job_id not in newer}
        wrong = []
        for job_id in [job_id for job_id in self._waiting if job_id not in newer and job_id not in rows]:
            wrong.append(job_id)
            self._leave(job_id)
        for job_id in [job_id for job_id in self.claims if job_id not in newer and job_id not in held]:
            wrong.append(job_id)
            self.release(job_id)
        for job_id, claim in held.items():
            if self.claims.get(job_id) != claim:
                wrong.append(job_id)
                self.release(job_id)
                self._hold(claim)
        for job_id, row in rows.items():
            if self._waiting.get(job_id) != row:
                wrong.append(job_id)
                self._leave(job_id)
                self._enter(row)
        return wrong

    # Inside.

    def _enter(self, job: Waiting) -> None:
        if self._waiting.get(job.job_id) == job:
            return
        self._leave(job.job_id)
        self.version += 1
        self._last_seq = max(self._last_seq, job.seq)
        self._waiting[job.job_id] = job
        owner = self._owner(job.owner, job.seq)
        line = owner.lines.get(job.machine_type)
        if line is None:
            line = owner.lines[job.machine_type] = Line(job.owner, job.machine_type)
            line.served(self.others(line))
        insort(line.jobs, (-job.priority, job.seq, job.job_id))

    def _leave(self, job_id: str) -> None:
        job = self._waiting.pop(job_id, None)
        if job is None:
            return
        self.version += 1
        lines = self.owners[job.owner].lines
        line = lines[job.machine_type]
        del line.jobs[bisect_left(line.jobs, (-job.priority, job.seq, job_id))]
        if not line.jobs:
            del lines[job.machine_type]
            if not lines and self.turn == job.owner:
                self.turn = None
            self._forget(job.owner)

    def _hold(self, claim: Claim) -> None:
        self.version += 1
        self._last_seq = max(self._last_seq, claim.seq)
        self.claims[claim.job_id] = claim
        self._owner(claim.owner, claim.seq).held.add(claim)

    def _owner(self, name: str, came: int) -> Owner:
        owner = self.owners.get(name)
        if owner is None:
            owner = self.owners[name] = Owner(2 * self.placements - 1, came)
        return owner

    def _forget(self, name: str) -> None:
        owner = self.owners.get(name)
        if owner is not None and not owner.lines and not owner.held.jobs:
            del self.owners[name]

    def _touch(self, job_id: str) -> None:
        if self._touched is not None:
            self._touched.add(job_id)
