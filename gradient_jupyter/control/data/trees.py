"""Versions of datasets as directories, for jobs to read: each unpacked once, and shared by all that have it.

A tree bears its manifest's digest. It is made beside its place, verified byte for byte, synced, and renamed,
so one that has its name is whole whatever was killed; nobody may write to it. How long ago it was last used
is its own time of change. Trees that no job uses go when they take more than they may, when the disk is full,
or when nothing names them any more. Whether a job uses one is asked of the rows, with the tree's lock held: a
job is *Provisioning* before it asks for its trees, so none is taken from under it.

Unpacking takes its time: it is done on threads of its own, and a job that waits for it holds up no other.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from gradient_jupyter.resources.errors import GradientError, NoSpace, ServerError
from gradient_jupyter.resources.job import Job, Reason, State
from gradient_jupyter.store import datasets as rows
from gradient_jupyter.store.jobs import LIVE
from gradient_jupyter.workspace import durable
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.materialise import materialise
from gradient_jupyter.workspace.space import space_of
from gradient_jupyter.workspace.wording import decimal

if TYPE_CHECKING:
    from gradient_jupyter.control.plane import Plane

T = TypeVar("T")
log = logging.getLogger(__name__)

PREPARING = "preparing-data"
_AT_ONCE = 2
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: What a killed server may have left: a tree that was not whole yet, one that was being removed.
_UNFINISHED = re.compile(r"[0-9a-f]{64}\.partial-[0-9a-f]+|\.trash-[0-9a-f]+")
_USING = (State.PROVISIONING.value, State.RUNNING.value)
#: What a file takes beside its bytes, at most.
_BLOCK = 4096
#: No disk that is like this gets better by itself.
_LASTING = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
#: After a failure that may pass: before it is tried again, at first and at most.
_AGAIN_S = (1.0, 60.0)


class Tree(NamedTuple):
    snapshot: str
    bytes: int
    """As the disk counts them."""


class _Stopped(Exception):
    """Nobody waits for it any more."""


class _Held(NamedTuple):
    """What kept it from being unpacked, and may pass."""

    why: str
    pause_s: float
    until: float
    """By the monotonic clock: when it is tried again."""


class _Making:
    """A tree that is being unpacked. ``wrote`` is called on several threads."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.done = 0
        self.total = 0
        self.stopped = False
        self._lock = threading.Lock()

    def wrote(self, count: int) -> None:
        if self.stopped:
            raise _Stopped
        with self._lock:
            self.done += count


