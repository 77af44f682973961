"""A file that came from elsewhere, as what a dataset is to hold: unpacked if it is an archive, else as it
is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from gradient_jupyter.resources.errors import WorkspaceError
from gradient_jupyter.resources.snapshot import File, Manifest
from gradient_jupyter.workspace.archive import ZIP, tar_ending
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.taking import put
from gradient_jupyter.workspace.tarred import Unpacked, refused, too_large, untar
from gradient_jupyter.workspace.zipped import zipped

_COUNTED = 1 << 20


def expand(
    path: Path, blobs: BlobStore, *, extract: bool, limit_bytes: int, went: Callable[[int], None]
) -> Unpacked:
    """Stores what the file at ``path`` holds; its name says what it is. Blocks.

    ``went`` is told of bytes that were read; what it raises ends the work. Raises as ``untar`` does, also for
    a zip file.
    """
    size = path.stat().st_size
    if extract and path.name.lower().endswith(ZIP):
        return _unzip(path, blobs, limit_bytes, went)
    with path.open("rb", buffering=0) as file:
        stream = cast("BinaryIO", file)
        if extract and tar_ending(path.name):
            return untar(stream, path.name, size, blobs, limit_bytes=limit_bytes, went=went)
        if size > limit_bytes:
            raise too_large(path.name, limit_bytes)
        with blobs.batch() as batch:
            content = put(batch, _told(stream, went), size)
            one = File(path=path.name, size=size, digest=content.digest, chunks=content.chunks)
            stored = batch.commit()
    return Unpacked(Manifest(entries=(one,)), tuple((blob.digest, blob.size) for blob in stored))


def _unzip(path: Path, blobs: BlobStore, limit_bytes: int, went: Callable[[int], None]) -> Unpacked:
    done = 0

    def progress(now: int, total: int) -> None:
        nonlocal done
        went(now - done)
        done = now

    try:
        contents = zipped(path, progress=progress, limit_bytes=limit_bytes)
    except WorkspaceError as error:
        if error.code == "workspace-too-large":
            raise too_large(path.name, limit_bytes) from error
        problem = error.message.removeprefix(f"'{path.name}' ").rstrip(".")
        raise refused(path.name, problem) from error
    with blobs.batch() as batch:
        for file in contents.manifest.files:
            with contents.open_file(file) as stream:
                put(batch, _told(stream, went), file.size)
        stored = batch.commit()
    return Unpacked(contents.manifest, tuple((blob.digest, blob.size) for blob in stored))


class _Told(io.RawIOBase):
    def __init__(self, stream: BinaryIO, went: Callable[[int], None]) -> None:
        self._stream = stream
        self._went = went

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._went(0)
        return len(data)


def _told(stream: BinaryIO, went: Callable[[int], None]) -> BinaryIO:
    """Reads as much as it is asked for, and lets ``went`` end it."""
    return io.BufferedReader(_Told(stream, went), _COUNTED)
