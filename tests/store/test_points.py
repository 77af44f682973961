"""The files of metrics: what arrives is stored once, in order, whatever the order of its arrival."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_jupyter.resources.errors import ServerError, TooLarge
from gradient_jupyter.resources.metric import Kind, Sample, number, parse_cursor
from gradient_jupyter.store import blocks, buckets, series
from gradient_jupyter.store import points as writing
from gradient_jupyter.store.pointfile import NAME
from gradient_jupyter.store.points import PointFile


def opened(directory: Path, most_points: int = 10**6, most_series: int = 100) -> PointFile:
    return PointFile(directory, most_points, most_series)


def everything(directory: Path, key: str, limit: int = 100_000) -> list[tuple[int, int, float]]:
    found, after = [], None
    while True:
        page = series.points(directory, Kind.CUSTOM, key, after, limit)
        assert page is not None and len(page.points) <= limit
        found += [(each.step, each.time_us, number(each.value)) for each in page.points]
        if page.next is None:
            return found
        after = parse_cursor(page.next)


def same(value: float) -> object:
    """Compares as one: NaN with NaN, and 0.0 apart from -0.0."""
    return (
        math.isnan(value),
        math.copysign(1, value) if value == 0 else 0,
        0 if math.isnan(value) else value,
    )


VALUES = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan]))
SAMPLES = st.builds(
    Sample,
    key=st.sampled_from(["loss", "val/loss", "große Zahl"]),
    value=VALUES,
    step=st.integers(-3, 60),
    time_us=st.integers(0, 2),
)


@contextlib.contextmanager
def small_chunks():
    """So small that every path is taken: late points, split chunks, points sent again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "CHUNK", 4)
        patch.setattr(writing, "_RECENT", 8)
        patch.setattr(writing, "_RECENT_IN_ALL", 12)
        yield


