"""Fixtures every room may use."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # so that tests find the harness `solo`

from gitserver import GitServer, outbound_options
from people import People
from solo import SoloServer

# A shell that starts the tests in its background has them ignore Ctrl-C, and what is ignored stays ignored in
# every process they start: also in those that are then sent it to see what they do.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Machines are noisy: no test fails for being slow.
settings.register_profile("gradient", deadline=None)
settings.load_profile("gradient")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, a test that skips has failed: a missing part must not make it green."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must not skip in CI: {reason}"
    return report


@pytest.fixture(scope="session")
def solo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoloServer]:
    """One running server per test process. Jobs run side by side on the machine type `small`."""
    server = SoloServer(
        tmp_path_factory.mktemp("solo"),
        "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
        "--GradientServer.default_machine_type=small",
        "--GradientServer.stop_grace_s=2",
        "--GradientServer.retry_delay_s=0",
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


@pytest.fixture(scope="session")
def git_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    """A repository server that ``fetching`` may go to. Tests have repositories of their own, by name."""
    server = GitServer(tmp_path_factory.mktemp("git"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fetching(tmp_path_factory: pytest.TempPathFactory, git_server: GitServer) -> Iterator[SoloServer]:
    """A running server whose administrator lets it go to ``git_server``, and fetch 1 MiB at most."""
    server = SoloServer(
        tmp_path_factory.mktemp("fetching"),
        *outbound_options(git_server),
        "--GradientServer.outbound_max_bytes=1048576",
        "--GradientServer.machine_types={'small': {'cpus': 0.01, 'memory_bytes': 1048576}}",
        "--GradientServer.default_machine_type=small",
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_fetching(tmp_path: Path, git_server: GitServer) -> Iterator[SoloServer]:
    """As ``fetching``, to be killed and started again. Not started yet."""
    server = SoloServer(tmp_path, *outbound_options(git_server))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """A running server that several people use; see ``people.py``."""
    server = People(tmp_path_factory.mktemp("people"))
    server.start()
    yield server
    for job in ("running", "second"):
        server.ask("owner", "POST", f"/api/v1/jobs/{server.ids[job]}/stop")
        server.until(server.ids[job], "Cancelled")
    server.stop()
