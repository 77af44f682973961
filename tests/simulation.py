"""The control plane in a world of its own: virtual time, seeded faults, an engine that misbehaves (T9, T10).

What is real: the reconciler, ``plan``, the queue, the store's queries on SQLite, all of ``control.jobs``.
What is simulated: time (a loop that jumps to its next timer), and the engine, whose answers may be late,
lost, doubled or lies, and whose tasks run, fail and vanish as the seed says. The server may be killed between
any two of its steps: a call that was under way has had its effect or has not, and nobody hears which.

The witness is the engine's own list of starts. It is never asked by the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import selectors
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gradient_jupyter.control import jobs
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane, Settings
from gradient_jupyter.control.scheduling.machines import Size
from gradient_jupyter.engines.base import (
    Capabilities,
    Conflict,
    Hint,
    HintKind,
    Node,
    Observation,
    Phase,
    Task,
    Unreachable,
)
from gradient_jupyter.resources.errors import GradientError
from gradient_jupyter.resources.event import Action
from gradient_jupyter.resources.job import CreateJob, Job, RerunJob, State, Target
from gradient_jupyter.resources.machine_type import Gpu
from gradient_jupyter.resources.snapshot import EMPTY_TREE, Snapshot
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger, snapshots
from gradient_jupyter.store import schema as store_schema
from gradient_jupyter.store.database import Change, connect
from gradient_jupyter.workspace.blobs import BlobStore

INSTALL = "in0"
ANN = Principal(user_id="uann", name="ann")
BOB = Principal(user_id="ubob", name="bob")
GPUS = tuple(Gpu(uuid=f"GPU-{n}", name="fake", memory_bytes=1) for n in range(2))
NODE = Node(name="here", up=True, cpus=4, memory_bytes=8, gpus=GPUS)
SIZES = {
    "small": Size(cpus=1, memory_bytes=1),
    "gpu": Size(cpus=1, memory_bytes=2, gpus=1),
    "large": Size(cpus=3, memory_bytes=6, gpus=1),
}


class Clock(selectors.SelectSelector):
    """Never waits: time goes to where the loop wants to wait for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing would ever happen again"
        self.now += max(0.0, timeout)
        return []


