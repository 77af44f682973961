"""The engines under test, and what they are given. The suites themselves know none of this."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gradient_jupyter.engines.base import Engine, Materialise

#: A snapshot's files: name → content and mode.
Files = dict[str, tuple[bytes, int]]


@pytest.fixture
def snapshots() -> dict[str, Files]:
    """Snapshots by id. A test puts its own here."""
    return {"empty": {}}


@pytest.fixture
def materialise(snapshots: dict[str, Files]) -> Materialise:
    def materialise(snapshot: str, directory: Path) -> None:
        directory.mkdir()
        for name, (content, mode) in snapshots[snapshot].items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)

    return materialise


@pytest.fixture
def need() -> Callable[[str], None]:
    """Skips a test whose real part is missing; in CI that is a failure."""
    return _need


def _need(program: str) -> None:
    if shutil.which(program) is None:
        message = f"{program} is not installed"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(params=["local-bubblewrap", "local-plain"])
def make_engine(
    request: pytest.FixtureRequest, tmp_path: Path, materialise: Materialise
) -> Callable[[], Engine]:
    """Makes an engine, not yet started. Calling it again is what a restart of the server does."""
    from gradient_jupyter.engines.local import LocalEngine

    if request.param == "local-bubblewrap":
        _need("bwrap")
        isolation = "bubblewrap"
    else:
        isolation = "none"
    return lambda: LocalEngine(tmp_path / "engine", materialise, install="test", isolation=isolation)
