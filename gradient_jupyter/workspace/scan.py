"""A directory as it is now: its manifest, what stays behind and why.

Nothing is sent here, and nothing in the directory is changed. A scan fails rather than send something else
than the person sees: an unreadable file, a name that cannot travel or a file in motion is an error that
names it, unless an ignore rule takes it out.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import Directory, Entry, File, Link, Manifest, check_path
from gradient_jupyter.workspace.digest import Hashed, hash_file, unreadable
from gradient_jupyter.workspace.ignore import (
    CONDA_ENVIRONMENT,
    GITIGNORE,
    GRADIENTIGNORE,
    PYTHON_ENVIRONMENT,
    Ignore,
    Rule,
)
from gradient_jupyter.workspace.leftout import LeftOut, Tally
from gradient_jupyter.workspace.statcache import Remembered, StatCache, recall, remember
from gradient_jupyter.workspace.tree import MAX_DEPTH, MAX_ENTRIES, link_problem, stays_inside
from gradient_jupyter.workspace.wording import listed, shown, size_text

LIMIT_BYTES = 512 << 20
_BATCH = 64
_THREADS = 8
#: What a file costs, and how much is read in a second, where nothing has to be waited for.
_QUICK_SECONDS, _QUICK_BYTES = 0.0005, 200e6
_IGNORE_BYTES = 4 << 20

#: Called with (bytes done, bytes in all) while files are read.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Scan:
    """A directory at one moment. ``warnings`` are sentences for the person who sends it."""

    root: Path
    """Absolute, without links."""
    manifest: Manifest
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    read_bytes: int
    """How much had to be read, because nothing was known of it."""

    def open_file(self, file: File) -> BinaryIO:
        """The bytes of one of the manifest's files, for ``packs.pack``. ``WorkspaceError`` when it is
        gone."""
        path = os.path.join(os.fsencode(self.root), file.path.encode())
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return open(os.open(path, flags), "rb", buffering=0)
        except OSError as error:
            raise unreadable(file.path.encode(), error) from None


class _Found(NamedTuple):
    path: bytes
    status: os.stat_result


class _Pending(NamedTuple):
    path: bytes
    ignore: Ignore
    depth: int
    wanted: bool
    """A rule of the user's brings this directory back: it is sent even if it is an environment."""


def scan(
    root: Path,
    *,
    cache: StatCache | None = None,
    progress: Progress | None = None,
    limit_bytes: int | None = LIMIT_BYTES,
    limit_entries: int = MAX_ENTRIES,
    ignore: Ignore | None = None,
) -> Scan:
    """The snapshot of ``root`` as it is now. Raises ``WorkspaceError`` with a next step when there is none.

    ``ignore`` are the rules to start with (our defaults). Without ``cache`` every file is read.
    """
    real = _checked_root(root)
    walk = _Walk(os.fsencode(real), ignore or Ignore(), limit_entries)
    walk.run()
    total = sum(found.status.st_size for found in walk.files)
    if limit_bytes is not None and total > limit_bytes:
        raise _too_much(walk.files, total, limit_bytes)

    known = cache.load(real) if cache else {}
    started_ns = cache.clock() if cache else 0
    entries: list[Entry] = []
    memory: dict[bytes, Remembered] = {}
    changed = False
    read = done = 0
    to_read: list[_Found] = []
    for found in walk.files:
        digest = recall(known.get(found.path), found.status)
        if digest is None:
            to_read.append(found)
        else:
            memory[found.path] = known[found.path]
            entries.append(_file(found.path, found.status, digest))
            done += found.status.st_size
    for found, hashed in _hash(os.fsencode(real), to_read):
        if hashed is None:
            walk.warnings.append(f"'{shown(found.path)}' disappeared while the directory was being read.")
            continue
        entries.append(_file(found.path, hashed.stat, hashed.digest))
        read += hashed.stat.st_size
        entry = remember(hashed.stat, hashed.digest, started_ns=started_ns)
        if entry is not None:
            memory[found.path] = entry
            changed = True
        if progress is not None:
            progress(min(done + read, total), total)
    if cache is not None and (changed or memory.keys() != known.keys()):
        cache.save(real, memory)

    entries.extend(walk.kept_links())
    entries.extend(_lost_directories(walk.directories, entries))
    entries.sort(key=lambda entry: entry.path)
    return Scan(real, Manifest(entries=tuple(entries)), walk.tally.rows(), tuple(walk.warnings), read)


def _checked_root(root: Path) -> Path:
    try:
        real = root.resolve(strict=True)
        if not real.is_dir():
            raise WorkspaceError(
                f"'{shown(str(root))}' is not a directory.", next="Give the directory it is in."
            )
    except FileNotFoundError:
        raise WorkspaceError(
            f"The directory '{shown(str(root))}' does not exist.", next="Check the path for a typing error."
        ) from None
    except (OSError, RuntimeError) as error:  # a circle of links is a RuntimeError before Python 3.13
        raise WorkspaceError(
            f"The directory '{shown(str(root))}' cannot be opened ({error}).", next="Check its permissions."
        ) from None
    home = Path(os.path.realpath(os.path.expanduser("~")))
    if real in (Path("/"), home):
        what = "the whole system" if real == Path("/") else "your home directory"
        raise WorkspaceError(
            f"'{real}' is {what}, with files that no job should get.",
            next="Make a directory for this work, move into it what the job needs, and submit from there.",
        )
    return real


