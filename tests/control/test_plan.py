"""The decision, exhaustively: every row against everything an engine can say about it."""

from __future__ import annotations

import itertools

import pytest

from gradient_jupyter.control.running.plan import (
    Conclude,
    Ensure,
    Erase,
    Note,
    Remove,
    Requeue,
    Retry,
    Stop,
    plan,
)
from gradient_jupyter.engines.base import Observation
from gradient_jupyter.engines.base import Phase as Seen
from gradient_jupyter.resources.job import PHASES, TRANSITIONS, Job, Phase, State, Target


def job(state=State.RUNNING, phase=None, target=Target.RUN, retries=0, attempt=None) -> Job:
    return Job(
        id="j1", name="n", project_id="pr1", project="p", owner="user:u1", created_by="u1", number=1,
        command=("python", "x.py"), snapshot="a" * 64, machine_type="local", state=state,
        phase=phase or PHASES[state][0], target=target, created_us=1,
        attempt=attempt if attempt is not None else int((state, phase) != (State.PENDING, Phase.QUEUED)),
        retries=retries,
    )  # fmt: skip


def seen(phase, **fields) -> Observation:
    if phase in (Seen.RUNNING, Seen.SUCCEEDED, Seen.LOST):
        fields.setdefault("started_us", 5)
    if phase is Seen.SUCCEEDED:
        fields.setdefault("exit_code", 0)
    return Observation(key="k", phase=phase, spec_hash="h", **fields)


ROWS = [
    job(state, phase, target, retries)
    for state in State
    for phase in PHASES[state]
    for target in Target
    for retries in (0, 1)
]
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
    seen(Seen.FAILED, exit_code=124, code="max-duration", started_us=5),
    seen(Seen.FAILED, exit_code=127, code="command-not-found", started_us=5),
]


@pytest.mark.parametrize(("row", "view"), list(itertools.product(ROWS, OBSERVATIONS)))
def test_every_step_is_a_transition_that_is_published(row, view):
    action = plan(row, view)
    if isinstance(action, Note | Conclude):
        assert action.state is row.state or action.state in TRANSITIONS[row.state]
    if isinstance(action, Retry):
        assert State.PENDING in TRANSITIONS[row.state]
        assert row.retries and row.target is Target.RUN
        # The next attempt may be placed at once, so of this one nothing may run.
        assert view is None or view.phase.ended
    if isinstance(action, Requeue):
        assert (row.phase, view) == (Phase.RETRYING, None)
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


def test_a_lost_attempt_says_how_it_was_lost_and_what_follows():
    action = plan(job(State.RUNNING), seen(Seen.LOST, message="The machine was restarted while it ran."))
    assert isinstance(action, Conclude) and action.reason is not None
    assert action.reason.message == "The machine was restarted while it ran."
    assert "not run again by itself" in action.reason.next and "jobs logs" in action.reason.next
    last = plan(job(State.RUNNING, attempt=3, retries=2), seen(Seen.LOST))
    assert isinstance(last, Conclude) and last.reason is not None
    assert "last of 3 attempts" in last.reason.next and last.reason.message
    first = plan(job(State.RUNNING, attempt=1, retries=2), seen(Seen.LOST))
    assert isinstance(first, Retry) and first.end.reason is not None
    assert "attempts" not in first.end.reason.next and "--attempt 1" in first.end.reason.next


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


AGAIN = [
    seen(Seen.FAILED, exit_code=1, code="exited", started_us=5),
    seen(Seen.FAILED, exit_code=137, code="out-of-memory", started_us=5),
    seen(Seen.LOST),
    None,
]
NEVER_AGAIN = [
    seen(Seen.SUCCEEDED),
    seen(Seen.FAILED, exit_code=127, code="command-not-found", started_us=5),
    seen(Seen.FAILED, exit_code=126, code="not-executable", started_us=5),
    seen(Seen.FAILED, exit_code=124, code="max-duration", started_us=5),
    seen(Seen.FAILED, code="world", started_us=5),
]


@pytest.mark.parametrize("view", AGAIN)
def test_an_attempt_that_failed_or_was_lost_is_followed_by_as_many_as_were_asked_for(view):
    for attempt in (1, 2, 3):
        action = plan(job(State.RUNNING, Phase.RUNNING, retries=2, attempt=attempt), view)
        assert isinstance(action, Retry if attempt < 3 else Conclude)


@pytest.mark.parametrize("view", AGAIN)
def test_without_retries_nothing_is_run_again(view):
    """P4."""
    assert isinstance(plan(job(State.RUNNING, Phase.RUNNING), view), Conclude)


@pytest.mark.parametrize("view", NEVER_AGAIN)
def test_what_would_end_the_same_way_is_not_run_again(view):
    assert isinstance(plan(job(State.RUNNING, Phase.RUNNING, retries=9), view), Conclude)


@pytest.mark.parametrize("view", AGAIN)
def test_a_job_that_a_person_ends_is_not_run_again(view):
    for target in (Target.CANCELLED, Target.DELETED):
        assert isinstance(plan(job(State.RUNNING, Phase.RUNNING, target, retries=9), view), Conclude)


def test_the_next_attempt_waits_until_the_engine_has_forgotten_the_one_before():
    """P3: never two of one job at a time."""
    retrying = job(State.PENDING, Phase.RETRYING, retries=1)
    assert plan(retrying, seen(Seen.FAILED, exit_code=1, started_us=5)) == Remove()
    assert plan(retrying, seen(Seen.RUNNING)) == Stop()
    assert plan(retrying, None) == Requeue()
    assert plan(job(State.PENDING, Phase.QUEUED, attempt=1, retries=1), None) is None
