"""The event stream parser: the same messages however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradient_jupyter.client.sse import Message, Parser

LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n\0"), max_size=20)


def parse(*chunks: bytes) -> list[Message]:
    parser = Parser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(edge % (len(data) + 1) for edge in at)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0)))
def test_cuts_change_nothing_whatever_the_bytes(data: bytes, edges: list[int]) -> None:
    assert parse(*cut(data, edges)) == parse(data)


@given(
    st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3), TEXT)),
    st.lists(LINE_ENDS, min_size=1),
    st.lists(st.integers(min_value=0)),
)
def test_what_was_written_is_what_is_read(
    messages: list[tuple[str, list[str], str]], ends: list[str], edges: list[int]
) -> None:
    written, expected, last_id = "", [], ""
    for number, (event, data, identity) in enumerate(messages):
        end = ends[number % len(ends)]
        lines = [f"event: {event}", f"id: {identity}", *(f"data: {line}" for line in data), ": a comment", ""]
        written += "".join(line + end for line in lines)
        last_id = identity
        expected.append(Message(event or "message", "\n".join(data), last_id))
    assert parse(*cut(written.encode(), edges)) == expected


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"data: a\ndata\ndata: b\n\n", [Message("message", "a\n\nb")]),
        (b"data:x\n\n", [Message("message", "x")]),
        (b"data:  two\n\n", [Message("message", " two")]),
        (b"\xef\xbb\xbfdata: after a byte order mark\n\n", [Message("message", "after a byte order mark")]),
        (b"event: gone\n\ndata: next\n\n", [Message("message", "next")]),
        (b"data: never finished\n", []),
        (b": heartbeat\n\n: heartbeat\n\n", []),
        (b"id: 7\ndata: a\n\ndata: b\n\n", [Message("message", "a", "7"), Message("message", "b", "7")]),
        (b"id: 7\ndata: a\n\nid\ndata: b\n\n", [Message("message", "a", "7"), Message("message", "b", "")]),
        (b"id: 1\x002\ndata: a\n\n", [Message("message", "a", "")]),
        (b"data: \xff\n\n", [Message("message", "\N{REPLACEMENT CHARACTER}")]),
    ],
)
def test_the_standards_corners(stream: bytes, messages: list[Message]) -> None:
    assert parse(stream) == messages


def test_a_message_comes_with_its_last_byte() -> None:
    parser = Parser()
    assert list(parser.feed(b"data: a\r\n\r")) == [Message("message", "a")]
    assert list(parser.feed(b"\ndata: b\n\n")) == [Message("message", "b")]


def test_retry_is_a_number_or_nothing() -> None:
    parser = Parser()
    list(parser.feed(b"retry: soon\nretry: 1500\nretry: -1\n"))
    assert parser.retry_ms == 1500
