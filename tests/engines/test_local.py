"""What is the local engine's own: its files, its supervisor, its two kinds of world, what survives a kill."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import descriptors
import msgspec
import pytest

from gradient_jupyter.engines.base import Phase, Rejected, Resources, Stream, Task, Unreachable
from gradient_jupyter.engines.local import LocalEngine, attempt, command, forkserver, private, process, world
from gradient_jupyter.resources.job import HostEnvironment

Scenario = Callable[[LocalEngine], Awaitable[None]]
SECRET = "canary-3f9a"


class Bench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.isolation: Any = "none"
        self.files: dict[str, str] = {}
        self.unpack = threading.Event()
        self.unpack.set()
        self.unpacking = threading.Event()
        self.unpack_error: OSError | None = None
        self.unpacked = 0
        for name in ("storage", "datasets"):
            (root / name).mkdir()

    def materialise(self, snapshot: str, directory: Path) -> None:
        directory.mkdir()
        for name, content in self.files.items():
            (directory / name).write_text(content)
        self.unpacking.set()
        assert self.unpack.wait(30)
        self.unpacked += 1
        if self.unpack_error:
            raise self.unpack_error

    def engine(self) -> LocalEngine:
        return LocalEngine(self.root / "engine", self.materialise, install="test", isolation=self.isolation)

    def private(self, task: Task) -> Path:
        return self.root / "engine" / task.key

    def task(self, *words: str, number: int = 1, **fields: Any) -> Task:
        directory = self.root / "jobs" / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {
            "key": f"test-job-{number}-1-0",
            "command": words,
            "env": {},
            "snapshot": "s",
            "directory": directory,
            "storage": self.root / "storage",
            "datasets": {"d": self.root / "datasets"},
            "resources": Resources(cpus=1, memory_bytes=1 << 30),
            "labels": {},
            "host": HostEnvironment(python=sys.executable, path=("/usr/bin", "/bin")),
        }
        return Task(**{**given, **fields})

    def run(self, scenario: Scenario) -> None:
        async def conduct() -> None:
            engine = self.engine()
            await engine.start()
            try:
                async with asyncio.timeout(60):
                    await scenario(engine)
            finally:
                self.unpack.set()
                for key in await engine.observe():
                    await engine.remove(key)
                await engine.close()

        asyncio.run(conduct())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def bubblewrap(bench: Bench, need: Callable[[str], None]) -> Bench:
    need("bwrap")
    bench.isolation = "bubblewrap"
    return bench


async def output(engine: LocalEngine, task: Task, stream: Stream = Stream.STDOUT) -> str:
    await engine.ensure(task)
    data = [chunk.data async for chunk in engine.logs(task.key) if chunk.stream is stream]
    return b"".join(data).decode()


async def seen(engine: LocalEngine, task: Task) -> Any:
    return (await engine.observe([task.key])).get(task.key)


async def until(condition: Callable[[], Any], within_s: float = 20) -> Any:
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value


def supervisor(bench: Bench, task: Task) -> int:
    return int(json.loads((bench.private(task) / private.PID).read_text())["pid"])


WAIT = 'echo ready; while [ ! -e "$GRADIENT_STORAGE_DIR/go" ]; do sleep 0.02; done'


# ------------------------------------------------------------------------------------------------- the worlds


def test_bubblewraps_paths_are_the_ones_every_engine_has(bubblewrap: Bench) -> None:
    script = """
        pwd; cat /paperspace/here /home/paperspace/here; echo $HOME $GRADIENT_ARTIFACTS_DIR
        echo 1 > /artifacts/a && echo 2 > /storage/s && echo 3 > /tmp/t && echo 4 > ~/h && echo 5 > /dev/shm/m
        for p in datasets/d datasets data; do (echo 6 > /$p/x) 2>/dev/null || echo $p is read-only; done
        (echo 6 > /etc/x) 2>/dev/null || echo the host is read-only
        ls /home/paperspace
    """

    async def scenario(engine: LocalEngine) -> None:
        bubblewrap.files = {"here": "here\n"}
        task = bubblewrap.task("sh", "-c", script)
        assert (await output(engine, task)).splitlines() == [
            "/home/paperspace",
            "here",
            "here",
            "/home/gradient /artifacts",
            "datasets/d is read-only",
            "datasets is read-only",
            "data is read-only",
            "the host is read-only",
            "here",
        ]
        assert (task.directory / "artifacts" / "a").read_text() == "1\n"
        assert (task.storage / "s").read_text() == "2\n"
        assert (task.directory / "tmp" / "t").read_text() == "3\n"
        assert (task.directory / "home" / "h").read_text() == "4\n"
        assert not Path("/dev/shm/m").exists()
        assert not await output(engine, bubblewrap.task("true", number=2), Stream.PLATFORM)

    bubblewrap.run(scenario)


def test_bubblewrap_shows_a_dataset_at_both_places_and_lets_nobody_change_it(bubblewrap: Bench) -> None:
    """Not even root, whose rights a read-only tree alone would not take away; nor by another way into it."""
    tries = (
        "echo 1 > x", "echo 1 > new", "rm x", "mv x y", "chmod 777 x", "ln x ../y", "mkdir n", "touch x",
        "rm -r /datasets/d", "rm /data/d", "mkdir /datasets/e", "ln -s /tmp /data/e", "mount -o remount,rw .",
    )  # fmt: skip
    each = "".join(f"({one}) 2>/dev/null && echo '{one} went through';" for one in tries)
    script = f"cat /datasets/d/x /data/d/x; cd /datasets/d; {each} echo done"

    async def scenario(engine: LocalEngine) -> None:
        (bubblewrap.root / "datasets" / "x").write_text("data\n")
        said = await output(engine, bubblewrap.task("sh", "-c", script))
        assert said == "data\ndata\ndone\n"
        assert [path.name for path in (bubblewrap.root / "datasets").iterdir()] == ["x"]

    bubblewrap.run(scenario)


def test_bubblewrap_goes_on_without_a_public_dataset_that_is_gone(bubblewrap: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bubblewrap.task("sh", "-c", "ls /datasets", public={"gone": bubblewrap.root / "absent"})
        assert "d\n" in await output(engine, task)
        assert (await seen(engine, task)).exit_code == 0

    bubblewrap.run(scenario)


def test_bubblewrap_leaves_no_privileges_and_its_own_processes_only(bubblewrap: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        script = 'grep -h Cap /proc/self/status; ls /proc | grep -c "^[0-9]"; ls /proc/self/fd | wc -l'
        *caps, processes, descriptors = (
            await output(engine, bubblewrap.task("sh", "-c", script))
        ).splitlines()
        assert all(set(line.split()[1]) == {"0"} for line in caps)
        assert int(processes) <= 5
        assert int(descriptors) == 4, "0, 1, 2 and the one that ls itself opened"

    bubblewrap.run(scenario)


def test_an_interpreter_in_a_hidden_place_is_shown(bubblewrap: Bench, tmp_path: Path) -> None:
    venv = tmp_path / "my venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    assert str(venv).startswith("/tmp/")

    async def scenario(engine: LocalEngine) -> None:
        host = HostEnvironment(python=str(venv / "bin" / "python"), path=("/usr/bin",))
        task = bubblewrap.task(
            "python", "-c", "import os, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'])", host=host
        )
        assert await output(engine, task) == f"{venv} {venv}\n"

    bubblewrap.run(scenario)


def test_a_world_that_cannot_be_made_is_the_platforms_fault(bubblewrap: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bubblewrap.task("true", datasets={"absent": bubblewrap.root / "absent"})
        await output(engine, task)
        one = await seen(engine, task)
        assert (one.phase, one.code, one.exit_code) == (Phase.FAILED, "world", None)
        assert "absent" in one.message

    bubblewrap.run(scenario)


def test_without_bubblewrap_the_first_line_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.isolation = "auto"
    monkeypatch.setenv("PATH", str(bench.root))

    async def scenario(engine: LocalEngine) -> None:
        assert "not installed" in engine.capabilities().isolation
        task = bench.task("sh", "-c", 'pwd; echo "$GRADIENT_WORKSPACE_DIR"')
        await engine.ensure(task)
        chunks = [chunk async for chunk in engine.logs(task.key)]
        assert chunks[0].stream is Stream.PLATFORM
        assert b"bubblewrap (bwrap) is not installed" in chunks[0].data
        workspace = str(task.directory / "workspace")
        assert b"".join(chunk.data for chunk in chunks[1:]).decode().split() == [workspace] * 2

    bench.run(scenario)


def test_a_bubblewrap_that_does_not_work_is_found_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = bench.root / "bin" / "bwrap"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/bin:/bin")
    bench.isolation = "auto"

    async def scenario(engine: LocalEngine) -> None:
        assert "No permissions" in engine.capabilities().isolation

    bench.run(scenario)

    async def refused() -> None:
        bench.isolation = "bubblewrap"
        engine = bench.engine()
        with pytest.raises(Unreachable, match="No permissions"):
            await engine.start()
        await engine.close()

    asyncio.run(refused())


def test_python_means_the_submitters_under_whatever_name(bench: Bench) -> None:
    only = bench.root / "opt" / "python3.99"
    only.parent.mkdir()
    only.symlink_to(sys.executable)

    async def scenario(engine: LocalEngine) -> None:
        host = HostEnvironment(python=str(only), path=("/usr/bin",))
        assert await output(engine, bench.task("python", "-c", "print(1)", host=host)) == "1\n"

    bench.run(scenario)


def test_thread_counts_follow_the_size_unless_the_user_chose(bench: Bench) -> None:
    task = bench.task("true", env={"MKL_NUM_THREADS": "7"}, resources=Resources(cpus=2.5, memory_bytes=5))
    env = world.Worlds(None, "").make(task, host_cpus=8, mark="m").env
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("2", "7")
    assert (env["GRADIENT_CPUS"], env["GRADIENT_MEMORY_BYTES"]) == ("2.5", "5")
    assert "OMP_NUM_THREADS" not in world.Worlds(None, "").make(task, host_cpus=2, mark="m").env


def test_commands_are_looked_up_as_seen_from_inside(tmp_path: Path) -> None:
    workspace, storage = tmp_path / "workspace", tmp_path / "storage"
    (storage / "bin").mkdir(parents=True)
    workspace.mkdir()
    (storage / "bin" / "tool").write_bytes(b"\x7fELF\0")
    (storage / "bin" / "tool").chmod(0o755)
    (workspace / "link").symlink_to("/storage/bin/../bin/tool")
    (workspace / "loop").symlink_to("loop")
    mounts = [("/", "/"), ("/tmp", ""), ("/home", ""), (world.WORKSPACE, str(workspace))]
    mounts += [("/storage", str(storage)), ("/tmp/deep/tools", str(storage / "bin"))]
    view = command.View(mounts, world.WORKSPACE)
    assert view.resolve("link") == str(storage / "bin" / "tool")
    assert view.resolve("../../storage/bin") == str(storage / "bin")
    assert command.find("./link", None, view).path == "./link"
    assert command.find("tool", "/nowhere:/storage/bin", view).path == "/storage/bin/tool"
    assert command.find("tool", "/tmp/deep/tools", view).path == "/tmp/deep/tools/tool"
    for missing in (str(storage / "bin" / "tool"), "loop", "./loop", "./link/x", ""):
        with pytest.raises(command.Unusable) as problem:
            command.find(missing, None, view)
        assert problem.value.exit_code == 127


# ------------------------------------------------------------------------------------------------ its secrets


@pytest.mark.parametrize("isolation", ["none", "bubblewrap"])
def test_no_secret_reaches_a_file_or_a_command_line(
    bench: Bench, need: Callable[[str], None], isolation: str
) -> None:
    if isolation == "bubblewrap":
        need("bwrap")
    bench.isolation = isolation

    async def scenario(engine: LocalEngine) -> None:
        task = bench.task(
            "sh", "-c", f'test "$TOKEN" = {SECRET[:6]}"{SECRET[6:]}" && {WAIT}', env={"TOKEN": SECRET}
        )
        await engine.ensure(task)
        async for chunk in engine.logs(task.key):
            if chunk.data != b"ready\n":
                continue
            pids = [supervisor(bench, task)]
            pids += process.descendants(pids[0])
            lines = []
            for pid in pids:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
                    lines.append(Path(f"/proc/{pid}/cmdline").read_bytes())
            assert len(lines) > 1
            assert not any(SECRET.encode() in line for line in lines)
            (bench.root / "storage" / "go").touch()
        assert (await seen(engine, task)).exit_code == 0
        for path in bench.root.rglob("*"):
            if path.is_file():
                assert SECRET.encode() not in path.read_bytes(), path
        assert bench.private(task).stat().st_mode & 0o777 == 0o700

    bench.run(scenario)


def test_the_supervisor_has_nothing_of_the_servers_environment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", SECRET)

    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("sh", "-c", WAIT)
        await engine.ensure(task)
        pid = supervisor(bench, task)
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(stat[1]) != os.getpid(), "it is not the server's child"
        assert int(stat[3]) not in (os.getsid(0), 0), "it has its own session"
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")

    bench.run(scenario)


# ----------------------------------------------------------------------------------- whatever is killed, when


@pytest.mark.parametrize("isolation", ["none", "bubblewrap"])
def test_a_killed_supervisor_is_a_lost_task_and_nothing_of_it_stays(
    bench: Bench, need: Callable[[str], None], isolation: str
) -> None:
    if isolation == "bubblewrap":
        need("bwrap")
    bench.isolation = isolation

    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("sh", "-c", f"setsid sleep 1000 & sleep 1000 & {WAIT}")
        await engine.ensure(task)
        mark = attempt.Attempt(bench.root / "engine", task.key).mark()
        await until(lambda: len(process.marked(world.MARKER, mark)) >= 3)
        os.kill(supervisor(bench, task), signal.SIGKILL)
        await until(lambda: not private.held(str(bench.private(task))))
        one = await seen(engine, task)
        assert (one.phase, one.code, one.exit_code) == (Phase.LOST, "lost", None)
        assert one.started_us
        await engine.ensure(task)  # starts nothing
        assert (await seen(engine, task)).phase is Phase.LOST
        await engine.stop(task.key, 5)
        assert not process.marked(world.MARKER, mark)
        await engine.remove(task.key)

    bench.run(scenario)


def test_another_installations_task_of_the_same_key_is_left_alone(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        other = LocalEngine(bench.root / "other", bench.materialise, install="test", isolation="none")
        await other.start()
        theirs, ours = bench.task("sh", "-c", WAIT), bench.task("true", number=2)
        ours = msgspec.structs.replace(ours, key=theirs.key)
        await other.ensure(theirs)
        await output(engine, ours)
        await engine.remove(ours.key)
        (bench.root / "storage" / "go").touch()
        await output(other, theirs)
        assert (await other.observe())[theirs.key].exit_code == 0
        await other.remove(theirs.key)
        await other.close()

    bench.run(scenario)


def test_a_supervisor_that_does_not_answer_is_removed_with_all_it_has(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("sh", "-c", f"env -i setsid sleep 1000 & {WAIT}")
        await engine.ensure(task)
        pid = supervisor(bench, task)
        await until(lambda: len(process.descendants(pid)) >= 2)
        family = [process.identity(one) for one in (pid, *process.descendants(pid))]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.to_thread(attempt.Attempt(bench.root / "engine", task.key).remove, 0.2)
        assert not await seen(engine, task)
        await until(lambda: not any(one and process.alive(one) for one in family))

    bench.run(scenario)


def test_a_supervisor_killed_between_its_mark_and_its_start_starts_nothing_later(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("touch", str(bench.root / "ran"))
        one = attempt.Attempt(bench.root / "engine", task.key)
        one.create("test", task.spec_hash(), task.directory)
        private.mark_started(str(one.path), 5)
        await engine.ensure(task)
        seen_now = await seen(engine, task)
        assert (seen_now.phase, seen_now.started_us) == (Phase.LOST, 5)
        # Nor does a supervisor that is started although there is a mark.
        one.unpack(bench.materialise, "s", task.directory)
        with forkserver.Supervisor.make() as another:
            one.spawn(world.Worlds(None, "").make(task, 1, one.mark()), task.directory / "log", another)
        assert (await seen(engine, task)).phase is Phase.LOST
        assert not (bench.root / "ran").exists()

    bench.run(scenario)


def test_a_server_killed_anywhere_before_the_start_leaves_what_the_next_can_finish(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        bench.files = {"input": "whole"}
        task = bench.task("cat", "input")
        one = attempt.Attempt(bench.root / "engine", task.key)
        one.create("test", task.spec_hash(), task.directory)
        assert (await seen(engine, task)).phase is Phase.PENDING
        half = task.directory / "workspace.abcd"  # killed while unpacking
        half.mkdir()
        (half / "input").write_text("ha")
        assert await output(engine, task) == "whole"
        assert not half.exists()

    bench.run(scenario)


def test_a_workspace_from_before_a_reboot_is_unpacked_again(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        bench.files = {"input": "whole"}
        task = bench.task("cat", "input")
        one = attempt.Attempt(bench.root / "engine", task.key)
        one.create("test", task.spec_hash(), task.directory)
        one.unpack(bench.materialise, "s", task.directory)
        private.write(str(one.path), private.UNPACKED, {"boot": "an earlier one"})
        (task.directory / "workspace" / "input").write_text("")  # what a power loss may leave
        assert await output(engine, task) == "whole"
        assert bench.unpacked == 2

    bench.run(scenario)


def test_half_a_job_on_its_standard_input_starts_nothing(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("touch", str(bench.root / "ran"))
        one = attempt.Attempt(bench.root / "engine", task.key)
        one.create("test", task.spec_hash(), task.directory)
        program = Path(attempt.__file__).with_name("supervisor.py")
        argv = [sys.executable, "-I", program, "run", "1"]
        done = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        said, _ = done.communicate(f'{{"directory": "{one.path}", "key": "test-job-1-1-0", "comm'.encode())
        assert b"taken" not in said
        await output(engine, task)
        assert (await seen(engine, task)).exit_code == 0
        assert (bench.root / "ran").exists()

    bench.run(scenario)


def test_what_a_killed_server_left_half_made_is_tidied_up(bench: Bench) -> None:
    for name in (".new-1", ".trash-2", ".probe-3"):
        (bench.root / "engine" / name / "x").mkdir(parents=True)

    async def scenario(engine: LocalEngine) -> None:
        assert [path.name for path in (bench.root / "engine").iterdir()] == [private.SOCKET]

    bench.run(scenario)
    assert list((bench.root / "engine").iterdir()) == []


# ------------------------------------------------------------------------------------------------------- stop


def test_a_task_stopped_while_its_files_are_unpacked_is_never_started(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        bench.unpack.clear()
        task = bench.task("touch", str(bench.root / "ran"))
        ensuring = asyncio.create_task(engine.ensure(task))
        await until(bench.unpacking.is_set)
        assert (await seen(engine, task)).phase is Phase.PENDING
        await engine.stop(task.key, 5)
        one = await seen(engine, task)
        assert (one.phase, one.code, one.stopped) == (Phase.FAILED, "never-started", True)
        assert one.exit_code is None
        bench.unpack.set()
        await ensuring
        assert await seen(engine, task) == one
        assert [chunk async for chunk in engine.logs(task.key)] == []
        assert not (bench.root / "ran").exists()

    bench.run(scenario)


def test_a_stop_request_that_is_there_before_the_start_is_heeded(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("touch", str(bench.root / "ran"))
        one = attempt.Attempt(bench.root / "engine", task.key)
        one.create("test", task.spec_hash(), task.directory)
        private.write(str(one.path), private.STOP, {"grace_s": 5, "id": "1"})
        await engine.ensure(task)
        now = await seen(engine, task)
        assert (now.phase, now.code, now.stopped) == (Phase.FAILED, "never-started", True)
        assert not (bench.root / "ran").exists()

    bench.run(scenario)


def test_a_terminated_supervisor_stops_its_task(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("sh", "-c", f"trap 'exit 6' TERM; {WAIT}")
        await engine.ensure(task)
        async for chunk in engine.logs(task.key):
            if chunk.data == b"ready\n":
                os.kill(supervisor(bench, task), signal.SIGTERM)
        one = await seen(engine, task)
        assert (one.exit_code, one.stopped) == (6, True)

    bench.run(scenario)


def test_a_lost_knock_only_delays_a_stop(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        task = bench.task("sh", "-c", WAIT)
        await engine.ensure(task)
        private.write(str(bench.private(task)), private.STOP, {"grace_s": 5, "id": "1"})
        async for _ in engine.logs(task.key):
            pass
        assert (await seen(engine, task)).exit_code == 143

    bench.run(scenario)


# ------------------------------------------------------------------------------------------------ full disks


def test_no_space_for_the_workspace_is_a_rejection_and_leaves_nothing(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        bench.unpack_error = OSError(errno.ENOSPC, "No space left on device")
        bench.files = {"half": "x"}
        task = bench.task("true")
        with pytest.raises(Rejected) as rejected:
            await engine.ensure(task)
        assert rejected.value.code == "no-space"
        assert await engine.observe() == {}
        assert list(task.directory.iterdir()) == []
        bench.unpack_error = None
        await output(engine, task)
        assert (await seen(engine, task)).exit_code == 0

    bench.run(scenario)


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Path]:
    """A file system of 1 MiB where the task's directory stands, so that its log fills it."""
    yield from small(bench.root / "jobs" / "1")


