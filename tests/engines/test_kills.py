"""Kill the local engine's supervisor at its n-th system call (technique T1), for every n.

Forked by a fork server, which may then be the one that is killed, or made for its task. Fault: SIGKILL.
Promises: P3, a command is started at most once; P7, what was logged stays; nothing is left behind. The oracle
is a file the command itself appends to. It heals as soon as the next server asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gradient_jupyter.engines.base import Observation, Phase, Resources, Task, Unreachable
from gradient_jupyter.engines.local import LocalEngine, attempt, process, world

SETS = {
    "fsync": "fsync,fdatasync",
    "rename": "rename,renameat,renameat2,link,linkat,unlink,unlinkat",
    "write": "write,pwrite64",
    "spawn": "clone,clone3,fork,vfork,execve",
}
LAST = {"fsync": 7, "rename": 4, "write": 25, "spawn": 10}
"""One more than an undisturbed task makes, or thereabouts: the last runs are undisturbed ones."""


def materialise(snapshot: str, directory: Path) -> None:
    directory.mkdir()


@pytest.mark.parametrize("warm_s", [60, pytest.param(0, marks=pytest.mark.slow)], ids=["forked", "made"])
@pytest.mark.parametrize("isolation", ["none", "bubblewrap"])
@pytest.mark.parametrize(
    "calls", ["fsync", *(pytest.param(name, marks=pytest.mark.slow) for name in SETS if name != "fsync")]
)
def test_a_supervisor_killed_at_any_call_starts_at_most_once_and_leaves_nothing(
    tmp_path: Path,
    need: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    isolation: str,
    calls: str,
    warm_s: float,
) -> None:
    need("strace")
    if isolation == "bubblewrap":
        need("bwrap")
    monkeypatch.setattr(attempt, "_READY_S", 2.0)  # strace may live on, and holds what we wait for
    interpreter = sys.executable
    for n in range(1, LAST[calls] + 1):
        root = tmp_path / str(n)
        root.mkdir()
        traced = root / "python"
        traced.write_text(
            f"#!/bin/sh\nexec strace -DD -f -qq -o /dev/null -e trace={SETS[calls]} "
            f'-e inject={SETS[calls]}:signal=SIGKILL:when={n} {interpreter} "$@"\n'
        )
        traced.chmod(0o755)

        async def scenario(root: Path = root, traced: Path = traced) -> None:
            monkeypatch.setattr(sys, "executable", str(traced))
            await kill_and_heal(
                root, isolation, warm_s, lambda: monkeypatch.setattr(sys, "executable", interpreter)
            )

        asyncio.run(asyncio.wait_for(scenario(), 60))


async def kill_and_heal(root: Path, isolation: str, warm_s: float, heal: Callable[[], None]) -> None:
    storage, datasets, directory = (root / name for name in ("storage", "datasets", "job"))
    for place in (storage, datasets, directory):
        place.mkdir()
    task = Task(
        key="test-job-1-1-0",
        command=("sh", "-c", 'echo . >> "$GRADIENT_STORAGE_DIR/starts"; echo said'),
        env={},
        snapshot="s",
        directory=directory,
        storage=storage,
        datasets={"d": datasets},
        resources=Resources(cpus=1, memory_bytes=1 << 20),
        labels={},
    )

    def make() -> LocalEngine:
        return LocalEngine(
            root / "engine",
            materialise,
            install="test",
            isolation=isolation,  # type: ignore[arg-type]
            warm_s=warm_s,
        )

    first, second = make(), make()
    await first.start()
    if warm_s:
        await asyncio.to_thread(first.fork_server.make, 2.0)
    with contextlib.suppress(Unreachable):
        await first.ensure(task)
    await first.close()
    heal()

    await second.start()
    await second.ensure(task)
    text = b"".join([chunk.data async for chunk in second.logs(task.key)])
    seen: Observation = (await second.observe([task.key]))[task.key]
    assert seen.phase.ended
    witness = storage / "starts"
    starts = len(witness.read_text().splitlines()) if witness.exists() else 0
    assert starts <= 1
    if seen.phase is Phase.SUCCEEDED:
        assert starts == 1
        assert text.endswith(b"said\n")
    mark = attempt.Attempt(root / "engine", task.key).mark()
    await second.remove(task.key)
    assert not process.marked(world.MARKER, mark)
    assert {path.name for path in directory.iterdir()} <= {"log", "log.index", "artifacts"}
    await second.close()
