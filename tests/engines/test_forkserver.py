"""The local engine's fork server: a task is started sooner by it, and never differently.

Faults: it is killed, stopped, asked too late, asked twice, or its server is killed. Promise: P3, a command is
started at most once; and nothing is left behind. The witness is a file the command itself appends to. It
heals within the same ``ensure``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gradient_jupyter.engines.base import Phase, Resources, Task
from gradient_jupyter.engines.local import LocalEngine, attempt, forkserver, private, process, world
from gradient_jupyter.resources.job import HostEnvironment

PATIENCE_S = 30.0
SERVER = """
import asyncio, json, sys
from pathlib import Path
from gradient_jupyter.engines.local import LocalEngine

async def main():
    engine = LocalEngine(Path(sys.argv[1]), lambda snapshot, target: None, install="test", isolation="none")
    await engine.start()
    engine.fork_server.make(30)
    print(json.dumps(engine.fork_server.identity), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("storage", "datasets"):
            (root / name).mkdir()

    def engine(self, warm_s: float = 60) -> LocalEngine:
        return LocalEngine(
            self.root / "engine", self.materialise, install="test", isolation="none", warm_s=warm_s
        )

    @staticmethod
    def materialise(snapshot: str, directory: Path) -> None:
        directory.mkdir()

    def task(self, number: int = 1, **env: str) -> Task:
        directory = self.root / "jobs" / str(number)
        directory.mkdir(parents=True)
        return Task(
            key=f"test-job-{number}-1-0",
            command=("sh", "-c", 'echo $PPID >> "$GRADIENT_STORAGE_DIR/starts"'),
            env=env,
            snapshot="s",
            directory=directory,
            storage=self.root / "storage",
            datasets={"d": self.root / "datasets"},
            resources=Resources(cpus=1, memory_bytes=1 << 30),
            labels={},
            host=HostEnvironment(python=sys.executable, path=("/usr/bin", "/bin")),
        )

    def starts(self) -> list[int]:
        """The supervisors that have started something, in order."""
        witness = self.root / "storage" / "starts"
        return [int(line) for line in witness.read_text().splitlines()] if witness.exists() else []

    def run(self, scenario: Callable[[LocalEngine], Awaitable[None]], warm_s: float = 60) -> None:
        async def conduct() -> None:
            engine = self.engine(warm_s)
            await engine.start()
            try:
                async with asyncio.timeout(60):
                    await scenario(engine)
            finally:
                for key in await engine.observe():
                    await engine.remove(key)
                await engine.close()

        asyncio.run(conduct())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def ready(engine: LocalEngine) -> process.Identity:
    await asyncio.to_thread(engine.fork_server.make, PATIENCE_S)
    who: process.Identity = await until(lambda: engine.fork_server.identity)
    return who


async def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value


async def finished(engine: LocalEngine, task: Task) -> Phase:
    await engine.ensure(task)
    async for _ in engine.logs(task.key):
        pass
    return (await engine.observe([task.key]))[task.key].phase


def test_tasks_are_forked_by_one_fork_server(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        who = await ready(engine)
        for number in (1, 2):
            assert await finished(engine, bench.task(number)) is Phase.SUCCEEDED
        assert engine.fork_server.identity == who
        first, second = bench.starts()
        assert len({first, second, who.pid}) == 3
        await until(lambda: not process.descendants(who.pid))

    bench.run(scenario)


def test_a_fork_server_has_touched_nothing_and_has_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "canary-51b0")

    async def scenario(engine: LocalEngine) -> None:
        who = await ready(engine)
        assert [path.name for path in (bench.root / "engine").iterdir()] == [private.SOCKET]
        proc = Path(f"/proc/{who.pid}")
        assert b"canary" not in (proc / "environ").read_bytes()
        assert (proc / "cwd").readlink() == Path("/")
        status = (proc / "stat").read_text().rpartition(")")[2].split()
        assert int(status[1]) != os.getpid(), "it is not the server's child"
        assert int(status[3]) not in (os.getsid(0), 0), "it has its own session"
        kinds = sorted(str(link.readlink()).partition(":")[0] for link in (proc / "fd").iterdir())
        assert kinds == ["/dev/null", "/dev/null", "/dev/null", "socket"]

    bench.run(scenario)


def test_a_killed_fork_server_costs_nothing_but_time(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        who = await ready(engine)
        os.kill(who.pid, signal.SIGKILL)
        assert await finished(engine, bench.task()) is Phase.SUCCEEDED
        assert len(bench.starts()) == 1

    bench.run(scenario)


def test_a_forked_supervisor_killed_before_it_took_its_job_is_replaced(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        who = await ready(engine)
        task = bench.task()
        one = attempt.Attempt(bench.root / "engine", task.key)
        one.create("test", task.spec_hash(), task.directory)
        one.unpack(bench.materialise, "s", task.directory)
        os.kill(
            who.pid, signal.SIGSTOP
        )  # so that its job lies in the pipe, and nobody to read it is there yet
        forked = engine.fork_server.fork()
        assert forked is not None
        with forked:
            made = world.Worlds(None, "").make(task, 1, one.mark())
            spawning = asyncio.create_task(asyncio.to_thread(one.spawn, made, task.directory / "log", forked))
            await until(forked.given)
            os.kill(who.pid, signal.SIGKILL)
            assert not await spawning
        assert await finished(engine, task) is Phase.SUCCEEDED
        assert len(bench.starts()) == 1

    bench.run(scenario)


@pytest.mark.parametrize("size", [10, 100_000], ids=["the job fits into the pipe", "it does not"])
def test_a_stopped_fork_server_is_replaced_and_does_not_stay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(forkserver, "_ANSWER_S", 0.2)

    async def scenario(engine: LocalEngine) -> None:
        who = await ready(engine)
        os.kill(who.pid, signal.SIGSTOP)
        assert await finished(engine, bench.task(LARGE="x" * size)) is Phase.SUCCEEDED
        (starter,) = bench.starts()
        assert starter != who.pid
        await until(lambda: not process.alive(who))

    bench.run(scenario)


@pytest.mark.parametrize("late", [False, True])
def test_two_supervisors_with_one_job_start_it_once(bench: Bench, late: bool) -> None:
    """The lock and the mark decide, not who was asked. ``late``: one reads it when the other has run it."""

    async def scenario(engine: LocalEngine) -> None:
        who = await ready(engine)
        for number in range(1, 6):
            task = bench.task(number)
            one = attempt.Attempt(bench.root / "engine", task.key)
            one.create("test", task.spec_hash(), task.directory)
            one.unpack(bench.materialise, "s", task.directory)
            made = world.Worlds(None, "").make(task, 1, one.mark())
            if late:
                os.kill(who.pid, signal.SIGSTOP)
            forked = engine.fork_server.fork()
            assert forked is not None
            with forked, forkserver.Supervisor.make() as other:
                spawning = [
                    asyncio.create_task(asyncio.to_thread(one.spawn, made, task.directory / "log", each))
                    for each in (forked, other)
                ]
                if late:
                    await spawning[1]
                    os.kill(who.pid, signal.SIGCONT)
                await asyncio.gather(*spawning)
            assert await finished(engine, task) is Phase.SUCCEEDED
            assert len(bench.starts()) == number
        assert process.alive(who)

    bench.run(scenario)


def test_a_supervisor_whose_task_was_stopped_meanwhile_ends_without_a_job(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        who = await ready(engine)
        task = bench.task()
        stopped = threading.Event()

        def materialise(snapshot: str, directory: Path) -> None:
            directory.mkdir()
            attempt.Attempt(bench.root / "engine", task.key).ask_to_stop(5)
            stopped.set()

        engine._materialise = materialise
        await engine.ensure(task)
        assert stopped.is_set()
        assert (await engine.observe([task.key]))[task.key].code == "never-started"
        await until(lambda: not process.descendants(who.pid))
        assert bench.starts() == []

    bench.run(scenario)


def test_a_fork_server_goes_when_nothing_is_started_for_a_while(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        while (who := engine.fork_server.identity) is None:  # one may have been let go before we saw it
            await asyncio.to_thread(engine.fork_server.make, PATIENCE_S)
        assert await finished(engine, bench.task()) is Phase.SUCCEEDED
        await until(lambda: not process.alive(who))

    bench.run(scenario, warm_s=0.3)


def test_a_closed_one_makes_none_any_more(bench: Bench) -> None:
    """As when the engine is closed in the moment in which a thread is about to make one."""
    server = forkserver.ForkServer()
    server.make(PATIENCE_S)
    assert server.identity is not None
    server.close()
    server.make(PATIENCE_S)
    assert server.identity is None
    assert server.fork() is None


def test_none_is_kept_where_none_is_wanted(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        assert await finished(engine, bench.task()) is Phase.SUCCEEDED
        assert engine.fork_server.fork() is None

    bench.run(scenario, warm_s=0)


def test_a_fork_server_ends_with_its_engine_and_another_engine_keeps_its_own(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        other = LocalEngine(bench.root / "other", bench.materialise, install="other", isolation="none")
        await other.start()
        ours, theirs = await ready(engine), await ready(other)
        assert ours != theirs
        await other.close()
        await until(lambda: not process.alive(theirs))
        assert process.alive(ours)

    bench.run(scenario)


def test_a_fork_server_ends_when_its_server_is_killed(bench: Bench) -> None:
    argv = [sys.executable, "-c", SERVER, str(bench.root / "engine")]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert server.stdout is not None
    with server.stdout:
        who = process.Identity(*json.loads(server.stdout.readline()))
    assert process.alive(who)
    server.kill()
    server.wait(PATIENCE_S)

    async def gone() -> None:
        await until(lambda: not process.alive(who))

    asyncio.run(gone())
