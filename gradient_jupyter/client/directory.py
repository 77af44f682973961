"""What a directory remembers of its jobs: ``.ps_project/config.json``, where Gradient's users have it.

It names the project of the directory and its last job. It is data, also when it came with somebody's
repository: it names no server, no token and no command, and what it names is asked for as the person who
asks. It is never sent with the directory (``workspace.ignore``)."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

import msgspec

from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import InvalidRequest

HOME = ".ps_project"
NAME = "config.json"
CONFIG = Path(HOME) / NAME
_LONGEST_NAME = 200
_LARGEST = 64 * 1024
_JOB_ID = re.compile(r"j[0-9a-z]{12}")
_UNUSABLE = (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _Config(msgspec.Struct, frozen=True, rename="camel"):
    project: str | None = None
    project_id: str | None = None
    last_job_id: str | None = None


def of_directory(directory: Path) -> tuple[str | None, str | None]:
    """Name or id of the project that a directory's jobs belong to; one of the two is None.

    The name comes before the id: files that Paperspace's own client wrote hold ids of another world.
    """
    root = directory.resolve()
    if (config := _read(root / CONFIG)) is not None:
        if config.project:
            return config.project, None
        if config.project_id:
            return None, config.project_id
    name = "".join(letter if letter.isprintable() else "_" for letter in root.name)[:_LONGEST_NAME]
    if not name:
        raise InvalidRequest(f"{root} has no name to call a project by.", next="Name one: --project NAME.")
    return name, None


def last_job(directory: Path | None = None) -> str | None:
    """The job that was sent from here last, if that is known. Raises ``InvalidRequest`` where the file
    cannot be read."""
    config = _read((directory or Path()).resolve() / CONFIG)
    job_id = config.last_job_id if config is not None else None
    return job_id if job_id is not None and _JOB_ID.fullmatch(job_id) else None


def remember(
    directory: Path, *, project: str = "", project_id: str = "", job_id: str = "", make: bool = True
) -> bool:
    """Writes down what is given. A project that is there already stays. Says whether anything was written:
    not into a home directory or ``/``, not through a link, not where the file is not what it should be or
    cannot be written, and with ``make=False`` only where it is there already."""
    try:
        root = directory.resolve()
        if root in (Path(root.anchor), Path.home().resolve()):
            return False
    except (OSError, RuntimeError):  # it is gone, or whoever we are has no home
        return False
    with contextlib.suppress(*_UNUSABLE), _opened(root, make=make) as home:
        said = _said(home)
        if said is None:
            if not make:
                return False
            said = {}
        new = dict(said)
        theirs = said.get("project"), said.get("projectId")
        if project and (theirs == (project, None) or not any(theirs)):
            new |= {"project": project} | ({"projectId": project_id} if project_id else {})
        if job_id:
            new["lastJobId"] = job_id
        if new != said:
            _write(home, new)
        return True
    return False


def rename(directory: Path, project_id: str, name: str) -> None:
    """The project that the directory remembers has another name now."""
    with contextlib.suppress(*_UNUSABLE), _opened(directory.resolve(), make=False) as home:
        said = _said(home)
        if said is not None and said.get("projectId") == project_id and said.get("project") != name:
            _write(home, {**said, "project": name})


def forget(directory: Path) -> bool:
    """Forgets project and last job; what else stands in the file stays. Says whether there was something.
    Raises ``InvalidRequest`` where that cannot be done."""
    root = directory.resolve()
    try:
        with _opened(root, make=False) as home:
            said = _said(home)
            if said is None:
                return False
            left = {
                key: value for key, value in said.items() if key not in ("project", "projectId", "lastJobId")
            }
            if left:
                _write(home, left)
            else:
                os.unlink(NAME, dir_fd=home)
        if not left:
            with contextlib.suppress(OSError):  # it holds something else
                (root / HOME).rmdir()
        return left != said
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InvalidRequest(f"{root / CONFIG} cannot be changed: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(root / CONFIG, error) from error


@contextlib.contextmanager
def _opened(root: Path, *, make: bool) -> Any:
    """The directory of the file, itself and no link to another."""
    place = root / HOME
    if make:
        with contextlib.suppress(FileExistsError):
            place.mkdir()
    home = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield home
    finally:
        os.close(home)


def _said(home: int) -> dict[str, Any] | None:
    try:
        descriptor = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | _FLAGS, dir_fd=home)
    except FileNotFoundError:
        return None
    content = _content(descriptor)
    decode(content, type=_Config)  # what we could not read, we do not change
    return decode(content, type=dict[str, Any])


def _write(home: int, said: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    temporary = f".{NAME}-{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666, dir_fd=home)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(said), indent=2) + b"\n")
        os.replace(temporary, NAME, src_dir_fd=home, dst_dir_fd=home)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=home)
        raise


def _read(path: Path) -> _Config | None:
    try:
        content = _content(os.open(path, os.O_RDONLY | _FLAGS))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return decode(content, type=_Config)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(path, error) from error


def _content(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(0, "it is larger than 64 KiB")
    return content


def _malformed(path: Path, error: Exception) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is not what it should be: {error}.",
        next='It looks like {"project": "name"}; or name a project with --project.',
    )
