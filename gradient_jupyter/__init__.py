"""Gradient for Jupyter: send the directory you are in away as a job.

``Client`` is the way in from Python. Importing this package loads nothing else: names are fetched
when they are first asked for, so that a notebook pays only for what it uses.
"""

from __future__ import annotations

#: What type checkers take for true. To import it from ``typing`` would double what importing us costs.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from gradient_job import log_metrics as log_metrics
    from gradient_jupyter.client import Client as Client
    from gradient_jupyter.resources.errors import GradientError as GradientError

__version__ = "0.1.0"
__all__ = ["Client", "GradientError", "__version__", "log_metrics"]

_HOMES = {
    "Client": "gradient_jupyter.client",
    "GradientError": "gradient_jupyter.resources.errors",
    "log_metrics": "gradient_job",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