@given(batches=st.lists(st.lists(SAMPLES, min_size=1, max_size=40), max_size=12), reopen=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_a_series_is_the_set_of_what_arrived_in_order(batches, reopen, tmp_path_factory):
    with small_chunks():
        check_series(batches, reopen, tmp_path_factory.mktemp("run"))


def check_series(batches, reopen, directory):
    model: dict[str, dict[tuple, tuple[int, int, float]]] = {}
    file = opened(directory)
    for turn, batch in enumerate(batches):
        # One transaction: its batch, a part of it again, and those before once more.
        group = [batch, batch[: len(batch) // 2], *reversed(batches[:turn])]
        assert file.append(Kind.CUSTOM, group) == [None] * len(group)
        for key, value, step, time_us in map(msgspec.structs.astuple, batch):
            model.setdefault(key, {})[step, time_us, same(value)] = (step, time_us, value)
        if turn % reopen == 0:
            file.close()
            file = opened(directory)
    for key, expected in model.items():
        for limit in (1, 7, 100_000):
            found = everything(directory, key, limit)
            assert sorted((s, t, same(v)) for s, t, v in found) == sorted(expected)
            assert [(s, t) for s, t, _ in found] == sorted((s, t) for s, t, _ in expected)
    by_key = {each.key: each for each in series.summaries(directory)}
    assert set(by_key) == set(model)
    for key, expected in model.items():
        values = [value for _, _, value in expected.values() if not math.isnan(value)]
        told = by_key[key]
        assert told.count == len(expected)
        assert told.min == (None if not values else pytest.approx(number_or(min(values))))
        assert told.max == (None if not values else pytest.approx(number_or(max(values))))
        assert (told.last_step, told.last_time_us) == max((s, t) for s, t, _ in expected)
        assert told.first_step == min(s for s, _, _ in expected)
    file.close()
    assert os.listdir(directory) == [NAME] or not batches


def number_or(value: float) -> float | str:
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


@given(
    values=st.lists(
        st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, math.inf, -math.inf, 1.7e308])),
        min_size=1,
        max_size=300,
    ),
    most=st.integers(1, 400),
    low=st.one_of(st.none(), st.integers(0, 200)),
    high=st.one_of(st.none(), st.integers(100, 400)),
)
@settings(max_examples=200, deadline=None)
def test_buckets_cover_every_point_once_and_keep_extremes(values, most, low, high, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with small_chunks():
        file = opened(directory)
        file.append(Kind.CUSTOM, [[Sample("x", value, step, step) for step, value in enumerate(values)]])
        file.close()
        small = buckets.buckets(directory, Kind.CUSTOM, "x", most, (low, high))
    first = low or 0
    values = values[first : None if high is None else high + 1]
    assert small is not None
    assert small.count == len(values) == sum(each.count for each in small.buckets)
    assert len(small.buckets) == min(most, len(values))
    at = 0
    for each in small.buckets:
        part = values[at : at + each.count]
        numbers = [value for value in part if not math.isnan(value)]
        assert each.step == first + at
        assert each.min == (number_or(min(numbers)) if numbers else None)
        assert each.max == (number_or(max(numbers)) if numbers else None)
        assert (each.mean is None) == (not numbers)
        if numbers:
            assert number(each.mean) == pytest.approx(sum(numbers) / len(numbers), abs=1e-6, nan_ok=True)
        assert same(number(each.last)) == same(part[-1])
        at += each.count


@given(
    values=st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(math.nan)), min_size=1, max_size=400),
    most=st.integers(1, 12),
    low=st.one_of(st.none(), st.integers(0, 200)),
    high=st.one_of(st.none(), st.integers(100, 400)),
)
@settings(max_examples=150, deadline=None)
def test_a_long_series_is_added_up_and_says_the_same(values, most, low, high, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with small_chunks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "_COARSE", 6)
        file = opened(directory)
        file.append(Kind.CUSTOM, [[Sample("x", value, step, step) for step, value in enumerate(values)]])
        file.close()
        small = buckets.buckets(directory, Kind.CUSTOM, "x", most, (low, high))
    first = low or 0
    part = values[first : None if high is None else high + 1]
    assert small is not None
    assert small.count == len(part) == sum(each.count for each in small.buckets)
    assert len(small.buckets) <= most
    at = 0
    for each in small.buckets:
        some = part[at : at + each.count]
        numbers = [value for value in some if not math.isnan(value)]
        assert each.step == first + at
        assert (each.min, each.max) == ((min(numbers), max(numbers)) if numbers else (None, None))
        assert each.mean == (pytest.approx(sum(numbers) / len(numbers), abs=1e-6) if numbers else None)
        assert same(number(each.last)) == same(some[-1])
        at += each.count


@given(
    count=st.integers(1, 600),
    seed=st.integers(0, 2**32),
    odd=st.dictionaries(st.integers(0, 599), st.sampled_from([math.nan, math.inf, -math.inf]), max_size=2),
    most=st.integers(1, 20),
    low=st.one_of(st.none(), st.integers(0, 200)),
    high=st.one_of(st.none(), st.integers(100, 600)),
)
@settings(max_examples=200, deadline=None)
def test_blocks_say_what_their_points_do(count, seed, odd, most, low, high, tmp_path_factory):
    """Buckets that end where blocks do: each is exact, and about as large as the others."""
    directory = tmp_path_factory.mktemp("run")
    drawn = random.Random(seed)
    values = [odd.get(step, drawn.uniform(-1e9, 1e9)) for step in range(count)]
    cut, exactly = [], buckets._cut
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (writing, "CHUNK", 20), (writing, "_RECENT", 40), (writing, "_RECENT_IN_ALL", 50),
            (blocks, "SIZE", 3), (buckets, "_FINE", 12),
        ):  # fmt: skip
            patch.setattr(module, name, value)
        patch.setattr(buckets, "_cut", lambda *given: cut.append(1) or exactly(*given))
        file = opened(directory)
        for start in range(0, len(values), 45):
            some = enumerate(values[start : start + 45], start)
            file.append(Kind.CUSTOM, [[Sample("x", value, step, step) for step, value in some]])
        file.close()
        small = buckets.buckets(directory, Kind.CUSTOM, "x", most, (low, high))
    first = low or 0
    part = values[first : None if high is None else high + 1]
    finite = all(math.isfinite(value) for value in part)
    if finite and len(part) >= 12 * most + 50:  # as many may not be in a chunk yet
        assert not cut
    if not finite or len(part) < 6 * most:
        assert cut
    assert small is not None and sum(each.count for each in small.buckets) == len(part)
    assert len(small.buckets) == min(most, len(part))
    at = 0
    for each in small.buckets:
        some = part[at : at + each.count]
        numbers = [value for value in some if not math.isnan(value)]
        assert each.step == first + at
        assert abs(each.count - len(part) / most) < 4
        assert (each.min, each.max) == tuple(
            number_or(end(numbers)) if numbers else None for end in (min, max)
        )
        if numbers:
            assert number(each.mean) == pytest.approx(sum(numbers) / len(numbers), abs=1e-6, nan_ok=True)
        assert same(number(each.last)) == same(some[-1])
        at += each.count


