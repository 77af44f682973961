"""Sending files: ask what is missing, send that in packs, store the snapshot.

What the server has is never sent again, so an upload that was cut off goes on where it stopped, also in
another process: what arrived is no longer missing, down to the files of the pack that was under way and the
chunks of a large file.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Literal

import msgspec

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.errors import GradientError, ServerUnavailable
from gradient_jupyter.resources.snapshot import Manifest, MissingBlobs, Snapshot
from gradient_jupyter.workspace.contents import Contents
from gradient_jupyter.workspace.packs import FAR_LEVEL, NEAR_LEVEL, Pack, pack
from gradient_jupyter.workspace.preflight import Preflight, preflight

PACK_TYPE = "application/x-gradient-pack"
_STORED_S = 300.0
"""How long the server may take to make a pack durable."""
_TRIES = 4
#: Packs under way: one is read and compressed while another is waiting for the server's disk.
_AT_ONCE = 2


class Progress(msgspec.Struct, frozen=True):
    """How far a workspace is on its way. ``bytes`` of ``total``; ``files`` are those the server did not have.
    What counts as sent is stored: it survives whatever happens next.

    A repository or a URL is ``fetching``, an archive ``unpacking``, and then ``fetched``; ``source`` is its
    address, in the end with the commit, and ``warnings`` say what did not come along.
    """

    stage: Literal["reading", "sending", "sent", "fetching", "unpacking", "fetched"]
    bytes: int
    total: int
    files: int = 0
    source: str = ""
    warnings: tuple[str, ...] = ()


OnProgress = Callable[[Progress], None]


class _Stored(msgspec.Struct, frozen=True):
    stored: int


class _Stopped(Exception):
    """Another pack failed, or the person gave up: this one need not be finished."""


class _Outstanding:
    """What the server still lacks of a manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sizes = manifest.blobs()
        self.total = self.bytes = 0
        self._least: int | None = None
        self._parts: Counter[str] = Counter()
        self._of: dict[str, list[str]] = {}
        self._wanted: set[str] = set()

    def now(self, lacking: frozenset[str]) -> bool:
        """The server was asked; whether it has more than ever. It can have less: what nothing names yet is
        cleared away in the end."""
        self.bytes = sum(self._sizes[digest] for digest in lacking)
        self.total = max(self.total, self.bytes)
        further = self._least is None or self.bytes < self._least
        self._least = self.bytes if further else self._least
        of = defaultdict(list)
        for digest, file in {file.digest: file for file in self._manifest.files}.items():
            for piece in {piece.digest for piece in file.blobs()} & lacking:
                of[piece].append(digest)
        self._of = dict(of)
        self._parts = Counter(digest for digests in of.values() for digest in digests)
        self._wanted |= self._parts.keys()
        return further

    def stored(self, one: Pack) -> None:
        self.bytes -= one.bytes
        for blob in one.blobs:
            for digest in self._of.get(blob.piece.digest, ()):
                self._parts[digest] -= 1

    def progress(self, stage: Literal["sending", "sent"]) -> Progress:
        left = sum(count > 0 for count in self._parts.values())
        return Progress(stage, self.total - self.bytes, self.total, len(self._wanted) - left)


def send(transport: Transport, contents: Contents, on_progress: OnProgress | None = None) -> str:
    """Makes the server hold what was read. Returns the snapshot's id."""
    report = on_progress or (lambda progress: None)
    manifest = contents.manifest
    outstanding = _Outstanding(manifest)
    failures = 0
    while True:
        lacking = missing(transport, manifest)
        if outstanding.now(lacking):
            failures = 0
        try:
            level = NEAR_LEVEL if transport.address.loopback else FAR_LEVEL
            packs = pack(manifest.files, contents.open_file, wanted=lacking, level=level)
            if lacking:
                report(outstanding.progress("sending"))
            for one in _sent(transport, packs):
                outstanding.stored(one)
                report(outstanding.progress("sending"))
            snapshot = _store(transport, manifest)
            report(outstanding.progress("sent"))
            return snapshot
        except GradientError as error:
            # Cut off, or the server has cleared away what nothing named yet: ask anew what it lacks.
            failures += 1
            again = isinstance(error, ServerUnavailable) or error.code == "missing-blobs"
            if not again or failures >= _TRIES:
                raise


def send_nothing(transport: Transport) -> str:
    """The snapshot without files, for jobs that need none."""
    return _store(transport, Manifest(entries=()))


def look(transport: Transport, contents: Contents) -> Preflight:
    """What ``send`` would do: nothing is sent but the names and digests."""
    return preflight(contents, missing(transport, contents.manifest))


def missing(transport: Transport, manifest: Manifest) -> frozenset[str]:
    """The digests the server does not have."""
    answer = transport.request("POST", "/snapshots/missing", MissingBlobs, body=manifest, repeatable=True)
    return frozenset(answer.missing)


def _sent(transport: Transport, packs: Iterator[Pack]) -> Iterator[Pack]:
    """Sends the packs; yields each when the server has stored it."""
    first = list(islice(packs, _AT_ONCE))
    if len(first) < _AT_ONCE:
        for one in first:
            _send_one(transport, one, threading.Event())
            yield one
        return
    stop = threading.Event()
    pool = ThreadPoolExecutor(_AT_ONCE, "gradient-send")
    under_way: dict[Future[None], Pack] = {}
    try:
        for one in first:
            under_way[pool.submit(_send_one, transport, one, stop)] = one
        while under_way:
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                stored = under_way.pop(future)
                future.result()
                for following in islice(packs, 1):
                    under_way[pool.submit(_send_one, transport, following, stop)] = following
                yield stored
    finally:
        # Also when a person has had enough: then nobody waits for what is under way.
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _send_one(transport: Transport, one: Pack, stop: threading.Event) -> None:
    # Not repeatable: when it was cut, part of it has arrived, and only the server knows which.
    transport.request(
        "POST",
        "/blobs",
        _Stored,
        body=_Body(one, stop),
        headers={"Content-Type": PACK_TYPE},
        answer_s=_STORED_S,
    )


class _Body:
    """A pack's bytes, as often as they are asked for, until ``stop``."""

    def __init__(self, one: Pack, stop: threading.Event) -> None:
        self._one = one
        self._stop = stop

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._one:
            if self._stop.is_set():
                raise _Stopped
            yield chunk


def _store(transport: Transport, manifest: Manifest) -> str:
    return transport.request("POST", "/snapshots", Snapshot, body=manifest, repeatable=True).id
