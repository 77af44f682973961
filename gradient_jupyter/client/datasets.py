"""Datasets: making them from what is here or at a URL, and holding on to them.

``Dataset`` is a handle: its properties are what was last heard of it, its methods ask the server.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from gradient_jupyter.client import upload
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.client.upload import OnProgress, Progress
from gradient_jupyter.client.workspaces import read_local
from gradient_jupyter.resources import dataset as wire
from gradient_jupyter.resources.dataset import AddedVersion, DeletedDataset, Version
from gradient_jupyter.resources.decoding import convert
from gradient_jupyter.resources.errors import GradientError, InvalidRequest, NotFound, WorkspaceError
from gradient_jupyter.resources.snapshot import File
from gradient_jupyter.workspace.address import Address, is_address, parse
from gradient_jupyter.workspace.archive import ZIP, is_archive
from gradient_jupyter.workspace.contents import Contents
from gradient_jupyter.workspace.ignore import Ignore
from gradient_jupyter.workspace.wording import listed, shown

T = TypeVar("T", bound=msgspec.Struct)

_PAGE = 200
_ID = re.compile(r"dst[0-9a-z]{12}|public-.*")
_LONGEST_SOURCE = 4096
_FETCHED_S = 24 * 3600.0
"""How long the server may take to fetch; it has limits of its own."""
_ASK_S = 0.5
_TRIES = 3
_STAGES: dict[str, Literal["fetching", "unpacking"]] = {
    "waiting": "fetching", "fetching": "fetching", "unpacking": "unpacking",
}  # fmt: skip


class Datasets:
    """All datasets you may see, and the public ones. ``client.datasets``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        source: Path | str | None = None,
        *,
        description: str | None = None,
        sha256: str | None = None,
        etag: str | None = None,
        extract: bool = True,
        on_progress: OnProgress | None = None,
    ) -> Dataset:
        """Makes the dataset ``name``, or the next version of one that is there, from ``source``; returns once
        it is stored. Nothing is made when the newest version holds the same already: see ``Dataset.added``.

        ``source`` is a directory (everything in it but ``.git``, ``.hg`` and ``.svn``), a zip file
        (unpacked), any other file, or a URL, which the server fetches (zip and tar archives are unpacked
        unless ``extract`` is False; ``sha256`` and ``etag`` are what it must be). None makes a dataset
        without a version.
        """
        if source is not None and isinstance(source, str) and is_address(source):
            return self._fetched(name, parse(source), description, sha256, etag, extract, on_progress)
        if sha256 is not None or etag is not None or not extract:
            raise InvalidRequest("sha256, etag and extract are for what is fetched from a URL.")
        # What would be refused in the end is refused now, before much has been sent.
        _checked(wire.CreateDataset, name=name, description=description or "")
        if source is None:
            found = self._named(name)
            if found is None:
                return Dataset(self._transport, self._create(name, description, None, ""))
            return self._described(found, description)
        contents = _read(Path(source).expanduser(), on_progress)
        return self._sent(name, description, contents, on_progress)

    def get(self, name: str) -> Dataset:
        """By its name, yours before the public one; or by its id."""
        found = self._named(name)
        if found is None and _ID.fullmatch(name):
            found = self._transport.request("GET", _path(name), wire.Dataset)
        if found is None:
            raise NotFound(
                f"There is no dataset {name!r}.",
                next="gradient datasets list shows what there is.",
                code="no-such-dataset",
            )
        return Dataset(self._transport, found)

    def list(self) -> Iterator[Dataset]:
        """Yours, newest first, and then the public ones."""
        cursor = None
        while True:
            query = {"limit": _PAGE, "cursor": cursor}
            page = self._transport.request("GET", "/datasets", wire.Datasets, query=query)
            for record in page.items:
                yield Dataset(self._transport, record)
            if (cursor := page.next) is None:
                return

    def delete(self, name: str, version: int | None = None) -> DeletedDataset:
        """A dataset with all its versions, or one version of it. ``Conflict`` (code ``dataset-in-use``) names
        the jobs that are not over and have it."""
        return self.get(name).delete(version)

    def _named(self, name: str) -> wire.Dataset | None:
        _checked(wire.CreateDataset, name=name)
        query = {"name": name, "limit": _PAGE}
        items = self._transport.request("GET", "/datasets", wire.Datasets, query=query).items
        # One of a group's may bear the same name, and so may a public one.
        mine = [one for one in items if one.owner.startswith("user:")]
        return next(iter([*mine, *items]), None)

    def _create(self, name: str, description: str | None, snapshot: str | None, source: str) -> wire.Dataset:
        body = wire.CreateDataset(name=name, description=description or "", snapshot=snapshot, source=source)
        return self._transport.request("POST", "/datasets", wire.Dataset, body=body)

    def _described(self, record: wire.Dataset, description: str | None) -> Dataset:
        dataset = Dataset(self._transport, record)
        if description is not None and description != record.description:
            dataset.update(description=description)
        return dataset

    def _sent(
        self, name: str, description: str | None, contents: Contents, on_progress: OnProgress | None
    ) -> Dataset:
        source = shown(str(contents.root))[:_LONGEST_SOURCE]
        tries = _TRIES
        while True:
            snapshot = upload.send(self._transport, contents, on_progress)
            try:
                found = self._named(name)
                if found is None or found.public:
                    record = self._create(name, description, snapshot, source)
                    assert record.latest is not None
                    added = AddedVersion(dataset=record, version=record.latest, new=True)
                else:
                    body = wire.AddVersion(snapshot=snapshot, source=source)
                    added = self._transport.request(
                        "POST", _path(found.id) + "/versions", AddedVersion, body=body, repeatable=True
                    )
            except GradientError as error:
                # Cleared away between the two requests, or somebody made one of this name just now.
                if error.code not in ("no-such-snapshot", "name-taken") or (tries := tries - 1) == 0:
                    raise
            else:
                return self._added(added, description, _warnings(contents))

    def _fetched(
        self,
        name: str,
        address: Address,
        description: str | None,
        sha256: str | None,
        etag: str | None,
        extract: bool,
        on_progress: OnProgress | None,
    ) -> Dataset:
        request = _checked(
            wire.FetchDataset, name=name, url=address.url, description=description, sha256=sha256, etag=etag,
            extract=extract, tag=secrets.token_urlsafe(16),
        )  # fmt: skip
        with _Watched(self._transport, request, address.source, on_progress):
            added = self._transport.request(
                "POST", "/datasets/fetch", AddedVersion, body=request, answer_s=_FETCHED_S
            )
        if on_progress is not None:
            size, files = added.version.bytes, added.version.files
            on_progress(Progress("fetched", size, size, files, address.source, added.warnings))
        return self._added(added, None, ())

    def _added(self, added: AddedVersion, description: str | None, warnings: tuple[str, ...]) -> Dataset:
        dataset = self._described(added.dataset, description)
        dataset.added = added.version if added.new else None
        dataset.warnings = (*added.warnings, *warnings)
        return dataset


