"""The framed log: any bytes at any offset, whatever happened to its end, its index or its middle."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import descriptors
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_jupyter.engines import framedlog
from gradient_jupyter.engines.framedlog import Chunk, DamagedLog, Reader, Writer


class Written(NamedTuple):
    stream: int
    data: bytes
    time_us: int


frames = st.lists(
    st.builds(
        Written,
        stream=st.integers(1, 255),
        data=st.one_of(
            st.binary(min_size=1, max_size=40),
            st.integers(1, 90_000).map(lambda n: bytes(n % 251 for _ in range(n))),
        ),
        time_us=st.integers(0, 2**63),
    ),
    max_size=12,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


class Place:
    """A fresh log for every example of a property."""

    def __enter__(self) -> Path:
        self._directory = tempfile.TemporaryDirectory(prefix="framedlog-")
        return Path(self._directory.name) / "log"

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()


def write(path: Path, written: list[Written]) -> None:
    with Writer(path) as writer:
        for one in written:
            writer.append(one.stream, one.data, one.time_us)


def pieces(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


def whole(reader: Reader, offset: int = 0, limit: int = 1 << 18) -> list[Chunk]:
    found: list[Chunk] = []
    while chunks := reader.read(offset, limit):
        found += chunks
        offset = chunks[-1].offset + len(chunks[-1].data)
    return found


@given(written=frames, offset=st.integers(0, 200_000), limit=st.integers(1, 100_000), data=st.data())
@settings(deadline=None, max_examples=60)
def test_what_was_written_is_read_from_any_offset(
    written: list[Written], offset: int, limit: int, data: st.DataObject
) -> None:
    with Place() as path:
        write(path, written)
        plain = b"".join(one.data for one in written)
        streams = [(one.stream, one.time_us) for one in written for _ in one.data]
        if data.draw(st.booleans(), label="without index"):
            path.with_name("log.index").unlink()
        with Reader(path) as reader:
            assert reader.size == len(plain)
            for start in (offset, 0, offset // 2):
                first = reader.read(start, limit)
                assert pieces(first) == plain[start : start + limit]
            at = offset
            for chunk in whole(reader, offset, limit):
                assert chunk.offset == at
                assert {(chunk.stream, chunk.time_us)} == set(streams[at : at + len(chunk.data)])
                at += len(chunk.data)
            assert at == max(offset, len(plain))


@given(written=frames.filter(bool), cut=st.integers(1, 10**6), zeros=st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_a_torn_end_is_no_damage_and_is_written_over(written: list[Written], cut: int, zeros: int) -> None:
    with Place() as path:
        write(path, written)
        size = path.stat().st_size
        os.truncate(path, size - cut % size)
        os.truncate(path, path.stat().st_size + zeros)
        plain = b"".join(one.data for one in written)
        with Reader(path) as reader:
            kept = pieces(whole(reader))
            assert plain.startswith(kept)
            assert reader.size == len(kept)
            before = reader.epoch
        with Writer(path) as writer:
            writer.append(1, b"after", 1)
            if before:
                assert writer.epoch == before
        with Reader(path) as reader:
            assert pieces(whole(reader)) == kept + b"after"


@given(
    written=frames.filter(bool),
    place=st.integers(0, 10**6),
    garbage=st.binary(min_size=1, max_size=60),
    insert=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_damage_is_named_and_other_bytes_are_never_shown(
    written: list[Written], place: int, garbage: bytes, insert: bool
) -> None:
    with Place() as path:
        write(path, written)
        content = path.read_bytes()
        at = place % len(content)
        path.write_bytes(content[:at] + garbage + content[at if insert else at + len(garbage) :])
        plain = b"".join(one.data for one in written)
        shown = b""
        try:
            with Reader(path) as reader:
                offset = 0
                while chunks := reader.read(offset):
                    shown += pieces(chunks)
                    offset = len(shown)
        except DamagedLog as damage:
            assert str(path) in str(damage)
        # Garbage may happen to be what stood there, or stand behind the last whole frame.
        assert plain.startswith(shown)


@given(content=st.binary(max_size=300), index=st.binary(max_size=100), head=st.booleans())
@settings(deadline=None, max_examples=150)
def test_garbage_is_a_damaged_log_or_an_empty_one(content: bytes, index: bytes, head: bool) -> None:
    with Place() as path:
        path.write_bytes(framedlog.MAGIC + content if head else content)
        path.with_name("log.index").write_bytes(index)
        try:
            with Reader(path) as reader:
                assert len(pieces(whole(reader))) <= len(content)
        except DamagedLog:
            pass


@given(written=frames, index=st.binary(max_size=200), keep=st.integers(0, 200))
@settings(deadline=None, max_examples=60)
def test_a_bad_index_costs_only_time(written: list[Written], index: bytes, keep: int) -> None:
    with Place() as path:
        write(path, written)
        beside = path.with_name("log.index")
        beside.write_bytes(beside.read_bytes()[:keep] + index)
        plain = b"".join(one.data for one in written)
        with Reader(path) as reader:
            assert reader.size == len(plain)
            assert pieces(whole(reader, len(plain) // 2)) == plain[len(plain) // 2 :]


def test_another_logs_index_is_not_believed(path: Path, tmp_path: Path) -> None:
    big, other = [Written(1, b"a" * 50_000, 1)] * 10, tmp_path / "other"
    write(path, big)
    write(other, [Written(2, b"b" * 70_000, 1)] * 10)
    path.with_name("log.index").write_bytes(other.with_name("other.index").read_bytes())
    with Reader(path) as reader:
        assert pieces(reader.read(333_333, 10)) == b"a" * 10
        assert reader.size == 500_000


def test_a_reader_follows_a_writer(path: Path) -> None:
    with Reader(path) as reader:
        assert (reader.epoch, reader.size, reader.read(0)) == (0, 0, [])
        with Writer(path) as writer:
            for i in range(300):
                end = writer.append(1, b"%03d" % i, i)
                assert pieces(reader.read(end - 3)) == b"%03d" % i
            assert reader.epoch == writer.epoch != 0
            assert reader.refresh() == writer.size == 900


def test_jumping_reads_little(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(path) as writer:
        for i in range(4000):
            writer.append(1, bytes([i % 256]) * 5000, i)
    asked: list[int] = []
    pread = os.pread

    def counting(fd: int, count: int, position: int) -> bytes:
        data = pread(fd, count, position)
        asked.append(len(data))
        return data

    monkeypatch.setattr(framedlog.os, "pread", counting)
    with Reader(path) as reader:
        assert reader.size == 20_000_000
        assert sum(asked) < 1_000_000
        for offset in (19_000_000, 3, 10_000_001):
            asked.clear()
            assert pieces(reader.read(offset, 1)) == bytes([offset // 5000 % 256])
            assert sum(asked) < 700_000


def test_long_data_are_cut_and_nothing_is_written_for_nothing(path: Path) -> None:
    data = os.urandom(framedlog.MAX_PAYLOAD * 2 + 5)
    with Writer(path) as writer:
        assert writer.append(2, b"", 1) == 0
        assert writer.append(2, data, 1) == len(data)
    with Reader(path) as reader:
        chunks = whole(reader, limit=len(data))
        assert pieces(chunks) == data
        assert len(chunks) == 3


def test_a_frame_that_does_not_fit_leaves_the_log_whole(path: Path) -> None:
    program = f"""
