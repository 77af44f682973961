"""Fixtures every room may use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that tests find the harness `solo`

from solo import SoloServer


@pytest.fixture(scope="session")
def solo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoloServer]:
    """One running server per test process. Jobs run side by side on the machine type `small`."""
    server = SoloServer(
        tmp_path_factory.mktemp("solo"),
        "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
        "--GradientServer.default_machine_type=small",
        "--GradientServer.stop_grace_s=2",
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_solo(tmp_path: Path) -> Iterator[SoloServer]:
    """A server of one's own, to be killed and started again. Not started yet."""
    server = SoloServer(tmp_path, "--GradientServer.stop_grace_s=2")
    yield server
    server.stop()
