"""A tar archive as a snapshot: its files go straight into the store, and nothing of it is ever made on a
disk.

Read by our own code, in one pass, because nothing in it may be trusted: no number, no name, no link. What
would be dangerous to unpack is refused with its name, and a tar with one thing wrong is refused whole. Knows
ustar, the long names of GNU and pax, gzip, bzip2 and xz. A hard link to a file before it is that file once
more; a link that stays inside is kept; devices, pipes, sparse files and set-user-id bits are refused.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple, NoReturn, Protocol

from gradient_jupyter.resources.errors import InvalidRequest, TooLarge
from gradient_jupyter.resources.snapshot import Directory, Entry, File, Link, Manifest
from gradient_jupyter.workspace.archive import TARS, tar_ending
from gradient_jupyter.workspace.blobs import Batch, BlobStore
from gradient_jupyter.workspace.taking import Content, put
from gradient_jupyter.workspace.tree import MAX_ENTRIES, check_manifest, entry_problem, shown_path
from gradient_jupyter.workspace.wording import shown, size_text

_BLOCK = 512
_PIECE = 1 << 18
#: Of one header's long name or pax records.
_MAX_RECORD = 1 << 20
_XZ_MEMORY = 256 << 20
#: What grows like this, to more than this, was made to harm: as for zip files.
_BOMB_RATIO, _BOMB_BYTES = 200, 256 << 20
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ")
_WHAT = {
    b"3": "a device", b"4": "a device", b"6": "a named pipe", b"S": "a sparse file",
    b"M": "part of another volume",
}  # fmt: skip
_SET_ID = 0o6000


class Unpacked(NamedTuple):
    """An archive's files, stored. ``blobs`` are digest and size of each."""

    manifest: Manifest
    blobs: tuple[tuple[str, int], ...]


class _Header(NamedTuple):
    name: str
    kind: bytes
    size: int
    mode: int
    target: str


def untar(
    file: BinaryIO,
    name: str,
    size: int,
    blobs: BlobStore,
    *,
    limit_bytes: int,
    went: Callable[[int], None] = lambda count: None,
) -> Unpacked:
    """Stores the files of the archive ``file``, which is called ``name`` and has ``size`` bytes. Blocks.

    ``went`` is told of the bytes read of it; what it raises ends the work. ``InvalidRequest`` (code
    ``archive-refused``) names what is wrong, ``TooLarge`` says that there is more than ``limit_bytes``.
    """
    ending = tar_ending(name)
    stream = _Stream(file, name, size, TARS[ending] if ending else "", limit_bytes, went)
    with blobs.batch() as batch:
        entries = _Reader(stream, batch, name, limit_bytes).run()
        manifest = Manifest(entries=tuple(sorted(entries, key=lambda entry: entry.path)))
        try:
            check_manifest(manifest, canonical=True)
        except InvalidRequest as error:
            raise refused(name, f"cannot be unpacked. {error.message.rstrip('.')}") from error
        return Unpacked(manifest, tuple((blob.digest, blob.size) for blob in batch.commit()))


def refused(name: str, problem: str) -> InvalidRequest:
    """``problem`` continues a sentence that begins with the archive's name."""
    return InvalidRequest(
        f"'{shown(name)}' {problem}.",
        next="Do not trust it. If it is your own, make it anew; to keep it packed: --no-extract.",
        code="archive-refused",
    )