import resource, sys
sys.path.insert(0, {str(Path(framedlog.__file__).parent)!r})
import framedlog
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
writer = framedlog.Writer({str(path)!r})
writer.append(1, b"a" * 60_000, 1)
try:
    writer.append(1, b"b" * 60_000, 2)
except OSError as error:
    print("refused", error.errno)
writer.append(1, b"c" * 10_000, 3)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("refused")
    with Reader(path) as reader:
        assert pieces(whole(reader)) == b"a" * 60_000 + b"c" * 10_000


def test_arguments_out_of_range_are_refused(path: Path) -> None:
    write(path, [Written(1, b"x", 1)])
    with Reader(path) as reader:
        for offset, limit in ((-1, 1), (0, 0)):
            with pytest.raises(ValueError, match="must"):
                reader.read(offset, limit)
        assert reader.read(5) == []


def test_a_parked_reader_holds_no_descriptor_and_goes_on_where_it_was(path: Path) -> None:
    write(path, [Written(1, b"x" * 1000, n) for n in range(300)])
    before = descriptors.held()
    reader, data, offset = Reader(path), b"", 0
    while chunks := reader.read(offset, 5000):
        reader.park()
        assert descriptors.held() <= before
        data += b"".join(chunk.data for chunk in chunks)
        offset = len(data)
    assert data == b"x" * 300_000
    with Writer(path) as writer:
        writer.append(2, b"more", 1)
    reader.park()
    assert [chunk.data for chunk in reader.read(offset)] == [b"more"]
    assert b"".join(chunk.data for chunk in reader.read(150_500, 700)) == b"x" * 700
    reader.close()


def test_a_parked_reader_that_finds_another_log_says_so(path: Path) -> None:
    """P13."""
    write(path, [Written(1, b"first", 1)])
    reader = Reader(path)
    assert reader.read(0)
    reader.park()
    path.unlink()
    write(path, [Written(1, b"other bytes", 1)])
    with pytest.raises(DamagedLog, match="another log"):
        reader.read(5)
    reader.close()


@given(frames, st.integers(1, 200_000), st.data())
def test_whole_frames_are_read_once_whatever_the_limit(written: list[Written], limit: int, data) -> None:
    """Only a frame that is longer than the limit is cut, and at most twice the limit is returned."""
    with Place() as path:
        write(path, written)
        whole = b"".join(one.data for one in written)
        ends = {0}
        for one in written:
            ends.add(max(ends) + len(one.data))
        offset = data.draw(st.integers(0, len(whole)))
        with Reader(path) as reader:
            while chunks := reader.read(offset, limit, whole=True):
                got = b"".join(chunk.data for chunk in chunks)
                assert got == whole[offset : offset + len(got)]
                assert len(got) < 2 * limit or len(got) == limit == 1
                offset += len(got)
                assert offset in ends or len(chunks[-1].data) <= limit
        assert offset == len(whole)


def test_a_header_that_is_written_while_we_look_is_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower opens the log in the moment in which the supervisor begins it (P7: a line is not hidden)."""
    path.touch()
    real = os.pread

    def pread(fd: int, size: int, position: int) -> bytes:
        seen = real(fd, size, position)
        if not path.stat().st_size:
            monkeypatch.setattr(os, "pread", real)
            write(path, [Written(1, b"hi\n", 5)])  # right behind the read that saw nothing
        return seen

    monkeypatch.setattr(os, "pread", pread)
    with Reader(path) as reader:
        assert reader.read(0) == [Chunk(0, 5, 1, b"hi\n")]
