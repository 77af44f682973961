"""What a person names as a workspace, and how it becomes a snapshot on the server.

``find`` tells the kinds apart by how they are named and reads what lies on this side: a directory by its
ignore rules; a zip file or any other file as it is. Nothing is sent before ``send``.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from gradient_jupyter.client import projects, upload
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.client.upload import OnProgress, Progress
from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import EMPTY_TREE
from gradient_jupyter.workspace.contents import Contents
from gradient_jupyter.workspace.limit import default_limit, parse_size
from gradient_jupyter.workspace.preflight import NOTHING, Preflight
from gradient_jupyter.workspace.scan import scan
from gradient_jupyter.workspace.single import single
from gradient_jupyter.workspace.statcache import StatCache
from gradient_jupyter.workspace.wording import shown

#: How a person writes that a job needs no files; a directory of that name is ``./none``.
NONE = "none"
_LONGEST_SOURCE = 4096


class Sent(NamedTuple):
    """A workspace that the server has. ``source`` says where it came from, for people."""

    snapshot: str
    source: str = ""


class Workspace(Protocol):
    """One way to name files."""

    @property
    def snapshot(self) -> str:
        """The snapshot it will be, or that of no files where this side cannot know it."""

    @property
    def known(self) -> Sent | None:
        """What it is, if nothing of it changed since it was read before: the server may well have it."""

    def project(self) -> tuple[str | None, str | None]:
        """Name or id of the project that its jobs belong to unless somebody says otherwise."""

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        """Makes the server have it."""

    def look(self, transport: Transport) -> Preflight:
        """What ``send`` would do."""


def find(
    workspace: Path | str | None,
    on_progress: OnProgress | None = None,
    *,
    max_size: int | str | None = None,
) -> Workspace:
    """What ``workspace`` names, read now: no files (None, ``none``), a directory, a zip file, another file.

    ``max_size`` is the most that may be sent, in bytes or as ``2GiB``; by default what
    ``$GRADIENT_WORKSPACE_LIMIT`` says, or 512 MiB. ``none`` lifts it.
    """
    if workspace is None or workspace == NONE:
        return _Nothing()
    limit = parse_size(max_size, of="max_size") if isinstance(max_size, str) else max_size
    if max_size is None:
        limit = default_limit()
    return _Local(Path(workspace).expanduser(), limit, on_progress)


def local_path(workspace: Path | str | None) -> Path | None:
    """The path on this side that ``workspace`` names, or None where it names none."""
    return None if workspace is None or workspace == NONE else Path(workspace).expanduser()


class _Nothing:
    snapshot = EMPTY_TREE
    known = Sent(EMPTY_TREE)

    def project(self) -> tuple[str | None, str | None]:
        return projects.of_directory(Path())

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        return Sent(upload.send_nothing(transport))

    def look(self, transport: Transport) -> Preflight:
        return NOTHING


class _Local:
    """A directory, a zip file or another file of this machine."""

    def __init__(self, path: Path, limit: int | None, on_progress: OnProgress | None) -> None:
        self._path = path
        self._contents = _read(path, limit, on_progress)

    @property
    def snapshot(self) -> str:
        return self._contents.manifest.digest()

    @property
    def known(self) -> Sent | None:
        return None if self._contents.read_bytes else Sent(self.snapshot, self._source)

    @property
    def _source(self) -> str:
        return shown(str(self._contents.root))[:_LONGEST_SOURCE]

    def project(self) -> tuple[str | None, str | None]:
        """The directory's, or that of the directory in which the file lies."""
        return projects.of_directory(self._path if self._path.is_dir() else self._path.absolute().parent)

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        return Sent(upload.send(transport, self._contents, on_progress), self._source)

    def look(self, transport: Transport) -> Preflight:
        return upload.look(transport, self._contents)


def _read(path: Path, limit: int | None, on_progress: OnProgress | None) -> Contents:
    def progress(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Progress("reading", done, total))

    try:
        is_file = not path.is_dir() and path.exists()
    except OSError as error:
        raise WorkspaceError(
            f"'{shown(str(path))}' cannot be looked at ({error.strerror}).", next="Check its permissions."
        ) from None
    if not is_file:
        return scan(path, cache=StatCache(), progress=progress, limit_bytes=limit)
    if path.suffix.lower() == ".zip":
        from gradient_jupyter.workspace.zipped import zipped

        return zipped(path, progress=progress, limit_bytes=limit)
    return single(path, progress=progress, limit_bytes=limit)