class Loop(asyncio.SelectorEventLoop):
    """A loop in virtual time: an hour passes as fast as it can be computed, the same way each time."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


_CODES = {124: "max-duration", 127: "command-not-found", 137: "killed"}


@dataclass
class Faults:
    """How often what goes wrong: probabilities per call, all 0 once the world is to settle."""

    late: float = 0.0
    refused: float = 0.0
    """The engine does not answer, and nothing has happened."""
    lost: float = 0.0
    """It happened, and the answer does not arrive."""
    stale: float = 0.0
    """The answer is what was true a while ago."""
    absent: float = 0.0
    """A lie: a task that is there is not mentioned."""
    hint_lost: float = 0.0
    hint_doubled: float = 0.0
    vanish: float = 0.0
    """A running task is gone without having ended: its machine was lost."""


@dataclass
class Run:
    """One start of one command, as the engine saw it."""

    job_id: str
    attempt: int
    began: float
    ended: float | None = None
    exit_code: int | None = None
    """None: nobody knows."""


@dataclass
class Living:
    """A task the engine holds."""

    task: Task
    run: Run | None = None
    phase: Phase = Phase.PENDING
    stopped: bool = False
    exit_code: int | None = None
    timer: asyncio.TimerHandle | None = None
    past: list[tuple[float, Observation]] = field(default_factory=list)


class Engine:
    """Keeps the contract of ``engines.base`` towards its tasks, and misbehaves towards whoever asks."""

    def __init__(self, rng: random.Random, faults: Faults, noted: Callable[[Run], bool]) -> None:
        self.rng = rng
        self.noted = noted
        self.faults = faults
        self.tasks: dict[str, Living] = {}
        self.runs: list[Run] = []
        self.lied = False
        self.down = False
        self._hints: asyncio.Queue[Hint] = asyncio.Queue()

    # What it does to its tasks.

    def running(self, job_id: str) -> list[Run]:
        return [run for run in self.runs if run.job_id == job_id and run.ended is None]

    def _start(self, living: Living) -> None:
        loop = asyncio.get_running_loop()
        _, _, job_id, attempt, _ = living.task.key.split("-")
        living.run = Run(job_id, int(attempt), loop.time())
        self.runs.append(living.run)
        living.phase = Phase.RUNNING
        lasts = self.rng.choice((0.0, 0.01, 0.5, 5.0, 90.0))
        limit = living.task.max_duration_s
        if limit is not None and lasts > limit:
            living.timer = loop.call_later(limit, self._end, living, 124)
        elif self.rng.random() < self.faults.vanish:
            living.timer = loop.call_later(lasts, self._vanish, living)
        else:
            code = 0 if "ok" in living.task.command else self.rng.choice((0, 1, 127, 137))
            living.timer = loop.call_later(lasts, self._end, living, code)
        self._tell(living.task.key, HintKind.STATE)

    def _end(self, living: Living, exit_code: int) -> None:
        assert living.run is not None
        if living.run.ended is None:
            living.run.ended, living.run.exit_code = asyncio.get_running_loop().time(), exit_code
            living.phase = Phase.SUCCEEDED if exit_code == 0 else Phase.FAILED
            living.exit_code = exit_code
            self._tell(living.task.key, HintKind.STATE)

    def _vanish(self, living: Living) -> None:
        assert living.run is not None
        if living.run.ended is None:
            living.run.ended = asyncio.get_running_loop().time()
            # An engine may lose even its memory of a task. Before the start was written down that would be
            # an engine that starts one key twice, and none is allowed to.
            if self.rng.random() < 0.5 and self.noted(living.run):
                self.tasks.pop(living.task.key, None)
            else:
                living.phase = Phase.LOST
            self._tell(living.task.key, HintKind.STATE)

    def lose_node(self) -> None:
        """Everything that runs is gone at once."""
        for living in list(self.tasks.values()):
            if living.phase is Phase.RUNNING:
                self._vanish(living)

    def _kill(self, living: Living, exit_code: int) -> None:
        if living.run is None:
            if living.phase is Phase.PENDING or living.phase is Phase.STARTING:
                living.phase = Phase.FAILED
                living.exit_code = None
        elif living.run.ended is None:
            living.stopped = True
            self._end(living, exit_code)
        if living.timer is not None:
            living.timer.cancel()

    def _tell(self, key: str, kind: HintKind) -> None:
        if self.rng.random() < self.faults.hint_lost:
            return
        for _ in range(2 if self.rng.random() < self.faults.hint_doubled else 1):
            self._hints.put_nowait(Hint(key=key, kind=kind))

    def _see(self, living: Living) -> Observation:
        run = living.run
        code = {124: "max-duration", 127: "command-not-found", 137: "killed"}.get(
            living.exit_code or 0, "exited"
        )
        never = living.phase is Phase.FAILED and run is None
        return Observation(
            key=living.task.key, phase=living.phase, spec_hash=living.task.spec_hash(),
            exit_code=living.exit_code, code="never-started" if never else code,
            stopped=living.stopped or never,
            started_us=None if run is None else int(run.began * 1e6) + 1,
            ended_us=None if run is None or run.ended is None else int(run.ended * 1e6) + 1,
        )  # fmt: skip

    # What it is asked.

    async def _answer(self, work: Callable[[], Any]) -> Any:
        """``work`` takes effect at one moment between the question and the answer, or never."""
        rng, faults = self.rng, self.faults
        slow = rng.random() < faults.late
        await asyncio.sleep(rng.choice((0.05, 2.0, 40.0)) if slow else 0)
        if self.down or rng.random() < faults.refused:
            raise Unreachable("no answer")
        result = work()
        await asyncio.sleep(rng.choice((0.05, 2.0)) if slow else 0)
        if rng.random() < faults.lost:
            raise Unreachable("the answer was lost")
        return result

    async def ensure(self, task: Task) -> None:
        def work() -> None:
            living = self.tasks.get(task.key)
            if living is None:
                living = self.tasks[task.key] = Living(task)
            elif living.task.spec_hash() != task.spec_hash():
                raise Conflict(task.key)
            if living.phase is Phase.PENDING:
                living.phase = Phase.STARTING
                delay = self.rng.choice((0.0, 0.0, 0.2, 20.0))
                loop = asyncio.get_running_loop()
                living.timer = loop.call_later(delay, self._start_if_still_wanted, living)

        await self._answer(work)

    def _start_if_still_wanted(self, living: Living) -> None:
        if living.phase is Phase.STARTING and self.tasks.get(living.task.key) is living:
            self._start(living)

    async def observe(self, keys: Iterable[str] | None = None) -> dict[str, Observation]:
        wanted = None if keys is None else list(keys)

        def work() -> dict[str, Observation]:
            now = asyncio.get_running_loop().time()
            found = {}
            for key, living in self.tasks.items():
                if wanted is not None and key not in wanted:
                    continue
                seen = self._see(living)
                if living.past and living.past[-1][1] != seen and self.rng.random() < self.faults.stale:
                    seen = living.past[-1][1]
                else:
                    living.past.append((now, seen))
                if self.rng.random() < self.faults.absent:
                    self.lied = True
                    continue
                found[key] = seen
            return found

        result: dict[str, Observation] = await self._answer(work)
        return result

    async def stop(self, key: str, grace_s: float) -> None:
        def work() -> None:
            if (living := self.tasks.get(key)) is not None:
                polite = living.run is not None and grace_s > 0 and self.rng.random() < 0.5
                loop = asyncio.get_running_loop()
                if polite:
                    loop.call_later(min(grace_s, 0.3), self._kill, living, self.rng.choice((0, 143)))
                else:
                    self._kill(living, 137)

        await self._answer(work)

    async def remove(self, key: str) -> None:
        def work() -> None:
            if (living := self.tasks.pop(key, None)) is not None:
                self._kill(living, 137)

        await self._answer(work)

    async def watch(self) -> AsyncIterator[Hint]:
        while True:
            yield await self._hints.get()

    async def nodes(self) -> tuple[Node, ...]:
        return (NODE,)

    def capabilities(self) -> Capabilities:
        return Capabilities(name="simulated", writes_in_place=True, isolation="none")

    async def start(self) -> None: ...
    async def close(self) -> None: ...


class Store:
    """``store.database.Database`` without its threads: the same work on the same kind of connection."""

    def __init__(self, connection: Connection, world: World) -> None:
        self._connection = connection
        self._world = world
        self.alive = True
        self.read_only = ""

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        await self._turn()
        return work(self._connection)

    async def write(self, work: Callable[[Connection], Any]) -> Any:
        await self._turn()
        changes: list[Change] = []
        self._connection.info["gradient.changes"] = changes
        with self._connection.begin_nested():
            result = work(self._connection)
        self._world.committed(self._connection, changes)
        await self._turn()
        return result

    async def _turn(self) -> None:
        """The server may be killed here: then this call never returns, or never happens."""
        await asyncio.sleep(0)
        if self.alive and self._world.rng.random() < self._world.crash:
            self._world.crashed.set()
        if self._world.crashed.is_set() or not self.alive:
            await asyncio.get_running_loop().create_future()


class AtOnce(Executor):
    """Runs what it is given where it is given it."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class SimulatedPlane(Plane):
    """A ``Plane`` whose blocking work is done at once. File work may be the moment of a crash as well."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.collector._threads = AtOnce()  # type: ignore[assignment]

    async def on_files(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        result = work(*args, **kwargs)
        await asyncio.sleep(0)
        return result

    def check_space(self, incoming: int = 0) -> None:
        return


class World:
    """Everything there is in one simulation, and what must hold in it at every moment."""

    def __init__(self, seed: int, connection: Connection, root: Path, faults: Faults, crash: float) -> None:
        self.rng = random.Random(seed)
        self.connection = connection
        self.layout = Layout(root)
        self.faults = faults
        self.crash = crash
        self.crashed = asyncio.Event()
        self.engine = Engine(self.rng, faults, self._noted)
        self.finals: dict[str, Job] = {}
        self.submitted: dict[str, Job] = {}
        self.asked_to_end: set[str] = set()
        self.restarts = 0
        self.plane: SimulatedPlane | None = None
        self._store: Store | None = None

    async def start(self) -> None:
        """A server starts on what the last one left."""
        while True:
            self.crashed.clear()
            settings = Settings(
                machine_types=SIZES, whole_host=False, default_machine_type="small", stop_grace_s=1
            )
            self.plane = SimulatedPlane(
                self.layout, INSTALL, settings, BlobStore(self.layout.blobs), lambda plane: self.engine,
                b"k" * 32, "http://here",
            )  # fmt: skip
            self._store = self.plane.database = Store(self.connection, self)  # type: ignore[assignment]
            starting = asyncio.ensure_future(self.plane.reconciler.start())
            if await self._or_crashed(starting):
                return
            await self._bury()

    async def _or_crashed(self, work: asyncio.Future[Any]) -> bool:
        """Whether ``work`` was done before the server died."""
        death = asyncio.ensure_future(self.crashed.wait())
        await asyncio.wait({work, death}, return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if work.done() and not self.crashed.is_set():
            work.result()
            return True
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work
        return False

    async def _bury(self) -> None:
        assert self.plane is not None and self._store is not None
        self._store.alive = False
        self.restarts += 1
        await self.plane.reconciler.close()

    async def restart(self) -> None:
        """Kills the server where it stands, and starts the next."""
        self.crashed.set()
        await self._bury()
        await self.start()

    async def ask(self, work: Callable[[SimulatedPlane], Any]) -> Any:
        """A request: None when the server died before it answered."""
        assert self.plane is not None
        request = asyncio.ensure_future(work(self.plane))
        if await self._or_crashed(request):
            return request.result()
        await self._bury()
        await self.start()
        return None

    async def submit(self, who: Principal, command: str, size: str, **fields: Any) -> str | None:
        """Asks with one key until it is answered, as the client does. None when it was refused."""
        key = f"key-{len(self.submitted)}-{self.rng.random()}"
        request = CreateJob(command=(command,), snapshot=EMPTY_TREE, project="p", machine_type=size, **fields)
        answers = []
        while True:
            with contextlib.suppress(GradientError):
                job = await self.ask(lambda plane: jobs.submit(plane, who, request, key))
                if job is not None:
                    answers.append(job.id)
                    self.submitted[job.id] = job
                    if self.rng.random() < 0.8:
                        assert len(set(answers)) == 1, "P1: the same key made a second job"
                        return str(job.id)

    async def rerun(self, who: Principal, job_id: str, **changes: Any) -> str | None:
        """The same files again, as a new job."""
        with contextlib.suppress(GradientError):
            request = RerunJob(**changes)
            job = await self.ask(lambda plane: jobs.rerun(plane, who, job_id, request, None))
            if job is not None:
                self.submitted[job.id] = job
                return str(job.id)
        return None

    async def end(self, who: Principal, job_id: str, target: Target) -> None:
        act = jobs.stop if target is Target.CANCELLED else jobs.delete
        self.asked_to_end.add(job_id)
        with contextlib.suppress(GradientError):
            await self.ask(lambda plane: act(plane, who, job_id))

    async def pass_time(self, seconds: float) -> None:
        """Time passes; a server that dies meanwhile is followed by another."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.crashed.wait()
                await self._bury()
                await self.start()

    async def settle(self) -> None:
        """No more faults. Whatever waits or runs comes to its end, one after the other if need be, and ten
        minutes later nothing of it is left."""
        for name in vars(self.faults):
            setattr(self.faults, name, 0.0)
        self.crash = 0.0
        self.engine.down = False
        for _ in range(1 + 4 * len(self.submitted)):  # an attempt takes 90 s and a wait of 30 s at most
            if not rows.live(self.connection):
                break
            await self.pass_time(150)
        await self.pass_time(600)

    # What must hold.

    def committed(self, connection: Connection, changes: list[Change]) -> None:
        """Looked at after each commit."""
        for event in (change.event for change in changes):
            if event.noun != "job":
                continue
            if event.action is Action.DELETED:
                self.finals.pop(event.id, None)
                continue
            job = rows.find(connection, event.id)
            assert job is not None
            before = self.finals.get(job.id)
            if before is not None:
                same = (before.state, before.exit_code, before.attempt, before.reason)
                assert (job.state, job.exit_code, job.attempt, job.reason) == same, (
                    f"P5: {before} became {job}"
                )
            elif job.final:
                self.finals[job.id] = job
                self._ended(job)
        self._within_the_machine(connection)
        if self.plane is not None:
            self.plane.changes.published(changes)

    def _ended(self, job: Job) -> None:
        assert job.state is State.STOPPED or (job.reason and job.reason.message), "an end without a reason"
        if self.engine.lied:
            return
        alive = self.engine.running(job.id)
        assert not alive, f"P6: {job.id} is {job.state} while {alive} runs"
        mine = [run for run in self.engine.runs if run.job_id == job.id and run.attempt == job.attempt]
        if job.state is State.STOPPED:
            assert [run.exit_code for run in mine] == [0]
        if job.state is State.FAILED:
            assert [run.exit_code for run in mine] == [job.exit_code]

    def _noted(self, run: Run) -> bool:
        job = rows.find(self.connection, run.job_id)
        return job is not None and (job.state, job.attempt) == (State.RUNNING, run.attempt)

    def _within_the_machine(self, connection: Connection) -> None:
        taken = ledger.taken(connection)
        assert sum(claim.cpus for claim in taken) <= NODE.cpus
        assert sum(claim.memory_bytes for claim in taken) <= NODE.memory_bytes
        gpus = [gpu for claim in taken for gpu in claim.gpus]
        assert len(gpus) == len(set(gpus)), "a GPU was given out twice"

    def check_runs(self) -> None:
        """P2, P3, P4 by the witness."""
        by_attempt: dict[tuple[str, int], list[Run]] = {}
        for run in self.engine.runs:
            by_attempt.setdefault((run.job_id, run.attempt), []).append(run)
        for key, runs in by_attempt.items():
            # An engine that denies a task it holds may be asked for it again; its own name is the guard then.
            assert len(runs) == 1, f"P3: {key} was started {len(runs)} times"
        for job_id in {run.job_id for run in self.engine.runs}:
            mine = sorted(
                (run for run in self.engine.runs if run.job_id == job_id), key=lambda run: run.began
            )
            allowed = 1 + self.submitted[job_id].retries if job_id in self.submitted else None
            assert allowed is None or len(mine) <= allowed, f"P4: {job_id} ran {len(mine)} times"
            assert [run.attempt for run in mine] == sorted(run.attempt for run in mine)
            if not self.engine.lied:
                for one, following in itertools.pairwise(mine):
                    assert one.ended is not None and one.ended <= following.began, "two attempts at a time"

    def check_settled(self) -> None:
        """P1, P10, P11: what was accepted has ended, and nothing of it is left."""
        for job_id, asked in self.submitted.items():
            job = rows.find(self.connection, job_id)
            if job is None:
                assert job_id in self.asked_to_end, f"P1: {job_id} was accepted and is gone"
                continue
            assert job.final, f"{job.id} is still {job.state}/{job.phase}: {job.reason}"
            if job.state is State.CANCELLED:
                assert job_id in self.asked_to_end
            assert job.retries == asked.retries
        assert not self.engine.tasks, f"P11: left in the engine: {list(self.engine.tasks)}"
        assert not ledger.taken(self.connection), "P11: a machine was never given back"


