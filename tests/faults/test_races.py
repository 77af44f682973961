"""A job that swaps files, directories and links while its artifacts are listed, read, packed and collected.

Fault: every name may mean something else at each system call. Abuse case 9, CVE-2026-34446,
GHSA-q56x-g2fj-4rj6.
What must hold: never a byte of the canary outside, never a wait, never a 500. The canary belongs to the same
user, so that nothing but our own care keeps it out; another user's is refused for its owner alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import blake3
import pytest
from solo import PATIENCE_S

from gradient_jupyter.api.streams import _Zip
from gradient_jupyter.control.data.artifacts import _open, _present
from gradient_jupyter.control.data.collection import Collection, Limits, open_directory
from gradient_jupyter.resources.errors import NotFound

SWAPPER = str(Path(__file__).with_name("swapper.py"))
CANARY = b"FOREIGN!" * 64
DIGEST = blake3.blake3(CANARY).hexdigest()
NAMES = (
    "file",
    "hard",
    "link",
    "pipe",
    "d/canary",
    "aside/canary",
    "brief",
    "zz",
    "far/first",
    "pair",
    "calm",
)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("canary", "brief", "moved"):
        (foreign / name).write_bytes(CANARY)
    (foreign / "private").touch()
    return foreign


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    return counter


def swaps(counter: Path) -> int:
    return int.from_bytes(counter.read_bytes()[:7], "little")


@contextlib.contextmanager
def swapping(directory: Path, foreign: Path, counter: Path) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, SWAPPER, str(directory), str(foreign), str(counter)])
    try:
        while not swaps(counter):
            assert process.poll() is None, "the swapper has ended"
        yield
        assert process.poll() is None, "the swapper has ended"
    finally:
        with counter.open("r+b") as file:
            file.seek(7)
            file.write(b"\1")
        process.wait(PATIENCE_S)


def read(directory: Path) -> tuple[int, int]:
    """Opens every name as a download does. How many were files of the job, and how many were refused."""
    good = refused = 0
    for name in NAMES:
        try:
            with _open(directory, "j0", name, None) as file:
                data = file.read()
        except NotFound:
            refused += 1
        else:
            assert b"FOREIGN" not in data, f"{name} led outside"
            good += 1
    return good, refused


def pack(directory: Path) -> None:
    zipped = _Zip(open_directory(directory), _present(directory, None, 0))
    try:
        whole = b""
        while piece := zipped.next():
            whole += piece
    finally:
        zipped.close()
    assert whole.startswith(b"PK")
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for name in archive.namelist():
            assert b"FOREIGN" not in archive.read(name), f"{name} led outside"


def gather(directory: Path) -> int:
    work = Collection(directory, Limits(1000, 1 << 30))
    found = [artifact for piece in work.pieces() for artifact in piece]
    assert all(artifact.digest != DIGEST for artifact in found), [found, work.warnings()]
    return len(found)


@pytest.mark.parametrize("most", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_no_swap_lets_a_foreign_byte_through(tmp_path, foreign, counter, most):
    """P5, P9. 10⁵ swaps while the real functions list, open, pack and collect."""
    directory = tmp_path / "artifacts"
    directory.mkdir()
    looks = good = refused = 0
    with swapping(directory, foreign, counter):
        while swaps(counter) < most or looks < 30:
            for artifact in _present(directory, None, 0):
                assert "private" not in artifact.path, "what lies outside was listed"
            for _ in range(5):
                found, not_found = read(directory)
                good, refused = good + found, refused + not_found
            pack(directory)
            assert gather(directory) >= 1  # the one that nobody touches
            looks += 1
    assert good and refused, "nothing was raced"
    assert (foreign / "canary").read_bytes() == CANARY
    print(f"{swaps(counter):,} swaps, {looks:,} looks, {good:,} files read, {refused:,} names refused")


def test_a_running_job_that_swaps_gets_no_foreign_byte_out_and_no_500(own_solo, tmp_path, foreign, counter):
    """The same over HTTP, against the job itself, to its end. It heals with the job's end."""
    own_solo.options = (*own_solo.options, "--isolation=none")
    own_solo.start()
    script = (
        "import os, subprocess, sys\n"
        "sys.exit(subprocess.run([sys.executable, *sys.argv[1:2], os.environ['GRADIENT_ARTIFACTS_DIR'], "
        "*sys.argv[2:]]).returncode)"
    )
    job = own_solo.job(
        sys.executable, "-c", script, SWAPPER, str(foreign), str(counter), "10000000",
        env={"GRADIENT_NOTHING": "1"},
    )  # fmt: skip
    path = f"/jobs/{job['id']}/artifacts"
    for _, _, data in own_solo.events(f"/jobs/{job['id']}/logs?follow=true"):
        if isinstance(data, dict) and data.get("state") == "Running":
            break
    statuses: set[int] = set()
    wrong: list[str] = []

    def look(names: tuple[str, ...]) -> None:
        for name in names:
            answer = own_solo.request("GET", path + name)
            statuses.add(answer.status)
            if b"FOREIGN" in answer.data:
                wrong.append(name)

    while swaps(counter) < 1000:
        pass
    begun = swaps(counter)
    rounds = 0
    while rounds < 40 or swaps(counter) - begun < 20_000:
        names = (*(f"/{name}" for name in NAMES), "", ".zip")
        threads = [threading.Thread(target=look, args=(names[at::3],)) for at in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rounds += 1
    assert not wrong
    assert statuses <= {200, 404}
    own_solo.request("POST", f"/jobs/{job['id']}/stop")
    final = own_solo.finished(job["id"])
    assert final["state"] == "Cancelled"
    items = own_solo.request("GET", path).json()["items"]
    assert "calm" in {item["path"] for item in items}
    assert all(item["digest"] != DIGEST for item in items)
    for item in items:
        answer = own_solo.request("GET", f"{path}/{item['path']}")
        assert (answer.status, answer.data) == (200, b"o" * len(CANARY))
    assert os.path.getsize(foreign / "canary") == len(CANARY)
