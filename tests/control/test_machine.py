"""The control plane as a state machine (T9): any order of what people, the engine and accidents can do.

Faults: the engine answers late, twice, never, with what was true before, or denies what it holds; machines
are lost; the server is killed. Promises: P1 to P6, P10, P11. Time to heal: ten minutes after the last of it.
What fails is shrunk to the few steps that matter.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from simulation import ANN, BOB, Faults, Loop, World, template

from gradient_jupyter.control import jobs
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.resources.errors import NotFound
from gradient_jupyter.resources.job import State, Target

people = st.sampled_from([ANN, BOB])


class Life(RuleBasedStateMachine):
    """Jobs of two people in one world."""

    known = Bundle("known")

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        random.seed(seed)
        self.root = Path(tempfile.mkdtemp(prefix="gradient-machine-"))
        self.database = template(self.root)
        self.connection = self.database.__enter__()
        self.transaction = self.connection.begin()
        self.loop = Loop()
        self.world = World(seed, self.connection, self.root / "world", Faults(), 0.0)
        self.run(self.world.start())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @rule(
        target=known,
        who=people,
        command=st.sampled_from(["ok", "may-fail"]),
        size=st.sampled_from(["small", "gpu", "large"]),
        retries=st.sampled_from([0, 1, 3]),
        limit=st.sampled_from([None, 3.0]),
    )
    def submit(
        self, who: Principal, command: str, size: str, retries: int, limit: float | None
    ) -> tuple[Principal, str]:
        job_id = self.run(self.world.submit(who, command, size, retries=retries, max_duration_s=limit))
        assert job_id is not None
        return who, job_id

    @rule(job=known, target_=st.sampled_from([Target.CANCELLED, Target.DELETED]))
    def end(self, job: tuple[Principal, str], target_: Target) -> None:
        self.run(self.world.end(*job, target_))

    @rule(target=known, job=known, retries=st.sampled_from([None, 2]))
    def rerun(self, job: tuple[Principal, str], retries: int | None) -> tuple[Principal, str]:
        again = self.run(self.world.rerun(*job, retries=retries))
        return (job[0], again) if again else job

    @rule(job=known)
    def a_stranger_sees_nothing(self, job: tuple[Principal, str]) -> None:
        """Boundary B2: somebody else's job does not exist."""
        who, job_id = job
        stranger = BOB if who is ANN else ANN
        with pytest.raises(NotFound):
            while self.run(self.world.ask(lambda plane: jobs.stop(plane, stranger, job_id))) is None:
                pass  # the server died before it answered

    @rule(seconds=st.sampled_from([0.0, 0.02, 1.0, 30.0, 120.0]))
    def pass_time(self, seconds: float) -> None:
        self.run(self.world.pass_time(seconds))

    @rule(fault=st.sampled_from(sorted(vars(Faults()))), often=st.sampled_from([0.0, 0.1, 0.5]))
    def misbehave(self, fault: str, often: float) -> None:
        setattr(self.world.faults, fault, often)

    @rule(down=st.booleans())
    def go_down(self, down: bool) -> None:
        self.world.engine.down = down

    @rule()
    def lose_node(self) -> None:
        self.run(self._lose_node())

    async def _lose_node(self) -> None:
        self.world.engine.lose_node()

    @rule()
    def restart(self) -> None:
        self.run(self.world.restart())

    @rule(often=st.sampled_from([0.0, 0.01, 0.05]))
    def crash_now_and_then(self, often: float) -> None:
        self.world.crash = often

    @invariant()
    def what_waits_or_ended_says_why(self) -> None:
        if not hasattr(self, "world") or self.world.plane is None or self.world.crashed.is_set():
            return
        for who, job_id in [(who, job_id) for who in (ANN, BOB) for job_id in self.world.submitted]:
            if self.world.submitted[job_id].owner != who.owner:
                continue
            try:
                job = self.run(
                    self.world.ask(lambda plane, who=who, job_id=job_id: jobs.get(plane, who, job_id))
                )
            except NotFound:
                assert job_id in self.world.asked_to_end
                continue
            if job is not None and job.state not in (State.RUNNING, State.STOPPED):
                waits_for_a_person = job.target is not Target.RUN
                assert waits_for_a_person or (job.reason is not None and job.reason.message), job

    @invariant()
    def one_attempt_at_a_time(self) -> None:
        if hasattr(self, "world"):
            self.world.check_runs()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.run(self.world.settle())
            self.world.check_runs()
            self.world.check_settled()
            assert self.world.plane is not None
            self.run(self.world.plane.reconciler.close())
        finally:
            self.loop.close()
            self.transaction.rollback()
            self.database.__exit__(None, None, None)
            shutil.rmtree(self.root, ignore_errors=True)


@pytest.mark.parametrize("examples", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_order_of_events_breaks_a_promise(examples: int) -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=examples, stateful_step_count=20, deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
