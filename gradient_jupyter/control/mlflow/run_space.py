"""How much the runs beside jobs have stored, so that neither one of them nor a job that begins many can fill
the disk.

What lies there is counted once, when something is first put there; after that what comes is added. What is on
its way has its room already, so that several uploads at once do not all take the same. Whoever removes files
calls ``forget``: then it is counted anew.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gradient_jupyter.control.data.collection import opened
from gradient_jupyter.resources.errors import TooLarge
from gradient_jupyter.workspace.inside import walk_inside
from gradient_jupyter.workspace.wording import decimal

#: Groups whose count is remembered while nothing is on its way to them.
_MOST_KNOWN = 1000


class Used(NamedTuple):
    files: int
    bytes: int


class Group:
    def __init__(self) -> None:
        self.known: Used | None = None
        self.removals = 0
        self.coming = Used(0, 0)
        self.putting = asyncio.Lock()
        """Held while a file is put into its place: what it replaces is looked at just before."""


class RunSpace:
    """Of one event loop. A group is a tracking run, or all those begun in one job; its id says which."""

    def __init__(self, most_files: int, most_bytes: int) -> None:
        self._most = Used(most_files, most_bytes)
        self._groups: dict[str, Group] = {}

    async def reserve(self, group_id: str, size: int, count: Callable[[], Awaitable[Used]]) -> Room:
        """Room for one file more of ``size`` bytes. ``count`` says what lies there already (``used``). Raises
        ``TooLarge``."""
        group = self._group(group_id)
        # From here on others see it, also while what lies there is counted.
        room = Room(self, group)
        try:
            while group.known is None:
                async with group.putting:
                    if group.known is None:
                        removals = group.removals
                        found = await count()
                        group.known = found if removals == group.removals else None
            self.check(group, 0)
            room.grow(size)
        except BaseException:
            room.leave()
            raise
        return room

    def forget(self, group_id: str | None = None) -> None:
        """Something was removed from the group, or from whichever."""
        for each, group in self._groups.items():
            if group_id in (None, each):
                group.known = None
                group.removals += 1

    def check(self, group: Group, more: int) -> None:
        """Raises ``TooLarge`` where so many bytes do not fit beside what lies there and what comes."""
        known = group.known or Used(0, 0)
        if known.bytes + group.coming.bytes + more > self._most.bytes:
            raise TooLarge(
                f"With this artifact there would be more than the {decimal(self._most.bytes)} that one run, "
                "or all the runs begun in one job together, may leave.",
                next="Delete some, or use /storage for what is larger.",
                code="artifact-too-large",
            )
        if known.files + group.coming.files > self._most.files:
            raise TooLarge(
                f"With this artifact there would be more than the {self._most.files:,} files that one run, "
                "or all the runs begun in one job together, may leave.",
                next="Delete some, or pack them into one file.",
                code="too-many-artifacts",
            )

    def _group(self, group_id: str) -> Group:
        if group_id not in self._groups and len(self._groups) >= _MOST_KNOWN:
            self._groups = {
                each: group
                for each, group in self._groups.items()
                if group.coming.files or group.putting.locked()
            }
        return self._groups.setdefault(group_id, Group())


class Room:
    """What is kept for one file on its way. ``leave`` it in the end, whatever came of it."""

    def __init__(self, space: RunSpace, group: Group) -> None:
        self._space = space
        self._group = group
        self._size = 0
        self._left = False
        self._come(1, 0)

    def grow(self, size: int) -> None:
        """The file has so many bytes by now, or will have. Raises ``TooLarge``."""
        if size > self._size:
            self._space.check(self._group, size - self._size)
            self._come(0, size - self._size)
            self._size = size

    async def put(self, size: int, place: Callable[[], Awaitable[int | None]]) -> None:
        """``place`` puts the file, which has that size in the end, where it belongs, and returns the size of
        the one it has replaced, if any."""
        group = self._group
        async with group.putting:
            known, group.known = group.known, None  # should this be cut off, it is counted anew
            removals = group.removals
            replaced = await place()
            if known is not None and removals == group.removals:
                files = known.files + (1 if replaced is None else 0)
                group.known = Used(files, known.bytes + size - (replaced or 0))
        self.leave()

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._come(-1, -self._size)

    def _come(self, files: int, size: int) -> None:
        coming = self._group.coming
        self._group.coming = Used(coming.files + files, coming.bytes + size)


def used(directories: Sequence[Path]) -> Used:
    """What lies in the ``artifacts`` of these. Blocks."""
    files = size = 0
    for directory in directories:
        with opened(directory / "artifacts") as fd:
            if fd is None:
                continue
            for file in walk_inside(fd, lambda why: None, owner=os.geteuid()):
                files += 1
                size += file.size
    return Used(files, size)
