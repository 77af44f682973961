"""Snapshot: what a directory held at one moment, by content.

A manifest is the sorted list of its entries; its digest is the snapshot's id. Two directories with the
same content have the same snapshot, whoever sends them and whenever.

A large file names its content twice: the digest of the whole, and the digests of its *chunks*, which are what
travels and is stored. Chunks have one fixed size, so anybody who knows a file's size knows where they begin:
a server can check that a manifest is the only one this content can have. What is appended or changed in
place leaves the other chunks as they were. (Cuts that follow the content would also survive an insertion in
the middle, which the formats that grow this large do not do, and no server could check them.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import blake3
import msgspec

from gradient_jupyter.resources.base import Request, Resource
from gradient_jupyter.resources.project import ProjectName

#: BLAKE3, 32 bytes, lower-case hexadecimal.
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
#: A path inside the snapshot: relative, ``/`` between parts. Checked part by part by ``check_path``.
EntryPath = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]

#: A file of up to this many bytes is one blob; a larger one is chunks.
WHOLE_BYTES = 64 << 20
CHUNK_BYTES = 8 << 20

#: The id of the snapshot without entries: jobs that need no files run in it.
EMPTY_TREE = blake3.blake3(b"[]").hexdigest()


class File(Request, frozen=True, kw_only=True, tag="file", tag_field="kind"):
    """A regular file: its path, its bytes by digest, and whether its owner may execute it."""

    path: EntryPath
    size: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    digest: Digest
    executable: bool = False
    chunks: tuple[Digest, ...] | msgspec.UnsetType = msgspec.UNSET
    """Of a file of more than ``WHOLE_BYTES``, and of no other: the digest of every ``CHUNK_BYTES`` of it, in
    order; the last may be shorter."""

    def blobs(self) -> Iterator[Piece]:
        """What has to be stored so that this file can be made, in order."""
        if self.chunks is msgspec.UNSET:
            yield Piece(self.digest, 0, self.size)
            return
        for number, digest in enumerate(self.chunks):
            offset = number * CHUNK_BYTES
            yield Piece(digest, offset, min(CHUNK_BYTES, self.size - offset))


class Piece(NamedTuple):
    """The bytes of a file from ``offset`` on that are one blob."""

    digest: str
    offset: int
    size: int


class Link(Request, frozen=True, kw_only=True, tag="link", tag_field="kind"):
    """A symbolic link whose target stays inside the snapshot; ``target`` is relative to the link."""

    path: EntryPath
    target: EntryPath


class Directory(Request, frozen=True, kw_only=True, tag="directory", tag_field="kind"):
    """A directory that would otherwise be lost because nothing in it was sent."""

    path: EntryPath


Entry = File | Link | Directory


class Manifest(Request, frozen=True, kw_only=True):
    """All entries of a snapshot, each path once, sorted by path."""

    entries: tuple[Entry, ...]

    @property
    def files(self) -> tuple[File, ...]:
        return tuple(entry for entry in self.entries if isinstance(entry, File))

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)

    def blobs(self) -> dict[str, int]:
        """What has to be stored so that this snapshot can be made: digests, and how many bytes each has."""
        return {piece.digest: piece.size for file in self.files for piece in file.blobs()}

    def digests(self) -> set[str]:
        """Every blob this manifest needs: what keeps a blob from being cleared away."""
        return set(self.blobs())

    def canonical(self) -> bytes:
        """The one byte form of this content: what the digest is taken of and what is stored."""
        return msgspec.json.encode(sorted(self.entries, key=lambda entry: entry.path))

    def digest(self) -> str:
        return blake3.blake3(self.canonical()).hexdigest()


class Snapshot(Resource, frozen=True, kw_only=True):
    """A stored manifest. ``id`` is its digest."""

    id: str
    files: int
    bytes: int
    created_us: int


class FetchGit(Request, frozen=True, kw_only=True):
    """A repository to make a snapshot of: ``git+https://host/owner/repo@ref#subdirectory=dir``."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    username: (
        Annotated[
            str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f:\ud800-\udfff]+\Z")
        ]
        | None
    ) = None
    """Of whom ``password`` is; where it is a token most hosts take any."""
    password: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    """``secret:NAME``: what a private repository is read with. Never the password itself."""
    project: ProjectName | None = None
    project_id: str | None = None
    """Whose job it is for: which secret is meant is decided as for its variables."""


class GitSnapshot(Resource, frozen=True, kw_only=True):
    """What a commit held, stored."""

    snapshot: Snapshot
    commit: str
    """In full: what the branch or tag stood for when it was fetched."""
    source: str
    """The address with that commit as its ref; a job of it says so as its ``source``."""
    warnings: tuple[str, ...] = ()
    """Sentences on what did not come along."""


class MissingBlobs(Resource, frozen=True, kw_only=True):
    """Which of the digests a manifest names the server does not have from this owner."""

    missing: tuple[str, ...]


def chunk_count(size: int) -> int:
    """Of how many chunks a file of ``size`` bytes consists; 0: it is one blob."""
    return -(-size // CHUNK_BYTES) if size > WHOLE_BYTES else 0


def check_path(path: str) -> str | None:
    """Why ``path`` cannot stand in a snapshot, or None. Parts are compared, never prefixes."""
    if path.startswith("/"):
        return "is absolute"
    if "\x00" in path:
        return "contains a null byte"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, '.' or '..'"
    if any(len(part.encode()) > 255 for part in parts):
        return "has a part of more than 255 bytes"
    return None


def check_link(path: str, target: str) -> str | None:
    """Why a link at ``path`` may not point to ``target``, or None. It has to stay inside the snapshot."""
    if target.startswith("/"):
        return "points to an absolute path"
    if "\x00" in target:
        return "points to a name with a null byte"
    depth = len(path.split("/")) - 1
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            return "points outside the directory"
    return None
