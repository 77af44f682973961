"""How values read, and what of other people's text reaches a terminal."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.cli.ansi import Filter
from gradient_jupyter.cli.text import clean, count, duration, memory, moment, ordinal, size

#: Everything a terminal might take for more than text.
TRICKY = st.text(
    st.sampled_from(list("\x1b\x9b\x9d\x90\x9c\x07\x18\x08\r\n\t[]P;:?0123mHJKh\\ az é\u202e\u2028")),
    max_size=60,
)


def test_colours_stay() -> None:
    assert (
        Filter().feed("\x1b[1;31mred\x1b[0m \x1b[38:5:9mx\x1b[m")
        == "\x1b[1;31mred\x1b[0m \x1b[38:5:9mx\x1b[m"
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\x1b[2J\x1b[1;1Hover", "over"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://evil.test\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0~~\x1b\\sixel", "sixel"),
        ("\x9b2Jc1 \x9d0;t\x9cend", "c1 end"),
        ("\x1b]52;c;aGk=never ended\nnext line", "\nnext line"),
        ("\x1b]0;a\x1b[31mred", "\x1b[31mred"),
        ("\x1bc\x1b(0full reset", "full reset"),
        ("\x1b[?1049hscreen", "screen"),
        ("\x1b[31;2J", ""),
        ("bell\x07 back\x08 null\x00 del\x7f", "bell back null del"),
        ("50 %\r100 %\n\tindented", "50 %\r100 %\n\tindented"),
        ("ü € 🍃", "ü € 🍃"),
    ],
)
def test_everything_else_goes(said: str, shown: str) -> None:
    assert Filter().feed(said) == shown


@given(TRICKY, st.lists(st.integers(min_value=0)))
def test_cuts_change_nothing(text: str, edges: list[int]) -> None:
    at = sorted({0, len(text), *(edge % (len(text) + 1) for edge in edges)})
    cut = Filter()
    assert "".join(cut.feed(text[a:b]) for a, b in pairwise(at)) == Filter().feed(text)


@given(TRICKY)
def test_only_colours_are_left_of_what_a_terminal_obeys(text: str) -> None:
    shown = Filter().feed(text)
    while "\x1b" in shown:
        _, _, after = shown.partition("\x1b")
        assert after[0] == "["
        body, _, shown = after[1:].partition("m")
        assert set(body) <= set("0123456789;:")
    assert not any(
        (letter < " " and letter not in "\t\n\r") or "\x7f" <= letter <= "\x9f" for letter in shown
    )


@given(st.one_of(TRICKY, st.text(max_size=60)))
def test_a_name_is_one_harmless_line(text: str) -> None:
    assert all(letter.isprintable() for letter in clean(text))


def test_a_name_keeps_what_is_text() -> None:
    assert clean("Blätter 1\u00a02") == "Blätter 1 2"
    assert clean("\x1b[31mred\x1b[0m\x1b]0;t\x07!\u202e\n") == "red! "


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_949, "9.9 kB"), (9_950, "10 kB"), (212_345, "212 kB"),
     (999_499, "999 kB"), (999_500, "1.0 MB"), (2_900_000, "2.9 MB"), (1_700_000_000, "1.7 GB"),
     (10**18, "1000 PB")],
)  # fmt: skip
def test_sizes(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (1.24, "1.2 s"), (9.99, "10.0 s"), (10, "0:10"), (768, "12:48"), (3599, "59:59"),
     (5040, "1 h 24"), (86400 * 3 + 3600 * 4, "3 d 4 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(int(seconds * 1e6)) == text


def test_counts_and_places() -> None:
    assert (count(1, "file"), count(1151, "file")) == ("1 file", "1,151 files")
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 112)] == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "21st",
        "112th",
    ]
    assert (memory(30 * 2**30), memory(int(1.5 * 2**30))) == ("30 GB", "1.5 GB")


def test_a_time_that_no_calendar_knows_is_no_error() -> None:
    """Fault: a job gave a file the latest time there is (P14)."""
    assert moment(2**63 - 1, 0) == ""
    assert moment(0, 2**31 * 10**6).startswith("19")
    assert moment(2**32 * 10**6, 0).startswith("2106")
