"""A directory as it is now: its manifest, what stays behind and why.

Nothing is sent here, and nothing in the directory is changed. A scan fails rather than send something else
than the person sees: an unreadable file, a name that cannot travel or a file in motion is an error that
names it, unless an ignore rule takes it out.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import Directory, Entry, File, Manifest
from gradient_jupyter.workspace.contents import Progress
from gradient_jupyter.workspace.descent import FILE, Descent
from gradient_jupyter.workspace.digest import Hashed, hash_file, unreadable
from gradient_jupyter.workspace.ignore import Ignore
from gradient_jupyter.workspace.leftout import LeftOut
from gradient_jupyter.workspace.limit import DEFAULT_LIMIT, too_much
from gradient_jupyter.workspace.statcache import Remembered, StatCache, recall, remember
from gradient_jupyter.workspace.tree import MAX_ENTRIES
from gradient_jupyter.workspace.walk import Found, Walk, forbidden_places, refusal, rule_for
from gradient_jupyter.workspace.wording import shown

_BATCH = 64
_THREADS = 8
#: What a file costs, and how much is read in a second, where nothing has to be waited for.
_QUICK_SECONDS, _QUICK_BYTES = 0.0005, 200e6


@dataclass(frozen=True, slots=True)
class Scan:
    """A directory at one moment: ``contents.Contents``."""

    root: Path
    manifest: Manifest
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]
    read_bytes: int
    """How much had to be read, because nothing was known of it."""

    def open_file(self, file: File, offset: int = 0) -> BinaryIO:
        """The bytes of one of the manifest's files. ``WorkspaceError`` when it is gone."""
        path = os.path.join(os.fsencode(self.root), file.path.encode())
        return open_at(path, file.path, offset)


def open_at(path: bytes, name: str, offset: int) -> BinaryIO:
    """The file at ``path``, read from ``offset`` on; ``name`` is what it is called to people. What is read is
    verified, so a link on the way can lead to nothing but an error."""
    try:
        fd = os.open(path, FILE)
    except OSError as error:
        raise unreadable(name.encode(), error) from None
    if offset:
        os.lseek(fd, offset, os.SEEK_SET)
    return open(fd, "rb", buffering=0)


def scan(
    root: Path,
    *,
    cache: StatCache | None = None,
    progress: Progress | None = None,
    limit_bytes: int | None = DEFAULT_LIMIT,
    limit_entries: int = MAX_ENTRIES,
    ignore: Ignore | None = None,
) -> Scan:
    """The snapshot of ``root`` as it is now. Raises ``WorkspaceError`` with a next step when there is none.

    ``ignore`` are the rules to start with (our defaults). Without ``cache`` every file is read.
    """
    real = _checked_root(root)
    with _opened(real) as below:
        walk = Walk(below, real, ignore or Ignore(), limit_entries)
        walk.run()
        total = sum(found.status.st_size for found in walk.files)
        if limit_bytes is not None and total > limit_bytes:
            raise _too_much(walk.files, total, limit_bytes)
        entries, read = _read(below, real, walk, total, cache, progress)
    entries.extend(walk.kept_links())
    entries.extend(_lost_directories(walk.directories, entries))
    entries.sort(key=lambda entry: entry.path)
    return Scan(real, Manifest(entries=tuple(entries)), walk.tally.rows(), tuple(walk.warnings), read)


def _read(
    below: Descent, real: Path, walk: Walk, total: int, cache: StatCache | None, progress: Progress | None
) -> tuple[list[Entry], int]:
    """The entries of the walk's files, and how many bytes had to be read for them."""
    known = cache.load(real) if cache else {}
    started_ns = cache.clock() if cache else 0
    entries: list[Entry] = []
    memory: dict[bytes, Remembered] = {}
    changed = False
    read = done = 0
    to_read: list[Found] = []
    for found in walk.files:
        entry = recall(known.get(found.path), found.status) if found.lasting else None
        if entry is None:
            to_read.append(found)
        else:
            memory[found.path] = entry
            entries.append(_file(found.path, found.status, entry.digest, entry.chunks))
            done += found.status.st_size
    for found, hashed in _hash(below, to_read):
        if hashed is None:
            walk.warnings.append(f"'{shown(found.path)}' disappeared while the directory was being read.")
            continue
        entries.append(_file(found.path, hashed.stat, hashed.digest, b"".join(hashed.chunks)))
        read += hashed.stat.st_size
        fresh = remember(hashed, started_ns=started_ns) if found.lasting else None
        if fresh is not None:
            memory[found.path] = fresh
            changed = True
        if progress is not None:
            progress(min(done + read, total), total)
    if cache is not None and (changed or memory.keys() != known.keys()):
        cache.save(real, memory)
    return entries, read


def _checked_root(root: Path) -> Path:
    try:
        real = root.resolve(strict=True)
        status = real.stat()
        if not stat.S_ISDIR(status.st_mode):
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
    place = forbidden_places().get((status.st_dev, status.st_ino))
    if place is not None:
        raise refusal(real, place)
    return real


def _opened(real: Path) -> Descent:
    try:
        return Descent(os.fsencode(real))
    except OSError as error:
        raise unreadable(os.fsencode(real), error, "directory") from None


def _hash(below: Descent, files: list[Found]) -> Iterator[tuple[Found, Hashed | None]]:
    """Read the files. Threads hide the latency of a network file system or a cold disk; where there is none
    they are in each other's way. The first files tell."""
    first, rest = files[:_BATCH], files[_BATCH:]
    began = time.monotonic()
    for found in first:
        yield found, hash_file(below, found.path)
    expected = len(first) * _QUICK_SECONDS + sum(found.status.st_size for found in first) / _QUICK_BYTES
    if time.monotonic() - began < expected:
        for found in rest:
            yield found, hash_file(below, found.path)
        return
    from concurrent.futures import ThreadPoolExecutor

    def hash_batch(batch: list[Found]) -> list[Hashed | None]:
        with below.again() as own:
            return [hash_file(own, found.path) for found in batch]

    batches = [rest[i : i + _BATCH] for i in range(0, len(rest), _BATCH)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="gradient-scan") as pool:
        try:
            for batch, hashes in zip(batches, pool.map(hash_batch, batches), strict=True):
                yield from zip(batch, hashes, strict=True)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _file(path: bytes, status: os.stat_result, digest: bytes, chunks: bytes) -> File:
    return make_file(path.decode(), status.st_size, digest, chunks, bool(status.st_mode & stat.S_IXUSR))


def make_file(path: str, size: int, digest: bytes, chunks: bytes, executable: bool) -> File:
    """The entry of a file whose digests are known; ``chunks`` are its chunks', one after the other."""
    each = tuple(chunks[i : i + 32].hex() for i in range(0, len(chunks), 32))
    return File(
        path=path,
        size=size,
        digest=digest.hex(),
        executable=executable,
        chunks=each or msgspec.UNSET,
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


def _too_much(files: list[Found], total: int, limit: int) -> WorkspaceError:
    largest = max(files, key=lambda found: found.status.st_size)
    return too_much(
        "The directory",
        [(found.path, found.status.st_size) for found in files],
        total,
        limit,
        leave_out="name what the job does not need in .gradientignore, one path a line: "
        + rule_for(largest.path),
    )
