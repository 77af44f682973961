"""What holds for every engine (``gradient_jupyter.engines.base``), proven from outside.

Knows nothing of the engine under test: it gets one from ``make_engine`` and looks at the world through
observations, logs, and witness files that the tasks themselves leave in their artifacts and storage.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gradient_jupyter.engines.base import (
    Conflict,
    Engine,
    HintKind,
    LogChunk,
    Observation,
    Phase,
    Resources,
    Stream,
    Task,
)
from gradient_jupyter.resources.job import HostEnvironment
from gradient_jupyter.resources.secret import SecretValue

WITHIN_S = 30.0

Scenario = Callable[[Engine], Awaitable[None]]


class Bench:
    """Makes tasks and runs scenarios, each with a started engine; cleans up whatever the scenario left."""

    def __init__(self, root: Path, snapshots: dict, make_engine: Callable[[], Engine]) -> None:
        self.root = root
        self.make_engine = make_engine
        self._snapshots = snapshots
        self._count = 0
        self.storage = root / "storage"
        self.datasets = root / "datasets"
        for directory in (self.storage, self.datasets):
            directory.mkdir()

    def task(self, *command: str, files: dict[str, str] | None = None, **fields: object) -> Task:
        self._count += 1
        directory = self.root / "jobs" / str(self._count)
        directory.mkdir(parents=True)
        snapshot = f"s{self._count}"
        self._snapshots[snapshot] = {
            name: (content.encode(), 0o755) for name, content in (files or {}).items()
        }
        given = {
            "key": f"test-job-{self._count}-1-0",
            "command": command,
            "env": {},
            "snapshot": snapshot,
            "directory": directory,
            "storage": self.storage,
            "datasets": {"numbers": self.datasets},
            "resources": Resources(cpus=1, memory_bytes=1 << 30),
            "labels": {"owner": "user:1", "job": f"j{self._count}", "attempt": "1"},
            "host": HostEnvironment(python=sys.executable, path=("/usr/local/bin", "/usr/bin", "/bin")),
        }
        return Task(**{**given, **fields})

    def run(self, scenario: Scenario) -> None:
        async def conduct() -> None:
            engine = self.make_engine()
            await engine.start()
            try:
                async with asyncio.timeout(60):
                    await scenario(engine)
            finally:
                for key in await engine.observe():
                    await engine.remove(key)
                await engine.close()

        asyncio.run(conduct())


@pytest.fixture
def bench(tmp_path: Path, snapshots: dict, make_engine: Callable[[], Engine]) -> Bench:
    return Bench(tmp_path, snapshots, make_engine)


async def read(engine: Engine, key: str, offset: int = 0) -> list[LogChunk]:
    """The log to its end; the engine follows it until the task has ended."""
    return [chunk async for chunk in engine.logs(key, offset)]


def text(chunks: list[LogChunk], stream: Stream) -> bytes:
    return b"".join(chunk.data for chunk in chunks if chunk.stream is stream)


async def finish(engine: Engine, task: Task) -> tuple[Observation, list[LogChunk]]:
    await engine.ensure(task)
    chunks = await read(engine, task.key)
    return (await engine.observe([task.key]))[task.key], chunks


async def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """For what announces itself to nobody: a file that a task writes."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def until_phase(engine: Engine, key: str, *phases: Phase) -> Observation:
    deadline = time.monotonic() + WITHIN_S
    while True:
        seen = (await engine.observe([key])).get(key)
        if seen and seen.phase in phases:
            return seen
        assert time.monotonic() < deadline, f"still {seen}"
        await asyncio.sleep(0.01)


async def stands_still(path: Path) -> None:
    """A heartbeat of every 20 ms has stopped: nothing new in half a second."""
    size = path.stat().st_size
    await asyncio.sleep(0.5)
    assert path.stat().st_size == size, "a process of the task is still alive"


# ---------------------------------------------------------------------------------------------- how it ends


