"""Clients of a real server, in the test's own process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from solo import SoloServer

from gradient_jupyter.client import Client
from gradient_jupyter.client.solo import Solo
from gradient_jupyter.resources.errors import ServerUnavailable

_ROOT = str(Path(__file__).parents[2])
_OURS = ("GRADIENT_", "JUPYTER", "XDG_", "PS_")

Enter = Callable[[SoloServer], None]


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Puts this process into a server's environment: its data root, runtime directory and HOME."""

    def enter(server: SoloServer) -> None:
        for name in list(os.environ):
            if name.startswith(_OURS):
                monkeypatch.delenv(name)
        for name, value in server.environment.items():
            if name.startswith(_OURS) or name == "HOME":
                monkeypatch.setenv(name, value)
        known = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", f"{_ROOT}{os.pathsep}{known}" if known else _ROOT)

    return enter


@pytest.fixture
def client(solo: SoloServer, enter: Enter) -> Iterator[Client]:
    """A client of the shared server."""
    enter(solo)
    with Client(start=False) as client:
        yield client


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory to send; other tests have other ones, so their projects differ."""
    directory = tmp_path / "leaf-health"
    directory.mkdir()
    (directory / "train.py").write_text("print('trained')\n")
    return directory


@pytest.fixture
def alone(own_solo: SoloServer, enter: Enter) -> Iterator[SoloServer]:
    """An environment of one's own without a server yet. What a client starts there ends with the test."""
    enter(own_solo)
    at_first = dict(os.environ)
    yield own_solo
    os.environ.update(at_first)
    with contextlib.suppress(ServerUnavailable):  # some tests leave a runtime file that leads nowhere
        Solo(start=False).stop()