class _Walk:
    """One walk down the tree. ``run`` fills ``files``, ``directories``, ``warnings`` and ``tally``."""

    def __init__(self, root: bytes, ignore: Ignore, limit_entries: int) -> None:
        self.files: list[_Found] = []
        self.directories: list[bytes] = []
        self.warnings: list[str] = []
        self._links: dict[str, str] = {}
        self._foreign: list[bytes] = []
        self._special: list[bytes] = []
        self.tally = Tally(root)
        self._root = root
        self._ignore = ignore
        self._limit = limit_entries

    def run(self) -> None:
        stack = [_Pending(b"", self._ignore, 0, True)]
        while stack:
            stack.extend(self._directory(stack.pop()))
            if len(self.files) + len(self.directories) + len(self._links) > self._limit:
                raise self._too_many()

    def _directory(self, here: _Pending) -> Iterator[_Pending]:
        """Sort one directory's entries; yield the directories to enter."""
        try:
            with os.scandir(os.path.join(self._root, here.path) if here.path else self._root) as listing:
                found = {entry.name: entry for entry in listing}
        except OSError as error:
            if isinstance(error, FileNotFoundError) and here.path:
                self.warnings.append(f"'{shown(here.path)}' disappeared while the directory was being read.")
                return
            raise unreadable(here.path or self._root, error, "directory") from None
        environment = self._environment(here, found)
        if environment is not None:
            self.tally.add(here.path, environment, is_directory=True)
            return
        if here.path:
            self.directories.append(here.path)
        ignore = here.ignore.enter(
            here.path,
            gitignore=self._ignore_file(here.path, found.get(GITIGNORE)),
            gradientignore=self._ignore_file(here.path, found.get(GRADIENTIGNORE)),
        )
        for name in sorted(found):
            entry = found[name]
            path = os.path.join(here.path, name)
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
                self._entry(path, entry)

    def _entry(self, path: bytes, entry: os.DirEntry[bytes]) -> None:
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                self.files.append(_Found(path, status))
            elif stat.S_ISLNK(status.st_mode):
                self._link(path, os.readlink(os.path.join(self._root, path)))
            else:
                self._special.append(path)
        except FileNotFoundError:
            self.warnings.append(f"'{shown(path)}' disappeared while the directory was being read.")
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
        return [Link(path=path, target=target) for path, target in kept.items()]

    def _environment(self, here: _Pending, found: dict[bytes, os.DirEntry[bytes]]) -> Rule | None:
        if here.wanted or not here.ignore.has_defaults:
            return None
        if b"pyvenv.cfg" in found:
            return PYTHON_ENVIRONMENT
        return CONDA_ENVIRONMENT if b"conda-meta" in found else None

    def _ignore_file(self, directory: bytes, entry: os.DirEntry[bytes] | None) -> bytes | None:
        if entry is None or not entry.is_file(follow_symlinks=False):
            return None  # git does not follow a link here either
        path = os.path.join(directory, entry.name)
        try:
            fd = os.open(os.path.join(self._root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                text = file.read(_IGNORE_BYTES + 1)
        except OSError as error:
            # To go on would send what its rules keep back.
            raise unreadable(path, error) from None
        if len(text) > _IGNORE_BYTES:
            raise WorkspaceError(
                f"'{shown(path)}' is larger than {size_text(_IGNORE_BYTES)}.", next="Is it an ignore file?"
            )
        return text

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
            next=f"Name what the job does not need in .gradientignore, one path a line: {_rule_for(most[0])}",
        )


def _hash(root: bytes, files: list[_Found]) -> Iterator[tuple[_Found, Hashed | None]]:
    """Read the files. Threads hide the latency of a network file system or a cold disk; where there is none
    they are in each other's way. The first files tell."""
    first, rest = files[:_BATCH], files[_BATCH:]
    began = time.monotonic()
    for found in first:
        yield found, hash_file(root, found.path)
    expected = len(first) * _QUICK_SECONDS + sum(found.status.st_size for found in first) / _QUICK_BYTES
    if time.monotonic() - began < expected:
        for found in rest:
            yield found, hash_file(root, found.path)
        return
    from concurrent.futures import ThreadPoolExecutor

    batches = [rest[i : i + _BATCH] for i in range(0, len(rest), _BATCH)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="gradient-scan") as pool:
        try:
            results = pool.map(lambda batch: [hash_file(root, found.path) for found in batch], batches)
            for batch, hashes in zip(batches, results, strict=True):
                yield from zip(batch, hashes, strict=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _file(path: bytes, status: os.stat_result, digest: bytes) -> File:
    return File(
        path=path.decode(),
        size=status.st_size,
        digest=digest.hex(),
        executable=bool(status.st_mode & stat.S_IXUSR),
    )


def _lost_directories(directories: list[bytes], entries: list[Entry]) -> Iterator[Directory]:
    """The directories that no entry lies in: they would not exist in the copy."""
    filled: set[str] = set()
    paths = [directory.decode() for directory in directories]
    for path in (*(entry.path for entry in entries), *paths):
        parent = path.rpartition("/")[0]
        while parent and parent not in filled:
            filled.add(parent)
            parent = parent.rpartition("/")[0]
    return (Directory(path=path) for path in paths if path not in filled)


def _too_much(files: list[_Found], total: int, limit: int) -> WorkspaceError:
    largest = sorted(files, key=lambda found: -found.status.st_size)[:5]
    return WorkspaceError(
        f"The directory holds {size_text(total)} to send, more than the limit of {size_text(limit)}. "
        "The largest files are: "
        + ", ".join(f"{shown(found.path)} ({size_text(found.status.st_size)})" for found in largest)
        + ".",
        next="Name what the job does not need in .gradientignore, one path a line: "
        + _rule_for(largest[0].path),
    )


def _rule_for(path: bytes) -> str:
    """The line of an ignore file that matches this path and no other."""
    return "/" + "".join("\\" + c if c in "\\*?[ " else c for c in shown(path))