@pytest.fixture
def small_root(bench: Bench) -> Iterator[Path]:
    """The same for the engine's own files."""
    yield from small(bench.root / "engine")


def small(place: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system here: {done.stderr.decode()}")
    yield place
    # Lazily: a supervisor that has just written its last word may not be gone yet.
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_neither_blocks_nor_hides_how_it_ended(bench: Bench, small_disk: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        flood = "import sys; sys.stdout.write('x' * 3_000_000); sys.stdout.flush(); sys.exit(3)"
        task = bench.task("python", "-c", flood)
        text = await output(engine, task)
        one = await seen(engine, task)
        assert one.exit_code == 3
        assert 0 < len(text) < 1 << 20
        lost = 3_000_000 - len(text)
        assert f"{lost} bytes of its output are not in the log" in one.message

    bench.run(scenario)


def test_a_log_goes_on_when_space_returns_and_says_what_is_missing(bench: Bench, small_disk: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        ballast = small_disk / "ballast"
        script = f"""
            head -c 3000000 /dev/zero; rm {ballast}; {WAIT}
            i=0; while [ $i -lt 15 ]; do echo later; sleep 0.1; i=$((i+1)); done
        """
        ballast.write_bytes(b"x" * 500_000)
        task = bench.task("sh", "-c", script)
        (bench.root / "storage" / "go").touch()
        await engine.ensure(task)
        chunks = [chunk async for chunk in engine.logs(task.key)]
        said = [chunk.data.decode() for chunk in chunks if chunk.stream is Stream.PLATFORM]
        assert any("bytes of output are missing here" in line for line in said)
        assert chunks[-1].data == b"later\n"

    bench.run(scenario)


def test_a_full_disk_keeps_nobody_from_stopping_and_removing(bench: Bench, small_root: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        tasks = [bench.task("sh", "-c", f"trap 'exit 6' TERM; {WAIT}", number=n) for n in (1, 2)]
        for task in tasks:
            await engine.ensure(task)
            await engine.logs(task.key).__anext__()
            await until(lambda task=task: b"ready" in (task.directory / "log").read_bytes())
        with (small_root / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(b"x" * 4096)
        await engine.stop(tasks[0].key, 5)
        async for _ in engine.logs(tasks[0].key):
            pass
        assert (await seen(engine, tasks[0])).exit_code == 6  # its space was reserved
        with pytest.raises(Rejected, match="no space"):
            await engine.ensure(bench.task("true", number=3))
        for task in tasks:
            await engine.remove(task.key)
        assert await engine.observe() == {}
        (small_root / "ballast").unlink()

    bench.run(scenario)


# -------------------------------------------------------------------------------------------------- processes


def test_a_process_is_told_from_the_next_one_with_its_pid() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        who = process.identity(child.pid)
        assert who and process.alive(who)
        for other in (who._replace(start="1"), who._replace(boot="another")):
            assert not process.alive(other)
            assert not process.send(other, signal.SIGKILL)
        assert child.poll() is None
        assert process.send(who, signal.SIGKILL)
    assert not process.alive(who)
    assert not process.send(who, signal.SIGKILL)


def test_a_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / ") R 1 (x"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "1000"]) as child:
        assert child.pid in process.descendants(os.getpid())
        assert process.identity(child.pid)
        child.kill()


def test_the_lock_is_seen_without_hindering_its_taker(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert not private.held(directory)
    stop = threading.Event()

    def probe() -> None:
        while not stop.is_set():
            private.held(directory)

    threads = [threading.Thread(target=probe) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        lock = private.take_lock(directory)
        assert lock is not None
        assert private.held(directory)
        assert private.take_lock(directory, patience_s=0) is None
        os.close(lock)
    stop.set()
    for thread in threads:
        thread.join()


def test_a_tree_is_deleted_whatever_its_permissions(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "f").touch()
    (tree / "link").symlink_to(tmp_path)
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0o500)
    attempt.delete_tree(tree)
    attempt.delete_tree(tree)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_open(bench: Bench) -> None:
    async def scenario(engine: LocalEngine) -> None:
        def held() -> int:
            engine.fork_server.make(30)  # its socket is one
            return descriptors.held()

        await output(engine, bench.task("true"))
        before = held()
        for number in range(2, 6):
            task = bench.task("echo", "x", number=number)
            await output(engine, task)
            await engine.stop(task.key, 0)
            await engine.remove(task.key)
            with contextlib.suppress(Exception):
                await engine.ensure(bench.task("x", number=1))
        assert held() <= before

    bench.run(scenario)