def test_a_part_of_a_series_can_be_asked_for_by_step_or_time(tmp_path):
    file = opened(tmp_path)
    file.append(Kind.CUSTOM, [[Sample("x", float(n), n, 1000 + n) for n in range(5000)]])
    file.close()
    part = buckets.buckets(tmp_path, Kind.CUSTOM, "x", 10_000, steps=(1000, 1999))
    assert part is not None and [each.step for each in part.buckets] == list(range(1000, 2000))
    part = buckets.buckets(tmp_path, Kind.CUSTOM, "x", 10_000, times_us=(1100, 1109))
    assert part is not None and [each.step for each in part.buckets] == list(range(100, 110))
    assert buckets.buckets(tmp_path, Kind.SYSTEM, "x", 10) is None
    assert series.points(tmp_path, Kind.CUSTOM, "y", None, 10) is None


def test_the_platforms_series_and_the_runs_may_bear_one_name(tmp_path):
    file = opened(tmp_path)
    file.append(Kind.CUSTOM, [[Sample("memoryUsage", 1.0, 0, 0)]])
    file.append(Kind.SYSTEM, [[Sample("memoryUsage", 2.0, 0, 0)]])
    file.close()
    assert [(each.kind, each.last) for each in series.summaries(tmp_path)] == [
        ("custom", 1.0),
        ("system", 2.0),
    ]


def test_a_run_that_writes_too_much_is_told_and_the_platform_goes_on(tmp_path):
    """Abuse case 13: a flood. What was within the limit stays."""
    file = opened(tmp_path, most_points=10, most_series=2)
    assert file.append(Kind.CUSTOM, [[Sample("a", 1.0, n, 0) for n in range(9)]]) == [None]
    refused, taken = file.append(
        Kind.CUSTOM, [[Sample("a", 1.0, 100 + n, 0) for n in range(2)], [Sample("a", 1.0, 50, 0)]]
    )
    assert isinstance(refused, TooLarge) and refused.code == "too-many-points"
    assert taken is None
    assert file.append(Kind.SYSTEM, [[Sample("cpuPercentage", 5.0, n, 0) for n in range(50)]]) == [None]
    file.close()
    file = opened(tmp_path, most_points=1000, most_series=2)
    (refused,) = file.append(Kind.CUSTOM, [[Sample("b", 1.0, 0, 0)]])
    assert refused is None, "what the platform measures takes nothing from what the run may have"
    (refused,) = file.append(Kind.CUSTOM, [[Sample("c", 1.0, 0, 0)]])
    assert isinstance(refused, TooLarge) and refused.code == "too-many-metrics"
    file.close()
    assert len(everything(tmp_path, "a")) == 10


def test_who_sends_again_what_is_there_is_not_refused_at_the_limit(tmp_path):
    """P8: a repeated batch is the same batch, also when no further point may come."""
    with small_chunks():
        file = opened(tmp_path, most_points=40)
        points = [Sample("a", float(n), n, 0) for n in range(40)]
        assert file.append(Kind.CUSTOM, [points]) == [None]
        assert file.append(Kind.CUSTOM, [points, points[3:5]]) == [None, None]
        (refused,) = file.append(Kind.CUSTOM, [[*points[:5], Sample("a", 0.5, 3, 0)]])
        assert isinstance(refused, TooLarge)
        file.close()
    assert len(everything(tmp_path, "a")) == 40


