"""Stands beside one task's command from its start to its end.

Run as ``python -I -S supervisor.py run <descriptor>``. As soon as it is up it says on the descriptor who it
is, then waits for its job, as JSON on stdin. When that ends without one, so does it, and has touched nothing.
Run with ``serve`` it forks such supervisors for whoever has the other end of the descriptor, a socket
(``forkserver``).
It belongs to no one: a session of its own, not a child of the server, which may end, crash or be upgraded
meanwhile. It takes the task's lock (holding it *is* being alive), marks the start on disk before starting, so
that nothing is ever started twice, copies both output streams into the framed log, ends the whole process
tree when asked to, and writes down how it ended. What came on stdin is never written to disk: the
environment may hold secrets. Those it is told of are masked in whatever it writes.

Standard library only, as are the modules of ours that it imports, all of them before the start: a later
upgrade of the package does not change a running supervisor, and the interpreter starts without looking at
site-packages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from types import FrameType, ModuleType
from typing import Any, NoReturn

if __name__ == "__main__":
    # Empty packages in the place of ours: their modules are found by path, and none of the ``__init__`` runs,
    # nor is anything else found there.
    _here = os.path.dirname(os.path.abspath(__file__))
    for _name, _up in (("", "../.."), (".engines", ".."), (".engines.local", ".")):
        _package = ModuleType("gradient_jupyter" + _name)
        _package.__path__ = [os.path.join(_here, _up)]
        sys.modules[_package.__name__] = _package

from gradient_jupyter.engines import framedlog
from gradient_jupyter.engines.local import command, endings, journal, kept, masking, private, process
from gradient_jupyter.engines.local.endings import Ending
from gradient_jupyter.engines.local.tree import LEFTOVER_GRACE_S, Tree

READ = 1 << 16
STOP_POLL_S = 1.0
"""A stop request is announced by a signal; this is how long it takes when the signal is lost."""
TICK_S = 0.1
SIGNALLED_GRACE_S = 10.0
_NICE = 5
_OOM_SCORE = "300"


class World:
    """What came on stdin. ``prefix`` is put before the command: bubblewrap, or nothing."""

    def __init__(self, job: dict[str, Any], tell: int, wake: int) -> None:
        self.directory: str = job["directory"]
        """The task's private one."""
        self.key: str = job["key"]
        self.command: list[str] = job["command"]
        self.env: dict[str, str] = job["env"]
        self.log: str = job["log"]
        self.cwd: str = job["cwd"]
        """On the host."""
        self.prefix: list[str] = job["prefix"]
        self.view = command.View([(a, b) for a, b in job["mounts"]], job["inside"])
        self.notices: list[str] = job["notices"]
        self.max_duration_s: float | None = job.get("max_duration_s")
        self.open_files: int = job["open_files"]
        """The soft limit of descriptors the command gets; 0: ours."""
        self.secrets = masking.Patterns(job.get("secrets", ()))
        """What may not be seen in anything that is written."""
        self.tell = tell
        """Where the engine waits for a word of how far we are, or for the pipe's end."""
        self.wake = wake
        """Where signals arrive as bytes."""


