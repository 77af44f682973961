"""TensorBoard's event files: written by real writers, half written, damaged, replaced, lying.

``tensorflow/`` holds a file of 1 kB that TensorFlow 2.21 wrote, in a directory's own right:

    writer = tf.summary.create_file_writer("train")
    with writer.as_default():
        for step in range(3):
            tf.summary.scalar("epoch_loss", 1 / (step + 1), step=step)
        tf.summary.text("note", "hello", step=0)
        tf.summary.histogram("weights", [1.0, 2.0, 3.0], step=0)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

from gradient_jupyter.control.measuring import eventfiles
from gradient_jupyter.control.measuring.eventfiles import EventFiles
from gradient_jupyter.control.measuring.records import MOST_RECORD, Damaged, masked_sum, records
from gradient_jupyter.control.measuring.scalars import MOST_TAGS
from gradient_jupyter.control.measuring.scalars import scalars as walked
from gradient_jupyter.resources.metric import MOST_AT_ONCE

NAME = "events.out.tfevents.1.host"
SCALARS = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))


def record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_sum(head)) + data + struct.pack("<I", masked_sum(data))


def event(tag="loss", value=0.5, step=1, wall_time=2.0, **fields) -> bytes:
    fields = fields or {"simple_value": value}
    summary = Summary(value=[Summary.Value(tag=tag, **fields)])
    return Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()


def scalars(data: bytes, known: set[str]) -> list:
    return list(walked(data, known))


def everything(files: EventFiles, most: int | None = None) -> list[tuple[str, float, int, int]]:
    return [
        (sample.key, sample.value, sample.step, sample.time_us)
        for piece in files.pieces(most)
        for sample in piece
    ]


def test_what_tensorflow_writes_is_read():
    files = EventFiles(Path(__file__).parent / "tensorflow")
    found = everything(files)
    assert [(key, step) for key, _, step, _ in found] == [
        ("epoch_loss", 0),
        ("epoch_loss", 1),
        ("epoch_loss", 2),
    ]
    assert [value for _, value, _, _ in found] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert all(time_us > 1.7e15 for _, _, _, time_us in found)
    assert (files.damaged, files.skipped) == (0, 0)


def written(files: EventFiles, count: int, *writers: SummaryWriter) -> list[tuple[str, float, int, int]]:
    """What they have written, once it is so much: they write on a thread, and do not say when."""
    found = []
    while len(found) < count:
        for writer in writers:
            writer.flush()
        files._walk_at = 0
        found += everything(files, 1 << 20)
    return found


def test_what_tensorboardx_writes_is_read_while_it_writes(tmp_path):
    files = EventFiles(tmp_path)
    assert everything(files) == []
    with SummaryWriter(str(tmp_path)) as root, SummaryWriter(str(tmp_path / "logs" / "train")) as train:
        for step in range(10):
            root.add_scalar("loss", step / 2, step, walltime=100.25)
            train.add_scalar("loss", -step, step, walltime=100.25)
        train.add_text("note", "words")
        train.add_histogram("weights", numpy.arange(100.0), 1)
        train.add_image("picture", numpy.zeros((3, 64, 64)), 1)
        assert sorted(written(files, 20, root, train)) == sorted(
            [("loss", n / 2, n, 100_250_000) for n in range(10)]
            + [("logs/train/loss", -float(n), n, 100_250_000) for n in range(10)]
        )
        train.add_scalar("loss", 1e30, 11, walltime=101)
        assert written(files, 1, train) == [("logs/train/loss", pytest.approx(1e30), 11, 101_000_000)]
    assert everything(files) == []
    assert everything(EventFiles(tmp_path)) != [], "the next server begins anew"


def tensor(dtype, **fields) -> TensorProto:
    return TensorProto(dtype=dtype, tensor_shape=TensorShapeProto(), **fields)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (tensor("DT_FLOAT", float_val=[0.5]), 0.5),
        (tensor("DT_FLOAT", tensor_content=struct.pack("<f", 0.5)), 0.5),
        (tensor("DT_DOUBLE", double_val=[0.1]), 0.1),
        (tensor("DT_DOUBLE", tensor_content=struct.pack("<d", 0.1)), 0.1),
        (tensor("DT_INT32", int_val=[-7]), -7),
        (tensor("DT_INT64", int64_val=[-(2**40)]), -(2**40)),
        (tensor("DT_INT64", tensor_content=struct.pack("<q", 3)), 3),
        (tensor("DT_BOOL", bool_val=[True]), 1),
        (tensor("DT_HALF", half_val=[0x3800]), 0.5),
        (tensor("DT_HALF", tensor_content=struct.pack("<e", 0.5)), 0.5),
        (tensor("DT_BFLOAT16", half_val=[0x3F00]), 0.5),
        (tensor("DT_BFLOAT16", tensor_content=b"\x00\x3f"), 0.5),
        (tensor("DT_FLOAT", float_val=[1, 2]), None),
        (tensor("DT_FLOAT"), None),
        (tensor("DT_FLOAT", tensor_content=b"12345"), None),
        (tensor("DT_STRING", string_val=[b"0.5"]), None),
    ],
)
def test_a_scalar_may_be_a_tensor_of_any_number(written, value):
    found = scalars(event(tensor=written, metadata=SCALARS), set())
    assert [each.value for each in found] == ([] if value is None else [value])


def test_a_tensor_is_a_scalar_only_where_the_file_has_said_so():
    known: set[str] = set()
    one = tensor("DT_FLOAT", float_val=[1])
    other = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="pr_curves"))
    assert scalars(event(tensor=one), known) == []
    assert scalars(event(tensor=one, metadata=other), known) == []
    assert len(scalars(event(tensor=one, metadata=SCALARS), known)) == 1
    assert len(scalars(event(tensor=one), known)) == 1
    assert scalars(event("other", tensor=one), known) == []


def test_a_record_that_is_half_there_is_read_when_it_is_whole(tmp_path):
    """At every single byte where a writer may just be."""
    whole = record(event(step=1)) + record(event(step=2))
    path = tmp_path / NAME
    files = EventFiles(tmp_path)
    steps = []
    with path.open("wb", buffering=0) as file:
        for byte in whole:
            file.write(bytes([byte]))
            files._walk_at = 0
            steps += [step for _, _, step, _ in everything(files, 1 << 20)]
    assert steps == [1, 2]
    assert files.damaged == 0


def test_a_damaged_record_is_passed_over_and_behind_a_damaged_length_nothing_is_believed(tmp_path):
    first, second, third = (record(event(step=step)) for step in (1, 2, 3))
    path = tmp_path / NAME
    path.write_bytes(first + second[:20] + bytes([second[20] ^ 1]) + second[21:] + third)
    files = EventFiles(tmp_path)
    assert [step for _, _, step, _ in everything(files)] == [1, 3]
    assert files.damaged == 1
    path.write_bytes(first + bytes([second[0] ^ 1]) + second[1:] + third)
    files = EventFiles(tmp_path)
    assert [step for _, _, step, _ in everything(files)] == [1]
    assert files.damaged == 1
    assert everything(files) == []
    replacement = tmp_path / "new"
    replacement.write_bytes(first + second)
    replacement.rename(path)
    assert [step for _, _, step, _ in everything(files)] == [1, 2]


def test_a_file_that_became_shorter_is_read_anew(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(record(event(step=1)) + record(event(step=2)))
    files = EventFiles(tmp_path)
    everything(files)
    path.write_bytes(record(event(step=3)))
    assert [step for _, _, step, _ in everything(files)] == [3]
    path.unlink()
    assert everything(files) == []


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, MOST_RECORD + 1])
def test_a_lying_length_takes_no_memory_and_no_time(tmp_path, length):
    """Boundary B4 (abuse case 9): sums that are right, lengths that are not."""
    head = struct.pack("<Q", length)
    path = tmp_path / NAME
    path.write_bytes(record(event(step=1)) + head + struct.pack("<I", masked_sum(head)) + b"x" * 1000)
    files = EventFiles(tmp_path)
    assert [step for _, _, step, _ in everything(files)] == [1]
    assert everything(files) == []


def test_a_picture_of_any_size_is_passed_over_unread(tmp_path):
    """A sparse file of a terabyte: what the length says is there, and is not looked at."""
    size = 2**40
    head = struct.pack("<Q", size)
    path = tmp_path / NAME
    with path.open("wb") as file:
        file.write(record(event(step=1)) + head + struct.pack("<I", masked_sum(head)))
        file.seek(size + 4, os.SEEK_CUR)
        file.write(record(event(step=2)))
    files = EventFiles(tmp_path)
    assert [step for _, _, step, _ in everything(files)] == [1, 2]
    assert files.damaged == 1


def test_names_and_times_that_cannot_be_stored_are_counted_and_left_out(tmp_path):
    wrong = [
        event("a" * 251), event(""), event("a\nb"), event(wall_time=-1.0), event(wall_time=float("nan")),
        event(wall_time=1e300), event(step=-(2**63)),
    ]  # fmt: skip
    (tmp_path / NAME).write_bytes(b"".join(map(record, [*wrong, event(step=2)])))
    files = EventFiles(tmp_path)
    assert [step for _, _, step, _ in everything(files)] == [2]
    assert files.skipped == len(wrong)


def test_only_plain_files_of_our_own_are_read(tmp_path):
    """Boundary B4 (abuse case 9): links, pipes, second names, directories under a file's name."""
    outside = tmp_path / "outside"
    outside.write_bytes(record(event("stolen")))
    inside = tmp_path / "artifacts"
    inside.mkdir()
    (inside / NAME).symlink_to(outside)
    (inside / f"{NAME}.linked").hardlink_to(outside)
    os.mkfifo(inside / f"{NAME}.pipe")
    (inside / f"{NAME}.directory").mkdir()
    (inside / "away").symlink_to(tmp_path)
    (inside / "other.tfevents").write_bytes(record(event("other")))
    (inside / f"{NAME}.ours").write_bytes(record(event("ours")))
    assert [key for key, *_ in everything(EventFiles(inside))] == ["ours"]
    swapped = EventFiles(inside)
    everything(swapped)
    (inside / f"{NAME}.ours").unlink()
    (inside / f"{NAME}.ours").symlink_to(outside)
    assert everything(swapped) == []
    shutil.rmtree(inside)
    inside.symlink_to(tmp_path)
    assert everything(EventFiles(inside)) == []


