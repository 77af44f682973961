"""The one door from a name that somebody gave us to a file inside a directory that somebody else fills.

The directory is a descriptor; what lies in it may be changed by hostile code at any moment, also while we
look. So names are walked part by part with descriptors, a link is never followed, and only regular files are
opened. Nobody else turns a request's string, or a name from such a directory, into a path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.snapshot import check_path
from gradient_jupyter.workspace.descent import DIRECTORY
from gradient_jupyter.workspace.tree import MAX_DEPTH, MAX_PATH_BYTES, shown_path
from gradient_jupyter.workspace.wording import shown

#: ``O_NONBLOCK``: to open a named pipe would wait for its other end.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class InsideFile(NamedTuple):
    """A regular file below the directory. ``path`` is UTF-8 with ``/`` between its parts."""

    path: str
    size: int
    modified_us: int


def open_inside(dirfd: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Open the regular file ``name`` below ``dirfd``; the caller closes what is returned.

    Raises ``InvalidRequest`` (code ``bad-path``) for a name that is no path below a directory, and
    ``NotFound`` for everything that is not a regular file we can open: absent, a link, a directory, a
    device.
    """
    parent, last = _parent(dirfd, name)
    try:
        # Looked at before it is opened: to open a device can do something.
        if not stat.S_ISREG(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
            raise _absent(name, "is no regular file")
        fd = os.open(last, flags | _FILE, dir_fd=parent)
    except OSError as error:
        raise _absent(name, _reason(error)) from None
    finally:
        os.close(parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _absent(name, "is no regular file")
    return fd


def walk_inside(dirfd: int, skipped: Callable[[str], None]) -> Iterator[InsideFile]:
    """Every regular file below ``dirfd``, names in order, links not followed. Directories may change
    meanwhile.

    ``skipped`` is told of everything else, as ``name: reason`` on one line. Raises ``OSError`` only when
    ``dirfd`` itself cannot be read.
    """
    # A descriptor of our own: what is shared has a shared position.
    own = os.open(".", DIRECTORY, dir_fd=dirfd)
    stack: list[tuple[int, bytes, Iterator[os.DirEntry[str]]]] = [(own, b"", iter(()))]
    try:
        stack[0] = (own, b"", _listing(own))
        while stack:
            fd, prefix, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                os.close(stack.pop()[0])
                continue
            path = prefix + os.fsencode(entry.name)
            found = _look(entry, path, fd, skipped)
            if isinstance(found, InsideFile):
                yield found
            elif found is not None:
                if len(stack) >= MAX_DEPTH:
                    skipped(f"{shown(path)}: more than {MAX_DEPTH} directories deep")
                    os.close(found)
                    continue
                try:
                    stack.append((found, path + b"/", _listing(found)))
                except OSError as error:
                    os.close(found)
                    skipped(f"{shown(path)}: {_reason(error)}")
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def remove_inside(dirfd: int, name: str) -> int:
    """Remove ``name`` below ``dirfd``: a file or a link by itself, a directory with what it holds.

    Returns the bytes of the files removed. Raises as ``open_inside`` does, and ``OSError`` when
    something below could not be removed.
    """
    parent, last = _parent(dirfd, name)
    try:
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return _Removal(parent).run(last)
        os.unlink(last, dir_fd=parent)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    except FileNotFoundError as error:
        raise _absent(name, _reason(error)) from None
    finally:
        os.close(parent)


def remove_tree(path: str | os.PathLike[str]) -> int:
    """Remove the directory ``path`` and all it holds, or the file or link itself; nothing when it is absent.

    Directories that forbid it are made writable; links are removed, never followed; any depth will do.
    Returns the bytes of the files removed. Raises the first ``OSError``, after removing what could be
    removed.
    """
    above, last = os.path.split(os.path.abspath(path))
    try:
        parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return _Removal(parent).run(last)
        os.unlink(last, dir_fd=parent)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    except FileNotFoundError:
        return 0
    finally:
        os.close(parent)


class _Removal:
    """Removes one directory in ``parent``. What lies too deep is first moved up, beside the directory's own
    entries: neither our stack nor our descriptors grow with the depth somebody made."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._freed = 0
        self._error: OSError | None = None
        self._moved = 0
        self._device = os.fstat(parent).st_dev

    def run(self, name: str) -> int:
        top = self._enter(self._parent, name)
        if top is not None:
            try:
                before = -1
                while self._moved != before:
                    before = self._moved
                    self._empty(top, top, 0)
            finally:
                os.close(top)
        with self._noting():
            os.rmdir(name, dir_fd=self._parent)
        if self._error is not None:
            raise self._error
        return self._freed

    def _empty(self, fd: int, top: int, depth: int) -> None:
        try:
            with os.scandir(fd) as listing:
                names = [entry.name for entry in listing]
        except OSError as error:
            self._error = self._error or error
            return
        for name in names:
            with self._noting():
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    os.unlink(name, dir_fd=fd)
                    self._freed += status.st_size if stat.S_ISREG(status.st_mode) else 0
                    continue
                if depth >= MAX_DEPTH:
                    self._move_up(fd, name, top)
                    continue
                inner = self._enter(fd, name)
                if inner is not None:
                    try:
                        self._empty(inner, top, depth + 1)
                    finally:
                        os.close(inner)
                os.rmdir(name, dir_fd=fd)

    def _move_up(self, fd: int, name: str, top: int) -> None:
        self._make_usable(fd, name)
        while True:
            self._moved += 1
            target = f".removing-{self._moved}"
            try:
                os.stat(target, dir_fd=top, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(name, target, src_dir_fd=fd, dst_dir_fd=top)
                return

    def _enter(self, fd: int, name: str) -> int | None:
        with self._noting():
            # What is mounted here is not part of the tree.
            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_dev != self._device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
            self._make_usable(fd, name)
            return os.open(name, DIRECTORY, dir_fd=fd)
        return None

    def _make_usable(self, fd: int, name: str) -> None:
        """Give ourselves the rights to list and empty this directory, if it is ours. Never through a link."""
        if os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode & 0o700 == 0o700:
            return
        with contextlib.suppress(PermissionError):
            if hasattr(os, "O_PATH"):
                handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    os.chmod(f"/proc/self/fd/{handle}", 0o700)
                finally:
                    os.close(handle)
            else:
                os.chmod(name, 0o700, dir_fd=fd, follow_symlinks=False)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass  # somebody else removed it
        except OSError as error:
            self._error = self._error or error


def _parent(dirfd: int, name: str) -> tuple[int, str]:
    """A descriptor, which the caller closes, of the directory that ``name`` lies in, and its last part."""
    problem = check_path(name)
    if problem is None and (name.count("/") >= MAX_DEPTH or len(name.encode()) > MAX_PATH_BYTES):
        problem = "is too long"
    if problem is not None:
        raise InvalidRequest(f"The path '{shown_path(name)}' {problem}.", code="bad-path")
    *parts, last = name.split("/")
    fd = os.open(".", DIRECTORY, dir_fd=dirfd)
    for part in parts:
        try:
            inner = os.open(part, DIRECTORY, dir_fd=fd)
        except OSError as error:
            raise _absent(name, _reason(error)) from None
        finally:
            os.close(fd)
        fd = inner
    return fd, last


def _listing(fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(fd) as listing:
        return iter(sorted(listing, key=lambda entry: os.fsencode(entry.name)))


def _look(
    entry: os.DirEntry[str], path: bytes, fd: int, skipped: Callable[[str], None]
) -> InsideFile | int | None:
    """A file as it is listed, a directory as a descriptor, or nothing: then ``skipped`` was told why."""
    try:
        text = path.decode()
        status = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return InsideFile(text, status.st_size, status.st_mtime_ns // 1000)
        if stat.S_ISDIR(status.st_mode):
            return os.open(entry.name, DIRECTORY, dir_fd=fd)
        reason = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
    except UnicodeDecodeError:
        reason = "the name is not UTF-8"
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = _reason(error)
    skipped(f"{shown(path)}: {reason}")
    return None


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _absent(name: str, reason: str) -> NotFound:
    return NotFound(f"There is no file '{shown_path(name)}' ({reason}).", code="no-such-file")
