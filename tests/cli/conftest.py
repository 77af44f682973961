"""The ``gradient`` command as a process of its own, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from solo import PATIENCE_S, SoloServer

_ROOT = str(Path(__file__).parents[2])


class Ended(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Gradient = Callable[..., Ended]


def environment(server: SoloServer, **changes: str) -> dict[str, str]:
    """A server's environment for a command, in which the package is found from any directory."""
    known = server.environment.get("PYTHONPATH")
    path = f"{_ROOT}{os.pathsep}{known}" if known else _ROOT
    kept = {name: value for name, value in server.environment.items() if not name.startswith("JUPYTERHUB_")}
    return {**kept, "PYTHONPATH": path, "PYTHONWARNINGS": "error", "LC_ALL": "C.UTF-8", **changes}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gradient_jupyter.cli", *words]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory the commands run in, and send."""
    directory = tmp_path / "leaf-health"
    directory.mkdir()
    (directory / "train.py").write_text(
        "import os, pathlib, sys\n"
        "print('epoch 1/1  loss 0.27', *sys.argv[1:])\n"
        "print('careful', file=sys.stderr)\n"
        "pathlib.Path(os.environ['GRADIENT_ARTIFACTS_DIR'], 'model.bin').write_text('weights')\n"
        "sys.exit(int(os.environ.get('CODE', 0)))\n"
    )
    return directory


@pytest.fixture
def gradient(solo: SoloServer, directory: Path) -> Gradient:
    """Runs ``gradient WORDS`` in the directory. No command may ever show a traceback."""

    def gradient(
        *words: str, server: SoloServer = solo, cwd: Path | None = None, said: str = "", **env: str
    ) -> Ended:
        done = subprocess.run(
            command(*words), cwd=cwd or directory, env=environment(server, **env), capture_output=True,
            input=said.encode(), timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        ended = Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in ended.out + ended.err
        return ended

    return gradient


@pytest.fixture
def alone(own_solo: SoloServer, gradient: Gradient) -> Iterator[SoloServer]:
    """An environment of one's own without a server yet. What a command starts there ends with the test."""
    yield own_solo
    gradient("server", "stop", server=own_solo)
