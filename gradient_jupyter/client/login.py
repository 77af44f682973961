"""The server and the token that a person asked us to remember (``gradient login``).

One file in the configuration directory, readable by its owner only. A token goes to the server it was given
for and to no other."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

import msgspec

from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.server import config_root

_LARGEST = 65536
#: What a token of a person looks like: the kind stands before it. ``grj_`` is a running job's.
_OURS = re.compile(r"gr(?!j)[a-z]{1,3}_[!-~]{8,500}")
_PAPERSPACE = Path("~/.paperspace/config.json")


class Login(msgspec.Struct, frozen=True):
    url: str
    token: str


class _Paperspace(msgspec.Struct, frozen=True, rename="camel"):
    api_key: str = ""


def path() -> Path:
    return config_root() / "login.json"


def is_ours(token: str) -> bool:
    """Whether a text is a token of a Gradient server like ours, not somebody else's key."""
    return _OURS.fullmatch(token) is not None


def read() -> Login | None:
    """What is remembered. Raises ``InvalidRequest`` for a file that others could have written or read."""
    content = _private(path())
    if content is None:
        return None
    try:
        return decode(content, type=Login)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(path(), "it is not what it should be") from error


def keep(login: Login) -> None:
    """Remembers it in place of what was there."""
    target = path()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = target.parent.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise InvalidRequest(
            f"{target.parent} is not yours alone, so no token is kept there.",
            next=f"chmod 700 {target.parent}",
            code="login-file",
        )
    temporary = target.with_name(f".login-{secrets.token_hex(6)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(login))
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def forget() -> bool:
    """Forgets it. False: there was nothing."""
    try:
        path().unlink()
    except FileNotFoundError:
        return False
    return True


def paperspace_key() -> str:
    """The key that Paperspace's own client keeps, if it is one of our tokens; else empty."""
    try:
        content = _private(_PAPERSPACE.expanduser(), strict=False)
        key = decode(content, type=_Paperspace).api_key if content else ""
    except (InvalidRequest, msgspec.DecodeError, UnicodeDecodeError, RuntimeError):
        return ""
    return key if is_ours(key) else ""


def _private(file: Path, *, strict: bool = True) -> bytes | None:
    """What stands in a file of ours; None: there is none."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refused(file, error.strerror or str(error)) from error
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(file, "it is not a regular file")
        if found.st_uid != os.geteuid():
            raise _refused(file, f"it belongs to user {found.st_uid}, not to you")
        if strict and found.st_mode & 0o077:
            raise _refused(file, f"others may open it (mode {stat.S_IMODE(found.st_mode):04o})")
        return opened.read(_LARGEST)


def _refused(file: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{file} should say which server you use, but {why}.",
        next="gradient logout removes it; then log in again.",
        code="login-file",
    )
