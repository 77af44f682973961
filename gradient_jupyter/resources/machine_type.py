"""Machine type: a named size that a job asks for: CPU, memory, GPUs."""

from __future__ import annotations

from gradient_jupyter.resources.base import Resource


class Gpu(Resource, frozen=True, kw_only=True):
    """One GPU as the driver names it. ``memory_bytes`` is its total memory."""

    uuid: str
    name: str
    memory_bytes: int


class MachineType(Resource, frozen=True, kw_only=True):
    """A named size, and how many more jobs of that size would start at once."""

    name: str
    cpus: float
    """Cores, fractions allowed."""
    memory_bytes: int
    gpus: int = 0
    description: str = ""
    free: int = 0
    """How many jobs of this size would start now."""
    capacity: int = 0
    """How many fit when nothing else runs."""