class Run:
    """One started command, until nothing of it is left."""

    def __init__(self, world: World, directory: str, log: journal.Journal, hints: journal.Hints) -> None:
        self._world = world
        self._directory = directory
        self._log = log
        self._hints = hints
        self._streams: dict[int, int] = {}
        self._cut: dict[int, bytes] = {}
        """The beginning of a character, by stream, whose rest has not been read yet."""
        self._masking = {
            stream: masking.Masking(world.secrets) for stream in (journal.STDOUT, journal.STDERR)
        }
        self._poll = select.poll()
        self._status_fd = -1
        self._status = b""
        self._errors = b""
        self._wake = world.wake
        self._poll.register(self._wake, select.POLLIN)
        self._wait_status: int | None = None
        self._ended_at = 0.0
        self._childless = False
        self.stopped = False
        self._overdue = False
        """It was ended because it ran longer than it may."""
        self._stop_seen = ""
        self._ooms = endings.oom_kills()

    def start(self, found: command.Command, started_us: int) -> None:
        """Forks and executes. Raises ``OSError`` when the very first ``exec`` fails."""
        world = self._world
        argv = ["/bin/sh", found.path, *world.command[1:]] if found.shell else world.command
        if world.prefix:
            program, argv = world.prefix[0], [*world.prefix, *argv]
        else:
            program = "/bin/sh" if found.shell else found.path
        out_r, out_w = _pipe()
        err_r, err_w = _pipe()
        failed_r, failed_w = os.pipe()
        status_r, status_w = _pipe() if world.prefix else (-1, -1)
        self.started_us = started_us
        self._started_at = time.monotonic()
        limit_s = world.max_duration_s
        self._limit_at = None if limit_s is None else self._started_at + limit_s
        self._myself = os.getpid()
        self._main = os.fork()
        if not self._main:
            self._become(program, argv, (out_w, err_w, status_w), failed_w)
        self._tree = Tree(self._main, bool(world.prefix))
        for fd in (out_w, err_w, failed_w, status_w):
            if fd >= 0:
                os.close(fd)
        for fd, stream in ((out_r, journal.STDOUT), (err_r, journal.STDERR)):
            self._streams[fd] = stream
            self._poll.register(fd, select.POLLIN)
        if status_r >= 0:
            self._status_fd = status_r
            self._poll.register(status_r, select.POLLIN)
        problem = os.read(failed_r, 16)
        os.close(failed_r)
        if problem:
            os.waitpid(self._main, 0)
            raise OSError(int(problem), os.strerror(int(problem)))

    def _become(self, program: str, argv: list[str], fds: tuple[int, int, int], failed: int) -> NoReturn:
        """In the child: from here on nothing but system calls and ``exec``."""
        try:
            os.setsid()
            process.die_with(self._myself)
            for signum in range(1, signal.NSIG):
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            null = os.open("/dev/null", os.O_RDONLY)
            failed = fcntl.fcntl(failed, fcntl.F_DUPFD_CLOEXEC, 10)
            status = fcntl.fcntl(fds[2], fcntl.F_DUPFD_CLOEXEC, 10) if fds[2] >= 0 else -1
            for fd, number in ((null, 0), (fds[0], 1), (fds[1], 2)):
                os.dup2(fd, number)
            if status >= 0:
                os.dup2(status, private.STATUS_FD)
            os.umask(0o022)
            with contextlib.suppress(OSError):
                resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            if self._world.open_files:
                with contextlib.suppress(OSError, ValueError):
                    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                    resource.setrlimit(resource.RLIMIT_NOFILE, (self._world.open_files, hard))
            with contextlib.suppress(OSError):
                os.nice(_NICE)
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
                file.write(_OOM_SCORE)  # short of memory, the job dies before its supervisor
            os.chdir("/" if self._world.prefix else self._world.cwd)
            os.execve(program, argv, self._world.env)
        except OSError as error:
            os.write(failed, str(error.errno or errno.EIO).encode())
        except BaseException:
            os.write(failed, str(errno.EIO).encode())
        os._exit(127)

    def wait(self) -> Ending:
        next_stop = 0.0
        next_tick = 0.0
        while True:
            now = time.monotonic()
            if now >= next_stop:
                self.look_for_stop()
                next_stop = now + STOP_POLL_S
                self._reap()
            if self._wait_status is not None and self._childless:
                if not process.LINUX:
                    self._tree.kill_group()
                self._drain()
                return self._ending()
            if self._tree.deadline is not None and now >= next_tick:
                self._tree.press()
                self._reap()
                next_tick = now + (TICK_S if now < self._tree.deadline else TICK_S / 5)
            if self._is_overdue(now):
                self._overdue = True
                self._tree.end_by(now + SIGNALLED_GRACE_S)
                continue
            until = next_stop if self._tree.deadline is None else min(next_stop, next_tick)
            if self._limit_at is not None and not self._overdue:
                until = min(until, max(self._limit_at, now))
            timeout = max(0.0, until - time.monotonic())
            if self._hints.waiting:
                timeout = min(timeout, self._hints.every_s)
            events = self._poll.poll(timeout * 1000 + 0.5)
            for fd, _ in events:
                if fd == self._wake:
                    self._on_signals()
                    next_stop = 0.0
                elif fd == self._status_fd:
                    self._read_status()
                else:
                    self._copy(fd)
            self._hints.flush()

    def _is_overdue(self, now: float) -> bool:
        """Whether the command has run as long as it may. A person who stopped it meanwhile was first."""
        late = self._limit_at is not None and now >= self._limit_at
        return late and not (self._overdue or self.stopped or self._wait_status is not None)

    def _copy(self, fd: int) -> bool:
        try:
            data = os.read(fd, READ)
        except BlockingIOError:
            return False
        stream = self._streams[fd]
        if not data:
            self._poll.unregister(fd)
            del self._streams[fd]
            os.close(fd)
            self._write(stream, b"", end=True)
            return False
        self._write(stream, data)
        return True

    def _write(self, stream: int, data: bytes, end: bool = False) -> None:
        """To the log, without secrets, in frames that end between characters: a read may have cut one in
        two."""
        data = self._masking[stream].feed(data)
        if end:
            data += self._masking[stream].end()
        if self._status_fd >= 0 and stream == journal.STDERR:
            self._errors = (self._errors + data)[-1024:]
        data = self._cut.pop(stream, b"") + data
        whole = len(data) if end else framedlog.whole_characters(data)
        if whole < len(data):
            self._cut[stream] = data[whole:]
        if whole:
            self._log.append(stream, data[:whole])

    def _drain(self) -> None:
        """What still stands in the pipes. Bounded, for whoever else may hold them and go on writing."""
        until = time.monotonic() + 1.0
        for fd in list(self._streams):
            while time.monotonic() < until and self._copy(fd):
                pass
        for stream in self._masking:
            self._write(stream, b"", end=True)
        if self._status_fd >= 0:
            self._read_status()

    def _read_status(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._status_fd, READ)
            self._status += data
            if not data:
                self._poll.unregister(self._status_fd)
                os.close(self._status_fd)
                self._status_fd = -1

    def _on_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._wake, READ)
            for number in numbers:
                if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    self._stop(SIGNALLED_GRACE_S)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            self._childless = False
            if not pid:
                return
            if pid == self._main:
                self._wait_status = status
                self._ended_at = time.monotonic()
                self._tree.main_ended()
                if not self.stopped:
                    self._tree.end_by(self._ended_at + LEFTOVER_GRACE_S)

    def look_for_stop(self) -> None:
        request = private.read(self._directory, private.STOP)
        if request is None or request.get("id") == self._stop_seen:
            return
        self._stop_seen = str(request.get("id"))
        self._stop(float(request.get("grace_s", SIGNALLED_GRACE_S)))

    def _stop(self, grace_s: float) -> None:
        if self._wait_status is None:
            self.stopped = True
        self._tree.end_by(time.monotonic() + grace_s)

    def _ending(self) -> Ending:
        assert self._wait_status is not None
        exit_code = os.waitstatus_to_exitcode(self._wait_status)
        by_signal = exit_code < 0
        exit_code = 128 - exit_code if by_signal else exit_code
        if self._world.prefix:
            reported = endings.reported(self._status)
            if reported is None and not by_signal and not self.stopped:
                return self._finish(endings.world_failed(self._errors))
            exit_code = exit_code if reported is None else reported
        if self._overdue:
            assert self._world.max_duration_s is not None
            return self._finish(endings.overdue(self._world.max_duration_s, killed=self._tree.killed))
        oom = endings.oom_kills() > self._ooms
        return self._finish(
            endings.exited(exit_code, overdue=self._tree.killed, stopped=self.stopped, oom=oom)
        )

    def _finish(self, ending: Ending) -> Ending:
        ending.stopped = self.stopped
        ending.duration_s = self._ended_at - self._started_at
        # So that it lasted as long as it did, whoever set the clock meanwhile.
        ending.started_us = self.started_us
        ending.ended_us = self.started_us + round(ending.duration_s * 1e6)
        return ending

    def kill(self) -> None:
        """Ends everything at once; for when we ourselves have failed."""
        for _ in range(100):
            family = process.descendants(os.getpid())
            if not family:
                return
            for pid in family:
                process.signal_pid(pid, signal.SIGKILL)
            time.sleep(0.02)