class _Reader:
    def __init__(self, stream: _Stream, batch: Batch, name: str, limit_bytes: int) -> None:
        self._stream = stream
        self._batch = batch
        self._name = name
        self._limit = limit_bytes
        self._files: dict[str, File] = {}
        self._links: dict[str, Link] = {}
        self._directories: set[str] = set()
        self._bytes = 0

    def run(self) -> list[Entry]:
        while (header := self._next()) is not None:
            self._take(header)
            if len(self._files) + len(self._links) + len(self._directories) > MAX_ENTRIES:
                self._refuse(f"holds more than the limit of {MAX_ENTRIES} entries")
        self._stream.finish()
        filled: set[str] = set()
        for path in (*self._files, *self._links, *self._directories):
            parent = path.rpartition("/")[0]
            while parent and parent not in filled:
                filled.add(parent)
                parent = parent.rpartition("/")[0]
        lone = [Directory(path=path) for path in self._directories - filled]
        return [*self._files.values(), *self._links.values(), *lone]

    def _take(self, header: _Header) -> None:
        path = header.name
        if header.kind == b"5":
            if path in self._files or path in self._links:
                self._refuse(f"holds '{shown_path(path)}' twice")
            if path:
                self._directories.add(path)
            self._skip(header.size)
            return
        if path in self._files or path in self._links or path in self._directories:
            self._refuse(f"holds '{shown_path(path)}' twice")
        if header.kind == b"2":
            link = Link(path=path, target=header.target)
            if problem := entry_problem(link):
                self._refuse(f"holds the link '{shown_path(path)}', which {problem}")
            self._links[path] = link
            self._skip(header.size)
            return
        if header.mode & _SET_ID:
            self._refuse(
                f"holds '{shown_path(path)}', which would run with another user's rights (set-user-id)"
            )
        if header.kind == b"1":
            before = self._files.get(self._path(header.target, f"the hard link '{shown_path(path)}' to"))
            if before is None:
                self._refuse(f"holds '{shown_path(path)}', a hard link to no file that comes before it")
            self._count(before.size)
            self._files[path] = File(
                path=path, size=before.size, digest=before.digest, executable=before.executable,
                chunks=before.chunks,
            )  # fmt: skip
            self._skip(header.size)
            return
        self._count(header.size)
        try:
            content: Content = put(self._batch, self._stream, header.size)  # type: ignore[arg-type]
        except EOFError:
            self._refuse(f"is cut off in '{shown_path(path)}'")
        self._skip(-header.size % _BLOCK, padded=False)
        self._files[path] = File(
            path=path, size=content.size, digest=content.digest, executable=bool(header.mode & 0o100),
            chunks=content.chunks,
        )  # fmt: skip

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limit:
            raise too_large(self._name, self._limit)

    def _next(self) -> _Header | None:
        """The next entry's header, with the names that stand before it; None at the end."""
        more: dict[str, str] = {}
        while True:
            block = self._exactly(_BLOCK, "")
            if block is None or not any(block):
                if more:
                    self._refuse("ends after a name that belongs to nothing")
                return None
            header = self._header(block, more)
            if header.kind in (b"L", b"K"):
                text = self._record(header.size).split(b"\0", 1)[0]
                more["path" if header.kind == b"L" else "linkpath"] = self._text(text)
            elif header.kind == b"x":
                more |= self._pax(self._record(header.size))
            elif header.kind == b"g":
                if self._pax(self._record(header.size)):
                    self._refuse("gives one name or size to all its entries")
            elif header.kind in (b"0", b"\0", b"7", b"1", b"2", b"5"):
                return header
            else:
                what = _WHAT.get(header.kind, f"of the unknown kind {header.kind!r}")
                self._refuse(f"holds '{shown_path(header.name)}', which is {what}")

    def _header(self, block: bytes, more: dict[str, str]) -> _Header:
        given = self._number(block[148:156])
        if sum(block) - sum(block[148:156]) + 8 * 32 != given:
            self._refuse("is no tar archive, or is damaged")
        kind = block[156:157]
        special = kind in (b"L", b"K", b"x", b"g")
        name = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
            name = prefix + b"/" + name
        text = more.get("path") if not special else None
        if text is None:
            text = "special" if special else self._text(name)
        if kind in (b"\0", b"0") and text.endswith("/"):
            kind = b"5"
        size = self._number(block[124:136])
        if not special and "size" in more:
            if not re.fullmatch(r"[0-9]{1,16}", more["size"]):
                self._refuse("has an entry without its size")
            size = int(more["size"])
        target = ""
        if kind in (b"1", b"2"):
            target = more.get("linkpath") or self._text(block[157:257].split(b"\0", 1)[0])
        path = text if special else self._path(text, "the name", top=kind == b"5")
        return _Header(path, kind, size, self._number(block[100:108]), target)

    def _path(self, text: str, what: str, *, top: bool = False) -> str:
        if not text.startswith("/"):
            parts = [part for part in text.split("/") if part not in ("", ".")]
            path = "/".join(parts)
            if not path and top:
                return ""
            problem = entry_problem(Directory(path=path)) if path else "is empty"
            if problem is None:
                return path
        else:
            problem = "is absolute"
        self._refuse(f"holds {what} '{shown_path(text)}', which {problem}")

    def _pax(self, data: bytes) -> dict[str, str]:
        """Of the records those that change what an entry is."""
        found: dict[str, str] = {}
        while data:
            match = _RECORD.match(data)
            length = int(match[1]) if match else 0
            record = data[match.end() : length] if match else b""
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n") or length > len(data):
                self._refuse("has a pax record that is damaged")
            data = data[length:]
            if key.startswith(b"GNU.sparse"):
                self._refuse("holds a sparse file")
            if key in (b"path", b"linkpath", b"size"):
                found[key.decode()] = self._text(value[:-1])
        return found

    def _number(self, field: bytes) -> int:
        if field[:1] in (b"\x80", b"\xff"):
            number = int.from_bytes(field[1:], "big")
            if field[:1] == b"\xff" or number > 2**53:
                self._refuse("claims a size that is impossible")
            return number
        text = field.split(b"\0", 1)[0].strip(b" ")
        if not re.fullmatch(rb"[0-7]*", text):
            self._refuse("is no tar archive, or is damaged")
        return int(text or b"0", 8)

    def _text(self, data: bytes) -> str:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self._refuse(f"holds the name '{shown(data)}', which is not UTF-8")
        if "\0" in text:
            self._refuse("holds a name with a null byte")
        return text

    def _record(self, size: int) -> bytes:
        if size > _MAX_RECORD:
            self._refuse(f"has a name or a note of {size_text(size)}")
        data = self._exactly(size, "in a name")
        assert data is not None
        self._skip(-size % _BLOCK, padded=False)
        return data

    def _skip(self, size: int, *, padded: bool = True) -> None:
        """What a header says that follows it, although it has no content."""
        size += -size % _BLOCK if padded else 0
        while size:
            data = self._exactly(min(size, _PIECE), "in a gap")
            size -= len(data or b"")

    def _exactly(self, size: int, where: str) -> bytes | None:
        """None at the very end, where that may be."""
        data = self._stream.read(size)
        if not data and size and not where:
            return None
        if len(data) != size:
            self._refuse(f"is cut off {where}".rstrip())
        return data

    def _refuse(self, problem: str) -> NoReturn:
        raise refused(self._name, problem)


