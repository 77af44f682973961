"""The one door from a name that somebody gave us to a file inside a directory that somebody else fills.

The directory is a descriptor; what lies in it may be changed by hostile code at any moment, also while we
look. So names are walked part by part with descriptors, a link is never followed, and only regular files are
opened. Nobody else turns a request's string, or a name from such a directory, into a path.

Whoever gives the uid that owns the directory (``owner``) gets that one's own files only: none of another
user's, none of another file system mounted there, and none that also has a name elsewhere (a hard link):
its bytes may be somebody else's and can be changed from there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gradient_jupyter.resources.errors import Conflict, InvalidRequest, NotFound
from gradient_jupyter.resources.snapshot import check_path
from gradient_jupyter.workspace.descent import DIRECTORY
from gradient_jupyter.workspace.tree import MAX_DEPTH, MAX_PATH_BYTES, shown_path
from gradient_jupyter.workspace.wording import shown

#: ``O_NONBLOCK``: to open a named pipe would wait for its other end.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


#: Wants of our own that pass. They say nothing about a file, so they are never a reason to leave one out.
SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
#: What may stand where a file is to be put, or be done to the directory meanwhile.
_IN_THE_WAY = frozenset(
    {
        errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EACCES,
        errno.EPERM, errno.EXDEV,
    }
)  # fmt: skip


class InsideFile(NamedTuple):
    """A regular file below the directory, as it was when it was looked at."""

    path: str
    """UTF-8 with ``/`` between its parts."""
    size: int
    modified_us: int
    space: int
    """Bytes it takes on the disk. A file with holes takes fewer than its size."""
    names: int
    """How many names it has, wherever they are."""
    identity: tuple[int, int]
    """The same for every name of one file."""
    parent: int
    """A descriptor of its directory, open until the walk goes on."""
    mount: int
    """Where that lies."""


def open_inside(
    dirfd: int, name: str, flags: int = os.O_RDONLY, *, owner: int | None = None, names: int | None = 1
) -> int:
    """Open the regular file ``name`` below ``dirfd``; the caller closes what is returned. With ``owner`` it
    may have as many ``names`` as were seen below ``dirfd`` (None: any number).

    Raises ``InvalidRequest`` (code ``bad-path``) for a name that is no path below a directory, ``NotFound``
    for everything that is not a regular file we can open: absent, a link, a directory, a device; and
    ``OSError`` for a want of our own (``SHORTAGE``).
    """
    parent, last = _parent(dirfd, name)
    try:
        fd = _open_regular(parent, last, name, flags)
        try:
            if owner is not None and (problem := _foreign(fd, parent, last, owner, _mount(dirfd), names)):
                raise _absent(name, problem)
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        os.close(parent)


def open_found(file: InsideFile, owner: int) -> int:
    """Open what a walk has just found, by its directory's descriptor; otherwise as ``open_inside``."""
    last = file.path.rpartition("/")[2]
    fd = _open_regular(file.parent, last, file.path, os.O_RDONLY)
    try:
        if problem := _foreign(fd, file.parent, last, owner, file.mount, 1):
            raise _absent(file.path, problem)
    except BaseException:
        os.close(fd)
        raise
    return fd


def walk_inside(
    dirfd: int,
    skipped: Callable[[str], None],
    *,
    owner: int | None = None,
    leaving: Callable[[int], None] | None = None,
) -> Iterator[InsideFile]:
    """Every regular file below ``dirfd`` in the order of the paths, links not followed. Directories may
    change meanwhile.

    ``skipped`` is told of everything else, as ``name: reason`` on one line; ``leaving`` gets the descriptor
    of each directory after what is in it. Raises ``OSError`` when ``dirfd`` itself cannot be read, and for a
    want of our own (``SHORTAGE``).
    """
    # A descriptor of our own: what is shared has a shared position.
    own = os.open(".", DIRECTORY, dir_fd=dirfd)
    stack: list[tuple[int, bytes, Iterator[os.DirEntry[str]]]] = [(own, b"", iter(()))]
    try:
        mount = _mount(own)
        stack[0] = (own, b"", _listing(own))
        while stack:
            fd, prefix, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                if leaving is not None:
                    leaving(fd)
                os.close(stack.pop()[0])
                continue
            path = prefix + os.fsencode(entry.name)
            found = _look(entry, path, fd, mount, owner, skipped)
            if isinstance(found, InsideFile):
                yield found
            elif found is not None:
                stack.append((found, path + b"/", iter(())))
                problem = ""
                if len(stack) > MAX_DEPTH:
                    problem = f"more than {MAX_DEPTH} directories deep"
                elif owner is not None and os.fstat(found).st_uid != owner:
                    problem = f"belongs to another user (uid {os.fstat(found).st_uid})"
                elif _mount(found) != mount:
                    problem = "another file system is mounted there"
                else:
                    try:
                        stack[-1] = (found, path + b"/", _listing(found))
                    except OSError as error:
                        problem = _theirs(error)
                if problem:
                    os.close(stack.pop()[0])
                    skipped(f"{shown(path)}: {problem}")
    finally:
        for fd, _, _ in stack:
            os.close(fd)