def _pipe() -> tuple[int, int]:
    """Our end, the first, does not block; the other end is an ordinary pipe."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    return read, write


def supervise(directory: str, world: World) -> None:
    """Everything between taking the lock and writing ``exit.json``."""
    lock = private.take_lock(directory)
    if lock is None:
        return  # another supervisor of this task lives
    try:
        _supervise(directory, world)
    finally:
        os.close(lock)  # before we exit, so that whoever waits for our end finds it free


def _supervise(directory: str, world: World) -> None:
    me = process.identity(os.getpid())
    if private.exists(directory, private.EXIT) or private.exists(directory, private.STARTED):
        return
    hints = journal.Hints(os.path.dirname(directory), private.SOCKET, world.key)
    try:
        private.write(directory, private.PID, me._asdict() if me else {}, durable=False)
        hints.state()
        private.reserve_exit(directory)
        ending = _run(directory, world, hints)
    except Exception as error:
        no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        ending = Ending(None, "no-space" if no_space else "world", f"It could not be run: {error}.")
        _write_down_trouble(directory, world.secrets)
    ending.message = world.secrets.text(ending.message)
    _write_exit(directory, ending)
    hints.state(patience_s=0.5)  # nobody would look for our end before the next relist


def _write_down_trouble(directory: str, secrets: masking.Patterns) -> None:
    import traceback  # costs milliseconds, and is hardly ever needed

    with contextlib.suppress(OSError), open(os.path.join(directory, private.TROUBLE), "w") as file:
        file.write(secrets.text(traceback.format_exc()))


def _run(directory: str, world: World, hints: journal.Hints) -> Ending:
    log = journal.Journal(framedlog.Writer(world.log), hints, world.secrets.text)
    try:
        ending = _start_and_wait(directory, world, hints, log)
    finally:
        trouble = log.close()
    left = kept.sync(os.path.join(os.path.dirname(world.log), "artifacts"))
    ending.message = " ".join(part for part in (ending.message, trouble, left) if part)
    return ending


def _start_and_wait(directory: str, world: World, hints: journal.Hints, log: journal.Journal) -> Ending:
    for notice in world.notices:
        log.say(notice)
    try:
        found = command.find(world.command[0], world.env.get("PATH"), world.view)
    except command.Unusable as problem:
        return _unusable(problem, log)
    if private.exists(directory, private.STOP):
        ending = Ending(None, "never-started", "It was stopped before it was started.")
        ending.stopped = True
        return ending
    run = Run(world, directory, log, hints)
    started_us = endings.now_us()
    private.mark_started(directory, started_us)
    try:
        run.start(found, started_us)
    except OSError as error:
        if world.prefix and error.errno != errno.E2BIG:
            return Ending(None, "world", f"bubblewrap could not be run: {error.strerror}.")
        code = command.NOT_FOUND if error.errno == errno.ENOENT else command.NOT_EXECUTABLE
        return _unusable(command.Unusable(code, f"{world.command[0]}: {error.strerror}."), log)
    try:
        log.start_syncing()
        hints.state()
        _say(world.tell, b"started\n")
        os.close(world.tell)
        return run.wait()
    except BaseException:
        run.kill()
        raise


def _unusable(problem: command.Unusable, log: journal.Journal) -> Ending:
    log.say(str(problem))
    return endings.unusable(problem)


def _write_exit(directory: str, ending: Ending) -> None:
    """Until it is written: a full disk becomes free one day, and the lock says meanwhile that we live."""
    while True:
        try:
            private.write_exit(directory, vars(ending))
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(STOP_POLL_S)


def _say(fd: int, word: bytes) -> None:
    with contextlib.suppress(OSError):  # the engine may be gone, or wait no longer
        os.write(fd, word)


def _noted(signum: int, frame: FrameType | None) -> None:
    """The wake-up descriptor does the work."""


def serve(control: socket.socket) -> tuple[int, int]:
    """Forks for every pair of descriptors that comes: whence a job, where to tell. Returns in the child."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that were forked
    gc.freeze()  # so that a child's collections do not copy what it shares with us
    with contextlib.suppress(OSError):
        control.sendall(_who_we_are())
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            os._exit(0)
        with contextlib.suppress(OSError):  # no process to be had: the engine sees both ends closed
            if len(fds) == 2 and not os.fork():
                control.close()
                os.setsid()
                return fds[0], fds[1]
        for fd in fds:
            os.close(fd)


def _who_we_are() -> bytes:
    me = process.identity(os.getpid())
    return json.dumps(me._asdict() if me else {}).encode() + b"\n"


def main() -> None:
    mode, fd = sys.argv[1], int(sys.argv[2])
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    with contextlib.suppress(OSError, ValueError):  # our memory is to hold secrets: no dump of it
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    source, tell = serve(socket.socket(fileno=fd)) if mode == "serve" else (0, fd)
    os.set_inheritable(tell, False)
    _say(tell, _who_we_are())
    try:
        with open(source, "rb", closefd=source > 2) as job:
            given = json.load(job)
        wake, noise = _pipe()
        world = World(given, tell, wake)
    except (ValueError, KeyError):
        # Nobody needs us; or the engine was killed while it wrote, and it, or its successor, asks again.
        os._exit(2)
    # From here on we are somebody's. Until here a signal has ended us as it does any other process.
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(signum, _noted)
    os.set_blocking(noise, False)
    signal.set_wakeup_fd(noise, warn_on_full_buffer=False)
    process.become_subreaper()
    _say(tell, b"taken\n")
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    supervise(world.directory, world)
    os._exit(0)


if __name__ == "__main__":
    main()
