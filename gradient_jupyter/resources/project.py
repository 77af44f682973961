"""Project: a collection of jobs, code, metrics and artifacts.

Made by hand, or by the first Job of a directory and then named after it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.owner import Member

#: What a project may be called: one line, without control characters, 1 to 200 characters.
ProjectName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]+\Z")
]


class Project(Resource, frozen=True, kw_only=True):
    id: str
    name: str
    owner: str
    created_by: str
    created_us: int
    jobs: int = 0
    """How many jobs it holds."""
    members: tuple[Member, ...] = ()
    deleting: bool = False
    """A person asked for its removal; it goes when the last of its jobs is gone."""


class CreateProject(Request, frozen=True, kw_only=True):
    name: ProjectName


class UpdateProject(Request, frozen=True, kw_only=True):
    """What may be changed of a project."""

    name: ProjectName
