"""Sending a directory: scan, ask what is missing, send that in packs, store the snapshot.

What the server has is never sent again, so an upload that was cut off goes on where it stopped: the blobs
that arrived are no longer missing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.errors import GradientError, ServerUnavailable
from gradient_jupyter.resources.snapshot import Manifest, MissingBlobs, Snapshot
from gradient_jupyter.workspace.packs import pack
from gradient_jupyter.workspace.preflight import Preflight, preflight
from gradient_jupyter.workspace.scan import Scan, scan
from gradient_jupyter.workspace.statcache import StatCache

PACK_TYPE = "application/x-gradient-pack"
_STORED_S = 300.0
"""How long the server may take to make a pack durable."""
_TRIES = 4


class Progress(msgspec.Struct, frozen=True):
    """How far a workspace is on its way. ``bytes`` of ``total``; ``files`` are those the server did not have.

    A repository is ``fetching`` and then ``fetched``; ``source`` is its address, in the end with the commit,
    and ``warnings`` say what did not come along.
    """

    stage: Literal["reading", "sending", "sent", "fetching", "fetched"]
    bytes: int
    total: int
    files: int = 0
    source: str = ""
    warnings: tuple[str, ...] = ()


OnProgress = Callable[[Progress], None]


class _Stored(msgspec.Struct, frozen=True):
    stored: int


def read(workspace: Path, on_progress: OnProgress | None = None) -> Scan:
    """What ``workspace`` holds now."""
    report = on_progress or (lambda progress: None)
    return scan(
        workspace, cache=StatCache(), progress=lambda done, total: report(Progress("reading", done, total))
    )


def send(transport: Transport, scanned: Scan, on_progress: OnProgress | None = None) -> str:
    """Makes the server hold what was read. Returns the snapshot's id."""
    report = on_progress or (lambda progress: None)
    sent_files = sent_bytes = failures = 0
    while True:
        lacking = missing(transport, scanned.manifest)
        files = {file.digest: file for file in scanned.manifest.files if file.digest in lacking}
        total = sent_bytes + sum(file.size for file in files.values())
        before = sent_bytes
        try:
            for one in pack(files.values(), scanned.open_file):
                report(Progress("sending", sent_bytes, total, sent_files))
                transport.request(
                    "POST",
                    "/blobs",
                    _Stored,
                    body=one,
                    headers={"Content-Type": PACK_TYPE},
                    repeatable=True,
                    answer_s=_STORED_S,
                )
                sent_files += one.count
                sent_bytes += one.bytes
            snapshot = _store(transport, scanned.manifest)
            report(Progress("sent", sent_bytes, sent_bytes, sent_files))
            return snapshot
        except GradientError as error:
            # Cut off, or the server has cleared away what nothing named yet: ask anew what it lacks.
            failures = 0 if sent_bytes > before else failures + 1
            again = isinstance(error, ServerUnavailable) or error.code == "missing-blobs"
            if not again or failures >= _TRIES:
                raise


def send_nothing(transport: Transport) -> str:
    """The snapshot without files, for jobs that need none."""
    return _store(transport, Manifest(entries=()))


def look(transport: Transport, scanned: Scan) -> Preflight:
    """What ``send`` would do: nothing is sent but the names and digests."""
    return preflight(scanned, missing(transport, scanned.manifest))


def missing(transport: Transport, manifest: Manifest) -> frozenset[str]:
    """The digests the server does not have."""
    answer = transport.request("POST", "/snapshots/missing", MissingBlobs, body=manifest, repeatable=True)
    return frozenset(answer.missing)


def _store(transport: Transport, manifest: Manifest) -> str:
    return transport.request("POST", "/snapshots", Snapshot, body=manifest, repeatable=True).id
