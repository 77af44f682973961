"""One walk down a directory: which files, links and directories belong to its snapshot, and what does not.

Nothing but ignore files is read. It goes by descriptors and follows no link (``descent``).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import Link, check_path
from gradient_jupyter.workspace.descent import FILE, Descent
from gradient_jupyter.workspace.digest import unreadable
from gradient_jupyter.workspace.ignore import (
    CONDA_ENVIRONMENT,
    GITIGNORE,
    GRADIENTIGNORE,
    PYTHON_ENVIRONMENT,
    Ignore,
    Rule,
)
from gradient_jupyter.workspace.leftout import Tally
from gradient_jupyter.workspace.tree import MAX_DEPTH, link_problem, stays_inside
from gradient_jupyter.workspace.wording import listed, shown, size_text

_IGNORE_BYTES = 4 << 20
#: What stands in a directory's way and says that it is no longer one, or no longer there.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Found(NamedTuple):
    """A regular file, as it was when its directory was listed."""

    path: bytes
    status: os.stat_result
    lasting: bool
    """Its times mean something: it does not lie on a read-only image."""


class _Pending(NamedTuple):
    path: bytes
    ignore: Ignore
    depth: int
    wanted: bool
    """A rule of the user's brings this directory back: it is sent even if it is an environment."""