WRITER = """
import sys
from pathlib import Path
from gradient_jupyter.resources.metric import Kind, Sample
from gradient_jupyter.store.points import PointFile
file = PointFile(Path(sys.argv[1]), 10**7, 100)
for n in range(10**6):
    file.append(Kind.CUSTOM, [[Sample("x", float(n), n * 3 + k, 0) for k in range(3)]])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("lines", [1, 200, 700, 1500])
def test_what_was_acknowledged_survives_the_writers_death(tmp_path, lines):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer.stdout as said:
        for line in said:
            if int(line) >= lines:
                writer.send_signal(signal.SIGKILL)
                break
        rest = said.read().split()
    writer.wait()
    last = int(rest[-1]) if rest else lines
    steps = [step for step, _, _ in everything(tmp_path, "x")]
    assert steps[: 3 * (last + 1)] == list(range(3 * (last + 1)))
    assert steps == list(range(len(steps)))
    assert len(steps) % 3 == 0
    file = opened(tmp_path)
    assert file.append(Kind.CUSTOM, [[Sample("x", 0.0, 10**7, 0)]]) == [None]
    file.close()
    assert len(everything(tmp_path, "x")) == len(steps) + 1


def test_a_damaged_file_is_said_to_be_damaged(tmp_path):
    file = opened(tmp_path)
    file.append(Kind.CUSTOM, [[Sample("x", float(n), n, n) for n in range(5000)]])
    file.close()
    path = tmp_path / NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    data[:16] = b"SQLite format 3\0"
    path.write_bytes(data)
    with pytest.raises(ServerError) as told:
        everything(tmp_path, "x")
    assert told.value.code == "metrics-damaged"
    path.write_bytes(b"no database at all")
    for attempt in (lambda: opened(tmp_path), lambda: series.summaries(tmp_path)):
        with pytest.raises(ServerError) as told:
            attempt()
        assert told.value.code == "metrics-damaged"


@pytest.mark.parametrize(
    ("change", "most"),
    [("count = count + 1", 1000), ("count = count - 1", 1000), ("data = substr(data, 25)", 1000),
     ("count = count + 16", 50), ("blocks = substr(blocks, 9)", 50)],
)  # fmt: skip
def test_a_chunk_that_lies_about_its_points_is_damaged(tmp_path, change, most):
    """Guards the numbers: points that nobody logged, or the wrong ones, would be shown as a run's."""
    file = opened(tmp_path)
    file.append(Kind.CUSTOM, [[Sample("x", float(n), n, n) for n in range(5000)]])
    file.close()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as other:
        other.execute(f"UPDATE chunks SET {change} WHERE id = 3")
        other.commit()
    with pytest.raises(ServerError) as told:
        buckets.buckets(tmp_path, Kind.CUSTOM, "x", most)
    assert told.value.code == "metrics-damaged"


@pytest.mark.parametrize(("version", "advice"), [(99, "Upgrade"), (1, "before the first release")])
def test_a_file_of_another_version_is_left_alone(tmp_path, version, advice):
    file = opened(tmp_path)
    file._connection.execute(f"PRAGMA user_version = {version}")
    file.close()
    with pytest.raises(ServerError) as told:
        opened(tmp_path)
    assert told.value.code == "metrics-unknown" and advice in told.value.next


def test_where_nothing_was_written_there_is_nothing(tmp_path):
    assert series.summaries(tmp_path) == []
    assert series.points(tmp_path, Kind.CUSTOM, "x", None, 10) is None
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_just_being_made_is_read_as_none(tmp_path):
    """A reader comes between the file's making and its first commit."""
    sqlite3.connect(tmp_path / NAME).execute("PRAGMA journal_mode=WAL").connection.close()
    assert (tmp_path / NAME).exists()
    assert series.summaries(tmp_path) == []
    PointFile(tmp_path, 10, 10).close()
    assert series.summaries(tmp_path) == []