class Entry(NamedTuple):
    """What lies in a directory under one name: a directory, or a regular file of so many bytes."""

    name: str
    is_directory: bool
    size: int


def list_inside(dirfd: int, name: str, most: int) -> list[Entry]:
    """What lies in the directory ``name`` below ``dirfd`` (empty: in that itself), in order, at most so much.
    Links are left out, and everything else that is neither file nor directory. Nothing where there is no
    such directory.

    Raises ``InvalidRequest`` (code ``bad-path``) for a name that is no path below a directory, and
    ``OSError`` for a want of our own (``SHORTAGE``).
    """
    try:
        # Its own name, and any in it, so that it is walked into.
        parent = _parent(dirfd, f"{name}/x")[0] if name else os.open(".", DIRECTORY, dir_fd=dirfd)
    except NotFound:
        return []
    try:
        found: list[Entry] = []
        for entry in _listing(parent):
            try:
                entry.name.encode()
                status = os.stat(entry.name, dir_fd=parent, follow_symlinks=False)
            except (UnicodeEncodeError, FileNotFoundError):
                continue
            if stat.S_ISDIR(status.st_mode):
                found.append(Entry(entry.name, True, 0))
            elif stat.S_ISREG(status.st_mode):
                found.append(Entry(entry.name, False, status.st_size))
            if len(found) >= most:
                break
        return found
    finally:
        os.close(parent)


