"""Receipt: what it takes to run a job exactly so again, and what came of it, as a file.

It names files by their digest and secrets by their name; it holds neither. Whoever reads one believes
nothing in it: it is decoded by the same types as every request."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gradient_jupyter.resources.base import Request
from gradient_jupyter.resources.dataset import WantedDatasets
from gradient_jupyter.resources.job import (
    EnvName,
    JobName,
    MaxDuration,
    Priority,
    Retries,
    Source,
    State,
    Tags,
    Word,
)
from gradient_jupyter.resources.port import Ports
from gradient_jupyter.resources.project import ProjectName
from gradient_jupyter.resources.snapshot import Digest, EntryPath

SCHEMA = "gradient-receipt/1"
#: Of more artifacts than these a receipt says how many there were.
MOST_ARTIFACTS = 2000

Text = Annotated[str, msgspec.Meta(max_length=4096)]


class Output(Request, frozen=True, kw_only=True):
    """One artifact, by its content (BLAKE3)."""

    path: EntryPath
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    digest: Digest


class Outcome(Request, frozen=True, kw_only=True):
    """What came of the job that the receipt is of, to compare with."""

    job: Text
    state: State
    exit_code: int | None = None
    attempts: int = 0
    created_us: int = 0
    started_us: int | None = None
    ended_us: int | None = None
    python: Text = ""
    """The interpreter it ran with, where it ran; whoever repeats it has their own."""
    artifacts: Annotated[tuple[Output, ...], msgspec.Meta(max_length=MOST_ARTIFACTS)] = ()
    artifacts_in_all: int = 0
    datasets: Annotated[dict[Text, Text], msgspec.Meta(max_length=50)] = msgspec.field(default_factory=dict)
    """What the versions it had held, by their manifests' digests."""


class Receipt(Request, frozen=True, kw_only=True):
    schema: Literal["gradient-receipt/1"]
    name: JobName
    project: ProjectName
    command: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=4096)]
    snapshot: Digest
    source: Source = ""
    """Where the files came from; of a repository with the commit."""
    machine_type: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    env: dict[EnvName, Word] = msgspec.field(default_factory=dict)
    ports: Ports = ()
    datasets: WantedDatasets = ()
    """With the versions that it had: ``mnist:3``. A public one has none."""
    retries: Retries = 0
    max_duration_s: MaxDuration | None = None
    priority: Priority = 0
    tags: Tags = ()
    outcome: Outcome
