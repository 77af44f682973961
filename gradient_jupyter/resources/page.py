"""Page: one slice of a list. ``next`` is the cursor of the slice after it, or null at the end."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.job import Attempt, Job, JobName, State, Tag
from gradient_jupyter.resources.machine_type import MachineType
from gradient_jupyter.resources.owner import Membership
from gradient_jupyter.resources.project import Project

Cursor = Annotated[str, msgspec.Meta(max_length=200)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class PageQuery(Request, frozen=True, kw_only=True):
    limit: Limit = 100
    cursor: Cursor | None = None


Several = msgspec.Meta(max_length=50)
#: Microseconds since the epoch, UTC.
TimeUs = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class JobQuery(PageQuery, frozen=True, kw_only=True):
    """Which jobs. A parameter that may be given several times is repeated:
    ``state=Running&state=Pending``."""

    project_id: str | None = None
    state: Annotated[tuple[State, ...], Several] = ()
    """In one of these."""
    tag: Annotated[tuple[Tag, ...], Several] = ()
    """Bearing all of these."""
    name: JobName | None = None
    """A part of the job's name; upper and lower case are the same."""
    machine_type: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    since_us: TimeUs | None = None
    """Created then or later."""
    until_us: TimeUs | None = None
    """Created before then."""


class Jobs(Resource, frozen=True, kw_only=True):
    items: tuple[Job, ...]
    next: str | None = None


class Attempts(Resource, frozen=True, kw_only=True):
    items: tuple[Attempt, ...]


class Projects(Resource, frozen=True, kw_only=True):
    items: tuple[Project, ...]
    next: str | None = None


class Members(Resource, frozen=True, kw_only=True):
    items: tuple[Membership, ...]


class Artifacts(Resource, frozen=True, kw_only=True):
    items: tuple[Artifact, ...]
    final: bool
    """True once the job is final: the list will not change any more, save by deletion."""
    next: str | None = None


class MachineTypes(Resource, frozen=True, kw_only=True):
    items: tuple[MachineType, ...]
