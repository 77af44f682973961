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
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import msgspec

from gradient_jupyter.control.changes import Changes
from gradient_jupyter.control.data.trees import Trees
from gradient_jupyter.control.fetching.downloads import Downloads
from gradient_jupyter.control.fetching.outbound import Outbound, Rule
from gradient_jupyter.control.fetching.visits import Visits
from gradient_jupyter.control.following.followed import Followed
from gradient_jupyter.control.keeping.garbage import Garbage
from gradient_jupyter.control.keeping.keeper import Keeper
from gradient_jupyter.control.layout import Layout
from gradient_jupyter.control.measuring.counts import Counts
from gradient_jupyter.control.measuring.gathering import Gathering
from gradient_jupyter.control.measuring.points import Points
from gradient_jupyter.control.measuring.sampling import Sampler
from gradient_jupyter.control.mlflow.run_space import RunSpace
from gradient_jupyter.control.people.audit import Refusals
from gradient_jupyter.control.people.granted import Granted
from gradient_jupyter.control.running.collect import Collector
from gradient_jupyter.control.running.ports import Forwarders
from gradient_jupyter.control.running.progress import Reports
from gradient_jupyter.control.running.reconcile import Reconciler
from gradient_jupyter.control.running.tokens import Tokens
from gradient_jupyter.control.scheduling import machines
from gradient_jupyter.control.scheduling.machines import Size
from gradient_jupyter.control.scheduling.queue import Limits, Queue
from gradient_jupyter.control.scheduling.standing import Standing
from gradient_jupyter.control.vault import secrets
from gradient_jupyter.control.vault.keyring import Keyring
from gradient_jupyter.engines.base import Engine, Node
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import NoSpace
from gradient_jupyter.resources.snapshot import WHOLE_BYTES, Manifest
from gradient_jupyter.store.ballast import Ballast
from gradient_jupyter.store.database import Database
from gradient_jupyter.workspace.blobs import BlobStore
from gradient_jupyter.workspace.materialise import materialise

if TYPE_CHECKING:
    from gradient_jupyter.control.data.snapshots import Intake

P = ParamSpec("P")
T = TypeVar("T")

