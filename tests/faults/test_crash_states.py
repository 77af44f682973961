"""T3: every state in which a power loss may leave our own files, opened with their real readers.

Fault: power loss at any moment; unsynced writes are lost in any combination, the last one in part. P1
(blobs), P3 (the mark of a start), P7 (log), P13 (nothing torn is believed). It heals with the next start. The
witness is what the program acknowledged before the cut.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from crashes import record, states
from disks import need_program

from gradient_jupyter.client.solo import read_runtime
from gradient_jupyter.engines.base import Phase
from gradient_jupyter.engines.framedlog import DamagedLog, Reader, Writer
from gradient_jupyter.engines.local import private
from gradient_jupyter.engines.local.attempt import Attempt
from gradient_jupyter.server.dataroot import read_mark
from gradient_jupyter.workspace.blobs import BlobStore, Damaged
from gradient_jupyter.workspace.statcache import StatCache


@pytest.fixture
def crashed(tmp_path):
    """Every state of a recorded program, one after the other in the same directory."""
    need_program("strace")

    def each(program: str, *, strict: bool = True, at_least: int):
        ops = record(program, tmp_path / "recorded")
        root = tmp_path / "state"
        count = 0
        for state in states(ops, strict=strict):
            state.put(root)
            count += 1
            yield root, state
        assert count >= at_least, f"only {count} states: was it recorded?"

    return each


def read_log(path: Path) -> tuple[int, bytes, bool]:
    """Epoch, what can be read from the beginning, and whether damage was named behind it."""
    data = b""
    try:
        with Reader(path) as reader:
            while chunks := reader.read(len(data)):
                data += b"".join(chunk.data for chunk in chunks)
            return reader.epoch, data, False
    except DamagedLog:
        return 0, data, True


LOG = """
from gradient_jupyter.engines.framedlog import Writer
writer = Writer(ROOT / "log")
ack(f"epoch {writer.epoch}")
for stream, text, sync in SCRIPT:
    writer.append(stream, text, 1)
    if sync:
        writer.sync()
        ack(str(writer.size))
writer.close()
"""
LOGS = {
    "small": [(1, b"first", True), (1, b"second", False), (2, b"third", True), (1, b"fourth", False)],
    "never synced": [(1, b"first", False), (2, b"second", False), (1, b"third", False)],
    "large": [
        (1, b"a" * 40_000, True),
        (1, b"b" * 40_000, False),
        (1, b"c" * 40_000, True),
        (1, b"d" * 9, False),
    ],
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_shows_what_was_synced_and_never_other_bytes(crashed, name):
    whole = b"".join(text for _, text, _ in LOGS[name])
    for root, state in crashed(f"SCRIPT = {LOGS[name]!r}\n" + LOG, strict=False, at_least=25):
        promised = max((int(ack) for ack in state.acks if ack.isdecimal()), default=0)
        epochs = [int(ack.split()[1]) for ack in state.acks if ack.startswith("epoch")]
        epoch, data, damaged = read_log(root / "log")
        assert whole.startswith(data), state.told
        assert len(data) >= promised, state.told
        if promised:
            assert damaged or [epoch] == epochs, state.told
        for offset in range(0, len(data), max(1, len(data) // 7)):
            with contextlib.suppress(DamagedLog), Reader(root / "log") as reader:
                chunks = reader.read(offset)
                assert whole[offset:].startswith(b"".join(chunk.data for chunk in chunks)), state.told
        # Whoever goes on writes behind the last whole frame; damage before it stays named.
        with contextlib.suppress(DamagedLog):
            with Writer(root / "log") as writer:
                writer.append(1, b"more", 2)
            expected = (data, True) if damaged else (data + b"more", False)
            assert read_log(root / "log")[1:] == expected, state.told


BLOBS = """
from gradient_jupyter.workspace.blobs import RAW, BlobStore
import blake3
store = BlobStore(ROOT / "blobs")
os.sync()
def put(*contents):
    with store.batch() as batch:
        for content in contents:
            batch.put(blake3.blake3(content).hexdigest(), RAW, len(content), content)
        for stored in batch.commit():
            ack(stored.digest)
