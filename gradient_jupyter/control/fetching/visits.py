"""Visits to what users name: how many at once, how long each may take, and that nothing of one stays behind.

A visit works in a directory of its own below ``fetches/`` of the data root. It ends with its caller: who
hangs up, or waits too long, ends the work too. What a killed server leaves there is removed by the next one;
git itself dies with the server it ran for.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from gradient_jupyter.control.fetching.git import Git, Killed, Limits, Login, check_version
from gradient_jupyter.control.fetching.outbound import Outbound
from gradient_jupyter.resources.base import new_id
from gradient_jupyter.resources.errors import GradientError, NoSpace, OutsideFailed
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.commit import Checkout, take
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.repository import Repository

T = TypeVar("T")


class Visits:
    """``root`` belongs to this object alone. ``reserve_bytes`` of its disk are left free."""

    def __init__(
        self,
        root: Path,
        blobs: BlobStore,
        outbound: Outbound,
        *,
        most_bytes: int,
        timeout_s: float,
        at_once: int,
        reserve_bytes: int,
    ) -> None:
        self._root = root
        self._blobs = blobs
        self.outbound = outbound
        self._most_bytes = most_bytes
        self._timeout_s = timeout_s
        self._reserve_bytes = reserve_bytes
        self._slots = asyncio.Semaphore(at_once)
        self._owners: dict[str, asyncio.Semaphore] = {}
        self._of_one = max(1, at_once // 2)
        # One more than visits: the end of one visit never waits for the work of another.
        self._threads = ThreadPoolExecutor(at_once + 1, "git")
        self._callers: set[asyncio.Task[object]] = set()
        self._gone = asyncio.Event()
        self._usable = False

    def clear(self) -> None:
        """Removes what a killed server left. Blocks."""
        remove_tree(self._root)

    async def close(self) -> None:
        """Ends every visit, also those that still wait for a place."""
        for caller in self._callers:
            caller.cancel()
        while self._callers:
            self._gone.clear()
            await self._gone.wait()
        await asyncio.to_thread(self._threads.shutdown)

    @contextlib.asynccontextmanager
    async def visit(
        self, repository: Repository, owner: str, login: Login | None = None
    ) -> AsyncIterator[Visit]:
        """One visit to a repository; ``Stay`` with git in it.

        ``Forbidden`` when the way there is not open, ``OutsideFailed`` when nobody is there or it takes too
        long, ``NoSpace``, and what ``Git`` raises.
        """
        async with self.stay(owner, repository.url, "repository-timeout") as stay:
            await self._check_git()
            target = await self.outbound.target(repository.scheme, repository.host, repository.port)
            git = Git(stay.home, repository, target, stay.limits, self.outbound.ca_file, login)
            yield Visit(self, git, self._blobs, stay.limits)

    @contextlib.asynccontextmanager
    async def stay(self, owner: str, where: str, timeout_code: str) -> AsyncIterator[Stay]:
        """A place, a directory and a limit of time for something that is fetched from ``where`` on behalf of
        ``owner``, who has at most half of the places. ``OutsideFailed`` when it takes too long,
        ``NoSpace``."""
        theirs = self._owners.setdefault(owner, asyncio.Semaphore(self._of_one))
        caller = asyncio.current_task()
        assert caller is not None
        self._callers.add(caller)
        try:
            async with theirs, self._slots, asyncio.timeout(self._timeout_s):
                limits = Limits(self._most_bytes, await self.on_thread(self._room))
                home = self._root / new_id("f")
                try:
                    await to_the_end(self.on_thread(home.mkdir, 0o700))
                    yield Stay(home, limits)
                finally:
                    await to_the_end(self.on_thread(remove_tree, home))
        except TimeoutError:
            raise OutsideFailed(
                f"{where} could not be fetched within {self._timeout_s:g} s.",
                next="Try again, or ask the administrator: GradientServer.outbound_timeout_s.",
                code=timeout_code,
            ) from None
        finally:
            self._callers.discard(caller)
            self._gone.set()

    def on_thread(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def until_done(
        self, stop: Callable[[], object], stopped: type[Exception], work: Callable[..., T], *args: object
    ) -> T:
        """``work`` on a thread. When this is cancelled ``stop`` is called, which has it raise ``stopped``,
        and the thread has ended when this returns."""
        future = self.on_thread(work, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop()
            with contextlib.suppress(stopped, GradientError, OSError):
                await to_the_end(future)
            raise

    async def _check_git(self) -> None:
        if not self._usable:
            await self.on_thread(check_version)
            self._usable = True

    def _room(self) -> int:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = shutil.disk_usage(self._root).free - self._reserve_bytes
        if room <= 0:
            raise NoSpace(
                "The server's disk is too full to fetch anything.",
                next="Free some space: gradient jobs delete removes old runs.",
            )
        return room


class Stay(NamedTuple):
    """Where something that is fetched may lie while it is, and how much."""

    home: Path
    limits: Limits


class Visit:
    """One visit under way."""

    def __init__(self, visits: Visits, git: Git, blobs: BlobStore, limits: Limits) -> None:
        self._visits = visits
        self._git = git
        self._blobs = blobs
        self._limits = limits

    async def commit(self) -> str:
        """The commit that the reference stands for now."""
        return await self._do(self._git.commit)

    async def fetch(self, commit: str) -> str:
        """Brings it here; the commit that has come, which is a newer one if somebody just pushed it."""
        return await self._do(self._git.fetch, commit)

    async def checkout(self) -> Checkout:
        """Stores the files of what was fetched."""
        return await self._do(self._take)

    def _take(self) -> Checkout:
        return take(self._git.listing(), self._git.read, self._blobs, limit_bytes=self._limits.bytes)

    async def _do(self, work: Callable[..., T], *args: object) -> T:
        """On a thread. When this is cancelled, git is killed, and the thread has ended when this returns."""
        return await self._visits.until_done(self._git.kill, Killed, work, *args)


async def to_the_end(future: asyncio.Future[T]) -> T:
    """Waits for what has to be over before we go on, however often we are cancelled meanwhile."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        future.exception()  # looked at, so that nobody complains
        raise asyncio.CancelledError
    return future.result()