@contextlib.contextmanager
def template(root: Path) -> Iterator[Connection]:
    """A connection on a fresh database, for many simulations one after the other."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "gradient.sqlite"
    store_schema.prepare(path)
    engine = connect(path)
    with engine.connect() as connection:
        for pragma in ("journal_mode=MEMORY", "synchronous=OFF"):  # nothing here is about the disk
            connection.connection.driver_connection.execute(f"PRAGMA {pragma}")  # type: ignore[union-attr]
        connection.info["gradient.changes"] = []
        with connection.begin():
            for who in (ANN, BOB):
                empty = Snapshot(id=EMPTY_TREE, files=0, bytes=0, created_us=0)
                snapshots.create(connection, who.owner, empty)
        yield connection
    engine.dispose()


def simulate(
    seed: int, connection: Connection, root: Path, story: Callable[[World], Any], faults: Faults, crash: float
) -> World:
    """One story in one world; what it wrote is forgotten afterwards. Raises AssertionError where a promise
    was broken."""
    random.seed(seed)  # the jitter of what comes back later
    logging.getLogger("gradient_jupyter").setLevel(logging.CRITICAL)  # it has much to say of such engines
    with connection.begin() as transaction:
        with contextlib.closing(Loop()) as loop:

            async def whole() -> World:
                world = World(seed, connection, root, faults, crash)
                await world.start()
                await story(world)
                await world.settle()
                world.check_runs()
                world.check_settled()
                assert world.plane is not None
                await world.plane.reconciler.close()
                return world

            try:
                world = loop.run_until_complete(whole())
            finally:
                for task in asyncio.all_tasks(loop):
                    task.cancel()
                loop.run_until_complete(asyncio.sleep(0))
        transaction.rollback()
        return world
