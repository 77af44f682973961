"""A manifest and its blobs as a directory again.

The tree is made beside its place and moved there when it is complete (and on the disk, where that is asked
for), so a tree that exists is whole. Every step is relative to a descriptor and follows no link, and links
are made last: none of them can send a later file elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import blake3
import msgspec

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import Directory, File, Link, Manifest
from gradient_jupyter.workspace import durable as disk
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.descent import DIRECTORY, Descent
from gradient_jupyter.workspace.inside import remove_tree
from gradient_jupyter.workspace.tree import check_manifest, shown_path

__all__ = ["check_manifest", "materialise"]

#: From here on threads pay.
_MUCH = 16 << 20
_THREADS = 4
_BATCH = 64


#: Called, on any thread, with the bytes of each piece that was written. What it raises ends the making.
Wrote = Callable[[int], None]


def materialise(
    manifest: Manifest,
    blobs: BlobStore,
    target: Path,
    *,
    durable: bool = True,
    read_only: bool = False,
    wrote: Wrote | None = None,
) -> None:
    """Make ``target``, which must be absent, hold what the manifest describes. Blocks.

    ``read_only``: without anybody's right to write, so that it takes intent to change it.

    Without ``durable`` it is whole for as long as the system runs, and a power loss may leave anything of it.
    That is for trees which are made anew after a restart of the machine, and saves most of the time.

    Raises ``InvalidRequest`` for a manifest that is no tree, ``Damaged`` for a blob that is damaged or
    missing, ``FileExistsError`` when there is a ``target``, and ``OSError`` (``ENOSPC`` when the disk is
    full); then nothing is left behind. What a crash left behind is removed by the next call for the same
    ``target``.
    """
    check_manifest(manifest)
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists")
    with _partial(target) as (partial, top):
        _Maker(blobs, top, durable, read_only, wrote).run(manifest)
        if durable:
            _sync(partial, top)
        os.rename(partial, target)
    if durable:
        disk.sync_path(target.parent)


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, int]]:
    """A new directory beside ``target``, and its descriptor. It is removed unless it has been moved away.

    A lock on it says that it is in use. The leftovers of the dead have none.
    """
    prefix = f"{target.name}.partial-"
    partial = target.with_name(prefix + secrets.token_hex(8))
    parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Held while we look and while ours is made and not yet locked.
        fcntl.flock(parent, fcntl.LOCK_EX)
        for name in os.listdir(parent):
            if name.startswith(prefix) and _is_dead(parent, name):
                remove_tree(target.with_name(name))
        os.mkdir(partial.name, 0o700, dir_fd=parent)
        top = os.open(partial.name, DIRECTORY, dir_fd=parent)
        fcntl.flock(top, fcntl.LOCK_EX)
    finally:
        os.close(parent)
    try:
        yield partial, top
    except BaseException:
        remove_tree(partial)
        raise
    finally:
        os.close(top)


def _is_dead(parent: int, name: str) -> bool:
    try:
        fd = os.open(name, DIRECTORY, dir_fd=parent)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class _Maker:
    """Makes entries below the descriptor ``top``. Directories come first, then files, on several threads if
    there is much to write, and links last."""

    def __init__(
        self, blobs: BlobStore, top: int, durable: bool, read_only: bool, wrote: Wrote | None
    ) -> None:
        self._blobs = blobs
        self._top = top
        self._read_only = read_only
        self._wrote = wrote
        self._places: list[bytes] = []
        self._sync_each = durable and not disk.can_sync_file_system()

    def run(self, manifest: Manifest) -> None:
        self._directories(manifest)
        files = manifest.files
        if len(files) > 1 and manifest.size > _MUCH:
            self._on_threads(files)
        else:
            self._files(files)
        with Descent.at(self._top) as below:
            for entry in manifest.entries:
                if isinstance(entry, Link):
                    parent, _, name = entry.path.encode().rpartition(b"/")
                    os.symlink(entry.target.encode(), name, dir_fd=below.directory(parent))
        with Descent.at(self._top) as below:
            for place in reversed(self._places if self._read_only else []):
                os.fchmod(below.directory(place), 0o555)
        os.fchmod(self._top, 0o555 if self._read_only else 0o755)

    def _directories(self, manifest: Manifest) -> None:
        wanted: set[str] = set()
        for entry in manifest.entries:
            path = entry.path if isinstance(entry, Directory) else entry.path.rpartition("/")[0]
            while path and path not in wanted:
                wanted.add(path)
                path = path.rpartition("/")[0]
        with Descent.at(self._top) as below:
            for parts in sorted(path.encode().split(b"/") for path in wanted):
                parent = below.directory(b"/".join(parts[:-1]))
                os.mkdir(parts[-1], 0o755, dir_fd=parent)
                place = b"/".join(parts)
                os.fchmod(below.directory(place), 0o755)  # whatever the umask
                self._places.append(place)
                if self._sync_each:
                    os.fsync(below.directory(b"/".join(parts[:-1])))

    def _on_threads(self, files: Sequence[File]) -> None:
        """Decoding, hashing and writing let go of the interpreter."""
        from concurrent.futures import ThreadPoolExecutor

        batches = [files[i : i + _BATCH] for i in range(0, len(files), _BATCH)]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="gradient-materialise") as pool:
            try:
                for _ in pool.map(self._files, batches):
                    pass
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _files(self, files: Sequence[File]) -> None:
        with Descent.at(self._top) as below:
            for file in files:
                parent, _, name = file.path.encode().rpartition(b"/")
                self._file(file, name, below.directory(parent))

    def _file(self, file: File, name: bytes, directory: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            whole = None if file.chunks is msgspec.UNSET else blake3.blake3(max_threads=blake3.blake3.AUTO)
            size = 0
            for piece in file.blobs():
                size += (copied := self._blobs.copy_to(piece.digest, fd, whole))
                if self._wrote is not None:
                    self._wrote(copied)
            if size != file.size:
                raise _untrue(file, f"has {file.size} bytes; it has {size}")
            if whole is not None and whole.hexdigest() != file.digest:
                raise _untrue(file, f"has the digest {file.digest}; its chunks are those of another")
            mode = 0o755 if file.executable else 0o644
            os.fchmod(fd, mode & 0o555 if self._read_only else mode)  # whatever the umask
            if self._sync_each:
                os.fsync(fd)
        finally:
            os.close(fd)


def _untrue(file: File, claim: str) -> InvalidRequest:
    return InvalidRequest(f"The manifest says that '{shown_path(file.path)}' {claim}.", code="bad-manifest")


def _sync(partial: Path, top: int) -> None:
    """Before it gets its name: a crash must not leave a tree of empty files that looks complete."""
    if not disk.sync_file_system(top):
        disk.sync_path(partial)
