"""Signals one process at its n-th effect (technique T1): the real program, at a point that has a name.

An *effect* is a system call by which a process changes something outside itself: a write, a sync, a name made
or taken away, an answer sent, a process started or signalled. The signal comes on the way *into* the n-th of
them, which therefore does not happen. A sweep over all n is thus in every state that others can see between
two effects.

``strace --inject`` counts per thread and per kind of call, so in a program of many threads most places are
out of its reach. This tracer counts over the whole process. It follows threads (``PTRACE_O_TRACECLONE``) and
no processes: neither ``fork`` nor ``vfork`` is asked for, so a supervisor that a server starts goes on by
itself, as it would if the server alone were killed.

The file is a program too, and runs the tracer. Linux on x86-64 and arm64.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import re
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import FrameType

#: What is counted, by kind.
CALLS = {
    "write": ("write", "pwrite64", "writev", "ftruncate"),
    "sync": ("fsync", "fdatasync", "syncfs"),
    "name": (
        "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat",
        "rmdir", "symlink", "symlinkat",
    ),
    "create": ("open", "openat"),
    "send": ("sendto", "sendmsg", "connect"),
    "process": ("clone", "clone3", "fork", "vfork", "kill", "pidfd_send_signal"),
}  # fmt: skip
ALL = ",".join(CALLS)

#: Put before a command: lets it be traced where only ancestors may. ``HELD`` also stops until somebody sends
#: CONT, so that a tracer sees the program from its first call.
TRACEABLE = (sys.executable, "-I", "-S", __file__, "traceable")
HELD = (sys.executable, "-I", "-S", __file__, "held")

_NUMBERS = {
    "x86_64": {
        "write": 1, "open": 2, "pwrite64": 18, "writev": 20, "connect": 42, "sendto": 44, "sendmsg": 46,
        "clone": 56, "fork": 57, "vfork": 58, "kill": 62, "fsync": 74, "fdatasync": 75, "ftruncate": 77,
        "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87, "symlink": 88, "openat": 257,
        "mkdirat": 258, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "syncfs": 306,
        "renameat2": 316, "pidfd_send_signal": 424, "clone3": 435,
    },
    "aarch64": {
        "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38, "ftruncate": 46,
        "openat": 56, "write": 64, "writev": 66, "pwrite64": 68, "fsync": 82, "fdatasync": 83, "kill": 129,
        "connect": 203, "sendto": 206, "sendmsg": 211, "clone": 220, "syncfs": 267, "renameat2": 276,
        "pidfd_send_signal": 424, "clone3": 435,
    },
}  # fmt: skip
#: Where a call keeps the (directory and) path of what it changes; for two paths, that of the second.
_PATHS = {
    "open": (None, 0), "openat": (0, 1), "rename": (None, 1), "renameat": (2, 3), "renameat2": (2, 3),
    "link": (None, 1), "linkat": (2, 3), "unlink": (None, 0), "unlinkat": (0, 1), "mkdir": (None, 0),
    "mkdirat": (0, 1), "rmdir": (None, 0), "symlink": (None, 1), "symlinkat": (1, 2),
}  # fmt: skip
_ON_DESCRIPTOR = frozenset({*CALLS["write"], *CALLS["sync"], *CALLS["send"]})

_PR_SET_PTRACER = 0x59616D61
_SEIZE, _INTERRUPT, _LISTEN, _SYSCALL, _SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 24, 0x420E
_TRACESYSGOOD, _TRACECLONE = 0x1, 0x8
_EVENT_STOP = 128
_WALL = 0x40000000
_CLONE_THREAD = 0x10000
_AT_FDCWD = 0xFFFFFF9C
_NOISE = re.compile(r"server\.log$|^anon_inode:|^/dev/null$|-shm$")


class Killer:
    """Stands behind one running process, and sends ``signum`` at its ``at``-th effect of the kinds ``calls``
    among those whose site the expression ``where`` finds.

    ``at`` 0: never; then it only takes down what it sees. It is at its post when this object is made.
    """

    def __init__(
        self, pid: int, at: int = 0, calls: str = ALL, where: str = "",
        signum: signal.Signals = signal.SIGKILL,
    ) -> None:  # fmt: skip
        self._tracer = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(pid), calls, str(at), str(int(signum)), where],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._tracer.stdout is not None
        self._out = self._tracer.stdout
        self._unread = b""
        armed = self._line()
        assert armed == b"armed", "this process may not be traced"
        self.sites: list[str] = []
        """What it saw, in order. The last one did not happen if ``fired``."""
        self.fired = False

    def wait_fired(self) -> bool:
        """Blocks until the signal was sent, or until the process has ended without it."""
        self._read(self._line())
        return self.fired

    def poll(self, timeout_s: float) -> bool:
        """Waits so long at most for what ``wait_fired`` waits for. False: it has not come yet."""
        line = self._line(timeout_s)
        self._read(line)
        return line is not None

    def end(self) -> Killer:
        """Lets go of the process, if it still is there, and tells what was seen."""
        if self._tracer.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._tracer.send_signal(signal.SIGTERM)
        while line := self._line():
            self._read(line)
        self._out.close()
        self._tracer.wait()
        return self

    def _line(self, timeout_s: float | None = None) -> bytes | None:
        """What the tracer says next; empty when it says no more, None when it said nothing in time."""
        while b"\n" not in self._unread:
            if not select.select([self._out], [], [], timeout_s)[0]:
                return None
            more = os.read(self._out.fileno(), 1 << 16)
            if not more:
                return b""
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _read(self, line: bytes | None) -> None:
        if line:
            told = json.loads(line)
            self.fired = self.fired or told["fired"]
            self.sites = told["sites"]

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._out.closed:
            self.end()


def place(site: str, root: Path) -> str:
    """The name of a place in the program: a site without what differs from run to run."""
    short = site.replace(f"{root}/", "")
    for pattern, name in (
        (r"\bj[0-9a-z]{12}\b", "JOB"),
        (r"\bin[0-9a-z]{12}\b", "IN"),
        (r"\bu[0-9a-z]{12}\b", "USER"),
        (r"blobs/[0-9a-f]{2}\b", "blobs/XX"),
        (r"[0-9a-f]{64}", "DIGEST"),
        (r"\b[0-9a-f]{8,32}\b", "HEX"),
        (r"(?<=[.-])\d{2,}(\.\d+)?", "N"),
        (r"\[\d+\]", ""),
    ):
        short = re.sub(pattern, name, short)
    return short


class _Tracer:
    def __init__(self, pid: int, calls: str, at: int, signum: int, where: str) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._libc.ptrace.restype = ctypes.c_long
        self._pid = pid
        self._at = at
        self._signum = signum
        self._where = re.compile(where)
        self._count = 0
        numbers = _NUMBERS[platform.machine()]
        wanted = [call for kind in calls.split(",") for call in CALLS[kind]]
        self._wanted = {numbers[call]: call for call in wanted if call in numbers}
        self._info = ctypes.create_string_buffer(88)
        self._sites: list[str] = []
        self._fired = False

    def attach(self) -> None:
        known: set[int] = set()
        # Until a look finds no thread that the look before did not: those seized bring their own new ones.
        while new := {int(tid) for tid in os.listdir(f"/proc/{self._pid}/task")} - known:
            for tid in sorted(new):
                if self._ptrace(_SEIZE, tid, 0, _TRACESYSGOOD | _TRACECLONE) == 0:
                    self._ptrace(_INTERRUPT, tid)
                elif ctypes.get_errno() not in (1, 3) or tid == self._pid:  # it is ours already, or gone
                    raise OSError(ctypes.get_errno(), "ptrace")
            known |= new

    def run(self) -> None:
        """Until the process has ended, or we are told to let go."""
        while True:
            try:
                tid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                if tid == self._pid:
                    return
                continue
            stop, event = os.WSTOPSIG(status), status >> 16
            if stop == signal.SIGTRAP | 0x80:
                self._called(tid)
                self._ptrace(_SYSCALL, tid)
            elif event == _EVENT_STOP and stop in (signal.SIGSTOP, signal.SIGTSTP):
                self._ptrace(_LISTEN, tid)  # it stays stopped until somebody sends CONT
            elif event:
                self._ptrace(_SYSCALL, tid)
            else:
                self._ptrace(_SYSCALL, tid, 0, stop)

    def tell(self) -> None:
        """What was seen so far, in one line; not to be broken by being told to let go."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        line = json.dumps({"fired": self._fired, "sites": self._sites}).encode() + b"\n"
        while line:
            line = line[os.write(1, line) :]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def _called(self, tid: int) -> None:
        size = self._ptrace(_SYSCALL_INFO, tid, len(self._info), ctypes.addressof(self._info))
        if size <= 0 or self._info.raw[0] != 1:  # 1: on the way in
            return
        number, *arguments = struct.unpack_from("<7Q", self._info.raw, 24)
        call = self._wanted.get(number)
        if call is None or (site := self._site(tid, call, arguments)) is None:
            return
        if self._fired:
            return
        self._sites.append(site)
        if not self._where.search(site):
            return
        self._count += 1
        if self._count == self._at:
            self._fired = True
            os.kill(self._pid, self._signum)
            if self._signum != signal.SIGKILL:
                self.tell()

    def _site(self, tid: int, call: str, arguments: list[int]) -> str | None:
        if call in ("open", "openat"):
            if not arguments[1 if call == "open" else 2] & os.O_CREAT:
                return None
        elif call in ("clone", "clone3"):
            flags = arguments[0]
            if call == "clone3":
                flags = int.from_bytes(self._memory(tid, flags, 8), "little")
            return None if flags & _CLONE_THREAD else call
        elif call == "sendto" and arguments[2] == 1:
            return None  # an event loop that wakes itself
        elif call in _ON_DESCRIPTOR:
            where = self._descriptor(tid, arguments[0])
            return None if _NOISE.search(where) else f"{call} {where}"
        elif call not in _PATHS:
            return call
        directory, name = _PATHS[call]
        path = self._memory(tid, arguments[name], 4096).split(b"\0")[0].decode(errors="replace")
        if not path.startswith("/"):
            fd = _AT_FDCWD if directory is None else arguments[directory] & 0xFFFFFFFF
            base = os.readlink(f"/proc/{tid}/cwd") if fd == _AT_FDCWD else self._descriptor(tid, fd)
            path = f"{base}/{path}"
        return None if _NOISE.search(path) else f"{call} {path}"

    @staticmethod
    def _descriptor(tid: int, fd: int) -> str:
        try:
            return os.readlink(f"/proc/{tid}/fd/{fd & 0xFFFFFFFF}")
        except OSError:
            return "?"

    @staticmethod
    def _memory(tid: int, address: int, size: int) -> bytes:
        """What stands there, as far as the page goes at least."""
        try:
            with open(f"/proc/{tid}/mem", "rb", buffering=0) as file:
                file.seek(address)
                part = file.read(min(size, 4096 - address % 4096))
                return part if b"\0" in part or len(part) == size else part + file.read(size - len(part))
        except (OSError, ValueError):
            return b"?\0"

    def _ptrace(self, request: int, tid: int, address: int = 0, data: int = 0) -> int:
        return int(self._libc.ptrace(request, tid, address, data))


def _become(program: list[str], held: bool) -> None:
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    if held:
        os.kill(os.getpid(), signal.SIGSTOP)
    os.execvp(program[0], program)


def _main() -> None:
    if sys.argv[1] in ("traceable", "held"):
        _become(sys.argv[2:], sys.argv[1] == "held")
    pid, calls, at, signum, where = sys.argv[1:]
    tracer = _Tracer(int(pid), calls, int(at), int(signum), where)

    def let_go(_signum: int, _frame: FrameType | None) -> None:
        tracer.tell()
        os._exit(0)  # whose tracer ends goes on untraced

    signal.signal(signal.SIGTERM, let_go)
    tracer.attach()
    os.write(1, b"armed\n")
    tracer.run()
    tracer.tell()


if __name__ == "__main__":
    _main()
