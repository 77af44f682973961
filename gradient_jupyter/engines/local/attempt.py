"""One task as this host knows it: its private directory, and what is done to it. Everything here blocks.

No state is kept in memory. Each call looks at the files and the lock (``private`` says what they mean), so
that a new server knows as much as the one that was killed a moment ago, and a call that was cut off anywhere
can be made again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import select
import shutil
import signal
import stat
import time
from pathlib import Path

import msgspec

from gradient_jupyter.engines.base import Conflict, Materialise, Observation, Phase, Unreachable
from gradient_jupyter.engines.local import private, process
from gradient_jupyter.engines.local.forkserver import Supervisor
from gradient_jupyter.engines.local.world import MARKER, World
from gradient_jupyter.resources.decoding import convert

NEW, TRASH, PROBE = ".new-", ".trash-", ".probe-"
"""Beginnings of names in the root that are no tasks; what a killed server left under them may go."""

SCRATCH = ("home", "tmp")
_READY_S = 30.0
"""For a supervisor to come up; on a starved host it takes long, and then ``ensure`` is simply asked again."""
PATIENCE_S = 10.0
"""For a supervisor that lives to do what it was asked to; after that it is killed with its task."""
_KILL_S = 10.0


class Attempt:
    """The task of one key. It need not exist."""

    def __init__(self, root: Path, key: str) -> None:
        self.key = key
        self._root = root
        self.path = root / key
        self._dir = str(self.path)

    def create(self, install: str, spec_hash: str, directory: Path) -> None:
        """Makes the private directory, whole or not at all. Raises ``Conflict`` when it is another task's."""
        spec = {
            "key": self.key,
            "install": install,
            "spec_hash": spec_hash,
            "directory": str(directory),
            "mark": secrets.token_hex(16),
        }
        if not self.path.is_dir():
            new = self._root / f"{NEW}{secrets.token_hex(8)}"
            new.mkdir(mode=0o700)
            try:
                # Here, where a full disk can still refuse the task: its supervisor could only wait for room.
                private.reserve_exit(str(new))
                private.write(str(new), private.SPEC, spec)
                new.rename(self.path)  # lost in a power loss unless a start was marked, which is as well
            except FileExistsError:
                delete_tree(new)
            except OSError:
                delete_tree(new)
                if not self.path.is_dir():
                    raise
        there = private.read(self._dir, private.SPEC)
        if there is None or there.get("spec_hash") != spec_hash:
            raise Conflict(f"The key {self.key} is taken by a task with another spec.")

    def spec(self) -> dict[str, str] | None:
        return private.read(self._dir, private.SPEC)

    def mark(self) -> str:
        """What its processes bear in their environment."""
        return (self.spec() or {}).get("mark") or self.key

    def look(self) -> Observation | None:
        """What is true of it now; None when it is absent."""
        spec = self.spec()
        if spec is None:
            return None
        # The order matters. A supervisor takes the lock before it marks the start, and gives it up after it
        # has written the end; so "started, not alive, not ended" is only true when read in this order.
        started = private.read(self._dir, private.STARTED)
        marked = started is not None or private.exists(self._dir, private.STARTED)
        alive = private.held(self._dir)
        ended = private.read(self._dir, private.EXIT)
        seen = Observation(
            key=self.key,
            phase=Phase.PENDING,
            spec_hash=spec.get("spec_hash", ""),
            started_us=started.get("started_us") if started else None,
            node=platform.node(),
        )
        if ended is not None:
            return _ended(seen, ended)
        if alive:
            marked = marked or private.exists(self._dir, private.STARTED)
            return msgspec.structs.replace(seen, phase=Phase.RUNNING if marked else Phase.STARTING)
        if marked:
            return msgspec.structs.replace(seen, phase=Phase.LOST, code="lost", message=self._how_lost())
        return seen

    def _how_lost(self) -> str:
        if private.exists(self._dir, private.EXIT):
            return "What was written down of its end is damaged, so nobody knows how it ended."
        who = self._supervisor()
        if who and who.boot != process.boot_id():
            return "The machine was restarted while it ran."
        return "Its supervisor was killed while it ran, so nobody knows how it ended."

    def unpack(self, materialise: Materialise, snapshot: str, directory: Path) -> None:
        """Puts the workspace there and makes the other directories. Raises ``OSError``."""
        workspace = directory / "workspace"
        boot = process.boot_id()
        done = private.read(self._dir, private.UNPACKED)
        # A workspace of an earlier boot may have lost what was not yet on disk, and nothing has run in it.
        if done is None or done.get("boot") != boot or not workspace.is_dir():
            _delete_workspaces(directory)
            new = directory / f"workspace.{secrets.token_hex(4)}"
            try:
                materialise(snapshot, new)
                new.rename(workspace)
            except BaseException:
                delete_tree(new)
                raise
            private.write(self._dir, private.UNPACKED, {"boot": boot}, durable=False)
        for name in ("artifacts", "home", "tmp"):
            (directory / name).mkdir(mode=0o755, exist_ok=True)

    def spawn(self, world: World, log: Path, supervisor: Supervisor) -> bool:
        """Has the command started by ``supervisor``, or by a new process if that was forked and does not
        answer. Returns when the command is started, or will never be: whether ``supervisor`` took it on.

        Raises ``Unreachable`` when no supervisor came up.
        """
        fields = {"directory": self._dir, "key": self.key, "log": str(log), **msgspec.to_builtins(world)}
        job = json.dumps(fields).encode()
        taken = supervisor.run(job, _READY_S)
        if not taken and supervisor.forked:
            with Supervisor.make() as another:
                another.run(job, _READY_S)
        seen = self.look()
        if seen and seen.phase is Phase.PENDING:
            raise Unreachable(f"The supervisor of {self.key} did not come up; it is worth asking again.")
        return taken

    def ask_to_stop(self, grace_s: float, patience_s: float = PATIENCE_S) -> None:
        """Leaves the request and knocks; ends a task that has no supervisor and was never started.

        Asked again when the grace of an earlier request and then ``patience_s`` have passed, it waits no more
        for a supervisor that does not answer (paused, or stuck on its disk): it is killed with its task.
        """
        seen = self.look()
        if seen is None or seen.phase in (Phase.SUCCEEDED, Phase.FAILED):
            return
        if seen.phase is Phase.LOST:
            self.kill_leftovers()
            return
        now, grace_s = time.monotonic(), max(0.0, grace_s)
        due_s = now + grace_s
        if (earlier := private.read(self._dir, private.STOP)) and earlier.get("boot") == process.boot_id():
            due_s = min(due_s, float(earlier.get("due_s", due_s)))
        if now >= due_s + patience_s:
            self._put_down()
            self._end_unborn()
            return
        request = {
            "grace_s": grace_s, "id": secrets.token_hex(8), "due_s": due_s, "boot": process.boot_id(),
        }  # fmt: skip
        knock = signal.SIGUSR1
        try:
            private.write(self._dir, private.STOP, request, durable=False)
        except OSError as error:
            if not no_space(error):
                raise
            knock = signal.SIGTERM  # a full disk must not keep anybody from stopping; the grace is its own
        who = self._supervisor()
        if who and process.send(who, knock):
            return
        self._end_unborn()

    def _end_unborn(self) -> None:
        """With the lock in our hands no supervisor starts anything; one that comes later finds the end."""
        lock = private.take_lock(self._dir, patience_s=0.05)
        if lock is None:
            return  # a supervisor is just coming up; it looks for the request
        try:
            if not private.exists(self._dir, private.EXIT) and not private.exists(self._dir, private.STARTED):
                ending = {
                    "exit_code": None,
                    "code": "never-started",
                    "message": "It was stopped before it was started.",
                    "stopped": True,
                    "ended_us": time.time_ns() // 1000,
                }
                private.write_exit(self._dir, ending)
        finally:
            os.close(lock)

    def _put_down(self) -> None:
        """Kills the supervisor, if one lives. Its children first: it leads to them."""
        if private.held(self._dir) and (who := self._supervisor()):
            for pid in process.descendants(who.pid):
                process.signal_pid(pid, signal.SIGKILL)
            process.send(who, signal.SIGKILL)
            self._wait_for_supervisor(time.monotonic() + _KILL_S)

    def remove(self, patience_s: float = PATIENCE_S) -> None:
        """Raises ``Unreachable`` when a process of it cannot be killed (yet)."""
        spec = self.spec()
        if spec is None:
            if self.path.is_dir():
                self._forget()
            return
        with contextlib.suppress(OSError):  # a full disk is no reason to keep what fills it
            self.ask_to_stop(0)
        until = time.monotonic() + patience_s
        while private.held(self._dir) and time.monotonic() < until:
            self._wait_for_supervisor(until)
        self._put_down()
        self.kill_leftovers()
        directory = Path(spec["directory"])
        lock = private.take_lock(self._dir)  # so that no supervisor that is still coming up starts anything
        if lock is None:
            raise Unreachable(f"{self.key} is just being started, or its supervisor cannot be killed yet.")
        try:
            _delete_workspaces(directory)
            for name in SCRATCH:
                delete_tree(directory / name)
            self._forget()
        finally:
            os.close(lock)

    def _forget(self) -> None:
        trash = self._root / f"{TRASH}{secrets.token_hex(8)}"
        self.path.rename(trash)
        delete_tree(trash)

    def kill_leftovers(self) -> None:
        """Every process that bears this task's mark, until none is left.

        One that is just being made or ended may bear no mark for a moment. Where a supervisor was killed in
        the middle, "none" is therefore believed when it is seen twice.
        """
        until = time.monotonic() + _KILL_S
        mark = self.mark()
        orphaned = not private.exists(self._dir, private.EXIT)
        while True:
            found = process.marked(MARKER, mark)
            if not found:
                if not orphaned:
                    return
                orphaned = False
                time.sleep(0.02)
                continue
            if time.monotonic() > until:
                pids = ", ".join(str(who.pid) for who in found)
                raise Unreachable(f"Processes of {self.key} cannot be killed yet: {pids}.")
            for who in found:
                process.send(who, signal.SIGKILL)
            time.sleep(0.01)

    def _supervisor(self) -> process.Identity | None:
        value = private.read(self._dir, private.PID)
        with contextlib.suppress(TypeError):
            return process.Identity(**value) if value else None
        return None

    def supervisor(self) -> process.Identity | None:
        """Who stands beside its command, if it runs."""
        who = self._supervisor() if private.held(self._dir) else None
        return who if who and process.alive(who) else None

    def _wait_for_supervisor(self, until: float) -> None:
        who = self._supervisor()
        fd = -1
        with contextlib.suppress(OSError, AttributeError):
            fd = os.pidfd_open(who.pid) if who and process.alive(who) else -1
        if fd < 0:
            time.sleep(0.02)
            return
        try:
            _wait_readable(fd, max(0.0, until - time.monotonic()))
        finally:
            os.close(fd)