def test_a_command_that_ends_well_has_succeeded(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        before = time.time_ns() // 1000
        task = bench.task("python", "main.py", files={"main.py": "print('hello')"})
        seen, chunks = await finish(engine, task)
        assert (seen.phase, seen.exit_code, seen.code) == (Phase.SUCCEEDED, 0, "exited")
        assert text(chunks, Stream.STDOUT) == b"hello\n"
        assert seen.spec_hash == task.spec_hash()
        assert not seen.stopped
        assert seen.started_us and seen.ended_us
        assert before <= seen.started_us <= seen.ended_us <= time.time_ns() // 1000
        assert seen.node in {node.name for node in await engine.nodes()}

    bench.run(scenario)


@pytest.mark.parametrize(
    ("script", "exit_code", "code"),
    [
        ("exit 1", 1, "exited"),
        ("exit 77", 77, "exited"),
        ("kill -TERM $$", 143, "exited"),
        ("kill -SEGV $$", 139, "exited"),
        ("kill -KILL $$", 137, "killed"),
    ],
)
def test_how_a_command_fails_is_told(bench: Bench, script: str, exit_code: int, code: str) -> None:
    async def scenario(engine: Engine) -> None:
        seen, _ = await finish(engine, bench.task("sh", "-c", script))
        assert (seen.phase, seen.exit_code, seen.code) == (Phase.FAILED, exit_code, code)
        assert not seen.stopped

    bench.run(scenario)


@pytest.mark.parametrize(
    ("command", "exit_code", "code", "said"),
    [
        (("no-such-command",), 127, "command-not-found", "no-such-command"),
        (("./missing.sh",), 127, "command-not-found", "./missing.sh"),
        (("/no/such/place",), 127, "command-not-found", "/no/such/place"),
        (("tool",), 127, "command-not-found", "./tool"),
        (("./broken",), 127, "command-not-found", "/no/such/interpreter"),
        (("./windows",), 127, "command-not-found", "Windows"),
        (("./folder",), 126, "not-executable", "directory"),
        (("./plain.txt",), 126, "not-executable", "chmod"),
    ],
)
def test_what_cannot_be_run_is_explained(
    bench: Bench, snapshots: dict, command: tuple[str, ...], exit_code: int, code: str, said: str
) -> None:
    async def scenario(engine: Engine) -> None:
        files = {
            "tool": "#!/bin/sh\n",
            "broken": "#!/no/such/interpreter\n",
            "windows": "#!/bin/sh\r\necho\r\n",
            "folder/file": "",
        }
        task = bench.task(*command, files=files)
        snapshots[task.snapshot]["plain.txt"] = (b"text", 0o644)
        seen, chunks = await finish(engine, task)
        assert (seen.phase, seen.exit_code, seen.code) == (Phase.FAILED, exit_code, code)
        assert said in text(chunks, Stream.PLATFORM).decode()
        assert said in seen.message

    bench.run(scenario)


def test_a_script_without_an_interpreter_line_runs_as_in_a_shell(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        seen, chunks = await finish(engine, bench.task("./go", "a b", files={"go": 'echo "got $1"\n'}))
        assert (seen.exit_code, text(chunks, Stream.STDOUT)) == (0, b"got a b\n")

    bench.run(scenario)


# ------------------------------------------------------------------------------------------------- its world


def test_python_is_the_submitters(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        code = "import sys, msgspec; print(sys.prefix)"
        for name in ("python", "python3"):
            _, chunks = await finish(engine, bench.task(name, "-c", code))
            assert text(chunks, Stream.STDOUT).decode().strip() == sys.prefix

    bench.run(scenario)


def test_the_places_are_where_the_variables_say(bench: Bench) -> None:
    program = """
import json, os, pathlib, tempfile
place = {name: pathlib.Path(os.environ[f"GRADIENT_{name}_DIR"]) for name in
         ("WORKSPACE", "ARTIFACTS", "STORAGE", "DATASETS")}
assert pathlib.Path.cwd() == place["WORKSPACE"].resolve(), pathlib.Path.cwd()
assert (place["WORKSPACE"] / "main.py").exists()
(place["WORKSPACE"] / "new").write_text("x")
(place["ARTIFACTS"] / "model").write_text("weights")
(place["STORAGE"] / "kept").write_text("kept")
assert (place["DATASETS"] / "numbers" / "data.csv").read_text() == "1,2"
(pathlib.Path.home() / ".cache").mkdir()
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x" * 100000)
open(pathlib.Path.home() / "mine", "w").close()
print(oct((pathlib.Path.home() / "mine").stat().st_mode & 0o777))
"""

    async def scenario(engine: Engine) -> None:
        (bench.datasets / "data.csv").write_text("1,2")
        task = bench.task("python", "main.py", files={"main.py": program})
        seen, chunks = await finish(engine, task)
        assert seen.exit_code == 0, chunks
        assert text(chunks, Stream.STDOUT) == b"0o644\n"
        assert (task.directory / "artifacts" / "model").read_text() == "weights"
        assert (bench.storage / "kept").read_text() == "kept"

    bench.run(scenario)


def test_datasets_are_read_by_name_and_one_that_was_asked_for_covers_a_public_one(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        places = {}
        for name in ("asked", "public", "covered"):
            places[name] = bench.root / f"data of {name}"
            (places[name] / "sub").mkdir(parents=True)
            (places[name] / "sub" / "x").write_text(name)
        task = bench.task(
            "sh", "-c", 'cd "$GRADIENT_DATASETS_DIR" && for one in *; do echo $one=$(cat $one/sub/x); done',
            datasets={"mine": places["asked"], "shared": places["asked"]},
            public={"shared": places["covered"], "theirs": places["public"]},
        )  # fmt: skip
        seen, chunks = await finish(engine, task)
        assert seen.exit_code == 0, chunks
        assert text(chunks, Stream.STDOUT) == b"mine=asked\nshared=asked\ntheirs=public\n"
        await engine.remove(task.key)
        # Links were removed, not what they lead to.
        assert (places["asked"] / "sub" / "x").read_text() == "asked"
        assert not (task.directory / "datasets").exists()

    bench.run(scenario)


def test_a_public_dataset_that_came_or_went_is_no_other_task(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task("true")
        await finish(engine, task)
        await engine.ensure(msgspec.structs.replace(task, public={"new": bench.root}))
        with pytest.raises(Conflict):
            await engine.ensure(msgspec.structs.replace(task, datasets={"new": bench.root}))

    bench.run(scenario)


def test_the_environment_is_what_was_asked_and_nothing_of_the_servers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "do not tell")

    async def scenario(engine: Engine) -> None:
        env = {"MINE": "a=b\nc ü", "LANG": "de_DE.UTF-8", "EMPTY": ""}
        task = bench.task("python", "-c", "import json, os; print(json.dumps(dict(os.environ)))", env=env)
        _, chunks = await finish(engine, task)
        seen = json.loads(text(chunks, Stream.STDOUT))
        assert env.items() <= seen.items()
        assert seen["CUDA_VISIBLE_DEVICES"] == ""
        assert seen["PYTHONUNBUFFERED"] == "1"
        assert seen["PS_JOBSPACE"] == seen["GRADIENT_STORAGE_DIR"]
        assert seen["PYTHONPATH"] == seen["GRADIENT_SDK_DIR"]
        assert "SERVER_SECRET" not in seen
        engines_own = {"PATH", "HOME", "TMPDIR", "TERM", "USER", "LOGNAME", "PWD", "LC_CTYPE", "VIRTUAL_ENV"}
        engines_own |= {
            "HOSTNAME",
            "PYTHONUNBUFFERED",
            "PYTHONUSERBASE",
            "PYTHONPATH",
            "CUDA_VISIBLE_DEVICES",
            "CONDA_PREFIX",
        }
        others = {
            name
            for name in seen.keys() - env.keys() - engines_own
            if not name.startswith(("GRADIENT_", "PS_")) and not name.endswith("_NUM_THREADS")
        }
        assert not others

    bench.run(scenario)


def test_granted_gpus_are_named_by_uuid(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        resources = Resources(cpus=1, memory_bytes=1 << 30, gpus=("GPU-1", "GPU-2"))
        task = bench.task(
            "sh", "-c", "echo $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES", resources=resources
        )
        _, chunks = await finish(engine, task)
        assert text(chunks, Stream.STDOUT) == b"GPU-1,GPU-2 GPU-1,GPU-2\n"

    bench.run(scenario)


def test_standard_input_is_empty(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        seen, chunks = await finish(engine, bench.task("sh", "-c", "wc -c; exit 0"))
        assert seen.exit_code == 0
        assert text(chunks, Stream.STDOUT).strip() == b"0"

    bench.run(scenario)


def test_words_reach_the_command_as_they_are(bench: Bench) -> None:
    words = ("", "a b", "$HOME", "*", "ü\n", "--", "'\"")

    async def scenario(engine: Engine) -> None:
        code = "import json, sys; print(json.dumps(sys.argv[1:]))"
        _, chunks = await finish(engine, bench.task("python", "-c", code, *words))
        assert tuple(json.loads(text(chunks, Stream.STDOUT))) == words

    bench.run(scenario)


# --------------------------------------------------------------------------------------------------- its log


def test_megabytes_of_both_streams_are_complete_and_told_apart(bench: Bench) -> None:
    program = """
import os, sys, threading
def pour(fd, seed):
    for i in range(256):
        block = bytes((seed + i + j) % 256 for j in range(256)) * 64
        view = memoryview(block)
        while view:
            view = view[os.write(fd, view):]
threads = [threading.Thread(target=pour, args=(fd, fd * 7)) for fd in (1, 2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""

    async def scenario(engine: Engine) -> None:
        seen, chunks = await finish(engine, bench.task("python", "pour.py", files={"pour.py": program}))
        assert seen.exit_code == 0
        for stream, seed in ((Stream.STDOUT, 7), (Stream.STDERR, 14)):
            expected = hashlib.sha256()
            for i in range(256):
                expected.update(bytes((seed + i + j) % 256 for j in range(256)) * 64)
            assert hashlib.sha256(text(chunks, stream)).digest() == expected.digest()
        offset = 0
        for chunk in chunks:
            assert chunk.offset == offset
            offset += len(chunk.data)

    bench.run(scenario)


def test_a_huge_line_arrives_whole(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        code = "import sys; sys.stdout.write('x' * 5_000_000)"
        _, chunks = await finish(engine, bench.task("python", "-c", code))
        assert text(chunks, Stream.STDOUT) == b"x" * 5_000_000

    bench.run(scenario)


def test_a_log_can_be_resumed_at_any_byte(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        script = "for i in 1 2 3 4 5; do echo line $i; echo error $i >&2; done"
        task = bench.task("sh", "-c", script)
        _, chunks = await finish(engine, task)
        whole = [(chunk.stream, byte) for chunk in chunks for byte in chunk.data]
        for offset in range(len(whole) + 1):
            rest = await read(engine, task.key, offset)
            assert [(chunk.stream, byte) for chunk in rest for byte in chunk.data] == whole[offset:]
            assert not rest or rest[0].offset == offset

    bench.run(scenario)


def test_a_log_is_followed_while_it_is_written(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task(
            "sh", "-c", 'echo one; while [ ! -e "$GRADIENT_STORAGE_DIR/go" ]; do sleep 0.02; done; echo two'
        )
        await engine.ensure(task)
        lines = b""
        async for chunk in engine.logs(task.key):
            lines += chunk.data if chunk.stream is Stream.STDOUT else b""
            if lines == b"one\n":
                assert (await engine.observe([task.key]))[task.key].phase is Phase.RUNNING
                (bench.storage / "go").touch()
        assert lines == b"one\ntwo\n"

    bench.run(scenario)


def test_hints_tell_of_log_and_state(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task("sh", "-c", "echo hello")
        kinds = set()

        async def listen() -> None:
            async for hint in engine.watch():
                if hint.key == task.key:
                    kinds.add(hint.kind)
                if kinds == set(HintKind):
                    return

        listening = asyncio.create_task(listen())
        await finish(engine, task)
        await asyncio.wait_for(listening, WITHIN_S)

    bench.run(scenario)


# --------------------------------------------------------------------------------- once, and after a restart

COUNT = 'echo started >> "$GRADIENT_STORAGE_DIR/starts"; '


def starts(bench: Bench) -> int:
    return len((bench.storage / "starts").read_text().splitlines())


def test_asking_again_starts_nothing(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task("sh", "-c", COUNT)
        await finish(engine, task)
        first = (await engine.observe([task.key]))[task.key]
        await engine.ensure(task)
        assert (await engine.observe([task.key]))[task.key] == first
        assert starts(bench) == 1

    bench.run(scenario)


def test_asking_many_times_at_once_starts_one(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        other = bench.make_engine()  # and from two servers, as while one hands over to the next
        await other.start()
        task = bench.task("sh", "-c", COUNT)
        await asyncio.gather(*(one.ensure(task) for one in (engine, other) * 4), return_exceptions=True)
        await engine.ensure(task)
        await read(engine, task.key)
        assert starts(bench) == 1
        assert (await engine.observe([task.key]))[task.key].exit_code == 0
        await other.close()

    bench.run(scenario)


def test_a_key_with_another_spec_is_a_conflict(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task("sh", "-c", COUNT)
        await finish(engine, task)
        with pytest.raises(Conflict):
            await engine.ensure(msgspec.structs.replace(task, env={"OTHER": "1"}))
        assert starts(bench) == 1

    bench.run(scenario)


def test_a_new_engine_finds_what_the_old_one_started(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        wait = 'echo one; while [ ! -e "$GRADIENT_STORAGE_DIR/go" ]; do sleep 0.02; done; echo two; exit 5'
        running, ended = bench.task("sh", "-c", COUNT + wait), bench.task("sh", "-c", COUNT + "exit 4")
        await engine.ensure(running)
        await finish(engine, ended)
        await engine.close()  # tasks go on

        successor = bench.make_engine()
        await successor.start()
        try:
            seen = await successor.observe()
            assert set(seen) == {running.key, ended.key}
            assert seen[running.key].phase is Phase.RUNNING
            assert (seen[ended.key].phase, seen[ended.key].exit_code) == (Phase.FAILED, 4)
            await successor.ensure(running)
            (bench.storage / "go").touch()
            assert text(await read(successor, running.key), Stream.STDOUT) == b"one\ntwo\n"
            assert (await successor.observe([running.key]))[running.key].exit_code == 5
            assert starts(bench) == 2
        finally:
            for key in await successor.observe():
                await successor.remove(key)
            await successor.close()

    async def conduct() -> None:
        engine = bench.make_engine()
        await engine.start()
        await scenario(engine)

    asyncio.run(conduct())


# ------------------------------------------------------------------------------------------------------ stop

BEAT = """
import os, signal, sys, time
def beat(name):
    path = os.path.join(os.environ["GRADIENT_STORAGE_DIR"], name)
    with open(path, "ab", buffering=0) as file:
        while True:
            file.write(b".")
            time.sleep(0.02)
"""


def test_a_stopped_command_may_tidy_up(bench: Bench) -> None:
    program = """
import os, signal, sys, time
def tidy(*_):
    time.sleep(0.3)
    open(os.path.join(os.environ["GRADIENT_ARTIFACTS_DIR"], "checkpoint"), "w").close()
    sys.exit(9)
signal.signal(signal.SIGTERM, tidy)
print("ready", flush=True)
while True: signal.pause()
"""

    async def scenario(engine: Engine) -> None:
        # Also below a shell that dies of TERM at once: its child still has the whole grace time.
        for command, exit_code in ((("python", "main.py"), 9), (("sh", "-c", "python3 main.py; true"), 143)):
            task = bench.task(*command, files={"main.py": program})
            await engine.ensure(task)
            async for chunk in engine.logs(task.key):
                if b"ready" in chunk.data:
                    await engine.stop(task.key, 20)
            seen = (await engine.observe([task.key]))[task.key]
            assert (seen.phase, seen.exit_code, seen.stopped) == (Phase.FAILED, exit_code, True)
            assert (task.directory / "artifacts" / "checkpoint").exists()

    bench.run(scenario)


def test_a_stop_reaches_the_whole_tree_and_does_not_wait_longer_than_its_grace(bench: Bench) -> None:
    program = (
        BEAT
        + """
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD): signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        beat("daemon")
    os._exit(0)
if os.fork() == 0:
    beat("child")
print("ready", flush=True)
beat("main")
"""
    )

    async def scenario(engine: Engine) -> None:
        task = bench.task("python", "main.py", files={"main.py": program})
        await engine.ensure(task)
        beats = [bench.storage / name for name in ("main", "child", "daemon")]
        await until(lambda: all(path.exists() for path in beats))
        began = time.monotonic()
        await engine.stop(task.key, 0.5)
        assert time.monotonic() - began < 0.4, "stop is to return at once"
        seen = await until_phase(engine, task.key, Phase.FAILED)
        assert time.monotonic() - began >= 0.5
        assert (seen.exit_code, seen.code, seen.stopped) == (137, "killed", True)
        for path in beats:
            await stands_still(path)

    bench.run(scenario)


def test_a_later_stop_may_shorten_the_grace(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
        await engine.ensure(task)
        async for chunk in engine.logs(task.key):
            if b"ready" in chunk.data:
                await engine.stop(task.key, 600)
                await engine.stop(task.key, 0.1)
        seen = (await engine.observe([task.key]))[task.key]
        assert (seen.exit_code, seen.stopped) == (137, True)

    bench.run(scenario)


def test_a_command_that_runs_longer_than_it_may_is_ended_with_its_tree(bench: Bench) -> None:
    """The engine's side keeps to the limit by itself: nobody asks it to stop."""

    async def scenario(engine: Engine) -> None:
        script = 'trap "echo tidied; exit 0" TERM; sleep 600 & echo up; wait'
        task = bench.task("sh", "-c", script, max_duration_s=0.5)
        seen, chunks = await finish(engine, task)
        assert (seen.phase, seen.exit_code, seen.code) == (Phase.FAILED, 124, "max-duration")
        assert "0.5 s" in seen.message
        assert not seen.stopped
        assert text(chunks, Stream.STDOUT) == b"up\ntidied\n"

    bench.run(scenario)


def test_a_command_that_ends_within_its_limit_keeps_its_own_end(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        seen, _ = await finish(engine, bench.task("sh", "-c", "exit 3", max_duration_s=600))
        assert (seen.phase, seen.exit_code, seen.code) == (Phase.FAILED, 3, "exited")

    bench.run(scenario)


def test_private_variables_reach_the_command_and_are_no_part_of_its_spec(bench: Bench) -> None:
    """Boundary B3: a token is given to the command and written nowhere."""

    async def scenario(engine: Engine) -> None:
        script = 'echo "$TOKEN"'
        task = bench.task("sh", "-c", script, private={"TOKEN": "first-secret"})
        _, chunks = await finish(engine, task)
        assert text(chunks, Stream.STDOUT) == b"first-secret\n"
        await engine.ensure(msgspec.structs.replace(task, private={"TOKEN": "another"}))
        written = [path for path in bench.root.rglob("*") if path.is_file() and path.name != "log"]
        assert not [path for path in written if b"first-secret" in path.read_bytes()]

    bench.run(scenario)


def test_children_left_behind_neither_delay_the_end_nor_live_on(bench: Bench) -> None:
    program = (
        BEAT
        + """
if os.fork() == 0:
    os.setsid()
    beat("left")
while not os.path.exists(os.path.join(os.environ["GRADIENT_STORAGE_DIR"], "left")): time.sleep(0.01)
print("done", flush=True)
"""
    )

    async def scenario(engine: Engine) -> None:
        began = time.monotonic()
        task = bench.task("python", "main.py", files={"main.py": program})
        seen, chunks = await finish(engine, task)
        assert time.monotonic() - began < 10
        assert (seen.exit_code, seen.stopped) == (0, False)
        assert text(chunks, Stream.STDOUT) == b"done\n"
        await stands_still(bench.storage / "left")

    bench.run(scenario)


def test_what_is_gone_can_be_stopped_and_removed(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        await engine.stop("test-job-none-1-0", 1)
        await engine.remove("test-job-none-1-0")
        assert await read(engine, "test-job-none-1-0") == []
        assert await engine.observe(["test-job-none-1-0"]) == {}
        task = bench.task("true")
        await finish(engine, task)
        await engine.stop(task.key, 1)
        seen = (await engine.observe([task.key]))[task.key]
        assert (seen.phase, seen.stopped) == (Phase.SUCCEEDED, False)
        await engine.remove(task.key)
        await engine.remove(task.key)
        await engine.stop(task.key, 1)

    bench.run(scenario)


# ---------------------------------------------------------------------------------------------------- remove


def test_removing_frees_the_scratch_and_keeps_log_and_artifacts(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        script = 'echo said; echo made > "$GRADIENT_ARTIFACTS_DIR/a"; mkdir d; touch d/f ~/x; chmod 500 d'
        task = bench.task("sh", "-c", script, files={"input": "data"})
        await finish(engine, task)
        assert task.key in await engine.observe()
        await engine.remove(task.key)
        assert await engine.observe() == {}
        left = {path.name for path in task.directory.iterdir()}
        assert {"log", "artifacts"} <= left <= {"log", "log.index", "artifacts"}
        assert (task.directory / "artifacts" / "a").read_text() == "made\n"
        assert (task.directory / "log").stat().st_size > 0

    bench.run(scenario)


def test_removing_kills_what_still_runs(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task("python", "main.py", files={"main.py": BEAT + "beat('main')"})
        await engine.ensure(task)
        await until((bench.storage / "main").exists)
        await engine.remove(task.key)
        await stands_still(bench.storage / "main")
        assert await engine.observe() == {}

    bench.run(scenario)


def test_everything_of_ours_is_found(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        tasks = [bench.task("sh", "-c", f"exit {i}") for i in range(5)]
        await asyncio.gather(*(finish(engine, task) for task in tasks))
        seen = await engine.observe()
        assert {key: one.exit_code for key, one in seen.items()} == {
            task.key: i for i, task in enumerate(tasks)
        }
        some = [tasks[1].key, "test-job-none-1-0"]
        assert set(await engine.observe(some)) == {tasks[1].key}

    bench.run(scenario)


def test_it_says_what_it_is(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        capabilities = engine.capabilities()
        assert capabilities.name
        assert capabilities.isolation.endswith(".")
        for node in await engine.nodes():
            assert node.up
            assert node.cpus > 0
            assert node.memory_bytes > 1 << 20

    bench.run(scenario)


def test_what_a_task_uses_is_told_while_it_runs(bench: Bench) -> None:
    """All its processes count, also those that have ended."""
    script = (
        "import os, time\n"
        "def burn():\n"
        "    while time.process_time() < 0.3: pass\n"
        "if not os.fork(): burn(); os._exit(0)\n"
        "os.wait(); held = bytearray(150_000_000); burn()\n"
        "open(os.environ['GRADIENT_STORAGE_DIR'] + '/burnt', 'w').close(); time.sleep(600)\n"
    )

    async def scenario(engine: Engine) -> None:
        task = bench.task("python", "main.py", files={"main.py": script})
        await engine.ensure(task)
        await until((bench.storage / "burnt").exists)
        usage = await engine.usage({task.key: (), "test-job-none-1-0": ()})
        assert set(usage) == {task.key}
        assert 0.5 <= usage[task.key].cpu_s < 60
        assert usage[task.key].memory_bytes >= 150_000_000
        assert usage[task.key].gpus == ()
        await engine.stop(task.key, 0)
        await until_phase(engine, task.key, Phase.FAILED)
        assert await engine.usage({task.key: ()}) == {}

    bench.run(scenario)


# ------------------------------------------------------------------------------------------------- secrets


def test_a_secret_reaches_the_command_and_neither_its_log_nor_the_disk(bench: Bench) -> None:
    """Asset A2: both streams, cut where the program happened to write."""
    value = "s3cret/of+some length"

    async def scenario(engine: Engine) -> None:
        code = (
            "import os, sys; v = os.environ['V']; assert v == sys.argv[1][::-1]\n"
            "for fd in (1, 2):\n"
            "    os.write(fd, b'before ' + v.encode() + b' after ')\n"
            "    for letter in v: os.write(fd, letter.encode())\n"
            "    os.write(fd, v[:7].encode())\n"
        )
        task = bench.task("python", "-c", code, value[::-1], secret={"V": SecretValue(value)})
        seen, chunks = await finish(engine, task)
        assert seen.phase is Phase.SUCCEEDED, chunks
        for stream in (Stream.STDOUT, Stream.STDERR):
            assert text(chunks, stream) == b"before *** after ***" + value[:7].encode()
        held = [
            path for path in bench.root.rglob("*") if path.is_file() and value.encode() in path.read_bytes()
        ]
        assert not held

    bench.run(scenario)


def test_what_the_platform_says_of_a_task_holds_no_secret(bench: Bench) -> None:
    """Somebody wrote their token where the command's name should be."""
    value = "hf_TypedInTheWrongPlace"

    async def scenario(engine: Engine) -> None:
        seen, chunks = await finish(engine, bench.task(value, secret={"V": SecretValue(value)}))
        assert (seen.phase, seen.exit_code) == (Phase.FAILED, 127)
        assert value not in seen.message and "***" in seen.message
        said = text(chunks, Stream.PLATFORM)
        assert value.encode() not in said and b"***" in said

    bench.run(scenario)


def test_a_task_is_the_same_task_with_other_secrets(bench: Bench) -> None:
    """A token or a secret may have changed since it was first asked for."""

    async def scenario(engine: Engine) -> None:
        task = bench.task("sleep", "600", secret={"V": SecretValue("the first")})
        await engine.ensure(task)
        await engine.ensure(msgspec.structs.replace(task, secret={"V": SecretValue("the second")}))
        assert set(await engine.observe()) == {task.key}
        await engine.stop(task.key, 0)
        await until_phase(engine, task.key, Phase.FAILED)

    bench.run(scenario)


def test_every_task_can_say_its_numbers(bench: Bench) -> None:
    """``gradient_job`` is there whatever the task's Python, hides nothing of the task's, and is no more than
    that one file; there is a place for what could not be sent."""
    code = (
        "import gradient_job, os, sys, mine\n"
        "sdk = os.environ['GRADIENT_SDK_DIR']\n"
        "print({*os.listdir(sdk)} - {'__pycache__'}, gradient_job.__file__.startswith(sdk), mine.here)\n"
        "print(sorted(os.listdir(os.environ['GRADIENT_SPOOL_DIR'])))\n"
        "open(os.environ['GRADIENT_SPOOL_DIR'] + '/left', 'w').write('left')\n"
    )

    async def scenario(engine: Engine) -> None:
        for path in ("lib", None):
            task = bench.task(
                "python", "-S", "-c", code,
                files={"lib/mine.py": "here = 'lib'", "mine.py": "here = 'workspace'"},
                env={} if path is None else {"PYTHONPATH": path},
            )  # fmt: skip
            seen, chunks = await finish(engine, task)
            said = text(chunks, Stream.STDOUT).decode()
            assert seen.phase is Phase.SUCCEEDED, text(chunks, Stream.STDERR).decode()
            assert said == "{'gradient_job.py'} True workspace\n[]\n"
            assert (task.directory / "spool" / "left").read_text() == "left"

    bench.run(scenario)


def test_a_task_may_have_a_module_of_that_name_itself(bench: Bench) -> None:
    async def scenario(engine: Engine) -> None:
        task = bench.task(
            "python", "-c", "import sys; sys.path.pop(0); import gradient_job",
            files={"lib/gradient_job.py": "print('mine')"}, env={"PYTHONPATH": "lib"},
        )  # fmt: skip
        _, chunks = await finish(engine, task)
        assert text(chunks, Stream.STDOUT) == b"mine\n"

    bench.run(scenario)
