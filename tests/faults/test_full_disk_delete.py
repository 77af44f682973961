"""P12: on a truly full disk jobs can still be deleted, and that frees it. The disk is a small tmpfs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from pathlib import Path
from solo import SoloServer

root, ballast = Path(sys.argv[1]), sys.argv[2]
server = SoloServer(
    root, "--isolation=none", "--GradientServer.reserve_bytes=0", f"--GradientServer.ballast_bytes={ballast}",
)
server.start()
try:
    keeps = "import os; open(os.environ['GRADIENT_ARTIFACTS_DIR'] + '/a', 'wb').write(os.urandom(2 << 20))"
    jobs = [server.job(sys.executable, "-c", keeps)["id"] for _ in range(4)]
    for job in jobs:
        assert server.finished(job)["state"] == "Stopped"
    fill = os.open(root / "fill", os.O_WRONLY | os.O_CREAT)
    for _ in range(100):  # the server may let go of something while it is filled
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    os.write(fill, b"x" * size)
            except OSError:
                pass
        if os.statvfs(root).f_bavail == 0:
            break
    assert os.statvfs(root).f_bavail == 0
    if sys.argv[3] == "killed":
        server.kill()
        server.start()
    if ballast == "0":
        print(*[server.request("DELETE", f"/jobs/{job}").status for job in jobs])
    else:
        server.deleted(*jobs)
        assert not any((server.data / "jobs" / job).exists() for job in jobs)
        assert os.statvfs(root).f_bavail * os.statvfs(root).f_bsize > 6 << 20
        os.unlink(root / "fill")
        assert server.finished(server.job("true")["id"])["state"] == "Stopped"
finally:
    server.stop()
"""


@pytest.mark.parametrize(("ballast", "server"), [(1 << 20, "running"), (0, "running"), (1 << 20, "killed")])
def test_jobs_are_deleted_on_a_full_disk_by_throwing_off_the_ballast(
    tmp_path: Path, ballast: int, server: str
) -> None:
    """Fault: not a block is left on the disk of database, log and artifacts. With the ballast every delete is
    accepted, carried out, and frees what the job had; without it the answer is a refusal with the reason.
    With it a server that was killed starts again, too.
    """
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["bwrap", "--dev-bind", "/", "/", "--size", str(64 << 20), "--tmpfs", str(tmp_path / "disk"),
         sys.executable, "-c", SCRIPT, str(tmp_path / "disk"), str(ballast), server],
        cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ballast or "507" in done.stdout.split()