def test_while_it_runs_a_bounded_part_is_read_at_once_and_every_file_has_its_turn(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / NAME).write_bytes(b"".join(record(event(step=n)) for n in range(1000)))
    files = EventFiles(tmp_path)
    most = 20_000
    seen: dict[str, int] = {}
    order = []
    while found := everything(files, most):
        assert len(found) * len(record(event())) <= most + 200
        for key, *_ in found:
            seen[key] = seen.get(key, 0) + 1
            if order[-1:] != [key]:
                order.append(key)
    assert seen == {"a/loss": 1000, "b/loss": 1000, "c/loss": 1000}
    assert order[:3] == ["a/loss", "b/loss", "c/loss"]


def test_of_endless_files_and_many_files_a_bounded_part_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(eventfiles, "_MOST_BYTES", 10_000)
    monkeypatch.setattr(eventfiles, "_MOST_FILES", 3)
    (tmp_path / NAME).write_bytes(b"".join(record(event(step=n)) for n in range(1000)))
    for n in range(5):
        (tmp_path / f"{NAME}.{n}").write_bytes(record(event(f"many{n}")))
    files = EventFiles(tmp_path)
    found = everything(files)
    assert 10_000 / 80 < len(found) < 10_000 / 40
    assert files.left_out


def test_a_piece_that_could_not_be_stored_is_read_again(tmp_path):
    (tmp_path / NAME).write_bytes(b"".join(record(event(step=n)) for n in range(3)))
    files = EventFiles(tmp_path)
    pieces = files.pieces(1 << 20)
    assert len(next(pieces)) == 3
    pieces.close()  # what was read was not stored
    assert [step for _, _, step, _ in everything(files, 1 << 20)] == [0, 1, 2]


