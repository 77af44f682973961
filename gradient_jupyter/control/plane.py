"""The control plane's parts, put together. One per data root.

The noun modules beside this one (``projects``, ``snapshots``, ``jobs``, ``artifacts``, ``logs``) are
functions over a ``Plane``; the reconciler is the one part that acts by itself.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from gradient_jupyter.control.changes import Changes
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.machines import Size
from gradient_jupyter.control.reconcile import Reconciler
from gradient_jupyter.engines.base import Engine
from gradient_jupyter.resources.errors import NoSpace
from gradient_jupyter.resources.snapshot import Manifest
from gradient_jupyter.store.database import Database
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.materialise import materialise

P = ParamSpec("P")
T = TypeVar("T")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an administrator may choose."""

    machine_types: Mapping[str, Size] = {}
    whole_host: bool = True
    default_machine_type: str | None = None
    stop_grace_s: float = 10
    reserve_bytes: int = 256 * 2**20
    """No upload is accepted and no run is started when less than this is free."""
    max_blob_bytes: int = 8 * 2**30
    max_pack_bytes: int = 16 * 2**30


class Plane:
    """``engine`` is made by the caller, who also gives it ``unpack``.

    ``read_only`` says why nothing may be changed; it may come to be said later, when damage shows. Nothing is
    reconciled then: the rows can no longer be believed, so nothing may be stopped or removed because of them.
    """

    def __init__(
        self,
        layout: Layout,
        install: str,
        settings: Settings,
        blobs: BlobStore,
        make_engine: Callable[[Plane], Engine],
        read_only: str = "",
    ) -> None:
        self.layout = layout
        self.install = install
        self.settings = settings
        self.blobs = blobs
        self.changes = Changes()
        self.database = Database(layout.database, self.changes.published, read_only)
        self._files = ThreadPoolExecutor(4, "files")
        self.engine = make_engine(self)
        self.reconciler = Reconciler(self)

    async def start(self) -> None:
        """Starts what runs by itself, and takes up again whatever was not finished."""
        self.database.start()
        if self.read_only:
            return
        self.layout.datasets.mkdir(parents=True, exist_ok=True)
        await self.engine.start()
        await self.reconciler.start()

    @property
    def read_only(self) -> str:
        """Why nothing may be changed, and the way out; empty in ordinary times."""
        return self.database.read_only

    async def close(self) -> None:
        """Stops acting. Tasks go on; the next start takes them up."""
        await self.reconciler.close()
        await self.engine.close()
        await asyncio.to_thread(self._files.shutdown)
        await asyncio.to_thread(self.database.close)

    async def on_files(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking file work on the bounded pool."""
        return await asyncio.get_running_loop().run_in_executor(self._files, lambda: work(*args, **kwargs))

    def unpack(self, snapshot: str, target: Path) -> None:
        """``engines.base.Materialise``: unpacks a stored snapshot into a directory. Blocks."""
        with self.blobs.open(snapshot) as file:
            manifest = decode_manifest(file.read())
        materialise(manifest, self.blobs, target)

    def check_space(self, incoming: int = 0) -> None:
        """Raises ``NoSpace`` when taking in that many bytes would leave too little."""
        # Each may lie on a disk of its own.
        places = (self.layout.root, self.layout.blobs, self.layout.jobs)
        free = min(shutil.disk_usage(place).free for place in places if place.exists())
        kept = self.settings.reserve_bytes
        if free - incoming < kept:
            raise NoSpace(
                f"The server's disk has {free / 1e6:,.0f} MB left; {kept / 1e6:,.0f} MB are "
                "kept free so that nothing stored is harmed.",
                next="Free some space: gradient jobs delete removes old runs.",
            )


def decode_manifest(canonical: bytes) -> Manifest:
    """The manifest from the bytes its digest was taken of."""
    return msgspec.json.decode(b'{"entries":' + canonical + b"}", type=Manifest)


def job_name(command: tuple[str, ...]) -> str:
    """What a job is called when nobody named it: its script, else its program."""
    for word in command:
        stem, dot, ending = word.rpartition(".")
        if dot and ending in ("py", "sh", "ipynb", "R", "jl") and stem:
            return _shown(stem.rpartition("/")[2]) or "job"
    return _shown(command[0].rpartition("/")[2]) or "job"


def _shown(name: str) -> str:
    return "".join(letter for letter in name if letter.isprintable()).strip()[:80]
