from __future__ import annotations

import msgspec
import pytest

from gradient_jupyter.resources.job import PHASES, TRANSITIONS, CreateJob, State


def test_every_state_has_its_row_and_every_final_state_stays():
    assert set(TRANSITIONS) == set(State) == set(PHASES)
    for state in State:
        assert state.final == (not TRANSITIONS[state])


def test_every_state_can_be_reached_and_every_life_ends():
    reached, edge = {State.PENDING}, [State.PENDING]
    while edge:
        for after in TRANSITIONS[edge.pop()] - reached:
            reached.add(after)
            edge.append(after)
    assert reached == set(State)
    for state in State:
        seen, edge = {state}, [state]
        while edge:
            for after in TRANSITIONS[edge.pop()] - seen:
                seen.add(after)
                edge.append(after)
        assert any(each.final for each in seen)


def test_a_job_is_never_final_before_something_held_a_machine_unless_it_was_given_up():
    assert TRANSITIONS[State.PENDING] - {State.PROVISIONING} == {State.CANCELLED, State.ERROR}


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": []},
        {"command": ["a\x00b"]},
        {"command": "python train.py"},
        {"command": ["x"], "env": {"1X": "y"}},
        {"command": ["x"], "env": {"X": "a\x00b"}},
        {"command": ["x"], "env": {"A=B": "y"}},
        {"command": ["x"], "name": "two\nlines"},
        {"command": ["x"], "host": {"python": "relative/python"}},
        {"command": ["x"], "owner": "user:someone-else"},
        {"command": ["x"], "snapshot": "not-a-digest"},
        {"command": ["x"], "snapshot": "a" * 64 + "\n"},
    ],
)
def test_a_request_that_no_job_can_be_made_of_is_refused_by_its_type(wrong):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"snapshot": "a" * 64, **wrong}, CreateJob)
