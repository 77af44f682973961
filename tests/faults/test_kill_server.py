"""Kill the server at every step of a whole job, and at every step of its recovery (technique T1).

Fault: SIGKILL of the server alone, on its way into a system call by which it changes something outside itself
(``killing``). Promises: P1 to P7, P9, P11 (``journey`` says which of its checks is which), with the witness
file as the oracle of what ran. Heals: with the next start, without anybody's help; all jobs have ended and
nothing is left by the time the engine has forgotten the last of them.

The short selection kills once in each transition, by the name of the place. The sweeps count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from faults.journey import Journey
from faults.killing import CALLS, Killer, place
from faults.victim import Victim

#: Transition → the kinds of call, the place, and the how manieth of it within a journey.
PLACES = {
    "an upload is visible": ("name", r"/blobs/../\w+$", 1),
    "its name is on the disk": ("sync", r"/blobs$", 1),
    "a snapshot is known": ("sync", r"sqlite-wal$", 2),
    "a job is accepted": ("sync", r"sqlite-wal$", 3),
    "the acceptance is answered": ("send", r"socket", 4),
    "a machine is claimed": ("sync", r"sqlite-wal$", 4),
    "the engine knows a task": ("name", r"local/in\w+-job-\w+-1-0$", 1),
    "files are unpacked": ("name", r"/workspace\.\w+$", 1),
    "the workspace is there": ("name", r"/workspace$", 1),
    "the supervisor is told": ("write", r"pipe:", 1),
    "artifacts are collected": ("sync", r"/artifacts/notes.txt$", 1),
    "a task is forgotten": ("name", r"\.trash-\w+$", 1),
    "the next one is placed": ("name", r"local/in\w+-job-\w+-1-0$", 2),
    "a stop is asked for": ("name", r"/stop$", 1),
    "a stop is announced": ("process", r"^pidfd_send_signal$", 1),
    "a job is erased": ("name", r"unlinkat .*/jobs/\w+$", 1),
}
#: Those of them whose neighbours are tried with every change.
SWEPT = {
    "its name is on the disk", "a snapshot is known", "a machine is claimed", "files are unpacked",
    "the workspace is there", "artifacts are collected", "the next one is placed", "a stop is announced",
}  # fmt: skip
#: Of the recovery that follows each kill, and the kill in it.
AGAIN = {
    "the server is locked": ("write", r"/lock$", 1),
    "the hints are heard": ("name", r"/\.hints$", 1),
    "the address is published": ("name", r"runtime/", 1),
}


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    server = Victim(tmp_path, "--isolation=none")
    server.start()
    yield server
    server.stop()


def healed(server: Victim) -> Callable[[], None]:
    def heal() -> None:
        server.gone()
        server.start()

    return heal


@pytest.mark.parametrize(
    "names", [PLACES.keys() - SWEPT, pytest.param(SWEPT, marks=pytest.mark.slow)], ids=["short", "rest"]
)
def test_a_server_killed_in_any_transition_loses_and_repeats_nothing(victim: Victim, names: set[str]) -> None:
    for name, (calls, where, nth) in PLACES.items():
        if name not in names:
            continue
        journey = Journey(victim, healed(victim))
        with victim.stand_behind(nth, calls, where) as killer:
            journey.run()
        assert killer.fired, f"never came by: {name}"
        assert journey.heals


@pytest.mark.parametrize(
    "at",
    [
        "files are unpacked",
        *(pytest.param(at, marks=pytest.mark.slow) for at in ("a job is accepted", "a task is forgotten")),
    ],
)
def test_a_server_killed_while_it_recovers_loses_and_repeats_nothing(victim: Victim, at: str) -> None:
    again = iter(AGAIN.values())

    def heal() -> None:
        victim.gone()
        for calls, where, nth in again:
            with victim.start_before(nth, calls, where) as killer:
                assert not victim.ready()
                victim.gone()
            assert killer.fired
        victim.start()

    calls, where, nth = PLACES[at]
    with victim.stand_behind(nth, calls, where):
        Journey(victim, heal).run()


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["none", "bubblewrap"])
@pytest.mark.parametrize("calls", list(CALLS))
def test_a_server_killed_at_any_effect_loses_and_repeats_nothing(
    tmp_path: Path, isolation: str, calls: str
) -> None:
    server = Victim(tmp_path, f"--isolation={isolation}")
    server.start()
    places: Counter[str] = Counter()
    try:
        n = 0
        fired = True
        while fired:
            n += 1
            with server.stand_behind(n, calls) as killer:
                try:
                    Journey(server, healed(server)).run()
                except BaseException as error:
                    error.add_note(f"killed at {n}: {killer.end().sites[-1:]}")
                    raise
            fired = killer.fired
            if fired:
                places[place(killer.sites[-1], server.root)] += 1
    finally:
        server.stop()
    print(f"\n{calls}, {isolation}: killed {n - 1} times, at")
    for site, count in sorted(places.items()):
        print(f"{count:5} {site}")


@pytest.mark.slow
@pytest.mark.parametrize("first", ["the acceptance is answered", "the supervisor is told", "a job is erased"])
def test_a_server_killed_at_any_effect_of_its_recovery_loses_and_repeats_nothing(
    victim: Victim, first: str
) -> None:
    calls, where, nth = PLACES[first]
    m, fired = 0, True
    while fired:
        m += 1
        second: list[Killer] = []
        with victim.stand_behind(nth, calls, where):
            Journey(victim, partial(heal_under_a_killer, victim, m, second)).run()
        (killer,) = second
        fired = killer.end().fired
    print(f"\nafter {first!r}: killed again {m - 1} times")


def heal_under_a_killer(victim: Victim, at: int, killers: list[Killer]) -> None:
    """The first start has a killer behind it; if that one strikes, the next has not."""
    victim.gone()
    if not killers:
        killers.append(victim.start_before(at))
        if victim.ready():
            return
        victim.gone()
    victim.start()
