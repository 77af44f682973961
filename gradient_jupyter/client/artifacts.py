"""Artifacts: what a run left in ``/artifacts``; listing, reading, deleting and bringing it here."""

from __future__ import annotations

import builtins
import contextlib
import fnmatch
import io
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError

from gradient_jupyter.client.connection import PREFIX
from gradient_jupyter.client.landing import Landing, Part
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.errors import NotFound, RangeInvalid, ServerUnavailable
from gradient_jupyter.resources.page import Artifacts as Page

_PAGE = 1000
_BLOCK = 1 << 20
_TRIES = 5
"""How often one file is asked for again without a byte of progress."""


class SupportsWrite(Protocol):
    def write(self, data: bytes, /) -> object: ...


class Artifacts:
    """The artifacts of one job. ``job.artifacts``."""

    def __init__(self, transport: Transport, job_id: str) -> None:
        self._transport = transport
        self._path = f"/jobs/{quote(job_id, safe='')}/artifacts"

    def list(self, pattern: str | None = None) -> tuple[Artifact, ...]:
        """All files there are now, or those that ``pattern`` names: a file, a directory, ``*.png``. While the
        job runs, what is there may still grow."""
        everything = tuple(self._pages())
        if pattern is None:
            return everything
        with contextlib.suppress(NotFound):
            return _chosen(everything, [pattern])
        return ()

    def url(self, path: str) -> str:
        """Where one artifact is fetched with the token."""
        return f"{self._transport.address.url}{PREFIX}{self._of(path)}"

    def download(
        self,
        dest: Path | str = ".",
        paths: Iterable[str] | None = None,
        *,
        on_progress: Callable[[Artifact, int], None] | None = None,
    ) -> builtins.list[Path]:
        """Brings artifacts into the directory ``dest`` and returns where they are.

        ``paths`` are names, directories or patterns (``*.png``); None is everything. Each file appears
        whole or not at all. One that is already there with the right content is not fetched again, and one
        that was cut off goes on where it stopped. Nothing is written outside ``dest``, whatever the
        artifacts are called and whatever links stand in the way. ``on_progress`` gets each artifact and how
        many of its bytes are here.
        """
        wanted = _chosen(self.list(), list(paths) if paths is not None else None)
        report = on_progress or (lambda artifact, here: None)
        with Landing(Path(dest)) as landing:
            return [self._bring(artifact, landing, report) for artifact in wanted]

    def open(self, path: str) -> BinaryIO:
        """The bytes of one artifact, as a file to read."""
        stream = self._transport.stream("GET", self._of(path), headers={"Accept": "*/*"})
        return io.BufferedReader(_Reader(stream.__enter__(), stream.__exit__), _BLOCK)

    def zip(self, file: SupportsWrite, on_progress: Callable[[int], None] | None = None) -> None:
        """Writes all artifacts to ``file`` as one zip, made while it is sent."""
        here = 0
        for block in self._blocks(self._path + ".zip", {}):
            file.write(block)
            here += len(block)
            if on_progress:
                on_progress(here)

    def delete(self, path: str) -> None:
        """Removes one artifact of a job that is final."""
        self._transport.request("DELETE", self._of(path), type(None))

    def _of(self, path: str) -> str:
        return f"{self._path}/{quote(path, safe='/')}"

    def _pages(self) -> Iterator[Artifact]:
        cursor = None
        while True:
            page = self._transport.request("GET", self._path, Page, query={"limit": _PAGE, "cursor": cursor})
            yield from page.items
            if (cursor := page.next) is None:
                return

    def _bring(self, artifact: Artifact, landing: Landing, report: Callable[[Artifact, int], None]) -> Path:
        if (there := landing.complete(artifact)) is not None:
            report(artifact, artifact.size)
            return there
        with landing.begin(artifact) as part:
            failures = 0
            while not self._continue(artifact, part, report):
                failures += 1
                if failures > _TRIES:
                    raise ServerUnavailable(
                        f"{artifact.path} did not arrive as it is on the server, {failures} times.",
                        next="Try again.",
                    )
            return part.land()

    def _continue(self, artifact: Artifact, part: Part, report: Callable[[Artifact, int], None]) -> bool:
        """Fetches what is lacking, over as many connections as it takes. Whether the file is right now."""
        failures, tag = 0, ""
        while True:
            headers = {"Accept": "*/*"}
            if before := part.size:
                headers["Range"] = f"bytes={before}-"
                if tag:
                    headers["If-Range"] = tag
            try:
                with self._transport.stream("GET", self._of(artifact.path), headers=headers) as answer:
                    if answer.status != 206:
                        part.restart()
                    tag = answer.headers.get("ETag", "")
                    for block in _read(answer):
                        part.write(block)
                        report(artifact, part.size)
                break
            except RangeInvalid:
                break  # nothing is lacking, or what is here is longer than it should be
            except HTTPError as error:
                failures = 0 if part.size > before else failures + 1
                if failures > _TRIES:
                    raise ServerUnavailable(
                        f"The connection breaks whenever {artifact.path} is sent.", next="Try again."
                    ) from error
                time.sleep(random.uniform(0, 0.2 * 2**failures))  # noqa: S311
        if right := part.matches():
            return right
        part.restart()  # what an earlier try left was not this file's beginning
        return False

    def _blocks(self, path: str, headers: dict[str, str]) -> Iterator[bytes]:
        with self._transport.stream("GET", path, headers={"Accept": "*/*", **headers}) as answer:
            try:
                yield from _read(answer)
            except HTTPError as error:
                raise ServerUnavailable(
                    "The connection broke while the artifacts were sent.", next="Try again."
                ) from error


def _read(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while block := answer.read(_BLOCK):
        yield block


def _chosen(artifacts: tuple[Artifact, ...], paths: Sequence[str] | None) -> tuple[Artifact, ...]:
    if paths is None:
        return artifacts
    chosen: dict[str, Artifact] = {}
    for path in paths:
        name = path.rstrip("/").removeprefix("/artifacts/").removeprefix("./")
        found = [
            artifact
            for artifact in artifacts
            if artifact.path == name
            or artifact.path.startswith(name + "/")
            or fnmatch.fnmatchcase(artifact.path, name)
        ]
        if not found:
            raise NotFound(
                f"The job left no {path!r}.", next="gradient jobs artifacts list JOB shows what it left."
            )
        chosen.update((artifact.path, artifact) for artifact in found)
    return tuple(artifact for artifact in artifacts if artifact.path in chosen)


class _Reader(io.RawIOBase):
    """An open answer as a raw file."""

    def __init__(self, answer: urllib3.BaseHTTPResponse, leave: Callable[..., object]) -> None:
        self._answer = answer
        self._leave = leave

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            data = self._answer.read(len(view))
        except HTTPError as error:
            raise ServerUnavailable("The connection broke while the artifact was read.") from error
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._leave(None, None, None)
        super().close()
