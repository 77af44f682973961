"""What a commit holds, as a manifest: git's listing of a tree, and the objects as git hands them out.

There is never a working tree, so nothing in the repository is acted upon: no filter, no attribute, no hook,
no link, no name that is special on some file system. Everything that is committed belongs to the snapshot,
but for what a ``.gradientignore`` leaves out; a ``.gitignore`` says what not to commit, and has had its say.

Runs no git: it reads what ``git ls-tree`` and ``git cat-file`` print. All of it may be made to harm.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, NoReturn

from gradient_jupyter.resources.errors import InvalidRequest, TooLarge
from gradient_jupyter.resources.snapshot import (
    Directory,
    Entry,
    File,
    Link,
    Manifest,
)
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.ignore import GRADIENTIGNORE, Ignore
from gradient_jupyter.workspace.taking import SMALL, Content, exactly, put, put_data
from gradient_jupyter.workspace.tree import (
    MAX_ENTRIES,
    MAX_PATH_BYTES,
    check_manifest,
    entry_problem,
    stays_inside,
)
from gradient_jupyter.workspace.wording import listed, shown, size_text

#: Arguments of ``git ls-tree`` that make the listing read here.
LISTING = ("-r", "-z", "-l", "--full-tree")

_LINE = re.compile(
    rb"([0-7]{6}) (blob|commit|tree) ([0-9a-f]{40}|[0-9a-f]{64}) +([0-9]{1,18}|-)\t(.+)", re.DOTALL
)
_HEADER = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) blob ([0-9]{1,18})\n")
_SUBMODULE = 0o160000
_IGNORE_BYTES = 4 << 20
_LFS = b"version https://git-lfs.github.com/spec/"

#: Gives what ``git cat-file --batch`` prints for these objects, in their order, to the function.
Read = Callable[[Sequence[str], Callable[[BinaryIO], None]], None]


class Listed(NamedTuple):
    """One line of the listing."""

    mode: int
    oid: str
    size: int
    path: bytes

    @property
    def link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def file(self) -> bool:
        return stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A commit's files, stored. ``warnings`` are sentences for the person who asked for them."""

    manifest: Manifest
    blobs: tuple[tuple[str, int], ...]
    """Digest and size of each."""
    warnings: tuple[str, ...]


def parse_listing(chunks: Iterable[bytes], *, limit_entries: int = MAX_ENTRIES) -> list[Listed]:
    """The entries of a listing. It stops reading at the first entry over the limit: a few small objects can
    stand for billions of files."""
    found: list[Listed] = []
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\x00")
        found.extend(map(_listed, lines))
        if len(found) > limit_entries:
            raise TooLarge(
                f"The repository holds more than the limit of {limit_entries} files.",
                next="Take one directory of it: add #subdirectory=PATH.",
                code="repository-too-large",
            )
        if len(rest) > 2 * MAX_PATH_BYTES:
            _refuse(rest, f"is longer than {MAX_PATH_BYTES} bytes")
    if rest:
        raise ValueError("the listing is cut off")
    return found


def take(listing: Sequence[Listed], read: Read, blobs: BlobStore, *, limit_bytes: int) -> Checkout:
    """Stores the files of ``listing`` in ``blobs``. Blocks.

    ``InvalidRequest`` (code ``repository-refused``) names an entry that cannot be part of a snapshot,
    ``TooLarge`` the largest files.
    """
    for each in listing:
        _check_name(each.path)
    wanted, left_out = _wanted(listing, _rules(listing, read))
    size = sum(each.size for each in wanted)
    if size > limit_bytes:
        raise _too_much(wanted, size, limit_bytes)
    stored: dict[str, Content] = {}
    targets: dict[str, bytes] = {}
    pointers: set[str] = set()
    links = {each.oid for each in wanted if each.link and each.size < MAX_PATH_BYTES}
    files = {each.oid for each in wanted if each.file}
    order = sorted(files | links)
    with blobs.batch() as batch:

        def receive(stream: BinaryIO) -> None:
            for oid in order:
                length = _header(stream, oid)
                if length <= SMALL:
                    data = exactly(stream, length)
                    if oid in links:
                        targets[oid] = data
                    if oid in files:
                        stored[oid] = put_data(batch, data)
                        if data.startswith(_LFS):
                            pointers.add(oid)
                else:
                    stored[oid] = put(batch, stream, length)
                exactly(stream, 1)

        if order:
            read(order, receive)
        sizes = tuple((blob.digest, blob.size) for blob in batch.commit())
    warnings = list(left_out)
    entries: list[Entry] = []
    made: dict[str, str] = {}
    foreign: list[bytes] = []
    for each in wanted:
        path = each.path.decode()
        if each.mode == _SUBMODULE:
            entries.append(Directory(path=path))
        elif each.link:
            target = targets.get(each.oid, b"")
            link = Link(path=path, target=target.decode("utf-8", "surrogateescape"))
            if entry_problem(link) is None:
                made[path] = link.target
            else:
                foreign.append(each.path)
        else:
            content = stored[each.oid]
            entries.append(
                File(
                    path=path, size=content.size, digest=content.digest, chunks=content.chunks,
                    executable=bool(each.mode & stat.S_IXUSR),
                )
            )  # fmt: skip
    while leaving := [path for path in made if not stays_inside(path, made)]:
        for path in leaving:
            del made[path]
            foreign.append(path.encode())
    entries.extend(Link(path=path, target=target) for path, target in made.items())
    if foreign:
        warnings.append(
            f"Left out because they are links that leave the repository: {listed(sorted(foreign))}."
        )
    if submodules := sorted(each.path for each in wanted if each.mode == _SUBMODULE):
        warnings.append(f"Submodules are not fetched; their directories are empty: {listed(submodules)}.")
    if large := sorted(each.path for each in wanted if each.file and each.oid in pointers):
        warnings.append(f"Kept in Git LFS, so only a pointer to them came: {listed(large)}.")
    manifest = Manifest(entries=tuple(sorted(entries, key=lambda entry: entry.path)))
    try:
        check_manifest(manifest, canonical=True)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"The repository cannot be a workspace. {error.message}",
            next="Whoever made it did so with something else than git: do not trust it.",
            code="repository-refused",
        ) from error
    return Checkout(manifest, sizes, tuple(warnings))


