"""Which file a command is, as seen from inside the task's world, and what is wrong with it if it is none.

``exec`` inside bubblewrap fails with bubblewrap's own exit code 1, which nobody can tell from the command's.
So the command is looked up before, the way the kernel and a shell do it: along PATH or relative to the
workspace, through symbolic links that mean places inside the world, down to a script's interpreter.

Standard library only: part of the supervisor.
"""
# ruff: noqa: PTH115, PTH116, PTH123  # part of the supervisor, which starts in milliseconds: no pathlib

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

NOT_FOUND = 127
NOT_EXECUTABLE = 126
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

_MAX_LINKS = 40


class Unusable(Exception):
    """There is no such command, or it cannot be run. ``args[0]`` is for people."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = "command-not-found" if exit_code == NOT_FOUND else "not-executable"


class Command(NamedTuple):
    path: str
    """Inside the world."""
    shell: bool
    """A text file without ``#!``: a shell runs it as a script, so do we."""


class View:
    """The file tree as the task sees it.

    ``mounts`` are pairs (inside, outside), later ones covering earlier ones; an empty outside is a place with
    nothing of the host's in it. ``cwd`` is inside.
    """

    def __init__(self, mounts: list[tuple[str, str]], cwd: str) -> None:
        self._mounts = [(inside.rstrip("/"), outside) for inside, outside in mounts]
        self.cwd = cwd

    def outside(self, inside: str) -> str | None:
        """Where a path of the world stands on the host; symbolic links are not looked at."""
        for point, source in reversed(self._mounts):
            if inside == point or inside.startswith(point + "/"):
                return source.rstrip("/") + inside[len(point) :] or "/" if source else None
        return None

    def resolve(self, inside: str) -> str:
        """The host's path for a path of the world, links followed. Raises ``OSError`` as a kernel does."""
        links = 0
        waiting = self._parts(os.path.join(self.cwd, inside))
        at = ""
        while waiting:
            part = waiting.pop()
            if part == "..":
                at = at.rpartition("/")[0]
                continue
            here = f"{at}/{part}"
            host = self.outside(here)
            if host is None:
                if any(point.startswith(here + "/") for point, _ in self._mounts):
                    at = here  # a directory that exists only to hold mount points
                    continue
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), inside)
            try:
                mode = os.lstat(host).st_mode
            except FileNotFoundError:
                # The mount points themselves are made inside; on the host there may be nothing there.
                if not any(point == here or point.startswith(here + "/") for point, _ in self._mounts):
                    raise
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), inside)
                target = os.readlink(host)
                at = "" if target.startswith("/") else at
                waiting += self._parts(target)
            elif waiting and not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), inside)
            else:
                at = here
        return self.outside(at) or "/"

    @staticmethod
    def _parts(path: str) -> list[str]:
        return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def find(name: str, path: str | None, view: View) -> Command:
    """The file that ``name`` means. Raises ``Unusable``."""
    if "/" in name:
        candidates = [name]
    else:
        directories = (DEFAULT_PATH if path is None else path).split(":")
        candidates = [os.path.join(directory or ".", name) for directory in directories] if name else []
    refused: Unusable | None = None
    for candidate in candidates:
        try:
            host = view.resolve(candidate)
            _check_executable(candidate, host)
        except Unusable as problem:
            refused = refused or problem
        except PermissionError:
            refused = refused or Unusable(NOT_EXECUTABLE, f"{candidate} may not be read.")
        except OSError:
            continue
        else:
            return Command(candidate, _needs_shell(candidate, host, view))
    if refused:
        raise refused
    raise Unusable(NOT_FOUND, _not_found(name, candidates, view))


def _not_found(name: str, candidates: list[str], view: View) -> str:
    if "/" in name:
        where = "" if name.startswith("/") else " in the workspace"
        return (
            f"There is no {name}{where}. Check the spelling, and that the file is not ignored when the "
            "directory is sent (.gitignore, .gradientignore)."
        )
    try:
        view.resolve("./" + name)
    except OSError:
        advice = "Check the spelling, or install it in the environment you submit from."
    else:
        advice = f"There is a file of that name in the workspace: call it ./{name}."
    count = len({os.path.dirname(candidate) for candidate in candidates})
    where = "the one directory" if count == 1 else f"any of the {count} directories"
    return f"The command {name!r} is not in {where} of PATH. {advice}"


def _check_executable(name: str, host: str) -> None:
    mode = os.stat(host).st_mode
    if stat.S_ISDIR(mode):
        raise Unusable(NOT_EXECUTABLE, f"{name} is a directory.")
    if not stat.S_ISREG(mode):
        raise Unusable(NOT_EXECUTABLE, f"{name} is no regular file.")
    if not mode & 0o111 or not os.access(host, os.X_OK):
        raise Unusable(
            NOT_EXECUTABLE,
            f"{name} may not be executed. Make it executable (chmod +x), or run it by its "
            f"interpreter, e.g. python {name} or sh {name}.",
        )
    if os.statvfs(host).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise Unusable(NOT_EXECUTABLE, f"{name} is on a file system from which nothing may be executed.")


def _needs_shell(name: str, host: str, view: View) -> bool:
    """Raises ``Unusable`` when the interpreter a script names is missing."""
    try:
        with open(host, "rb") as file:
            head = file.read(256)
    except OSError:
        return False  # executable but unreadable: a program, then
    line = head.split(b"\n", 1)[0]
    if not head.startswith(b"#!"):
        # As shells do: no NUL in what should be its first line means text.
        return (
            bool(head) and b"\0" not in line and not head.startswith((b"\x7fELF", b"\xcf\xfa", b"\xca\xfe"))
        )
    # Blanks end the name, and only blanks: to the kernel a carriage return is a part of it.
    interpreter = os.fsdecode(line[2:].replace(b"\t", b" ").strip(b" ").split(b" ")[0])
    if not interpreter:
        raise Unusable(NOT_EXECUTABLE, f"{name} begins with #! but names no interpreter.")
    try:
        view.resolve(interpreter)
    except OSError:
        windows = " The file has Windows line ends." if line.endswith(b"\r") else ""
        raise Unusable(
            NOT_FOUND,
            f"{name} begins with #!{interpreter.rstrip()}, and there is no such interpreter.{windows} "
            "Correct its first line, or run it by its interpreter.",
        ) from None
    return False