def said_only_numbers(data: bytes) -> None:
    """Walks to the end, or to a ``ValueError``; what came until then are numbers under names."""
    with contextlib.suppress(ValueError):
        for each in scalars(data, set()):
            if each is not None:
                assert isinstance(each.tag, str) and isinstance(each.value, float)
                assert isinstance(each.step, int) and isinstance(each.wall_time, float)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_walk_fail_otherwise_than_it_says(data):
    said_only_numbers(data)


@given(st.data())
def test_no_damage_to_a_real_event_makes_the_walk_fail_otherwise_than_it_says(data):
    good = bytearray(event(tensor=tensor("DT_FLOAT", float_val=[1]), metadata=SCALARS))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    said_only_numbers(bytes(good[: data.draw(st.integers(0, len(good)))]))


@given(st.lists(st.binary(max_size=50), max_size=5), st.binary(max_size=15))
def test_records_are_what_was_written_whatever_follows_them(tmp_path_factory, written, rubbish):
    path = tmp_path_factory.mktemp("records") / "file"
    path.write_bytes(b"".join(map(record, written)) + rubbish)
    found = []
    with path.open("rb") as file, contextlib.suppress(Damaged):
        found.extend(each.data for each in records(file.fileno(), 0))
    assert found == written


def test_a_tag_too_long_for_a_name_is_counted_and_not_kept(tmp_path):
    """Boundary B4 (abuse case 9): tags of a megabyte, each said to be a scalar's, fill no memory."""
    one = tensor("DT_FLOAT", float_val=[1])
    tags = [f"{n}" + "a" * length for n, length in enumerate([250, 1000, 500_000, 900_000])]
    written = [event(tag, tensor=one, metadata=SCALARS) for tag in tags] + [event(tags[-1])]
    (tmp_path / NAME).write_bytes(b"".join(map(record, [*written, event(step=2)])))
    files = EventFiles(tmp_path)
    assert [step for _, _, step, _ in everything(files)] == [2]
    assert files.skipped == len(written)
    known: set[str] = set()
    for each in written:
        assert scalars(each, known) == [None]
    assert known == set()


