"""The Python client: finds or starts the server, sends directories away as jobs, follows them.

It speaks HTTP to a Gradient server and knows the nouns and the workspace, nothing of the server's own
code. ``Client`` is the way in. Names are loaded when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradient_jupyter.client.artifacts import Artifacts as Artifacts
    from gradient_jupyter.client.client import Client as Client
    from gradient_jupyter.client.datasets import Dataset as Dataset
    from gradient_jupyter.client.datasets import Datasets as Datasets
    from gradient_jupyter.client.jobs import Job as Job
    from gradient_jupyter.client.jobs import Jobs as Jobs
    from gradient_jupyter.client.logs import LogLine as LogLine
    from gradient_jupyter.client.upload import Progress as Progress

__all__ = ["Artifacts", "Client", "Dataset", "Datasets", "Job", "Jobs", "LogLine", "Progress"]

_HOMES = {
    "Artifacts": "artifacts",
    "Client": "client",
    "Dataset": "datasets",
    "Datasets": "datasets",
    "Job": "jobs",
    "Jobs": "jobs",
    "LogLine": "logs",
    "Progress": "upload",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