class _Decoder(Protocol):
    """What the three have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Stream:
    """The archive without its compression. Never makes more than is asked for, nor more than is plausible."""

    def __init__(
        self, file: BinaryIO, name: str, size: int, how: str, limit_bytes: int, went: Callable[[int], None]
    ) -> None:
        self._file = file
        self._name = name
        self._how = how
        self._went = went
        # A header for each entry, and the end.
        self._limit = limit_bytes + 4 * _BLOCK * MAX_ENTRIES
        self._bomb = max(_BOMB_BYTES, _BOMB_RATIO * size)
        self._made = 0
        self._decoder = self._new() if how else None
        self._rest = b""
        self._began = False

    def read(self, size: int) -> bytes:
        """``size`` bytes; fewer at the end only."""
        parts = []
        while size > 0:
            data = self._some(size)
            if not data:
                break
            parts.append(data)
            size -= len(data)
            self._made += len(data)
            if self._made > self._limit:
                raise too_large(self._name, self._limit)
            if self._how and self._made > self._bomb:
                raise refused(self._name, f"grows to more than {size_text(self._bomb)}, as only bombs do")
        return b"".join(parts)

    def finish(self) -> None:
        """Reads what is left: nothing but zeros, and a compression that is whole."""
        while data := self.read(_PIECE):
            if any(data):
                raise refused(self._name, "is followed by bytes that belong to nothing")

    def _some(self, size: int) -> bytes:
        if self._decoder is None:
            return self._next(min(size, _PIECE))
        while True:
            if self._decoder.eof and not self._another(self._decoder):
                return b""
            if made := self._decode(size):
                return made

    def _another(self, ended: _Decoder) -> bool:
        """Whether a further compressed part follows, as tools that work in parallel make it. Zeros, as tapes
        have them, are none."""
        left = ended.unused_data.lstrip(b"\0")
        while not left:
            more = self._next(_PIECE)
            if not more:
                return False
            left = more.lstrip(b"\0")
        self._decoder, self._rest, self._began = self._new(), left, False
        return True

    def _decode(self, size: int) -> bytes:
        decoder = self._decoder
        if isinstance(decoder, bz2.BZ2Decompressor | lzma.LZMADecompressor):
            data = self._next(_PIECE) if decoder.needs_input and not self._rest else self._rest
            self._rest = b""
            wanting = decoder.needs_input
        else:
            data = self._rest or self._next(_PIECE)
            wanting = True
        try:
            if wanting and not data:
                raise refused(
                    self._name, "is cut off" if self._began else "is no archive of the kind it is called"
                )
            self._began = True
            made: bytes = decoder.decompress(data, size)  # type: ignore[union-attr]
        except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
            raise refused(
                self._name, "cannot be decompressed: it is damaged, or not what its name says"
            ) from None
        if not isinstance(decoder, bz2.BZ2Decompressor | lzma.LZMADecompressor):
            self._rest = decoder.unconsumed_tail  # type: ignore[union-attr]
        return made

    def _new(self) -> _Decoder:
        if self._how == "gz":
            return zlib.decompressobj(wbits=31)
        if self._how == "bz2":
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def _next(self, size: int) -> bytes:
        data = self._file.read(size)
        self._went(len(data))
        return data


def too_large(name: str, limit: int) -> TooLarge:
    return TooLarge(
        f"What '{shown(name)}' holds is more than the limit of {size_text(limit)}.",
        next="Take a part of it, or ask the administrator: GradientServer.max_snapshot_bytes.",
        code="dataset-too-large",
    )
