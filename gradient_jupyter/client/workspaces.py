"""What a person names as a workspace, and how it becomes a snapshot on the server.

A directory is read here and what is new of it is sent. A repository is fetched by the server, so that it also
works from where there is no git. ``find`` tells them apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

from gradient_jupyter.client import projects, upload
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.client.upload import OnProgress, Progress
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import EMPTY_TREE, FetchGit, GitSnapshot, Manifest
from gradient_jupyter.workspace.preflight import Preflight, PreflightFile
from gradient_jupyter.workspace.repository import PREFIX, Repository, is_repository, parse
from gradient_jupyter.workspace.scan import Scan

_FETCHED_S = 3600.0
"""How long the server may take to fetch; it has limits of its own."""
_LONGEST_NAME = 200
#: What somebody writes who forgot how a repository is named here.
_ADDRESSES = ("https://", "http://", "ssh://", "git://", "git@")
_LARGEST = 5


class Sent(NamedTuple):
    """A workspace that the server has. ``source`` says where it came from, empty for a directory."""

    snapshot: str
    source: str = ""


class Workspace(Protocol):
    """One way to name files."""

    @property
    def snapshot(self) -> str:
        """The snapshot it will be, or that of no files where this side cannot know it."""

    def project(self) -> tuple[str | None, str | None]:
        """Name or id of the project that its jobs belong to unless somebody says otherwise."""

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        """Makes the server have it."""

    def look(self, transport: Transport) -> Preflight:
        """What ``send`` would do."""


def find(workspace: Path | str | None, on_progress: OnProgress | None = None) -> Workspace:
    """What ``workspace`` names: no files (None), a repository (``git+https://…``), or a directory, which is
    read now."""
    if workspace is None:
        return _Nothing()
    if isinstance(workspace, str) and is_repository(workspace):
        return _Repository(parse(workspace))
    if isinstance(workspace, str) and workspace.startswith(_ADDRESSES):
        raise InvalidRequest(
            f"{workspace[:100]!r} is not a directory.",
            next=f"A repository is named like this: {PREFIX}https://github.com/owner/repo@main.",
            code="bad-repository",
        )
    return _Directory(Path(workspace), on_progress)


class _Nothing:
    snapshot = EMPTY_TREE

    def project(self) -> tuple[str | None, str | None]:
        return projects.of_directory(Path())

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        return Sent(upload.send_nothing(transport))

    def look(self, transport: Transport) -> Preflight:
        raise InvalidRequest("Without a workspace nothing is sent, so there is nothing to show.")


class _Directory:
    def __init__(self, path: Path, on_progress: OnProgress | None) -> None:
        self._path = path
        self._scan: Scan = upload.read(path, on_progress)

    @property
    def snapshot(self) -> str:
        return self._scan.manifest.digest()

    def project(self) -> tuple[str | None, str | None]:
        return projects.of_directory(self._path)

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        return Sent(upload.send(transport, self._scan, on_progress))

    def look(self, transport: Transport) -> Preflight:
        return upload.look(transport, self._scan)


class _Repository:
    snapshot = EMPTY_TREE

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def project(self) -> tuple[str | None, str | None]:
        """Named after the repository: where the person is when they name it does not matter."""
        name = "".join(letter if letter.isprintable() else "_" for letter in self._repository.name)
        return name[:_LONGEST_NAME], None

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        report = on_progress or (lambda progress: None)
        where = str(self._repository)
        report(Progress("fetching", 0, 0, source=where))
        fetched = self._fetch(transport)
        files, size = fetched.snapshot.files, fetched.snapshot.bytes
        report(Progress("fetched", size, size, files, fetched.source, fetched.warnings))
        return Sent(fetched.snapshot.id, fetched.source)

    def look(self, transport: Transport) -> Preflight:
        """The server has to fetch it to know; it keeps what it got for the job that may follow."""
        fetched = self._fetch(transport)
        path = f"/snapshots/{quote(fetched.snapshot.id, safe='')}/manifest"
        manifest = transport.request("GET", path, Manifest)
        files = tuple(PreflightFile(path=file.path, size=file.size, new=False) for file in manifest.files)
        return Preflight(
            root=fetched.source,
            snapshot=fetched.snapshot.id,
            count=len(files),
            bytes=manifest.size,
            new_bytes=0,
            files=files,
            largest=tuple(sorted(files, key=lambda file: (-file.size, file.path))[:_LARGEST]),
            left_out=(),
            warnings=fetched.warnings,
        )

    def _fetch(self, transport: Transport) -> GitSnapshot:
        return transport.request(
            "POST",
            "/snapshots/git",
            GitSnapshot,
            body=FetchGit(url=str(self._repository)),
            repeatable=True,
            answer_s=_FETCHED_S,
        )
