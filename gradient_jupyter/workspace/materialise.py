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
from collections.abc import Iterator
from pathlib import Path

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import Directory, File, Link, Manifest
from gradient_jupyter.workspace import durable as disk
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.inside import DIRECTORY, remove_tree
from gradient_jupyter.workspace.tree import check_manifest, shown_path

__all__ = ["check_manifest", "materialise"]


def materialise(manifest: Manifest, blobs: BlobStore, target: Path, *, durable: bool = True) -> None:
    """Make ``target``, which must be absent, hold what the manifest describes. Blocks.

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
        _Maker(blobs, top, durable).run(manifest)
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
    """Makes entries below the descriptor ``top``, keeping the directories of the last path open."""

    def __init__(self, blobs: BlobStore, top: int, durable: bool) -> None:
        self._blobs = blobs
        self._top = top
        self._made: set[str] = set()
        self._parts: list[str] = []
        self._fds: list[int] = []
        self._sync_each = durable and not disk.can_sync_file_system()

    def run(self, manifest: Manifest) -> None:
        try:
            for entry in manifest.entries:
                if isinstance(entry, Directory):
                    self._enter(entry.path.split("/"))
                elif isinstance(entry, File):
                    self._file(entry)
            for entry in manifest.entries:
                if isinstance(entry, Link):
                    *parents, name = entry.path.split("/")
                    os.symlink(entry.target, name, dir_fd=self._enter(parents))
            os.fchmod(self._top, 0o755)
        finally:
            self._leave(0)

    def _file(self, file: File) -> None:
        *parents, name = file.path.split("/")
        directory = self._enter(parents)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            size = self._blobs.copy_to(file.digest, fd)
            if size != file.size:
                raise InvalidRequest(
                    f"The manifest says that '{shown_path(file.path)}' has {file.size} bytes; it has {size}.",
                    code="bad-manifest",
                )
            os.fchmod(fd, 0o755 if file.executable else 0o644)  # whatever the umask
            if self._sync_each:
                os.fsync(fd)
        finally:
            os.close(fd)

    def _enter(self, parts: list[str]) -> int:
        """The descriptor of this directory, which is made when it is absent."""
        common = 0
        while common < min(len(parts), len(self._parts)) and parts[common] == self._parts[common]:
            common += 1
        self._leave(common)
        for part in parts[common:]:
            above = self._fds[-1] if self._fds else self._top
            path = "/".join((*self._parts, part))
            if path not in self._made:
                os.mkdir(part, 0o755, dir_fd=above)
                self._made.add(path)
                fd = os.open(part, DIRECTORY, dir_fd=above)
                os.fchmod(fd, 0o755)
            else:
                fd = os.open(part, DIRECTORY, dir_fd=above)
            self._fds.append(fd)
            self._parts.append(part)
        return self._fds[-1] if self._fds else self._top

    def _leave(self, depth: int) -> None:
        while len(self._fds) > depth:
            fd = self._fds.pop()
            if self._sync_each:
                os.fsync(fd)
            os.close(fd)
        del self._parts[depth:]


def _sync(partial: Path, top: int) -> None:
    """Before it gets its name: a crash must not leave a tree of empty files that looks complete."""
    if not disk.sync_file_system(top):
        disk.sync_path(partial)
