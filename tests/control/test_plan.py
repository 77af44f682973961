"""The decision, exhaustively: every row against everything an engine can say about it."""

from __future__ import annotations

import itertools

import pytest

from gradient_jupyter.control.plan import Conclude, Ensure, Erase, Note, Remove, Stop, plan
from gradient_jupyter.engines.base import Observation
from gradient_jupyter.engines.base import Phase as Seen
from gradient_jupyter.resources.job import PHASES, TRANSITIONS, Job, State, Target


def job(state=State.RUNNING, phase=None, target=Target.RUN) -> Job:
    return Job(
        id="j1", name="n", project_id="pr1", project="p", owner="user:u1", created_by="u1", number=1,
        command=("python", "x.py"), snapshot="a" * 64, machine_type="local", state=state,
        phase=phase or PHASES[state][0], target=target, created_us=1,
        attempt=0 if state is State.PENDING else 1,
    )  # fmt: skip


def seen(phase, **fields) -> Observation:
    if phase in (Seen.RUNNING, Seen.SUCCEEDED, Seen.LOST):
        fields.setdefault("started_us", 5)
    if phase is Seen.SUCCEEDED:
        fields.setdefault("exit_code", 0)
    return Observation(key="k", phase=phase, spec_hash="h", **fields)


ROWS = [job(state, phase, target) for state in State for phase in PHASES[state] for target in Target]
OBSERVATIONS = [
    None,
    seen(Seen.PENDING),
    seen(Seen.STARTING),
    seen(Seen.RUNNING),
    seen(Seen.SUCCEEDED),
    seen(Seen.SUCCEEDED, stopped=True),
    seen(Seen.FAILED, exit_code=1, started_us=5),
    seen(Seen.FAILED, exit_code=143, started_us=5, stopped=True),
    seen(Seen.FAILED, code="never-started", stopped=True),
    seen(Seen.FAILED, code="world"),
    seen(Seen.LOST),
]


@pytest.mark.parametrize(("row", "view"), list(itertools.product(ROWS, OBSERVATIONS)))
def test_every_step_is_a_transition_that_is_published(row, view):
    action = plan(row, view)
    if isinstance(action, Note | Conclude):
        assert action.state is row.state or action.state in TRANSITIONS[row.state]
    if isinstance(action, Conclude):
        assert action.state.final
        assert action.reason is not None or action.state is State.STOPPED
        # A machine is only given back when nothing of the task can still be running.
        assert view is None or view.phase.ended
    if row.final:
        assert action is None or isinstance(action, Remove | Erase)


@pytest.mark.parametrize("view", OBSERVATIONS)
def test_a_final_row_is_only_cleaned_up_after(view):
    for state in State:
        if state.final:
            assert plan(job(state), view) == (None if view is None else Remove())
            expected = Erase() if view is None else Remove()
            assert plan(job(state, target=Target.DELETED), view) == expected


def test_absent_after_running_is_lost_and_never_success():
    action = plan(job(State.RUNNING), None)
    assert isinstance(action, Conclude)
    assert action.state is State.ERROR
    assert action.reason is not None and action.reason.code == "lost"


def test_absent_before_running_is_started():
    assert plan(job(State.PROVISIONING), None) == Ensure()


def test_a_running_job_that_is_to_be_cancelled_is_stopped_and_not_declared_cancelled():
    assert plan(job(State.RUNNING, target=Target.CANCELLED), seen(Seen.RUNNING)) == Stop()


def test_a_command_that_ended_by_itself_keeps_its_own_result_although_it_was_to_be_cancelled():
    action = plan(job(State.RUNNING, target=Target.CANCELLED), seen(Seen.FAILED, exit_code=3, started_us=5))
    assert isinstance(action, Conclude)
    assert (action.state, action.exit_code) == (State.FAILED, 3)


@pytest.mark.parametrize(
    ("view", "state", "code"),
    [
        (
            seen(Seen.FAILED, exit_code=127, code="command-not-found", started_us=5),
            State.FAILED,
            "command-not-found",
        ),
        (seen(Seen.FAILED, exit_code=137, code="killed", started_us=5), State.FAILED, "killed"),
        (seen(Seen.FAILED, exit_code=137, code="out-of-memory", started_us=5), State.FAILED, "out-of-memory"),
        (seen(Seen.FAILED, exit_code=1, code="exited", started_us=5), State.FAILED, "exit"),
        (seen(Seen.FAILED, code="world", message="no namespaces", started_us=5), State.ERROR, "world"),
        (seen(Seen.LOST), State.ERROR, "lost"),
    ],
)
def test_every_end_has_a_reason_a_person_can_act_on(view, state, code):
    action = plan(job(State.RUNNING), view)
    assert isinstance(action, Conclude)
    assert (action.state, action.reason.code) == (state, code)
    assert action.reason.message and action.reason.next
