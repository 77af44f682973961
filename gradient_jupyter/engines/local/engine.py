"""The local engine: the contract's face over ``attempt``.

Nothing is remembered that the next server would miss: this object only knows how worlds are made here, and
who waits for hints. All that blocks runs on two bounded pools, so that a slow disk under one big workspace
does not keep anybody from seeing how the other tasks are.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from gradient_jupyter.engines.base import (
    Capabilities,
    Hint,
    HintKind,
    LogChunk,
    Materialise,
    Node,
    Observation,
    Phase,
    Rejected,
    Stream,
    Task,
    Unreachable,
    Usage,
)
from gradient_jupyter.engines.framedlog import Reader
from gradient_jupyter.engines.local import inventory, usage
from gradient_jupyter.engines.local.attempt import (
    NEW,
    PATIENCE_S,
    PROBE,
    TRASH,
    Attempt,
    delete_tree,
    no_space,
)
from gradient_jupyter.engines.local.forkserver import ForkServer, Supervisor
from gradient_jupyter.engines.local.hints import Hints
from gradient_jupyter.engines.local.world import Isolation, Worlds

_T = TypeVar("_T")

_KEY = re.compile(r"[A-Za-z0-9-]{1,200}")
_SLOW, _QUICK = 4, 8
_LOG_POLL_S = 1.0
"""How long a follower waits when a hint was lost."""
_LOG_READ = 1 << 18
_NODE_S = 10.0
"""What this host has seldom changes, and its GPUs' driver takes its time to tell."""
_WARM_S = 60.0
"""How long a fork server is kept after the engine's start and after each task's."""
_WARM_AFTER_S = 0.05
"""After a task's start, so that making a fork server does not compete with it."""
_WARM_UP_S = 30.0


