"""What a person names as a workspace, and how it becomes a snapshot on the server.

``find`` tells the kinds apart by how they are named and reads what lies on this side: a directory by its
ignore rules; a zip file or any other file as it is. Nothing is sent before ``send``. A repository is fetched
by the server, so that it also works from where there is no git.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

from gradient_jupyter.client import upload
from gradient_jupyter.client.directory import of_directory
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.client.upload import OnProgress, Progress
from gradient_jupyter.resources.errors import InvalidRequest, WorkspaceError
from gradient_jupyter.resources.secret import reference
from gradient_jupyter.resources.snapshot import EMPTY_TREE, FetchGit, GitSnapshot, Manifest
from gradient_jupyter.workspace.contents import Contents
from gradient_jupyter.workspace.ignore import Ignore
from gradient_jupyter.workspace.limit import default_limit, parse_size
from gradient_jupyter.workspace.preflight import NOTHING, Preflight, PreflightFile
from gradient_jupyter.workspace.repository import PREFIX, Repository, is_repository, parse
from gradient_jupyter.workspace.scan import scan
from gradient_jupyter.workspace.single import single
from gradient_jupyter.workspace.statcache import StatCache
from gradient_jupyter.workspace.wording import shown

#: How a person writes that a job needs no files; a directory of that name is ``./none``.
NONE = "none"
_LONGEST_SOURCE = 4096
_LONGEST_NAME = 200
_FETCHED_S = 3600.0
"""How long the server may take to fetch; it has limits of its own."""
#: What somebody writes who forgot how a repository is named here.
_ADDRESSES = ("https://", "http://", "ssh://", "git://", "git@")
_LARGEST = 5


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


class Login(NamedTuple):
    """What a private repository is opened with."""

    password: str
    """``secret:NAME``."""
    username: str | None = None
    project: str | None = None
    project_id: str | None = None
    """Whose job it is for, where that was said: its secrets come first."""


def find(
    workspace: Path | str | None,
    on_progress: OnProgress | None = None,
    *,
    max_size: int | str | None = None,
    ignore: Sequence[str] = (),
    login: Login | None = None,
) -> Workspace:
    """What ``workspace`` names, read now: no files (None, ``none``), a directory, a zip file, another file;
    or a repository (``git+https://…``), which the server reads.

    ``max_size`` is the most that may be sent, in bytes or as ``2GiB``; by default what
    ``$GRADIENT_WORKSPACE_LIMIT`` says, or 512 MiB. ``none`` lifts it. ``login`` opens a private repository.
    ``ignore`` are further rules of what stays behind, as in a ``.gradientignore``.
    """
    check_ignore(workspace, ignore)
    if login is not None and not (isinstance(workspace, str) and is_repository(workspace)):
        raise no_repository()
    if workspace is None or workspace == NONE:
        return _Nothing()
    if isinstance(workspace, str) and is_repository(workspace):
        return _Repository(parse(workspace), login)
    if isinstance(workspace, str) and workspace.startswith(_ADDRESSES):
        raise InvalidRequest(
            f"{workspace[:100]!r} is not a directory.",
            next=f"A repository is named like this: {PREFIX}https://github.com/owner/repo@main.",
            code="bad-repository",
        )
    limit = parse_size(max_size, of="max_size") if isinstance(max_size, str) else max_size
    if max_size is None:
        limit = default_limit()
    return _Local(Path(workspace).expanduser(), limit, on_progress, ignore)


def check_ignore(workspace: Path | str | None, ignore: Sequence[str]) -> None:
    """Raises ``InvalidRequest`` where ``ignore`` would do nothing."""
    if ignore and not (workspace is not None and Path(workspace).expanduser().is_dir()):
        raise InvalidRequest("Only of a directory can something be left out.", code="nothing-to-ignore")


def check_login(login: Login) -> None:
    """Raises ``InvalidRequest`` unless the password is named and not given."""
    if reference(login.password) is None:
        raise InvalidRequest(
            "A repository's password is not sent as it is: it would be in histories and logs.",
            next="Set it as a secret (gradient secrets set NAME) and give secret:NAME.",
            code="bad-credentials",
        )


def no_repository() -> InvalidRequest:
    """What is told to whoever gives a login for something else."""
    return InvalidRequest(
        "Only a repository (git+https://…) is opened with a user name and a password.",
        code="bad-credentials",
    )


class _Nothing:
    snapshot = EMPTY_TREE
    known = Sent(EMPTY_TREE)

    def project(self) -> tuple[str | None, str | None]:
        return of_directory(Path())

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        return Sent(upload.send_nothing(transport))

    def look(self, transport: Transport) -> Preflight:
        return NOTHING


class _Local:
    """A directory, a zip file or another file of this machine."""

    def __init__(
        self, path: Path, limit: int | None, on_progress: OnProgress | None, ignore: Sequence[str]
    ) -> None:
        self._path = path
        self._contents = read_local(path, limit, on_progress, Ignore(named=ignore))

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
        return of_directory(self._path if self._path.is_dir() else self._path.absolute().parent)

    def send(self, transport: Transport, on_progress: OnProgress | None = None) -> Sent:
        return Sent(upload.send(transport, self._contents, on_progress), self._source)

    def look(self, transport: Transport) -> Preflight:
        return upload.look(transport, self._contents)


class _Repository:
    """A repository that the server fetches."""

    snapshot = EMPTY_TREE
    known = None

    def __init__(self, repository: Repository, login: Login | None) -> None:
        self._repository = repository
        self._login = login

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
            body=self._asked(),
            repeatable=True,
            answer_s=_FETCHED_S,
        )

    def _asked(self) -> FetchGit:
        url = str(self._repository)
        if self._login is None:
            return FetchGit(url=url)
        check_login(self._login)
        project, project_id = self._login.project, self._login.project_id
        if project is None and project_id is None:
            project, project_id = self.project()
        return FetchGit(
            url=url, username=self._login.username, password=self._login.password, project=project,
            project_id=project_id,
        )  # fmt: skip


def read_local(path: Path, limit: int | None, on_progress: OnProgress | None, rules: Ignore) -> Contents:
    """What lies on this side: a directory by its ``rules``, of a zip file what is in it, another file."""

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
        return scan(path, cache=StatCache(), progress=progress, limit_bytes=limit, ignore=rules)
    if path.suffix.lower() == ".zip":
        from gradient_jupyter.workspace.zipped import zipped

        return zipped(path, progress=progress, limit_bytes=limit)
    return single(path, progress=progress, limit_bytes=limit)
