"""The contract between the control plane and whatever runs its tasks.

A *task* is one process or container: one attempt of one job. Its ``key`` is deterministic, so asking
twice for the same task is asking once. What holds for every engine, and is proven for each by the
suite in ``tests/engines``:

1. An engine never retries. The control plane makes the next attempt under a new key.
2. ``ensure`` creates by key; what is there with the same spec hash is adopted, else ``Conflict``.
3. A command is started at most once per key, whatever is killed and whenever.
4. ``Unreachable`` says nothing about the tasks. ``stop`` and ``remove`` of what is gone succeed.
5. Nothing is removed by itself: exit code, reason, log and artifacts wait until ``remove``.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from gradient_jupyter.resources.job import HostEnvironment
from gradient_jupyter.resources.machine_type import Gpu

#: What the control plane hands an engine to unpack a snapshot: ``(snapshot id, absent directory)``.
#: It blocks; an engine calls it on a thread. It raises ``OSError`` when the disk is full. What it made is
#: whole for as long as the machine runs; after a power loss anything may be left of it, and it is made anew.
Materialise = Callable[[str, Path], None]


class Phase(enum.StrEnum):
    """What an engine sees. A key it does not know at all is *absent*: it has no observation."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """It was started and is gone, and nobody wrote down how it ended."""

    @property
    def ended(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.LOST)


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the task may use. ``gpus`` are UUIDs; empty means none."""

    cpus: float
    memory_bytes: int
    gpus: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, as an engine is asked to run it."""

    key: str
    """``<install>-<kind>-<id>-<attempt>-<rank>``: letters, digits and ``-``."""
    command: tuple[str, ...]
    env: dict[str, str]
    """The user's and the platform's variables. The engine adds those that depend on its paths."""
    snapshot: str
    directory: Path
    """The attempt's directory on the server's disk; it exists. ``log`` (a framed log, see
    ``framedlog``) and ``artifacts/`` stand there in the end; an engine on the same host writes them in place
    and may keep ``workspace/``, ``home/`` and ``tmp/`` beside them until ``remove``."""
    storage: Path
    """The owner's persistent storage on the server's disk; it exists."""
    datasets: Path
    """Read-only data on the server's disk; it exists."""
    resources: Resources
    labels: dict[str, str]
    """owner, job, attempt: for people who look at the engine itself."""
    host: HostEnvironment | None = None
    image: str | None = None
    max_duration_s: float | None = None
    """How long the command may run, by a clock that nobody sets; then it is stopped. The engine's side keeps
    to it without being asked again."""
    private: dict[str, str] = msgspec.field(default_factory=dict)
    """Variables that are the task's but no part of what was asked for: they may differ the next time the same
    task is ensured (an address), and are written nowhere (a token)."""

    def spec_hash(self) -> str:
        """Identifies what was asked for. Two tasks of one key must agree on it."""
        asked = msgspec.structs.replace(self, private={})
        return hashlib.sha256(msgspec.json.encode(asked, enc_hook=str, order="deterministic")).hexdigest()


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine sees of one task."""

    key: str
    phase: Phase
    spec_hash: str
    exit_code: int | None = None
    """Of the command; ``128 + n`` when signal n ended it. None before the end, and when lost."""
    code: str = ""
    """Why, for programs: ``exited command-not-found not-executable killed out-of-memory max-duration
    never-started world no-space lost``. A command that ran too long has the exit code 124."""
    message: str = ""
    """Why, in one sentence, where the code alone does not say it."""
    stopped: bool = False
    """It ended because ``stop`` was called."""
    started_us: int | None = None
    ended_us: int | None = None
    node: str = ""


class GpuUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU now. None: it does not say (a part of a GPU, or an old driver)."""

    uuid: str
    utilization: float | None = None
    """Per cent of the last moments in which a kernel ran."""
    memory_utilization: float | None = None
    """Per cent of the last moments in which its memory was read or written."""
    memory_used: float | None = None
    """Bytes."""
    memory_free: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a task uses."""

    cpu_s: float
    """Seconds of CPU that its processes have used since its start, those that have ended included."""
    memory_bytes: int
    """Resident now; what processes share is counted once, where the system tells."""
    gpus: tuple[GpuUsage, ...] = ()


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of the engine's and what it has in all."""

    name: str
    up: bool
    cpus: float
    memory_bytes: int
    gpus: tuple[Gpu, ...] = ()


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    writes_in_place: bool
    """Log and artifacts are written to the task's directory by the task itself, not fetched by us."""
    isolation: str
    """How a task's world is made, in one sentence for people."""
    contained: bool = True
    """Whether a task has paths of its own."""
    host_network: bool = True
    """What a task listens on is a port of the server's own machine."""


class Stream(enum.IntEnum):
    """Whose words a piece of a log is."""

    STDOUT = 1
    STDERR = 2
    PLATFORM = 3


class LogChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of one stream. ``offset`` counts the log's decoded bytes before it."""

    offset: int
    time_us: int
    stream: Stream
    data: bytes


class HintKind(enum.StrEnum):
    STATE = "state"
    LOG = "log"


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """Something about this task may have changed. Hints may be lost, doubled or wrong."""

    key: str
    kind: HintKind


class EngineError(Exception):
    """The root of what an engine raises."""


class Unreachable(EngineError):
    """No answer: nothing is known, nothing may be concluded."""


class Conflict(EngineError):
    """The key is taken by a task with another spec."""


class Rejected(EngineError):
    """This task can never run here. ``code`` as in ``Observation.code``; the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Engine(Protocol):
    async def start(self) -> None:
        """Makes it ready to be called; finds out what this system allows."""

    async def close(self) -> None:
        """Lets go of what this process holds. Tasks go on."""

    def capabilities(self) -> Capabilities: ...

    async def nodes(self) -> tuple[Node, ...]: ...

    async def ensure(self, task: Task) -> None:
        """Returns when the task is started or was there already. Raises Conflict, Rejected, Unreachable."""

    async def observe(self, keys: Iterable[str] | None = None) -> dict[str, Observation]:
        """What is there; absent keys are missing from the answer. None: everything of ours."""

    async def usage(self, keys: Mapping[str, tuple[str, ...]]) -> dict[str, Usage]:
        """What the tasks of these keys use, each with the GPUs it was given. Those that do not run are
        missing from the answer."""

    def watch(self) -> AsyncIterator[Hint]:
        """Hints, until closed. For one consumer."""

    def logs(self, key: str, offset: int = 0) -> AsyncIterator[LogChunk]:
        """The log from ``offset`` (decoded bytes) on, followed until the task has ended."""

    async def stop(self, key: str, grace_s: float) -> None:
        """Asks the whole process tree to end (TERM), and kills it after ``grace_s``. Returns at once."""

    async def remove(self, key: str) -> None:
        """Forgets an ended task: its processes, mounts and scratch. Log and artifacts stay. Whatever still
        lives is killed first."""
