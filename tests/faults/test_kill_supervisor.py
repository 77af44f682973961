"""Kill a supervisor while it stops its task, and while it writes a log of many lines (technique T1).

Its start, and a whole short task, are swept in ``tests/engines/test_kills.py``. Fault: SIGKILL of the
supervisor at its n-th effect, with the server alive. Promises: P3, the witness has one start; P6, after the
loss is seen and the task stopped no process of it is left; P7, what a follower read is the beginning of what
is there. It heals when the engine is asked again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from faults import witness
from faults.killing import Killer

from gradient_jupyter.engines.base import Observation, Phase, Resources, Task
from gradient_jupyter.engines.local import LocalEngine, attempt, process, world

KEY = "test-job-1-1-0"
WORLDS = ["none", "bubblewrap"]
#: Says that it is up, and saves its state when it is asked to end; so does a child of its.
STOPPED = """
begin
trap 'echo saved; end; exit 0' TERM
(trap 'echo saved too; exit 0' TERM; while :; do sleep 1000 & wait; done) &
echo up
while :; do sleep 1000 & wait; done
"""
#: Waits for its test.
GATE = 'read -r go < "$GRADIENT_STORAGE_DIR/gate"'
#: Many times what a pipe holds, so that the supervisor must read and append many times.
LINES = 400
_PAD = "x" * 2000
MANY_LINES = f"""
begin; echo up
{GATE}
i=0; while [ $i -lt {LINES} ]; do echo "line $i {_PAD}"; i=$((i + 1)); done
end
"""


def may_trace() -> bool:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"


pytestmark = pytest.mark.skipif(not may_trace(), reason="only ancestors may trace here (yama.ptrace_scope)")


@asynccontextmanager
async def running(
    root: Path,
    isolation: str,
    script: str,
    ensure: Callable[[LocalEngine, Task], Awaitable[None]] = LocalEngine.ensure,
) -> AsyncIterator[tuple[LocalEngine, Task]]:
    """An engine and a task of it that has said that it is up."""
    places = [root / name for name in ("storage", "datasets", "job")]
    for place in places:
        place.mkdir(parents=True)
    storage, datasets, directory = places
    os.mkfifo(storage / "gate")
    task = Task(
        key=KEY, command=("sh", "-c", witness.SHELL + script), snapshot="s", directory=directory,
        env={"GRADIENT_JOB_ID": "j1", "GRADIENT_ATTEMPT": "1"}, storage=storage, datasets={"d": datasets},
        resources=Resources(cpus=1, memory_bytes=1 << 20), labels={},
    )  # fmt: skip
    # Without a fork server, which a test that stops what is made would stop too: it has tests of its own.
    engine = LocalEngine(
        root / "engine", lambda _, to: to.mkdir(), install="test", isolation=isolation, warm_s=0  # type: ignore[arg-type]
    )  # fmt: skip
    await engine.start()
    try:
        await ensure(engine, task)
        async for chunk in engine.logs(KEY):
            if chunk.data.endswith(b"up\n"):
                break
        yield engine, task
        await engine.remove(KEY)
        mark = attempt.Attempt(root / "engine", KEY).mark()
        assert not process.marked(world.MARKER, mark)
        assert {path.name for path in directory.iterdir()} <= {"log", "log.index", "artifacts"}
    finally:
        await engine.close()


async def read(engine: LocalEngine) -> bytes:
    """The log to its end."""
    return b"".join([chunk.data async for chunk in engine.logs(KEY)])


async def seen(engine: LocalEngine) -> Observation:
    return (await engine.observe([KEY]))[KEY]


def killer_of(root: Path, n: int) -> Killer:
    who = attempt.Attempt(root / "engine", KEY)._supervisor()
    assert who is not None
    return Killer(who.pid, n)


async def stop_and_kill(root: Path, isolation: str, n: int) -> bool:
    """False: it ended before its ``n``-th effect."""
    async with running(root, isolation, STOPPED) as (engine, task):
        mark = attempt.Attempt(root / "engine", KEY).mark()
        with killer_of(root, n) as killer:
            await engine.stop(KEY, 5)
            text = await read(engine)
            await asyncio.to_thread(killer.end)
        end = await seen(engine)
        assert end.phase is (Phase.LOST if killer.fired and end.code == "lost" else Phase.SUCCEEDED)
        if end.phase is Phase.LOST:
            await engine.stop(KEY, 0)
            assert not process.marked(world.MARKER, mark)
            assert (await seen(engine)).phase is Phase.LOST  # nothing makes an end of what nobody saw
        else:
            assert end.stopped and b"saved\n" in text
        assert witness.check(witness.read(task.storage)) == {"j1": 1}
    return killer.fired


async def write_and_kill(root: Path, isolation: str, n: int) -> bool:
    async with running(root, isolation, MANY_LINES) as (engine, task):
        with killer_of(root, n) as killer:
            (task.storage / "gate").write_text("go\n")
            text = await read(engine)
            await asyncio.to_thread(killer.end)
        end = await seen(engine)
        assert end.phase is (Phase.LOST if killer.fired and end.code == "lost" else Phase.SUCCEEDED)
        again = await read(engine)
        assert again.startswith(text)
        whole = "up\n" + "".join(f"line {i} {_PAD}\n" for i in range(LINES))
        shown = again[again.index(b"up\n") :].decode()
        assert whole.startswith(shown)
        if end.phase is Phase.SUCCEEDED:
            assert shown == whole
        assert witness.check(witness.read(task.storage)) == {"j1": 1}
    return killer.fired


Fault = Callable[[Path, str, int], "asyncio.Future[bool]"]


@pytest.mark.parametrize("isolation", WORLDS)
@pytest.mark.parametrize(("fault", "effects"), [(stop_and_kill, (1, 3, 5)), (write_and_kill, (2, 3, 12))])
def test_a_supervisor_killed_at_work_starts_nothing_twice_and_leaves_nothing(
    tmp_path: Path, isolation: str, fault: Fault, effects: tuple[int, ...]
) -> None:
    for n in effects:
        assert asyncio.run(fault(tmp_path / str(n), isolation, n))


@pytest.mark.slow
@pytest.mark.parametrize("isolation", WORLDS)
@pytest.mark.parametrize("fault", [stop_and_kill, write_and_kill])
def test_a_supervisor_killed_at_any_effect_of_its_work_starts_nothing_twice_and_leaves_nothing(
    tmp_path: Path, isolation: str, fault: Fault
) -> None:
    n, fired = 0, True
    while fired:
        n += 1
        fired = asyncio.run(fault(tmp_path / str(n), isolation, n))
    print(f"\n{fault.__name__}, {isolation}: killed {n - 1} times")
