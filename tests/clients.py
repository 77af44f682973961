"""Programs of others that speak to our server, each in an environment of its own (``scripts/clients``)."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "clients"


def client_python(name: str) -> str:
    """The Python that has ``tests/requirements/NAME.txt`` installed. Where that cannot be done the
    test skips with the reason (in CI that is a failure)."""
    found = _bin(name)
    if isinstance(found, Path):
        return str(found / "python")
    pytest.skip(f"scripts/clients {name}: {found}")


@cache
def _bin(name: str) -> Path | str:
    """Its bin directory, or why there is none."""
    made = subprocess.run([SCRIPT, name], capture_output=True, text=True, check=False)
    if made.returncode == 0:
        return Path(made.stdout.strip())
    return made.stderr.strip()[-500:] or f"exit {made.returncode}"