class LocalEngine:
    """Runs tasks as processes of this host; see ``Engine`` for what each method promises.

    ``root`` holds one private directory per task and belongs to this engine alone. ``materialise`` unpacks a
    snapshot. ``install`` tells this installation's tasks from another's. ``isolation`` chooses how worlds are
    made: "auto" takes bubblewrap if it works here, "bubblewrap" refuses to start without it. ``patience_s``
    is how long a supervisor that does not answer is waited for, before it is killed with its task.
    ``open_files`` is the soft limit of descriptors that commands get, where this process has raised its own;
    0: the same. A fork server is kept for ``warm_s`` after each task, so that the next one starts sooner; 0:
    none is.
    """

    def __init__(
        self,
        root: Path,
        materialise: Materialise,
        *,
        install: str,
        isolation: Isolation = "auto",
        patience_s: float = PATIENCE_S,
        open_files: int = 0,
        warm_s: float = _WARM_S,
    ) -> None:
        self._root = root.absolute()
        self._materialise = materialise
        self._install = install
        self._isolation: Isolation = isolation
        self._patience_s = patience_s
        self._open_files = open_files
        self._worlds = Worlds(None, "it has not been looked at yet")
        self._cpus = 1.0
        self._node: Node | None = None
        self._node_at = 0.0
        self.fork_server = ForkServer()
        self._warm_s = warm_s
        self._warming: asyncio.TimerHandle | None = None
        self._cooling: asyncio.TimerHandle | None = None
        self._hints = Hints(self._root)
        self._slow = ThreadPoolExecutor(_SLOW, thread_name_prefix="local-engine-slow")
        self._quick = ThreadPoolExecutor(_QUICK, thread_name_prefix="local-engine")
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closed = False

    async def start(self) -> None:
        await self._run(self._slow, self._prepare)
        self._hints.open()
        self._keep_warm()

    def _prepare(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._root.iterdir():
            if path.name.startswith((NEW, TRASH, PROBE)):
                delete_tree(path)
        self._worlds = Worlds.probe(self._isolation, self._root)
        if self._isolation == "bubblewrap" and not self._worlds.bubblewrap:
            raise Unreachable(f"Tasks are to run in bubblewrap, but {self._worlds.why}.")
        self._cpus = inventory.cpus()

    async def close(self) -> None:
        self._closed = True
        self._hints.close()
        for timer in (self._warming, self._cooling):
            if timer is not None:
                timer.cancel()
        self.fork_server.close()
        for pool in (self._slow, self._quick):
            pool.shutdown(wait=False, cancel_futures=True)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            name="local",
            writes_in_place=True,
            isolation=self._worlds.sentence(),
            contained=self._worlds.bubblewrap is not None,
        )

    async def nodes(self) -> tuple[Node, ...]:
        now = time.monotonic()
        if self._node is None or now - self._node_at >= _NODE_S:
            self._node, self._node_at = await self._run(self._quick, inventory.node), now
        return (self._node,)

    async def ensure(self, task: Task) -> None:
        if not _KEY.fullmatch(task.key):
            raise ValueError(f"{task.key!r} is no key")
        try:
            await self._in_turn(task.key, lambda: self._ensure(task))
        finally:
            self._keep_warm()
        self._hints.give(Hint(key=task.key, kind=HintKind.STATE))

    def _ensure(self, task: Task) -> None:
        attempt = Attempt(self._root, task.key)
        try:
            attempt.create(self._install, task.spec_hash(), task.directory)
            if _is_pending(attempt):
                # It comes up while the files are unpacked.
                with self.fork_server.fork() or Supervisor.make() as supervisor:
                    attempt.unpack(self._materialise, task.snapshot, task.directory)
                    if _is_pending(attempt):  # it may have been stopped while its files were unpacked
                        world = self._worlds.make(task, self._cpus, attempt.mark())
                        world = msgspec.structs.replace(world, open_files=self._open_files)
                        taken = attempt.spawn(world, task.directory / "log", supervisor)
                        if not taken and supervisor.forked:
                            self.fork_server.dismiss(kill=True)
        except OSError as error:
            if not no_space(error):
                raise Unreachable(f"This task could not be started: {error}.") from error
            if _is_pending(attempt):
                with contextlib.suppress(OSError, Unreachable):
                    attempt.remove()
            raise Rejected(
                "no-space", "There is no space left for its workspace. Delete what is no longer needed."
            ) from error

    def _keep_warm(self) -> None:
        """A fork server is made soon where there is none, and let go when nothing was started for a while."""
        if not self._warm_s or self._closed:
            return
        later = asyncio.get_running_loop().call_later
        if self._cooling is not None:
            self._cooling.cancel()
        self._cooling = later(self._warm_s, self._quick.submit, self.fork_server.dismiss)
        if self._warming is None:
            self._warming = later(_WARM_AFTER_S, self._warm)

    def _warm(self) -> None:
        self._warming = None
        self._quick.submit(self.fork_server.make, _WARM_UP_S)

    async def observe(self, keys: Iterable[str] | None = None) -> dict[str, Observation]:
        wanted = None if keys is None else [key for key in keys if _KEY.fullmatch(key)]
        return await self._run(self._quick, lambda: self._observe(wanted))

    def _observe(self, keys: list[str] | None) -> dict[str, Observation]:
        if keys is None:
            keys = [path.name for path in self._root.iterdir() if _KEY.fullmatch(path.name)]
            attempts = [Attempt(self._root, key) for key in keys]
            attempts = [one for one in attempts if (one.spec() or {}).get("install") == self._install]
        else:
            attempts = [Attempt(self._root, key) for key in keys]
        return {one.key: seen for one in attempts if (seen := one.look())}

    async def usage(self, keys: Mapping[str, tuple[str, ...]]) -> dict[str, Usage]:
        wanted = {key: gpus for key, gpus in keys.items() if _KEY.fullmatch(key)}
        return await self._run(self._quick, lambda: self._usage(wanted))

    def _usage(self, keys: dict[str, tuple[str, ...]]) -> dict[str, Usage]:
        supervisors = {key: who for key in keys if (who := Attempt(self._root, key).supervisor())}
        return usage.measure({key: (who.pid, keys[key]) for key, who in supervisors.items()})

    def watch(self) -> AsyncIterator[Hint]:
        return self._hints.watch()

    async def logs(self, key: str, offset: int = 0) -> AsyncIterator[LogChunk]:
        attempt = Attempt(self._root, key)
        spec = attempt.spec() if _KEY.fullmatch(key) else None
        if spec is None:
            return
        path = Path(spec["directory"]) / "log"
        with contextlib.closing(await self._run(self._quick, lambda: Reader(path))) as reader:

            def look() -> tuple[bool, list[LogChunk]]:
                # First whether it has ended, then what it wrote: nothing is written after the end.
                seen = attempt.look()
                over = seen is None or seen.phase.ended
                return over, [_chunk(*chunk) for chunk in reader.read(offset, _LOG_READ)]

            with self._hints.of(key) as knocked:
                while not self._closed:
                    knocked.clear()
                    over, chunks = await self._run(self._quick, look)
                    for chunk in chunks:
                        yield chunk
                        offset = chunk.offset + len(chunk.data)
                    if chunks:
                        continue
                    if over:
                        return
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(knocked.wait(), _LOG_POLL_S)

    async def stop(self, key: str, grace_s: float) -> None:
        if _KEY.fullmatch(key):
            attempt = Attempt(self._root, key)
            await self._run(self._quick, lambda: attempt.ask_to_stop(grace_s, self._patience_s))
            self._hints.give(Hint(key=key, kind=HintKind.STATE))

    async def remove(self, key: str) -> None:
        if _KEY.fullmatch(key):
            await self._in_turn(key, lambda: Attempt(self._root, key).remove(self._patience_s))
            self._hints.give(Hint(key=key, kind=HintKind.STATE))

    async def _in_turn(self, key: str, work: Callable[[], _T]) -> _T:
        """One at a time for each key, to its end even if nobody waits for it any more."""
        turn = self._turns.setdefault(key, asyncio.Lock())

        async def take_turn() -> _T:
            async with turn:
                return await self._run(self._slow, work)

        task = asyncio.ensure_future(take_turn())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        """``work`` on a thread. What the system refuses there says nothing about the tasks."""
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except OSError as error:
            raise Unreachable(f"The local engine cannot look or act: {error}.") from error


def _is_pending(attempt: Attempt) -> bool:
    seen = attempt.look()
    return seen is not None and seen.phase is Phase.PENDING


def _chunk(offset: int, time_us: int, stream: int, data: bytes) -> LogChunk:
    known = stream in Stream._value2member_map_
    return LogChunk(
        offset=offset, time_us=time_us, stream=Stream(stream) if known else Stream.PLATFORM, data=data
    )
