"""Artifact: one file that a run left in ``/artifacts``.

While the job runs the listing is what is there at that moment and ``digest`` is empty; once the job is
final each artifact is complete, named by its digest, and never changes.
"""

from __future__ import annotations

from gradient_jupyter.resources.base import Resource


class Artifact(Resource, frozen=True, kw_only=True):
    path: str
    size: int
    modified_us: int
    digest: str = ""
    """BLAKE3, hexadecimal; empty while the job still runs."""
