"""Where a waiting job stands, as the command line tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from solo import SoloServer


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[SoloServer]:
    server = SoloServer(
        tmp_path / "limited", "--GradientServer.stop_grace_s=2", "--GradientServer.max_queued_jobs=2"
    )
    server.start()
    yield server
    server.stop()


def test_position_and_reason_are_shown_and_one_job_too_many_is_refused(
    gradient: Any, limited: SoloServer
) -> None:
    running = limited.job("sh", "-c", "echo up; exec sleep 600")
    limited.printed(running["id"], "up\n")
    first, second = (gradient("run", "--detach", "true", server=limited).out.strip() for _ in range(2))
    sheet = gradient("jobs", "show", second, server=limited)
    for part in ("Queued", "Waits for local", "1 job in front of it", "Queue", "2nd", "Next"):
        assert part in sheet.out, sheet.out
    assert "next" in gradient("jobs", "show", first, server=limited).out
    table = gradient("jobs", "list", server=limited)
    assert "it is next" in table.out and "1 job in front of it" in table.out, table.out
    refused = gradient("run", "--detach", "true", server=limited)
    assert refused.code == 1
    assert "2 jobs waiting" in refused.err and "gradient jobs list" in refused.err
    for job_id in (running["id"], first, second):
        gradient("jobs", "stop", str(job_id), server=limited)