#: How long a machine may be gone or back before placing takes notice.
_NODES_S = 5.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an administrator may choose."""

    machine_types: Mapping[str, Size] = {}
    whole_host: bool = True
    default_machine_type: str | None = None
    stop_grace_s: float = 10
    patience_s: float = 10
    """After the grace: when an engine that was asked to stop a task is asked again."""
    retry_delay_s: float = 1
    """From the end of a first attempt to the second; twice as long before each one after it."""
    limits: Limits = Limits()
    """Of each owner."""
    reserve_bytes: int = 256 * 2**20
    """No upload is accepted and no run is started when less than this is free."""
    max_blob_bytes: int = WHOLE_BYTES
    """What is larger comes in chunks, which are smaller."""
    max_pack_bytes: int = 2 * WHOLE_BYTES
    max_snapshot_bytes: int = 16 * 2**30
    ballast_bytes: int = 16 * 2**20
    """Kept allocated, and given to the database when the disk is full, so that things can be deleted then."""
    garbage_grace_s: float = 3600
    """How long what no job refers to is kept after it came: uploads under way need it."""
    keep_jobs_days: float = 0
    """A job that ended longer ago is deleted, unless it is tagged ``keep``. 0: none ever is."""
    max_artifacts: int = 1_000_000
    """Files that one job may leave; what is beyond is not collected."""
    max_artifact_bytes: int = 2**40
    """Bytes that one job may leave, by their sizes or by what they take on the disk, whichever is more."""
    system_metrics_s: float = 10
    """Between two measurements of what a running job uses. 0: none."""
    max_metric_points: int = 10_000_000
    """Points that one attempt may write of its own."""
    max_metrics: int = 10_000
    """Series that one attempt may have."""
    outbound_allow: tuple[Rule, ...] = ()
    """Where the server may go beside public addresses by https."""
    outbound_ca_file: str | None = None
    outbound_timeout_s: float = 300
    outbound_max_bytes: int = 512 * 2**20
    outbound_at_once: int = 4
    public_datasets: Mapping[str, Path] = {}
    """Directories that every job finds at ``/datasets/NAME``, read-only."""
    trees_bytes: int = 50 * 2**30
    """How much unpacked datasets may take; those that jobs use now are kept whatever they take."""
    audit_keep_days: float = 365
    """How long the record of what was done is kept, and tokens that have ended."""
    audit_keep_entries: int = 1_000_000
    """The most entries of it; the oldest go first."""


class Plane:
    """``engine`` is made by the caller, who also gives it ``unpack``. ``key`` is what the tokens of runs are
    made from, ``callback_url`` where a run reaches this server's API.

    ``read_only`` says why nothing may be changed; it may come to be said later, when damage shows. Nothing is
    reconciled then: the rows can no longer be believed, so nothing may be stopped or removed because of them.
    ``keyring`` is where the keys of secrets are, outside the data root; by default beside it.
    """

    def __init__(
        self,
        layout: Layout,
        install: str,
        settings: Settings,
        blobs: BlobStore,
        make_engine: Callable[[Plane], Engine],
        key: bytes,
        callback_url: str,
        read_only: str = "",
        keyring: Path | None = None,
    ) -> None:
        self.layout = layout
        self.install = install
        self.settings = settings
        self.blobs = blobs
        self.callback_url = callback_url
        self.tokens = Tokens(key)
        self.keyring = Keyring(keyring or layout.root.with_name(f"{layout.root.name}.keys"))
        self.queue = Queue()
        self.changes = Changes(self.queue)
        #: Uploads that were cut off and whose blobs are being put away.
        self.cut_intakes: set[Intake] = set()
        self.ballast = Ballast(layout.ballast, settings.ballast_bytes)
        self.database = Database(layout.database, self.changes.published, self.ballast.drop, read_only)
        self.granted = Granted(self.database)
        self.refusals = Refusals(self.database)
        self.followed = Followed(self.changes, self.database)
        self._files = ThreadPoolExecutor(4, "files")
        self.visits = Visits(
            layout.fetches,
            blobs,
            Outbound(settings.outbound_allow, ca_file=settings.outbound_ca_file),
            most_bytes=settings.outbound_max_bytes,
            timeout_s=settings.outbound_timeout_s,
            at_once=settings.outbound_at_once,
            reserve_bytes=settings.reserve_bytes,
        )
        self.downloads = Downloads(self)
        self.engine = make_engine(self)
        self.reports = Reports(self.database)
        self.points = Points(settings.max_metric_points, settings.max_metrics)
        self.run_space = RunSpace(settings.max_artifacts, settings.max_artifact_bytes)
        self.collector = Collector(self)
        self.gathering = Gathering(self)
        self.counts = Counts()
        self.garbage = Garbage(self, settings.garbage_grace_s)
        self.keeper = Keeper(self)
        self.forwarders = Forwarders(self)
        self.trees = Trees(self, settings.trees_bytes, settings.reserve_bytes)
        self.reconciler = Reconciler(self)
        self.sampler = Sampler(self, settings.system_metrics_s)
        self._nodes: tuple[Node, ...] = ()
        self._nodes_until = float("-inf")
        self._standing: tuple[int, tuple[Node, ...], Standing] | None = None

    async def start(self) -> None:
        """Starts what runs by itself, and takes up again whatever was not finished."""
        self.database.start()
        await secrets.finish(self)
        if self.read_only:
            return
        self.points.start()
        await self.trees.start()
        await self.on_files(self.visits.clear)
        await self.engine.start()
        await self.keeper.start()
        await self.forwarders.start()
        await self.reconciler.start()
        self.sampler.start()

    @property
    def read_only(self) -> str:
        """Why nothing may be changed, and the way out; empty in ordinary times."""
        return self.database.read_only

    async def close(self) -> None:
        """Stops acting. Tasks go on; the next start takes them up."""
        await self.visits.close()
        await self.forwarders.close()
        await self.reports.close()
        await self.sampler.close()
        await self.keeper.close()
        await self.reconciler.close()
        await self.trees.close()
        await self.collector.close()
        await self.gathering.close()
        await self.points.close()
        await self.engine.close()
        await asyncio.gather(*(intake.settled.wait() for intake in self.cut_intakes))
        await self.followed.close()
        await self.granted.close()
        await self.refusals.close()
        await asyncio.to_thread(self._files.shutdown)
        await asyncio.to_thread(self.database.close)

    async def on_files(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking file work on the bounded pool."""
        return await asyncio.get_running_loop().run_in_executor(self._files, lambda: work(*args, **kwargs))

    async def nodes(self) -> tuple[Node, ...]:
        """The engine's machines. Asking costs more than placing a job, so for a moment the answer is kept."""
        now = asyncio.get_running_loop().time()
        if now >= self._nodes_until:
            self._nodes = await self.engine.nodes()
            self._nodes_until = now + _NODES_S
        return self._nodes

    async def sizes(self) -> dict[str, Size]:
        """Every machine type by name."""
        settings = self.settings
        return machines.sizes(settings.machine_types, await self.nodes(), settings.whole_host)

    async def standing(self) -> Standing:
        """Where the waiting jobs stand. Put together once for each change of the queue."""
        nodes, sizes = await self.nodes(), await self.sizes()
        kept = self._standing
        if kept is None or kept[0] != self.queue.version or kept[1] is not nodes:
            view = Standing(self.queue, sizes, nodes, self.settings.limits)
            kept = self._standing = (self.queue.version, nodes, view)
        return kept[2]

    def unpack(self, snapshot: str, target: Path) -> None:
        """``engines.base.Materialise``: unpacks a stored snapshot into a directory. Blocks."""
        materialise(self.manifest(snapshot), self.blobs, target, durable=False)

    def manifest(self, snapshot: str) -> Manifest:
        """What a stored snapshot holds. ``Damaged`` when its manifest cannot be read. Blocks."""
        with self.blobs.open(snapshot) as file:
            return decode_manifest(file.read())

    def check_space(self, incoming: int = 0) -> None:
        """Raises ``NoSpace`` when taking in that many bytes would leave too little."""
        # Each may lie on a disk of its own.
        places = (self.layout.root, self.layout.blobs, self.layout.jobs, self.layout.runs)
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
    return decode(b'{"entries":' + canonical + b"}", type=Manifest)


def job_name(command: tuple[str, ...]) -> str:
    """What a job is called when nobody named it: its script, else its program."""
    for word in command:
        stem, dot, ending = word.rpartition(".")
        if dot and ending in ("py", "sh", "ipynb", "R", "jl") and stem:
            return _shown(stem.rpartition("/")[2]) or "job"
    return _shown(command[0].rpartition("/")[2]) or "job"


def _shown(name: str) -> str:
    return "".join(letter for letter in name if letter.isprintable()).strip()[:80]
