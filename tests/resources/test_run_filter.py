"""MLflow's filter and order expressions."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.run_filter import (
    Condition,
    Kind,
    Operator,
    Order,
    Vocabulary,
    fulfils,
    parse,
    parse_order,
)

WORDS = Vocabulary({"name": False, "start_time": True}, frozenset(Kind), {"created": "start_time"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (None, []),
        ("  \n", []),
        ("metrics.acc>0.9", [(Kind.METRIC, "acc", ">", 0.9)]),
        ("metric.`val acc` <= -1e-3", [(Kind.METRIC, "val acc", "<=", -1e-3)]),
        ("params.a.b.c = 'x'", [(Kind.PARAM, "a.b.c", "=", "x")]),
        ("params.\"my key\" != 'it''s'", [(Kind.PARAM, "my key", "!=", "it's")]),
        ('tags.mlflow.runName ILIKE "%a%"', [(Kind.TAG, "mlflow.runName", "ILIKE", "%a%")]),
        (
            "tag.x IS NULL and tag.y is not null",
            [(Kind.TAG, "x", "IS NULL", None), (Kind.TAG, "y", "IS NOT NULL", None)],
        ),
        ("name IN ('a', 'b',)", [(Kind.ATTRIBUTE, "name", "IN", ("a", "b"))]),
        ("attributes.name NOT IN ('a')", [(Kind.ATTRIBUTE, "name", "NOT IN", ("a",))]),
        (
            "created > 5 AND start_time < 9",
            [(Kind.ATTRIBUTE, "start_time", ">", 5), (Kind.ATTRIBUTE, "start_time", "<", 9)],
        ),
        ("params.x = 'AND or \"'", [(Kind.PARAM, "x", "=", 'AND or "')]),
    ],
)  # fmt: skip
def test_an_expression_is_read(text, found):
    assert parse(text, WORDS) == [
        Condition(kind, key, Operator(how), value) for kind, key, how, value in found
    ]


@pytest.mark.parametrize(
    "text",
    [
        "metrics.a", "metrics.a >", "metrics.a > 'x'", "metrics.a LIKE '1'", "params.a > 'x'", "params.a = 1",
        "params.a = b", "nonsense.a = 'x'", "nothing = 'x'", "a = 'x' OR b = 'y'", "name = 'x' AND",
        "AND name = 'x'", "name = 'x' name = 'y'", "name IN 'a'", "name IN ()", "name IN ('a'",
        "name IS NULL",
        "name NOT 'a'", "(name = 'x')", "name = 'x", "name = 'x'; DROP TABLE runs", "datasets.owner = 'x'",
        "params. = 'x'", "params.a LIKE '%a%a%a%a%'", "name = 'x' AND " * 101 + "name = 'x'", "x" * 20_001,
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_with_an_example(text):
    with pytest.raises(InvalidRequest) as refusal:
        parse(text, WORDS)
    assert refusal.value.code == "bad-filter" and "For example" in refusal.value.next


@given(st.text(alphabet=st.sampled_from("metricsparam.`'\"()<>=!, ANDINLKE01%\\\x00é"), max_size=60))
def test_no_text_is_anything_else_than_read_or_refused(text):
    with contextlib.suppress(InvalidRequest):
        parse(text, WORDS)


@given(key=st.text(alphabet=st.characters(exclude_characters="`"), min_size=1), value=st.text())
def test_a_quoted_key_and_value_come_out_as_they_went_in(key, value):
    text = f"params.`{key}` = '{value.replace(chr(39), chr(39) * 2)}'"
    if len(text) <= 20_000:
        assert parse(text, WORDS) == [Condition(Kind.PARAM, key, Operator.EQUAL, value)]


def test_an_order_is_a_key_and_a_direction():
    assert parse_order("metrics.`a b` DESC", WORDS) == Order(Kind.METRIC, "a b", False)
    assert parse_order("start_time", WORDS) == Order(Kind.ATTRIBUTE, "start_time", True)
    for text in ("metrics.a UP", "metrics.a DESC, name", "", "5"):
        with pytest.raises(InvalidRequest):
            parse_order(text, WORDS)


@pytest.mark.parametrize(
    ("value", "how", "wanted", "fits"),
    [
        ("a[b]c", Operator.LIKE, "a[b]%", True),
        ("Abc", Operator.LIKE, "a%", False),
        ("Abc", Operator.ILIKE, "a_C", True),
        ("a\nb", Operator.LIKE, "a%b", True),
        (None, Operator.UNEQUAL, "x", False),
        (None, Operator.IS_NULL, None, True),
        (float("nan"), Operator.MORE, 0.0, False),
        ("x", Operator.NOT_IN, ("y",), True),
    ],
)
def test_a_value_fulfils_a_condition_or_not(value, how, wanted, fits):
    assert fulfils(value, Condition(Kind.PARAM, "k", how, wanted)) is fits