"""


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param([[b"one", b"two"]], id="two"),
        pytest.param([[b"one"], [b"one"]], id="again"),
        pytest.param([[b""]], id="empty"),
        pytest.param([[b"%d" % n for n in range(5)]], id="by syncfs", marks=pytest.mark.slow),
    ],
)
def test_a_blob_is_whole_or_not_there_and_stays_once_it_was_acknowledged(crashed, contents):
    import blake3

    of = {blake3.blake3(content).hexdigest(): content for batch in contents for content in batch}
    program = BLOBS + "".join(f"put(*{batch!r})\n" for batch in contents)
    for root, state in crashed(program, at_least=10):
        if not (root / "blobs").is_dir():
            continue
        store = BlobStore(root / "blobs")
        for digest, content in of.items():
            try:
                with store.open(digest) as file:
                    assert file.read() == content, state.told
            except Damaged:
                assert digest not in state.acks, state.told


ENGINE = """
from gradient_jupyter.engines.local import private
from gradient_jupyter.engines.local.attempt import Attempt
os.sync()
attempt = Attempt(ROOT, "in-job-j1-1-0")
attempt.create("in", "hash", ROOT / "elsewhere")
ack("created")
directory = str(attempt.path)
private.write(directory, private.UNPACKED, {"boot": "b"}, durable=False)
os.close(private.take_lock(directory))
private.write(directory, private.PID, {"pid": 1, "start": "1", "boot": "b"}, durable=False)
private.reserve_exit(directory)
private.mark_started(directory, 17)
ack("started")
private.write(directory, private.STOP, {"grace_s": 1.0, "id": "x"}, durable=False)
private.write_exit(directory, {"exit_code": 3, "code": "exited", "message": "", "ended_us": 18})
ack("ended")
"""


def test_a_task_is_never_started_twice_and_its_end_is_never_made_up(crashed):
    """P3 and P4: once the start was marked, no state looks as if it had not been."""
    for root, state in crashed(ENGINE, at_least=100):
        attempt = Attempt(root, "in-job-j1-1-0")
        seen = attempt.look()
        wholes = {
            private.SPEC: {"key": attempt.key, "install": "in", "spec_hash": "hash"},
            private.UNPACKED: {"boot": "b"},
            private.STARTED: {"started_us": 17},
            private.STOP: {"grace_s": 1.0, "id": "x"},
        }
        for name, whole in wholes.items():
            value = private.read(str(attempt.path), name)
            assert value is None or whole.items() <= value.items(), (name, state.told)
        if "created" in state.acks:
            # Nothing has been started yet, so nothing is lost when a power loss takes it: it is made anew.
            assert seen is None or seen.spec_hash == "hash", state.told
        if "started" in state.acks:
            assert seen.phase in (Phase.LOST, Phase.FAILED), state.told
        if "ended" in state.acks:
            assert (seen.phase, seen.exit_code) == (Phase.FAILED, 3), state.told
        if seen is not None and seen.phase.ended:
            assert (seen.phase, seen.exit_code) in ((Phase.LOST, None), (Phase.FAILED, 3)), state.told


def test_a_runtime_file_leads_to_the_server_that_wrote_it_or_nowhere(crashed):
    program = """
from gradient_jupyter.resources.server import Runtime
from gradient_jupyter.server.claimed import publish
for port in (1, 2):
    publish(ROOT / "r.json", Runtime(
        url=f"http://127.0.0.1:{port}", token="t", version="1", api="v1", pid=port, data="/d"))
"""
    for root, state in crashed(program, at_least=10):
        found = read_runtime(root / "r.json")
        assert found is None or found.url == f"http://127.0.0.1:{found.pid}", state.told


def test_the_mark_of_an_installation_is_whole_or_not_there(crashed):
    program = """
from gradient_jupyter.server.dataroot import write_mark
os.sync()
write_mark(ROOT / "install", "in0123")
ack("marked")
"""
    for root, state in crashed(program, at_least=5):
        assert read_mark(root / "install") in ({"in0123"} if state.acks else {"", "in0123"}), state.told


def test_a_stat_cache_is_whole_or_forgotten(crashed):
    program = """
from gradient_jupyter.workspace.statcache import Remembered, StatCache
StatCache(ROOT / "cache").save(Path("/w"), {b"a": Remembered(1, 2, 3, 4, 5, b"d" * 32)})
"""
    for root, state in crashed(program, at_least=5):
        known = StatCache(root / "cache").load(Path("/w"))
        assert set(known) in (set(), {b"a"}), state.told
        assert all(each.digest == b"d" * 32 for each in known.values()), state.told