class Walk:
    """``run`` fills ``files``, ``directories``, ``warnings`` and ``tally``."""

    def __init__(self, below: Descent, root: Path, ignore: Ignore, limit_entries: int) -> None:
        self.files: list[Found] = []
        self.directories: list[bytes] = []
        self.warnings: list[str] = []
        self.tally = Tally(os.fsencode(root))
        self._below = below
        self._root = root
        self._ignore = ignore
        self._limit = limit_entries
        self._links: dict[str, str] = {}
        self._foreign: list[bytes] = []
        self._special: list[bytes] = []
        self._forbidden = forbidden_places()
        self._images: dict[int, bool] = {}

    def run(self) -> None:
        stack = [_Pending(b"", self._ignore, 0, True)]
        while stack:
            stack.extend(self._directory(stack.pop()))
            if len(self.files) + len(self.directories) + len(self._links) > self._limit:
                raise self._too_many()

    def _directory(self, here: _Pending) -> Iterator[_Pending]:
        """Sort one directory's entries; yield the directories to enter."""
        try:
            fd = self._below.directory(here.path)
            status = os.fstat(fd)
            with os.scandir(fd) as listing:
                found = {os.fsencode(entry.name): entry for entry in listing}
        except OSError as error:
            if error.errno in _GONE and here.path:
                self._disappeared(here.path)
                return
            raise unreadable(here.path or os.fsencode(self._root), error, "directory") from None
        environment = self._environment(here, found)
        if environment is not None:
            self.tally.add(here.path, environment, is_directory=True)
            return
        place = self._forbidden.get((status.st_dev, status.st_ino))
        if place is not None:
            raise refusal(self._root / os.fsdecode(here.path), place)
        lasting = self._is_lasting(fd, status.st_dev)
        if here.path:
            self.directories.append(here.path)
        ignore = here.ignore.enter(
            here.path,
            gitignore=self._ignore_file(here.path, found.get(GITIGNORE)),
            gradientignore=self._ignore_file(here.path, found.get(GRADIENTIGNORE)),
        )
        prefix = here.path + b"/" if here.path else b""
        for name in sorted(found):
            entry = found[name]
            path = prefix + name
            is_directory = entry.is_dir(follow_symlinks=False)
            verdict = ignore.verdict(path, is_directory=is_directory)
            if verdict.left_out:
                assert verdict.rule is not None
                self.tally.add(path, verdict.rule, is_directory=is_directory)
                continue
            self._check_name(path)
            if is_directory:
                if here.depth + 1 >= MAX_DEPTH:
                    raise WorkspaceError(
                        f"'{shown(path)}' is more than {MAX_DEPTH} directories deep.",
                        next="Flatten it, or name it in .gradientignore.",
                    )
                yield _Pending(path, ignore, here.depth + 1, verdict.rule is not None)
            else:
                self._entry(path, entry, fd, lasting)

    def _entry(self, path: bytes, entry: os.DirEntry[str], directory: int, lasting: bool) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                self.files.append(Found(path, status, lasting))
            elif stat.S_ISLNK(status.st_mode):
                self._link(path, os.fsencode(os.readlink(entry.name, dir_fd=directory)))
            else:
                self._special.append(path)
        except FileNotFoundError:
            self._disappeared(path)
        except OSError as error:
            raise unreadable(path, error) from None

    def _link(self, path: bytes, target: bytes) -> None:
        try:
            text = target.decode()
        except UnicodeDecodeError:
            self._foreign.append(path)
            return
        if link_problem(path.decode(), text):
            self._foreign.append(path)
        else:
            self._links[path.decode()] = text

    def _disappeared(self, path: bytes) -> None:
        self.warnings.append(f"'{shown(path)}' disappeared while the directory was being read.")

    def kept_links(self) -> list[Link]:
        """The links that stay inside; the others, and the special files, become warnings."""
        kept = dict(self._links)
        # Leaving one out changes where others lead, so this ends when nothing more has to go.
        while leaving := [path for path in kept if not stays_inside(path, kept)]:
            for path in leaving:
                del kept[path]
                self._foreign.append(path.encode())
        if self._foreign:
            self.warnings.append(
                f"Left out because they are links that leave the directory: {listed(sorted(self._foreign))}."
            )
        if self._special:
            self.warnings.append(
                f"Left out because they are no regular files: {listed(sorted(self._special))}."
            )
        # Nothing is lost with them: a job gets the content under each of their names.
        linked = [found.path for found in self.files if found.status.st_nlink > 1]
        if linked:
            self.warnings.append(
                "Hard links are sent as files of their own, so a change to one will not show in another: "
                f"{listed(sorted(linked))}."
            )
        return [Link(path=path, target=target) for path, target in kept.items()]

    def _environment(self, here: _Pending, found: dict[bytes, os.DirEntry[str]]) -> Rule | None:
        if here.wanted or not here.ignore.has_defaults:
            return None
        if b"pyvenv.cfg" in found:
            return PYTHON_ENVIRONMENT
        return CONDA_ENVIRONMENT if b"conda-meta" in found else None

    def _ignore_file(self, directory: bytes, entry: os.DirEntry[str] | None) -> bytes | None:
        if entry is None or not entry.is_file(follow_symlinks=False):
            return None  # git does not follow a link here either
        path = os.path.join(directory, os.fsencode(entry.name))
        try:
            with open(self._below.open(path, FILE), "rb") as file:
                text = file.read(_IGNORE_BYTES + 1)
        except OSError as error:
            # To go on would send what its rules keep back.
            raise unreadable(path, error) from None
        if len(text) > _IGNORE_BYTES:
            raise WorkspaceError(
                f"'{shown(path)}' is larger than {size_text(_IGNORE_BYTES)}.", next="Is it an ignore file?"
            )
        return text

    def _is_lasting(self, fd: int, device: int) -> bool:
        if device not in self._images:
            self._images[device] = bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)
        return not self._images[device]

    def _check_name(self, path: bytes) -> None:
        try:
            problem = check_path(path.decode())
        except UnicodeDecodeError:
            problem = "is not UTF-8"
        if problem is None and len(path) > 4096:
            problem = "is longer than 4096 bytes"
        if problem is not None:
            raise WorkspaceError(
                f"The name '{shown(path)}' {problem}, so it cannot be sent.",
                next="Rename it, or let a pattern in .gradientignore match it ('?' stands for one byte).",
            )

    def _too_many(self) -> WorkspaceError:
        by_top: dict[bytes, int] = {}
        for found in self.files:
            top, slash, _ = found.path.partition(b"/")
            by_top[top + slash] = by_top.get(top + slash, 0) + 1
        for directory in self.directories:
            top = directory.partition(b"/")[0] + b"/"
            by_top[top] = by_top.get(top, 0) + 1
        most = sorted(by_top, key=lambda top: -by_top[top])[:5] or [b"*"]
        return WorkspaceError(
            f"The directory holds more than the limit of {self._limit} files and directories. Most are in: "
            + ", ".join(f"{shown(top)} ({by_top.get(top, 0)})" for top in most)
            + ".",
            next=f"Name what the job does not need in .gradientignore, one path a line: {rule_for(most[0])}",
        )


def forbidden_places() -> dict[tuple[int, int], str]:
    """The directories that are never sent, by device and inode: so by whatever name or mount one comes to
    them."""
    places: dict[tuple[int, int], str] = {}
    for path, what in (
        ("/", "the whole system"),
        (os.path.expanduser("~"), "your home directory"),
    ):
        try:
            status = os.stat(path)
        except OSError:
            continue
        places.setdefault((status.st_dev, status.st_ino), what)
    return places


def refusal(path: Path, place: str) -> WorkspaceError:
    """The error for one of them."""
    return WorkspaceError(
        f"'{shown(str(path))}' is {place}, with files that no job should get.",
        next="Make a directory for this work, move into it what the job needs, and submit from there.",
        code="workspace-refused",
    )


def rule_for(path: bytes) -> str:
    """The line of an ignore file that matches this path and no other."""
    return "/" + "".join("\\" + c if c in "\\*?[ " else c for c in shown(path))
