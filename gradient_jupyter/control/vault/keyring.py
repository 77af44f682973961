"""The keys under which secrets are encrypted: a directory outside the data root, one file for each.

A file is called by its key's id, ``<number>-<first 8 hex digits of a hash of the key>``, and holds the 32
bytes. So a file that is not what it was is known for that, and the key with the highest number is the one
that is used: making the next one is all it takes to change the key, and there is no further state to be lost.
A key is on the disk before anything is encrypted under it, and is never made because one is missing: what is
encrypted under that one could not be read any more, and nobody would know why.

Blocks, shortly. One process writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

from gradient_jupyter.workspace import durable

log = logging.getLogger(__name__)

_BYTES = 32
_ID = re.compile(r"([1-9][0-9]{0,8})-[0-9a-f]{8}")
_DRAFT = ".draft"


class Keyring:
    """``path`` need not exist: it is made with the first key. Keys that were read once are remembered, so
    that one whose file was removed since still opens what was read before that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changing = asyncio.Lock()
        """Held by whoever changes the key: of two at once, one could remove what the other has just used."""
        self._files_turn = threading.RLock()
        self._keys: dict[str, bytes] = {}
        self._files: tuple[str, ...] = ()
        self.trouble: tuple[str, ...] = ()
        """What is wrong with files that are there, in sentences."""
        self.read()

    def read(self) -> None:
        """Looks at the files, also at those that somebody has put there or put back since."""
        with self._files_turn:
            found, trouble = look(self.path)
            self._keys.update(found)
            self._files = tuple(sorted(found, key=_number))
        for sentence in trouble:
            if sentence not in self.trouble:
                log.warning("%s", sentence)
        self.trouble = trouble

    @property
    def current(self) -> str | None:
        """The id of the key that is used for what is encrypted now; None when there is none."""
        return self._files[-1] if self._files else None

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the keys there are files of, the oldest first."""
        return self._files

    def key(self, key_id: str) -> bytes | None:
        return self._keys.get(key_id)

    def make(self, known: Iterable[str] = ()) -> str:
        """A new key, which is the current one from now on. ``known``: ids that have been in use. Returns its
        id when it is on the disk. Raises ``OSError``."""
        with self._files_turn:
            key = secrets.token_bytes(_BYTES)
            last = max((_number(each) for each in (*known, *self._keys)), default=0)
            key_id = f"{last + 1}-{_mark(key)}"
            _make_private(self.path)
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                with contextlib.suppress(FileNotFoundError):  # of one who was killed while making one
                    os.unlink(_DRAFT, dir_fd=directory)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(_DRAFT, flags, 0o600, dir_fd=directory)
                try:
                    durable.write_all(fd, key)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(_DRAFT, key_id, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            finally:
                os.close(directory)
            durable.sync_path(self.path.parent)
            self._keys[key_id] = key
            self._files = (*self._files, key_id)
            log.info("the key %s for secrets was made in %s", key_id, self.path)
            return key_id

    def remove(self, key_ids: Iterable[str]) -> None:
        """Removes the files of keys that nothing is encrypted under any more; never the current one's."""
        with self._files_turn:
            for key_id in key_ids:
                if key_id in self._files[:-1]:
                    (self.path / key_id).unlink(missing_ok=True)
                    self._files = tuple(each for each in self._files if each != key_id)
                    log.info("the key %s was removed: no secret is encrypted under it", key_id)


def look(path: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The keys by their ids, and what is wrong with files that are none. Changes nothing."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, (f"The keys for secrets cannot be read: {path}: {error.strerror}.",)
    try:
        found: dict[str, bytes] = {}
        trouble: list[str] = []
        status = os.fstat(directory)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            trouble.append(
                f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}): chmod 700 it."
            )
        for name in sorted(os.listdir(directory)):  # noqa: PTH208  # of a descriptor
            if not _ID.fullmatch(name):
                continue
            key, problem = _read(directory, name)
            if key is not None:
                found[name] = key
            if problem:
                trouble.append(f"{path / name} {problem}")
        return found, tuple(trouble)
    finally:
        os.close(directory)


def _read(directory: int, name: str) -> tuple[bytes | None, str]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        return None, f"cannot be read: {error.strerror}."
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None, "is no regular file."
        key = os.read(fd, _BYTES + 1)
    except OSError as error:
        return None, f"cannot be read: {error.strerror}."
    finally:
        os.close(fd)
    if len(key) != _BYTES or name.partition("-")[2] != _mark(key):
        return None, "is damaged: it is not the key that it is called after."
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        return key, f"is open to others (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 it."
    return key, ""


def _make_private(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)


def _mark(key: bytes) -> str:
    """What tells keys apart. Of 256 random bits nobody learns anything from 32 bits of a hash."""
    return hashlib.sha256(b"gradient key " + key).hexdigest()[:8]


def _number(key_id: str) -> int:
    match = _ID.fullmatch(key_id)
    return int(match[1]) if match else 0
