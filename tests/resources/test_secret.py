"""A secret's value shows itself to nobody who does not ask for it by name (safety.md A2, abuse case 12)."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import traceback

import msgspec
import pytest
from rich.pretty import pretty_repr

from gradient_jupyter.engines.base import Resources, Task
from gradient_jupyter.engines.local.world import World
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.secret import SecretValue, SetSecret, check_name, check_value, references

CANARY = "canary-9f27c1"
VALUE = SecretValue(CANARY)


class Holder(msgspec.Struct):
    value: SecretValue
    name: str = "n"


@dataclasses.dataclass
class Plain:
    value: SecretValue


def test_it_is_revealed_where_that_is_asked_for():
    assert VALUE.reveal() == CANARY
    assert SecretValue(CANARY) == VALUE and SecretValue("x") != VALUE and VALUE != CANARY


@pytest.mark.parametrize(
    "show",
    [
        repr, str, "{}".format, "{!r:>40}".format, "{:x^40}".format, "%s".__mod__, "%r".__mod__, ascii,
        lambda value: f"{value} {value!r} {value=}", lambda value: repr([value, {"k": value}, (value,)]),
        pprint.pformat, pretty_repr, dir, Holder, Plain, KeyError, lambda value: ValueError("x", value),
        lambda value: msgspec.structs.asdict(Holder(value)),
        lambda value: msgspec.structs.astuple(Holder(value)),
        lambda value: json.dumps([value], default=str), lambda value: json.dumps([value], default=repr),
        lambda value: msgspec.json.encode(Holder(value), enc_hook=str),
        lambda value: pretty_repr(Holder(value)),
    ],
)  # fmt: skip
def test_whatever_prints_it_prints_stars(show):
    assert CANARY not in str(show(VALUE)) + repr(show(VALUE))


@pytest.mark.parametrize(
    "store",
    [
        json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, pickle.dumps, copy.copy,
        copy.deepcopy, bytes, list, hash, vars,
        lambda value: msgspec.json.encode(Holder(value)), lambda value: msgspec.to_builtins(Holder(value)),
        lambda value: pickle.dumps(Holder(value)), lambda value: copy.deepcopy(Holder(value)),
        lambda value: dataclasses.asdict(Plain(value)), lambda value: json.dumps({"v": value}),
        lambda value: pickle.dumps(value, protocol=0), lambda value: value.__getstate__(),
    ],
)  # fmt: skip
def test_whatever_would_store_or_copy_it_fails(store):
    with pytest.raises(TypeError) as error:
        store(VALUE)
    assert CANARY not in str(error.value)


def test_neither_a_log_nor_a_traceback_with_its_variables_shows_it():
    out = io.StringIO()
    logger = logging.getLogger("of a test")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(out))
    try:
        body = SetSecret(value=CANARY)
        held = check_value(body.value)
        task = task_with(held)
        logger.warning("%s %r %s", held, {"a": held}, task)
        raise ValueError(f"{held} {body} {task}")
    except ValueError as error:
        logger.exception("it went wrong with %s", body)
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "held = ***" in shown
    assert CANARY not in shown + out.getvalue()


def task_with(value: SecretValue) -> Task:
    from pathlib import Path

    return Task(
        key="k", command=("true",), env={"V": "secret:v"}, snapshot="s", directory=Path("/d"),
        storage=Path("/s"), datasets=Path("/x"), resources=Resources(cpus=1, memory_bytes=1), labels={},
        secret={"V": value},
    )  # fmt: skip


def test_a_task_shows_no_secret_and_is_the_same_task_whatever_it_holds():
    one, other = task_with(VALUE), task_with(SecretValue("something else"))
    assert one.spec_hash() == other.spec_hash()
    assert one.spec_hash() == msgspec.structs.replace(one, secret={}).spec_hash()
    assert CANARY not in repr(one)
    with pytest.raises(TypeError):
        msgspec.json.encode(one.secret)


def test_the_world_that_a_supervisor_is_told_of_is_not_printed():
    world = World([], [], "/", "/", {"V": CANARY}, [], ["true"], secrets=(CANARY,))
    assert CANARY not in f"{world} {world!r} {[world]}"


@pytest.mark.parametrize("name", ["hf", "HF_TOKEN", "a.b-c_d", ".env", "-", "x" * 100, "0"])
def test_names_as_gradient_has_them(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "...", "a b", "a/b", "ä", "a\n", "x" * 101, "secret:a", "a\0"]
)
def test_other_names_are_refused(name):
    with pytest.raises(InvalidRequest) as error:
        check_name(name)
    assert error.value.code == "bad-secret-name" and error.value.next


def test_a_reference_is_the_whole_value_of_a_variable():
    env = {"A": "secret:hf", "B": "SECRET:hf.2", "C": "my secret:hf", "D": "Secret:hf", "E": ""}
    assert references(env) == {"A": "hf", "B": "hf.2"}
    for wrong in ("secret:", "secret:a b", "secret:hf ", "SECRET:../x"):
        with pytest.raises(InvalidRequest):
            references({"A": wrong})
