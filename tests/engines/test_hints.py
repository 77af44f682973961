"""The supervisor's hints: one that finds the engine's queue full waits, and nobody waits for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradient_jupyter.engines.local import journal


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[socket.socket]:
    """Listens, and reads when the test does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "hints"))
        listening.setblocking(False)
        yield listening


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the supervisor sees."""
    now = [100.0]

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now[0]

        @staticmethod
        def sleep(seconds: float) -> None:
            now[0] += seconds

    monkeypatch.setattr(journal, "time", Clock)
    return now


@pytest.fixture
def hints(tmp_path: Path) -> Iterator[journal.Hints]:
    """Lives as long as its process, so nothing of ours closes it."""
    hints = journal.Hints(str(tmp_path), "hints", "k")
    yield hints
    hints._socket.close()
    os.close(hints._directory)


def fill(hints: journal.Hints) -> int:
    """Knocks until the queue is full; how often that was."""
    count = 0
    while hints._send(b"log"):
        count += 1
    return count


def drain(engine: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(engine.recv(1024))
    except BlockingIOError:
        return found


def test_a_hint_that_finds_the_queue_full_goes_out_when_there_is_room(engine, hints, clock):
    """P7: the last line of a burst of many tasks would else wait for the server's own look."""
    filled = fill(hints)
    hints.log()
    assert hints.waiting
    assert len(drain(engine)) == filled
    clock[0] += journal.HINT_AGAIN_S
    hints.flush()
    assert not hints.waiting
    assert drain(engine) == [b"log k"]
    assert hints.every_s == journal.HINT_EVERY_S


def test_a_stopped_server_is_knocked_at_less_and_less_often(engine, hints, clock):
    fill(hints)
    tries = 0
    for _ in range(10_000):  # ten seconds
        before = hints.every_s
        hints.log()
        tries += hints.every_s != before
        clock[0] += 0.001
    assert hints.waiting and hints.every_s == journal.HINT_AGAIN_S
    assert tries < 20


def test_the_end_of_a_task_is_told_for_a_while_though_the_queue_is_full(engine, hints, clock, monkeypatch):
    fill(hints)
    slept = journal.time.sleep
    found: list[bytes] = []

    def wake_up(seconds: float) -> None:
        slept(seconds)
        if clock[0] > 100.2:
            found.extend(drain(engine))

    monkeypatch.setattr(journal.time, "sleep", wake_up)
    hints.state(patience_s=0.5)
    assert (found + drain(engine))[-1] == b"state k"


def test_nobody_listening_is_no_reason_to_wait(hints, clock):
    hints.log()
    hints.state(patience_s=5.0)
    assert not hints.waiting and clock[0] == 100.0