def no_space(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _ended(seen: Observation, ended: dict[str, object]) -> Observation:
    wanted = ("exit_code", "code", "message", "stopped", "started_us", "ended_us")
    fields = {name: ended[name] for name in wanted if ended.get(name) is not None}
    phase = Phase.SUCCEEDED if ended.get("exit_code") == 0 else Phase.FAILED
    whole = {**msgspec.structs.asdict(seen), **fields, "phase": phase}
    return convert(whole, Observation)


def _wait_readable(fd: int, timeout_s: float) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(timeout_s * 1000)


def _delete_workspaces(directory: Path) -> None:
    """The workspace, and halves of one that a killed server left."""
    for path in directory.glob("workspace*"):
        if path.name == "workspace" or path.name.startswith("workspace."):
            delete_tree(path)


def delete_tree(path: Path) -> None:
    """All of it, also where a task took its own directories' permissions away. Absent is fine."""
    try:
        # Most often it is empty, and then one call is all it takes.
        os.rmdir(path)  # noqa: PTH106
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except (PermissionError, NotADirectoryError):
        for place, _, _ in os.walk(path):
            _allow(place)
            for entry in os.scandir(place):
                if entry.is_dir(follow_symlinks=False):
                    _allow(entry.path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _allow(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.chmod(directory, stat.S_IRWXU)  # noqa: PTH101
