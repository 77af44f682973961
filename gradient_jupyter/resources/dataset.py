"""Dataset: data that jobs read and never change, under a name, in versions.

A *version* is a stored snapshot, so equal files are stored and sent once. It is made once and stays what it
is; a job that asks for a dataset is given one version and keeps it. A *public* dataset is a directory that
the administrator provides: it has no versions, and every job sees it as it is then.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

import msgspec

from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.snapshot import Digest, File

#: Also the name of the directory in a job, so it is one that every system can have.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
DatasetName = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN}\Z")]
Description = Annotated[
    str, msgspec.Meta(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]*\Z")
]
#: How a job names one: ``mnist``, ``mnist:3``, or by its id, ``dst…``.
Wanted = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN}(:[1-9][0-9]{{0,8}})?\Z")]
WantedDatasets = Annotated[tuple[Wanted, ...], msgspec.Meta(max_length=50)]
#: Where a version's files came from, for people. Never with a password: what a URL asks (``?…``) is left out.
DatasetSource = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]*\Z")]
Url = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Owner = Annotated[str, msgspec.Meta(pattern=r"^(user|group):[A-Za-z0-9._@+-]{1,200}\Z")]

#: The owner of what the administrator provides.
PUBLIC = "public"


class Version(Resource, frozen=True, kw_only=True):
    """What a dataset held at one time."""

    number: int
    """1, 2, …; one that was deleted is not given again."""
    snapshot: str
    """Its manifest's digest: equal files have an equal one."""
    files: int
    bytes: int
    source: str
    created_by: str
    created_us: int


class Dataset(Resource, frozen=True, kw_only=True):
    id: str
    name: str
    """One of its owner's."""
    owner: str
    """``user:…`` or ``group:…``; ``public`` for what the administrator provides."""
    description: str = ""
    created_by: str = ""
    created_us: int = 0
    versions: int = 0
    """How many there are now."""
    latest: Version | None = None
    """The newest; None while there is none, and of a public one always."""

    @property
    def public(self) -> bool:
        return self.owner == PUBLIC


class JobDataset(Resource, frozen=True, kw_only=True):
    """A dataset as one job has it. It stays this version whatever becomes of the dataset."""

    name: str
    """The directory's name below ``/datasets`` and ``/data``."""
    dataset_id: str
    version: int = 0
    """0: a public one, as it is when the job runs."""
    snapshot: str = ""

    @property
    def wanted(self) -> str:
        """How a job asks for just this."""
        return f"{self.name}:{self.version}" if self.version else self.name


class CreateDataset(Request, frozen=True, kw_only=True):
    name: DatasetName
    description: Description = ""
    owner: Owner | None = None
    """A group of yours; None: you."""
    snapshot: Digest | None = None
    """The first version; its files have been sent. None: it has no version yet."""
    source: DatasetSource = ""


class UpdateDataset(Request, frozen=True, kw_only=True):
    """None: left as it is."""

    description: Description | None = None


class AddVersion(Request, frozen=True, kw_only=True):
    snapshot: Digest
    source: DatasetSource = ""


class FetchDataset(Request, frozen=True, kw_only=True):
    """Have the server fetch a URL: the first version of a new dataset, or the next of one that is there."""

    name: DatasetName
    url: Url
    description: Description | None = None
    owner: Owner | None = None
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}\Z")] | None = None
    """Of the bytes that the URL yields, before anything is unpacked."""
    etag: Annotated[str, msgspec.Meta(min_length=1, max_length=1000, pattern=r"^[\x20-\x7e]+\Z")] | None = (
        None
    )
    """What the far side must say its version is."""
    extract: bool = True
    """Unpack a zip or tar archive, known by its name."""
    tag: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{16,64}\Z")] | None = None
    """Chosen at random by the caller, to ask how far it is: ``GET /datasets/fetches/{tag}``."""


class AddedVersion(Resource, frozen=True, kw_only=True):
    dataset: Dataset
    version: Version
    new: bool
    """False: the newest version holds exactly this already, so none was made."""
    warnings: tuple[str, ...] = ()
    """Sentences on what did not come along."""


class DeletedDataset(Resource, frozen=True, kw_only=True):
    dataset: Dataset
    """As it is now; as it was, when all of it is gone."""
    versions: tuple[int, ...]
    """The numbers of those that are gone."""
    gone: bool
    """Whether the dataset itself is."""
    bytes: int
    """What its files take that nothing else of its owner's holds. The disk has it back once nothing under way
    needs it, unless somebody else has sent the same files; that is told to nobody."""


class Datasets(Resource, frozen=True, kw_only=True):
    items: tuple[Dataset, ...]
    next: str | None = None


class Versions(Resource, frozen=True, kw_only=True):
    items: tuple[Version, ...]
    """Newest first."""
    next: str | None = None


class DatasetFiles(Resource, frozen=True, kw_only=True):
    """A version's files in the order of their paths."""

    version: int
    items: tuple[File, ...]
    next: str | None = None


class FetchProgress(Resource, frozen=True, kw_only=True):
    stage: Literal["waiting", "fetching", "unpacking"]
    bytes: int = 0
    total: int = 0
    """0: the far side does not say."""


class Named(NamedTuple):
    """A dataset as a person names it."""

    name: str
    version: int | None
    """None: the newest."""


def parse(text: str) -> Named | None:
    """``mnist`` or ``mnist:3`` in its parts; None when it is neither."""
    match = re.fullmatch(rf"({NAME_PATTERN})(?::([1-9][0-9]{{0,8}}))?", text)
    return None if match is None else Named(match[1], int(match[2]) if match[2] else None)