class Dataset:
    """One dataset. ``record`` is what was last heard of it; ``refresh()`` asks again."""

    def __init__(self, transport: Transport, record: wire.Dataset) -> None:
        self._transport = transport
        self.record = record
        self.added: Version | None = None
        """The version that ``create`` has just made; None where nothing had changed."""
        self.warnings: tuple[str, ...] = ()
        """Sentences on what did not come along."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def public(self) -> bool:
        """Whether the administrator provides it: every job has it without asking."""
        return self.record.public

    @property
    def latest(self) -> Version | None:
        return self.record.latest

    def refresh(self) -> Dataset:
        self.record = self._transport.request("GET", _path(self.id), wire.Dataset)
        return self

    def update(self, *, description: str) -> Dataset:
        body = _checked(wire.UpdateDataset, description=description)
        self.record = self._transport.request(
            "PATCH", _path(self.id), wire.Dataset, body=body, repeatable=True
        )
        return self

    def versions(self) -> Iterator[Version]:
        """All of them, newest first."""
        cursor = None
        while True:
            query = {"limit": _PAGE, "cursor": cursor}
            page = self._transport.request("GET", _path(self.id) + "/versions", wire.Versions, query=query)
            yield from page.items
            if (cursor := page.next) is None:
                return

    def files(self, version: int | None = None) -> Iterator[File]:
        """What a version holds, in the order of the paths; the newest without a number."""
        cursor = None
        while True:
            query = {"limit": 1000, "cursor": cursor, "version": version}
            page = self._transport.request("GET", _path(self.id) + "/files", wire.DatasetFiles, query=query)
            yield from page.items
            version = page.version  # one that is made meanwhile does not come in between
            if (cursor := page.next) is None:
                return

    def delete(self, version: int | None = None) -> DeletedDataset:
        """All of it, or one version."""
        return self._transport.request("DELETE", _path(self.id), DeletedDataset, query={"version": version})

    def __repr__(self) -> str:
        latest = "public" if self.public else f"version {self.latest.number}" if self.latest else "no version"
        return f"<Dataset {self.id} {self.name!r}: {latest}>"


class _Watched:
    """Tells how far a fetch is while it goes on, by asking: the answer itself comes at the end."""

    def __init__(
        self, transport: Transport, request: wire.FetchDataset, where: str, on_progress: OnProgress | None
    ) -> None:
        self._transport = transport
        self._path = f"/datasets/fetches/{request.tag}"
        self._where = where
        self._report = on_progress
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="gradient-fetch", daemon=True)

    def __enter__(self) -> None:
        if self._report is not None:
            self._report(Progress("fetching", 0, 0, source=self._where))
            self._thread.start()

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        if self._report is not None:
            self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(_ASK_S):
            try:
                far = self._transport.request("GET", self._path, wire.FetchProgress)
            except GradientError:
                continue  # not begun yet, or just over
            if self._report is not None and not self._over.is_set():
                stage = _STAGES[far.stage]
                self._report(Progress(stage, far.bytes, far.total, source=self._where))


def _read(path: Path, on_progress: OnProgress | None) -> Contents:
    """What lies on this side, without a limit of this side's own. Nothing is left out for its name but what
    version control keeps: of data nobody expects less than all."""
    try:
        return read_local(path, None, on_progress, Ignore.of_data())
    except WorkspaceError as error:
        if ".gradientignore" not in error.next:
            raise
        raise WorkspaceError(
            error.message,
            next="Move it out of the directory, or pack what is small into archives.",
            code=error.code,
        ) from None


def _warnings(contents: Contents) -> tuple[str, ...]:
    name = contents.root.name
    packed = contents.root.is_file() and is_archive(name) and not name.lower().endswith(ZIP)
    kept = f"'{shown(name)}' is kept packed. To have what is in it, unpack it and send the directory."
    left = [example for row in contents.left_out for example in row.examples]
    said = (f"Left out, because version control keeps it: {listed(sorted(left))}.",) if left else ()
    return (*said, *((kept,) if packed else ()), *contents.warnings)


_SAID = {
    "name": "A name has up to 100 letters, digits, '.', '_' and '-', the first of them a letter or digit.",
    "description": "A description has up to 2,000 characters.",
    "sha256": "A SHA-256 has 64 hexadecimal digits.",
    "etag": "An ETag is what the server says in its header of that name.",
}


def _checked(kind: type[T], **fields: Any) -> T:
    """The request; InvalidRequest in a person's words where a field breaks the rules of its type."""
    request = kind(**fields)
    try:
        convert(msgspec.to_builtins(request), kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        field = str(error).partition("`$.")[2].rstrip("`")
        raise InvalidRequest(
            f"This cannot be the dataset's {field or 'name'}: {str(fields.get(field))[:80]!r}.",
            next=_SAID.get(field, ""),
            code="bad-dataset",
        ) from None
    return request


def _path(dataset_id: str) -> str:
    return f"/datasets/{quote(dataset_id, safe='')}"
