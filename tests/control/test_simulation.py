"""The control plane in 10,000 seeded worlds (T10): whatever an engine says and whenever the server dies.

Faults: answers late, lost, doubled, stale, untrue; machines lost; the server killed between any two steps.
Promises: P1 to P6, P10, P11. Time to heal: ten minutes after the last fault, without help. A seed that fails
is its own reproduction: ``GRADIENT_SEEDS=4711-4711 scripts/test tests/control/test_simulation.py``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulation import ANN, BOB, Faults, World, simulate, template
from sqlalchemy import Connection

from gradient_jupyter.resources.job import Target

#: How many worlds one test looks at; the slow ones make it ten thousand.
BATCH = 100
#: ``first-last``, or one seed: those worlds and no others.
CHOSEN = os.environ.get("GRADIENT_SEEDS", "")


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with template(tmp_path_factory.mktemp("simulation")) as connection:
        yield connection


def faults(rng: random.Random) -> Faults:
    """Some worlds are quiet, few are bad in every way: each fault is also seen alone."""
    names = [name for name in vars(Faults()) if rng.random() < 0.35]
    return Faults(**{name: rng.choice((0.02, 0.1, 0.3)) for name in names})


async def story(world: World) -> None:
    rng = world.rng
    known: list[tuple[str, object]] = []
    for _ in range(rng.randint(2, 6)):
        what = rng.random()
        if what < 0.6 or not known:
            who = rng.choice((ANN, BOB))
            job_id = await world.submit(
                who, rng.choice(("ok", "may-fail")), rng.choice(("small", "small", "gpu", "large")),
                retries=rng.choice((0, 0, 1, 3)), max_duration_s=rng.choice((None, None, 3.0)),
                priority=rng.choice((0, 0, 5)),
            )  # fmt: skip
            if job_id is not None:
                known.append((job_id, who))
        elif what < 0.8:
            job_id, who = rng.choice(known)
            await world.end(who, job_id, rng.choice((Target.CANCELLED, Target.DELETED)))
        elif what < 0.85:
            await world.restart()
        elif what < 0.9:
            world.engine.lose_node()
        else:
            world.engine.down = not world.engine.down
        await world.pass_time(rng.choice((0.0, 0.02, 1.0, 30.0, 200.0)))


def seeds(batch: int) -> range:
    if CHOSEN:
        first, _, last = CHOSEN.partition("-")
        return range(int(first), int(last or first) + 1) if batch == 0 else range(0)
    return range(batch * BATCH, (batch + 1) * BATCH)


@pytest.mark.parametrize(
    "batch", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 10_000 // BATCH))]
)
def test_no_promise_is_broken_in_any_world(connection: Connection, tmp_path: Path, batch: int) -> None:
    restarts = runs = 0
    for seed in seeds(batch):
        rng = random.Random(-seed - 1)
        crash = rng.choice((0.0, 0.0, 0.002, 0.02))
        try:
            world = simulate(seed, connection, tmp_path / str(seed), story, faults(rng), crash)
        except Exception as error:
            raise AssertionError(f"GRADIENT_SEEDS={seed}: {error}") from error
        restarts += world.restarts
        runs += len(world.engine.runs)
    # One world that is looked at again may be one in which little happens.
    assert CHOSEN or (restarts and runs), "nothing happened in any of these worlds"
