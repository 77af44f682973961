"""Where things lie under the data root. Paths only; who creates and deletes them says so itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    root: Path

    @property
    def database(self) -> Path:
        return self.root / "gradient.sqlite"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def ballast(self) -> Path:
        """Space that is given to the database when the disk is full."""
        return self.root / "ballast"

    @property
    def trees(self) -> Path:
        """Versions of datasets as directories, by their manifests' digests."""
        return self.root / "trees"

    @property
    def fetches(self) -> Path:
        """Repositories and datasets while they are fetched."""
        return self.root / "fetches"

    @property
    def install(self) -> Path:
        """The install id, once more beside the database: whose files these are."""
        return self.root / "install"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def port(self) -> Path:
        """The port of the last server: jobs that outlived it know no other."""
        return self.root / "port"

    def job(self, job_id: str) -> Path:
        return self.jobs / job_id

    def attempt(self, job_id: str, attempt: int) -> Path:
        """Holds ``log``, ``log.index`` and ``artifacts/`` of one attempt."""
        return _attempt(self.root, job_id, attempt)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def run(self, run_id: str) -> Path:
        """Of a run that is no job, or a model that no run has made: ``artifacts/`` and its metrics."""
        return self.runs / run_id

    def storage(self, owner: str) -> Path:
        """An owner's persistent storage; ``user:u…`` becomes ``user/u…``."""
        kind, _, identity = owner.partition(":")
        return self.root / "storage" / kind / identity


@lru_cache(4096)
def _attempt(root: Path, job_id: str, attempt: int) -> Path:
    """A run asks for it with every number that it logs."""
    return Layout(root).job(job_id) / str(attempt)
