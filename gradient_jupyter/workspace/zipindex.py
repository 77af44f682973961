"""The directory of a zip file, read by our own code, which trusts no number in it.

It is checked as a whole before anything is decompressed: how many entries, how large, which names, whether
two of them share bytes. A zip with one thing wrong is refused and the thing named; to leave out a part would
be another workspace than the person meant.

Knows the format as PKWARE's APPNOTE describes it: stored and deflated entries, zip64, Unix modes, archives
with something before them. Encryption, other methods, several disks and links are refused.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import Directory
from gradient_jupyter.workspace.limit import too_much
from gradient_jupyter.workspace.tree import MAX_ENTRIES, entry_problem
from gradient_jupyter.workspace.wording import shown, size_text

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_MAX_DIRECTORY = 64 << 20
STORED, DEFLATED = 0, 8
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd", 99: "AES"}
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_UTF8 = 1 << 11
_DOS_DIRECTORY = 0x10
_UNIX_HOSTS = frozenset({3, 19})
#: Deflate cannot shrink further, so whoever claims more lies.
_DEFLATE_RATIO = 1032
#: A whole archive that grows like this, to more than this, was made to harm.
_BOMB_RATIO, _BOMB_BYTES = 200, 256 << 20


class Member(NamedTuple):
    path: str
    method: int
    crc: int
    stored: int
    size: int
    header: int
    """Where its local header begins."""
    mode: int
    """Unix mode, or 0."""
    directory: bool
    raw: bytes
    """The name as it stands in the archive."""
    start: int = 0
    """Where its bytes begin."""


def refused(path: Path, problem: str, *, next: str = "Make the zip anew.") -> WorkspaceError:
    """The error for the zip file at ``path``; ``problem`` continues a sentence that begins with its name."""
    return WorkspaceError(f"'{shown(path.name)}' {problem}.", next=next, code="zip-refused")


class Index:
    """The directory of the archive that ``fd`` has open."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise refused(path, "is no regular file")
        self._size = status.st_size
        self._before = 0
        """How many bytes stand before the archive proper: a self-extracting one begins with a program."""

    def read(self, limit_bytes: int | None) -> tuple[list[Member], list[Member]]:
        """Its files, in the order of their bytes, and its directories. Raises ``WorkspaceError``."""
        members = self._members()
        files = [member for member in members if not member.directory]
        self._check_sizes(files, limit_bytes)
        return self._located(files), [member for member in members if member.directory]

    def _members(self) -> list[Member]:
        """The archive's directory, checked name by name."""
        count, size, start = self._end()
        if count > MAX_ENTRIES:
            raise self._bad(f"has {count} entries, more than the limit of {MAX_ENTRIES}")
        if size > _MAX_DIRECTORY:
            raise self._bad(
                f"has a directory of {size_text(size)}, which is far too much for {count} entries"
            )
        data = self._at(start, size)
        members: dict[str, Member] = {}
        at = 0
        for _ in range(count):
            member, at = self._member(data, at)
            before = members.setdefault(member.path, member)
            if before is not member and not (before.directory and member.directory):
                raise self._bad(f"holds '{shown(member.path)}' twice")
        if at != len(data):
            raise self._bad("has something unknown in its directory")
        return [member for member in members.values() if member.path]

    def _end(self) -> tuple[int, int, int]:
        """How many entries there are, and the size and the place of the directory that lists them."""
        tail_at = max(0, self._size - _END.size - _LONGEST_COMMENT)
        tail = self._at(tail_at, self._size - tail_at)
        at = len(tail) - _END.size
        while at >= 0:
            at = tail.rfind(b"PK\x05\x06", 0, at + 4)
            if at < 0 or _END.unpack_from(tail, at)[7] == len(tail) - at - _END.size:
                break
            at -= 1
        if at < 0:
            raise self._bad("is no zip file, or is cut off")
        _, disk, first, here, count, size, offset, _ = _END.unpack_from(tail, at)
        end = tail_at + at
        locator = self._at(end - _LOCATOR64.size, _LOCATOR64.size) if end >= _LOCATOR64.size else b""
        if locator.startswith(b"PK\x06\x07"):
            end -= _LOCATOR64.size + _END64.size
            record = self._at(end, _END64.size) if end >= 0 else b""
            if not record.startswith(b"PK\x06\x06"):
                raise self._bad("has a zip64 record of an unknown kind")
            _, _, _, _, disk, first, here, count, size, offset = _END64.unpack(record)
        if disk or first or here != count:
            raise self._bad("is one of several disks")
        self._before = end - size - offset
        if self._before < 0:
            raise self._bad("says that its directory lies where it cannot")
        return count, size, end - size

    def _member(self, data: bytes, at: int) -> tuple[Member, int]:
        if len(data) - at < _CENTRAL.size:
            raise self._bad("has a directory that is cut off")
        (
            magic, made_by, _, flags, method, _, _, crc, stored, size, name_size, extra_size, comment_size,
            disk, _, attributes, header,
        ) = _CENTRAL.unpack_from(data, at)  # fmt: skip
        at += _CENTRAL.size
        end = at + name_size + extra_size + comment_size
        if magic != b"PK\x01\x02" or end > len(data):
            raise self._bad("has a directory that is damaged")
        raw = data[at : at + name_size]
        extra = data[at + name_size : at + name_size + extra_size]
        size, stored, header = self._wide(extra, size, stored, header)
        unix = made_by >> 8 in _UNIX_HOSTS
        mode = attributes >> 16 if unix else 0
        path, slash = self._name(raw, bool(flags & _UTF8), unix)
        kind = stat.S_IFMT(mode)
        directory = slash or kind == stat.S_IFDIR or (not unix and bool(attributes & _DOS_DIRECTORY))
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if kind == stat.S_IFLNK else "no regular file"
            raise self._bad(
                f"holds '{shown(path)}', which is {what}", next="Unpack it and send the directory itself."
            )
        if flags & _ENCRYPTED:
            raise self._bad(f"holds '{shown(path)}', which is encrypted", next="Make one without a password.")
        if method not in (STORED, DEFLATED):
            how = _METHODS.get(method, f"method {method}")
            raise self._bad(
                f"holds '{shown(path)}', compressed by {how}",
                next="Make it with deflate, which every zip program knows: zip -r.",
            )
        if directory and size:
            raise self._bad(f"holds the directory '{shown(path)}' with content")
        if disk:
            raise self._bad("is one of several disks")
        return Member(path, method, crc, stored, size, header, mode, directory, raw), end

    def _wide(self, extra: bytes, size: int, stored: int, header: int) -> tuple[int, int, int]:
        """The three numbers, where they are so large that they stand in the zip64 field."""
        wide = None
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            if kind == 1:
                wide = extra[at + 4 : at + 4 + length]
            at += 4 + length
        numbers = []
        for number in (size, stored, header):
            if number != 0xFFFFFFFF:
                numbers.append(number)
                continue
            if wide is None or len(wide) < 8:
                raise self._bad("has an entry without its sizes")
            numbers.append(int.from_bytes(wide[:8], "little"))
            wide = wide[8:]
        return numbers[0], numbers[1], numbers[2]

    def _name(self, raw: bytes, utf8: bool, unix: bool) -> tuple[str, bool]:
        """The path of an entry, and whether a slash at its end says that it is a directory. ``""`` is the top
        itself."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            if utf8:
                raise self._bad(f"holds the name '{shown(raw)}', which is not UTF-8") from None
            text = raw.decode("cp437")
        if not unix:
            text = text.replace("\\", "/")  # what some Windows programs write in its place
        slash = text.endswith("/")
        parts = [part for part in text.removesuffix("/").split("/") if part != "."]
        path = "/".join(parts)
        if not path and parts in ([], [""]) and slash and not text.startswith("/"):
            return "", True
        problem = entry_problem(Directory(path=path)) if path else "is empty"
        if problem is None and len(path) > 1 and path[1] == ":" and path[0].isascii() and path[0].isalpha():
            problem = "begins with a drive"
        if problem is None and ".." in path.replace("\\", "/").split("/"):
            problem = "leads upwards"
        if problem is not None:
            raise self._bad(f"holds the name '{shown(text)}', which {problem}")
        return path, slash

    def _check_sizes(self, files: list[Member], limit_bytes: int | None) -> None:
        """Before anything is decompressed."""
        total = sum(member.size for member in files)
        if limit_bytes is not None and total > limit_bytes:
            raise too_much(
                f"'{shown(self._path.name)}'",
                [(member.path, member.size) for member in files],
                total,
                limit_bytes,
                leave_out="make the zip without what the job does not need.",
            )
        for member in files:
            if member.size != member.stored and (
                member.method == STORED or member.size > _DEFLATE_RATIO * (member.stored + 1)
            ):
                raise self._bad(f"says that '{shown(member.path)}' has a size that it cannot have")
        if total > _BOMB_BYTES and total > _BOMB_RATIO * self._size:
            raise self._bad(
                f"would grow from {size_text(self._size)} to {size_text(total)}, as only bombs do",
                next="If it is none, unpack it and send the directory itself.",
            )

    def _located(self, files: list[Member]) -> list[Member]:
        """The files with the place of their bytes, of which no two share any."""
        located = []
        end = 0
        for member in sorted(files, key=lambda member: member.header):
            header_at = self._before + member.header
            header = self._at(header_at, _LOCAL.size)
            if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
                raise self._bad(f"does not hold '{shown(member.path)}' where it says")
            _, _, flags, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack(header)
            start = header_at + _LOCAL.size + name_size + extra_size
            if self._at(header_at + _LOCAL.size, name_size) != member.raw or method != member.method:
                raise self._bad(f"says two different things about '{shown(member.path)}'")
            if flags & _ENCRYPTED:
                raise self._bad(f"holds '{shown(member.path)}', which is encrypted")
            if header_at < end or start + member.stored > self._size:
                raise self._bad(f"has entries that share bytes, among them '{shown(member.path)}'")
            end = start + member.stored
            located.append(member._replace(start=start))
        return located

    def _at(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._fd, size, offset)
        except OSError as error:
            raise self._bad(f"cannot be read ({error.strerror})") from None

    def _bad(self, problem: str, *, next: str = "Make the zip anew.") -> WorkspaceError:
        return refused(self._path, problem, next=next)