def place_inside(dirfd: int, name: str, source_dirfd: int, source: str) -> None:
    """Move the file ``source``, which nobody else can reach, to ``name`` below ``dirfd`` on the same file
    system, at once and in place of a file or link of that name. Directories on the way are made where they
    are absent.

    Raises ``InvalidRequest`` (code ``bad-path``) for a name that is no path below a directory, ``Conflict``
    where something stands in the way (a directory of that name, a link or a file on the way), and
    ``OSError`` for what the disk does.
    """
    _check(name)
    *parts, last = name.split("/")
    fd = os.open(".", DIRECTORY, dir_fd=dirfd)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=fd)
            inner = os.open(part, DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.rename(source, last, src_dir_fd=source_dirfd, dst_dir_fd=fd)
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        raise Conflict(
            f"Nothing can be put at '{shown_path(name)}' ({_reason(error)}).",
            next="Something else is in the way there. Take another name, or remove it.",
            code="path-taken",
        ) from None
    finally:
        os.close(fd)


def remove_inside(dirfd: int, name: str) -> int:
    """Remove ``name`` below ``dirfd``: a file or a link by itself, a directory with what it holds. Where its
    directory forbids that, it is allowed for as long as it takes.

    Returns the bytes of the files removed. Raises as ``open_inside`` does, and ``OSError`` when
    something below could not be removed.
    """
    parent, last = _parent(dirfd, name)
    mode = stat.S_IMODE(os.fstat(parent).st_mode)
    try:
        if mode & 0o700 != 0o700:
            with contextlib.suppress(PermissionError):
                os.fchmod(parent, mode | 0o700)
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return _Removal(parent).run(last)
        os.unlink(last, dir_fd=parent)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    except FileNotFoundError as error:
        raise _absent(name, _reason(error)) from None
    finally:
        if mode & 0o700 != 0o700:
            with contextlib.suppress(PermissionError):
                os.fchmod(parent, mode)
        os.close(parent)


def remove_tree(path: str | os.PathLike[str], going: Callable[[], None] = lambda: None) -> int:
    """Remove the directory ``path`` and all it holds, or the file or link itself; nothing when it is absent.

    Directories that forbid it are made writable; links are removed, never followed; any depth will do.
    Returns the bytes of the files removed. Raises the first ``OSError``, after removing what could be
    removed; and at once whatever else ``going``, which is called before each name, raises.
    """
    above, last = os.path.split(os.path.abspath(path))
    try:
        parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return _Removal(parent, going).run(last)
        os.unlink(last, dir_fd=parent)
        return status.st_size if stat.S_ISREG(status.st_mode) else 0
    except FileNotFoundError:
        return 0
    finally:
        os.close(parent)


class _Removal:
    """Removes one directory in ``parent``. What lies too deep is first moved up, beside the directory's own
    entries: neither our stack nor our descriptors grow with the depth somebody made."""

    def __init__(self, parent: int, going: Callable[[], None] = lambda: None) -> None:
        self._parent = parent
        self._going = going
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
            self._going()
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
    _check(name)
    *parts, last = name.split("/")
    fd = os.open(".", DIRECTORY, dir_fd=dirfd)
    for part in parts:
        try:
            inner = os.open(part, DIRECTORY, dir_fd=fd)
        except OSError as error:
            raise _absent(name, _theirs(error)) from None
        finally:
            os.close(fd)
        fd = inner
    return fd, last


def _check(name: str) -> None:
    problem = check_path(name)
    if problem is None and (name.count("/") >= MAX_DEPTH or len(name.encode()) > MAX_PATH_BYTES):
        problem = "is too long"
    if problem is not None:
        raise InvalidRequest(f"The path '{shown_path(name)}' {problem}.", code="bad-path")


def _open_regular(parent: int, last: str, name: str, flags: int) -> int:
    try:
        # Looked at before it is opened: to open a device can do something.
        if not stat.S_ISREG(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
            raise _absent(name, "is no regular file")
        fd = os.open(last, flags | _FILE, dir_fd=parent)
    except OSError as error:
        raise _absent(name, _theirs(error)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _absent(name, "is no regular file")
    return fd


def _foreign(fd: int, parent: int, last: str, owner: int, mount: int, names: int | None) -> str:
    """Why the open file is not simply the owner's file of this name; empty when it is."""
    status = os.fstat(fd)
    if status.st_uid != owner:
        return f"belongs to another user (uid {status.st_uid})"
    if _mount(fd) != mount:
        return "lies on another file system"
    if names is None:
        return ""
    if status.st_nlink != names:
        return "has another name elsewhere (a hard link); copy it instead"
    if names == 1 and not _still_called(fd, parent, last):
        return "was moved while it was opened"
    return ""


def _still_called(fd: int, parent: int, last: str) -> bool:
    """Whether the open file still has the name it was opened by.

    A file with one name may be somebody else's all the same, if the name it was opened by was a second one
    and is gone by now. The system knows under which name a descriptor was opened, and whether that was
    removed. A removal that is just under way holds the directory's lock; to give a name to itself waits for
    it, and changes nothing.
    """
    with contextlib.suppress(OSError):
        os.rename(last, last, src_dir_fd=parent, dst_dir_fd=parent)
    try:
        path = os.readlink(b"/proc/self/fd/%d" % fd)
    except OSError:  # not Linux, or no /proc
        try:
            now = os.stat(last, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(now, os.fstat(fd))
    return path.rpartition(b"/")[2] == os.fsencode(last)


def _mount(fd: int) -> int:
    """What tells one mounted file system from another. A device's number does not where a part of the same
    file system is mounted, and layered ones give their files other numbers than their directories."""
    with contextlib.suppress(FileNotFoundError), open(f"/proc/self/fdinfo/{fd}", "rb", buffering=0) as info:
        for line in info.read(1024).splitlines():
            name, _, value = line.partition(b":")
            if name == b"mnt_id":
                return int(value)
    return os.fstat(fd).st_dev


def _listing(fd: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(fd) as listing:
        return iter(sorted(listing, key=_in_order_of_paths))


def _in_order_of_paths(entry: os.DirEntry[str]) -> bytes:
    """What is below a directory stands where its paths do: ``a-b`` comes before ``a/b``."""
    name = os.fsencode(entry.name)
    return name + b"/" if entry.is_dir(follow_symlinks=False) else name


def _look(
    entry: os.DirEntry[str],
    path: bytes,
    fd: int,
    mount: int,
    owner: int | None,
    skipped: Callable[[str], None],
) -> InsideFile | int | None:
    """A file as it is listed, a directory as a descriptor, or nothing: then ``skipped`` was told why."""
    try:
        text = path.decode()
        status = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return os.open(entry.name, DIRECTORY, dir_fd=fd)
        if stat.S_ISLNK(status.st_mode):
            reason = "a symbolic link"
        elif not stat.S_ISREG(status.st_mode):
            reason = "no regular file"
        elif owner is not None and status.st_uid != owner:
            reason = f"belongs to another user (uid {status.st_uid})"
        elif len(path) > MAX_PATH_BYTES:
            reason = f"the path has more than {MAX_PATH_BYTES} bytes"
        else:
            return InsideFile(
                text, status.st_size, status.st_mtime_ns // 1000, status.st_blocks * 512, status.st_nlink,
                (status.st_dev, status.st_ino), fd, mount,
            )  # fmt: skip
    except UnicodeDecodeError:
        reason = "the name is not UTF-8"
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = _theirs(error)
    skipped(f"{shown(path)}: {reason}")
    return None


def _theirs(error: OSError) -> str:
    """What the system said about this name; a want of our own is none and goes on as an error."""
    if error.errno in SHORTAGE:
        raise error
    return _reason(error)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _absent(name: str, reason: str) -> NotFound:
    return NotFound(f"There is no file '{shown_path(name)}' ({reason}).", code="no-such-file")