class Trees:
    def __init__(self, plane: Plane, budget_bytes: int, reserve_bytes: int) -> None:
        self._plane = plane
        self._root = plane.layout.trees
        self._budget = budget_bytes
        self._reserve = reserve_bytes
        self._threads = ThreadPoolExecutor(_AT_ONCE, "trees")
        #: To measure and to remove takes its time too, and nothing that is unpacked waits for it.
        self._tidying = ThreadPoolExecutor(_AT_ONCE, "trees-tidy")
        self._stopping = False
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._making: dict[str, _Making] = {}
        self._failed: dict[tuple[str, str], Exception] = {}
        self._held: dict[str, _Held] = {}
        self._sizes: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """What a killed server left is removed beside everything else: it may be much."""

        def look() -> list[str]:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            return [name for name in os.listdir(self._root) if _UNFINISHED.fullmatch(name)]  # noqa: PTH208

        left = await self._plane.on_files(look)
        if left:
            self._tidying.submit(self._remove, left)

    async def close(self) -> None:
        """What is unpacked or removed just now is left to the next start."""
        self._stopping = True
        for making in self._making.values():
            making.stopped = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._tidying.shutdown)

    def path(self, snapshot: str) -> Path:
        return self._root / snapshot

    async def ready(self, job: Job) -> Reason | None:
        """None once everything the job has is there. Else why it waits; it is looked at again when there is
        more to say. Raises what keeps its data from being unpacked for good (``NoSpace``, a damaged file)."""
        waits: Reason | None = None
        for one in job.datasets:
            if not one.snapshot:
                continue
            if (error := self._failed.pop((job.id, one.snapshot), None)) is not None:
                raise error
            making = self._making.get(one.snapshot)
            # One that was stopped may take its time to end, and holds the lock until then.
            if making is None:
                if await self._is_there(one.snapshot):
                    continue
                making = self._making.get(one.snapshot)  # somebody else may have begun meanwhile
            what = f"{one.name}:{one.version}"
            held = self._held.get(one.snapshot)
            if making is None or making.stopped:
                if held is not None and time.monotonic() < held.until:
                    waits = waits or _held_up(what, held)
                    continue
                making = self._begin(one.snapshot)
            making.wanted.add(job.id)
            waits = waits or (_waits(what, making) if held is None else _held_up(what, held))
        return waits

    def leave(self, job_id: str) -> None:
        """The job wants nothing any more. What nobody else waits for is not unpacked further."""
        for making in self._making.values():
            making.wanted.discard(job_id)
            making.stopped = making.stopped or not making.wanted
        for key in [key for key in self._failed if key[0] == job_id]:
            del self._failed[key]

    async def tidy(self, *, dry_run: bool = False) -> list[Tree]:
        """Removes what nothing names any more, and what is over the budget. Returns what went, or would
        go."""
        named = await self._plane.database.read(lambda connection: rows.named_snapshots(connection, LIVE))
        trees = await self._tidily(self._by_age)
        gone = []
        used = sum(tree.bytes for tree in trees)
        for tree in trees:
            unnamed = tree.snapshot not in named
            if (unnamed or used > self._budget) and await self._evict(tree, dry_run=dry_run):
                gone.append(tree)
                used -= tree.bytes
        return gone

    async def relieve(self) -> None:
        """The disk is nearly full: whatever no job uses goes, the oldest first, until it is not."""
        for tree in await self._tidily(self._by_age):
            if self._free() >= 0:
                return
            await self._evict(tree)

    # ------------------------------------------------------------------------------------ one is made

    def _begin(self, snapshot: str) -> _Making:
        making = _Making()
        self._making[snapshot] = making
        task = asyncio.create_task(self._make(snapshot, making), name=f"tree-{snapshot[:12]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return making

    async def _make(self, snapshot: str, making: _Making) -> None:
        error: Exception | None = None
        try:
            # In this order: whoever waits for a place must not keep others from looking whether it is there.
            async with self._places, self._lock(snapshot):
                if not making.stopped and not self.path(snapshot).is_dir():
                    await self._unpack(snapshot, making)
            self._held.pop(snapshot, None)
        except _Stopped:
            pass
        except GradientError as known:
            error = known
        except OSError as known:
            if known.errno in durable.NO_SPACE:
                error = _no_space(making.total)
            elif known.errno in _LASTING:
                error = _lasting(known)
            else:
                self._hold(snapshot, known)
        except Exception:
            log.exception("the dataset version %s", snapshot)
            error = ServerError(
                "Its data could not be unpacked.", next="It is the server's mistake; its log says more."
            )
        finally:
            if self._making.get(snapshot) is making:
                del self._making[snapshot]
        if error is not None:
            log.warning("the dataset version %s cannot be unpacked: %s", snapshot, error)
            self._failed.update(((job_id, snapshot), error) for job_id in making.wanted)
        for job_id in making.wanted:
            self._plane.reconciler.look_at(job_id)

    def _hold(self, snapshot: str, error: OSError) -> None:
        """For a while, and longer each time."""
        before = self._held.get(snapshot)
        first, longest = _AGAIN_S
        pause_s = first if before is None else min(longest, 2 * before.pause_s)
        why = (error.strerror or str(error)).lower()
        log.warning("the dataset version %s: %s; again in %.0f s", snapshot, error, pause_s)
        self._held[snapshot] = _Held(why, pause_s, time.monotonic() + pause_s)

    async def _unpack(self, snapshot: str, making: _Making) -> None:
        manifest = await self._on_thread(self._plane.manifest, snapshot)
        making.total = manifest.size
        await self._make_room(manifest.size + _BLOCK * len(manifest.entries), making)

        def work() -> int:
            materialise(manifest, self._plane.blobs, self.path(snapshot), read_only=True, wrote=making.wrote)
            return space_of(self.path(snapshot)).bytes

        self._sizes[snapshot] = await self._on_thread(work)
        log.info("unpacked the dataset version %s: %s", snapshot, decimal(self._sizes[snapshot]))

    async def _make_room(self, needed: int, making: _Making) -> None:
        """The budget is for what is kept in case: what jobs use now may be more. The disk is the disk."""
        needed += sum(max(0, one.total - one.done) for one in self._making.values() if one is not making)
        trees = await self._tidily(self._by_age)
        used = sum(tree.bytes for tree in trees)
        for tree in trees:
            if used + needed <= self._budget and self._free() >= needed:
                break
            if await self._evict(tree):
                used -= tree.bytes
        if self._free() < needed:
            raise _no_space(needed)

    def _free(self) -> int:
        return shutil.disk_usage(self._root).free - self._reserve

    # ------------------------------------------------------------------------------- those that are there

    async def _is_there(self, snapshot: str) -> bool:
        """Notes that it is used now."""

        def look() -> bool:
            try:
                now = time.time_ns()  # finer than what the system takes for now
                os.utime(self.path(snapshot), ns=(now, now), follow_symlinks=False)
            except FileNotFoundError:
                return False
            except OSError:  # when it was used cannot be noted; what is in it may be read all the same
                return os.path.isdir(self.path(snapshot))  # noqa: PTH112  # whatever is wrong with it
            return True

        async with self._lock(snapshot):
            return await self._plane.on_files(look)

    async def _evict(self, tree: Tree, *, dry_run: bool = False) -> bool:
        """Unless a job uses it."""
        lock = self._lock(tree.snapshot)
        if lock.locked():
            return False  # somebody makes it, or just wants it
        async with lock:
            used = await self._plane.database.read(
                lambda connection: rows.in_use(connection, tree.snapshot, _USING)
            )
            if used or dry_run:
                return not used
            trash = f".trash-{secrets.token_hex(8)}"
            try:
                await self._plane.on_files(os.rename, self.path(tree.snapshot), self._root / trash)
            except FileNotFoundError:
                return False
            self._sizes.pop(tree.snapshot, None)
        await self._tidily(self._remove, [trash])
        log.info("removed the unpacked dataset version %s: %s", tree.snapshot, decimal(tree.bytes))
        return True

    def _by_age(self) -> list[Tree]:
        """Longest unused first. What is measured once stays measured: trees do not change."""
        found = []
        for name in os.listdir(self._root) if self._root.is_dir() else ():  # noqa: PTH208
            if _DIGEST.fullmatch(name):
                path = self._root / name
                try:
                    used_ns = path.lstat().st_mtime_ns
                except FileNotFoundError:
                    continue
                if name not in self._sizes:
                    self._sizes[name] = space_of(path).bytes
                found.append((used_ns, Tree(name, self._sizes[name])))
        return [tree for _, tree in sorted(found)]

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                remove_tree(self._root / name, self._go_on)
            except _Stopped:
                return  # the next start finds it
            except OSError as error:
                log.warning("%s cannot be removed: %s", self._root / name, error)

    def _go_on(self) -> None:
        if self._stopping:
            raise _Stopped

    def _lock(self, snapshot: str) -> asyncio.Lock:
        found = self._locks.get(snapshot)
        if found is None:
            found = self._locks[snapshot] = asyncio.Lock()
        return found

    def _on_thread(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def _tidily(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._tidying, work, *args)


def _waits(what: str, making: _Making) -> Reason:
    far = f": {decimal(making.done)} of {decimal(making.total)}" if making.total else ""
    return Reason(
        code=PREPARING,
        message=f"Its dataset {what} is being unpacked{far}.",
        next="The next job that has this version finds it there.",
    )


def _held_up(what: str, held: _Held) -> Reason:
    return Reason(
        code=PREPARING,
        message=f"Unpacking its dataset {what} is held up: {held.why}. It is tried again by itself.",
    )


def _lasting(error: OSError) -> ServerError:
    return ServerError(
        f"Its data cannot be unpacked: {(error.strerror or str(error)).lower()}.",
        next="It is the server's disk that is not in order: tell the administrator. Then run it again.",
        code="data-not-unpacked",
    )


def _no_space(needed: int) -> NoSpace:
    return NoSpace(
        f"There is no space on the server's disk to unpack its data, {decimal(needed)}.",
        next="Free some space: gradient jobs delete and gradient datasets delete remove what is not needed.",
    )