def test_of_the_tags_of_all_files_together_a_bounded_number_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(eventfiles, "MOST_TAGS", 3)
    one = tensor("DT_FLOAT", float_val=[1])
    for name in "ab":
        said = [record(event(f"{name}{n}", tensor=one, metadata=SCALARS)) for n in range(2)]
        later = [record(event(f"{name}{n}", step=2, tensor=one)) for n in range(2)]
        (tmp_path / f"{NAME}.{name}").write_bytes(b"".join(said + later))
    found = everything(EventFiles(tmp_path))
    assert len([step for _, _, step, _ in found if step == 1]) == 4
    assert len([step for _, _, step, _ in found if step == 2]) == 3
    assert MOST_TAGS > 3


def crowded(count: int, start: int = 0) -> bytes:
    """One record of so many scalars."""
    values = [Summary.Value(tag="x", simple_value=start + n) for n in range(count)]
    return record(Event(wall_time=1.0, step=1, summary=Summary(value=values)).SerializeToString())


def test_a_record_of_very_many_scalars_comes_in_pieces(tmp_path):
    """Boundary B4 (abuse case 13): each piece is no more than one request may bring."""
    (tmp_path / NAME).write_bytes(record(event(step=7)) + crowded(25_000) + record(event(step=8)))
    files = EventFiles(tmp_path)
    pieces = list(files.pieces(1 << 20))
    assert all(len(piece) <= MOST_AT_ONCE for piece in pieces)
    assert sorted(each.value for piece in pieces for each in piece if each.key == "x") == list(range(25_000))
    assert [each.step for piece in pieces for each in piece if each.key == "loss"] == [7, 8]
    assert everything(files) == []


def test_a_piece_from_within_a_record_that_could_not_be_stored_is_read_again(tmp_path):
    (tmp_path / NAME).write_bytes(crowded(25_000))
    files = EventFiles(tmp_path)
    pieces = files.pieces(1 << 20)
    for _ in range(2):
        assert len(next(pieces)) == MOST_AT_ONCE
    pieces.close()
    assert len(everything(files, 1 << 20)) == 25_000


def test_a_record_too_large_for_scalars_is_not_decoded(tmp_path):
    (tmp_path / NAME).write_bytes(crowded(200_000) + record(event(step=8)))
    files = EventFiles(tmp_path)
    assert [step for _, _, step, _ in everything(files)] == [8]


def test_while_it_runs_a_bounded_number_of_points_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(eventfiles, "_MOST_POINTS", 100)
    for name in "ab":
        (tmp_path / f"{NAME}.{name}").write_bytes(b"".join(crowded(30, 30 * n) for n in range(50)))
    files = EventFiles(tmp_path)
    seen: list[float] = []
    while found := everything(files, 1 << 20):
        assert len(found) < 130
        seen += [value for _, value, _, _ in found]
    assert sorted(seen) == sorted([*range(1500)] * 2)