def _listed(line: bytes) -> Listed:
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of a listing: {line[:200]!r}")
    mode, kind, oid, size, path = match.groups()
    number = int(mode, 8)
    entry = Listed(number, oid.decode(), 0 if size == b"-" else int(size), path)
    if kind != (b"commit" if number == _SUBMODULE else b"blob") or not (
        entry.link or entry.file or number == _SUBMODULE
    ):
        _refuse(path, f"has the mode {number:o}, which git does not make")
    return entry


def _check_name(path: bytes) -> None:
    try:
        problem = entry_problem(Directory(path=path.decode()))
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    if problem is None and any(part.lower() == b".git" for part in path.split(b"/")):
        problem = "would be a repository of its own, with commands that git runs"
    if problem is not None:
        _refuse(path, problem)


def _rules(listing: Sequence[Listed], read: Read) -> dict[bytes, bytes]:
    """The text of each ``.gradientignore``, by its directory."""
    found = [each for each in listing if each.path.rpartition(b"/")[2] == GRADIENTIGNORE and each.file]
    for each in found:
        if each.size > _IGNORE_BYTES:
            _refuse(each.path, f"is larger than {size_text(_IGNORE_BYTES)}")
    texts: dict[str, bytes] = {}
    order = sorted({each.oid for each in found})

    def receive(stream: BinaryIO) -> None:
        for oid in order:
            texts[oid] = exactly(stream, _header(stream, oid))
            exactly(stream, 1)

    if order:
        read(order, receive)
    return {each.path.rpartition(b"/")[0]: texts[each.oid] for each in found}


def _wanted(listing: Sequence[Listed], rules: dict[bytes, bytes]) -> tuple[list[Listed], list[str]]:
    """What no ``.gradientignore`` leaves out, and a sentence on the rest."""
    top = Ignore(defaults=False).enter(b"", gitignore=None, gradientignore=rules.get(b""))
    inside: dict[bytes, Ignore | None] = {b"": top}

    def enter(directory: bytes) -> Ignore | None:
        """The rules in a directory; None when it is left out."""
        if directory not in inside:
            above = enter(directory.rpartition(b"/")[0])
            if above is None or above.verdict(directory, is_directory=True).left_out:
                inside[directory] = None
            else:
                inside[directory] = above.enter(
                    directory, gitignore=None, gradientignore=rules.get(directory)
                )
        return inside[directory]

    if not rules:
        return list(listing), []
    wanted: list[Listed] = []
    left: list[Listed] = []
    for each in listing:
        here = enter(each.path.rpartition(b"/")[0])
        out = here is None or here.verdict(each.path, is_directory=each.mode == _SUBMODULE).left_out
        (left if out else wanted).append(each)
    if not left:
        return wanted, []
    size = size_text(sum(each.size for each in left))
    return wanted, [f"Left out by .gradientignore: {listed([each.path for each in left])} ({size})."]


def _header(stream: BinaryIO, oid: str) -> int:
    """The size of the object that follows."""
    line = stream.readline(200)
    match = _HEADER.fullmatch(line)
    if match is None or match[1].decode() != oid:
        raise EOFError(f"no object {oid}: {line!r}")
    return int(match[2])


def _too_much(files: Sequence[Listed], size: int, limit: int) -> TooLarge:
    largest = sorted(files, key=lambda each: -each.size)[:5]
    return TooLarge(
        f"The repository holds {size_text(size)}, more than the limit of {size_text(limit)}. The largest "
        "files are: " + ", ".join(f"{shown(each.path)} ({size_text(each.size)})" for each in largest) + ".",
        next="Take one directory of it (#subdirectory=PATH), or commit a .gradientignore for the rest.",
        code="repository-too-large",
    )


def _refuse(path: bytes, problem: str) -> NoReturn:
    name = shown(path)
    name = name if len(name) <= 200 else name[:200] + "…"
    raise InvalidRequest(
        f"The repository cannot be a workspace: '{name}' {problem}.",
        next="Take another commit, or a directory without it (#subdirectory=PATH).",
        code="repository-refused",
    )
