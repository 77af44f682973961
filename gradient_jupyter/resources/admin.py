"""What an administrator is told: how the disk is used, what was cleared away, how the installation does."""

from __future__ import annotations

import enum

from gradient_jupyter.resources.base import Request, Resource


class Collect(Request, frozen=True, kw_only=True):
    """What to do with what nothing refers to any more, and with jobs that are older than they are kept."""

    dry_run: bool = False
    trust_clock: bool = False
    """Delete for age although the clock looks wrong: a person has looked at it."""


class Freed(Resource, frozen=True, kw_only=True):
    """One kind of thing that was removed, or would be."""

    kind: str
    """``snapshots files trees jobs runs leftovers uploads``."""
    count: int
    bytes: int
    names: tuple[str, ...] = ()
    """The first of them, where they have names a person knows."""


class Collected(Resource, frozen=True, kw_only=True):
    dry_run: bool
    items: tuple[Freed, ...]
    bytes: int
    """Of all items, as their files took them on the disk."""
    free_before: int
    """Free bytes of the file system before and after; others write to it as well."""
    free_after: int
    warnings: tuple[str, ...] = ()


class Use(Resource, frozen=True, kw_only=True):
    """What one kind of data takes."""

    kind: str
    bytes: int
    """As the file system counts them: blocks, not sizes."""
    files: int
    """And directories."""
    complete: bool = True
    """False: there were too many files to look at all of them; it is at least this much."""


class Share(Resource, frozen=True, kw_only=True):
    """What one project, or one owner, takes."""

    id: str
    name: str
    jobs: int
    bytes: int


class DiskUse(Resource, frozen=True, kw_only=True):
    data: str
    total: int
    free: int
    reserve: int
    """Below this much free space nothing is taken in and nothing is started."""
    items: tuple[Use, ...]
    projects: tuple[Share, ...]
    """The ten largest, by what their jobs and their tracking runs have left."""
    owners: tuple[Share, ...]
    """The ten largest, by the files they have sent; one file of two owners counts for both."""
    collectable: int | None
    """What a collection would free now; None: it was not asked for."""


class Level(enum.StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(Resource, frozen=True, kw_only=True):
    name: str
    level: Level
    message: str
    next: str = ""
    """What to do about it."""


class Diagnosis(Resource, frozen=True, kw_only=True):
    data: str
    running: bool
    """Whether a server holds the data root."""
    checks: tuple[Check, ...]

    @property
    def level(self) -> Level:
        """The worst of all."""
        found = {check.level for check in self.checks}
        return next((level for level in (Level.FAIL, Level.WARN) if level in found), Level.OK)
