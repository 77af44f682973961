"""What sending a large directory costs: the first time, when one file of it has changed, and on the server's
side to make it again.

10,000 files of 100 kB in 100 directories, half of it noise and half text, sent to a solo server of its own
over loopback. On the disk both sides end in a sync: ``cp -r`` with ``sync``, the upload with what the server
does before it answers. In memory (``/dev/shm``) there is nothing to sync for either. Wants ``zip``.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import Row

FILES, BYTES, DIRECTORIES = 10_000, 100_000, 100
ROUNDS = 3


def rows() -> Iterable[Row]:
    if shutil.which("zip") is None:
        sys.exit("benchmarks.upload: zip is the yardstick of a resubmit: apt-get install zip")
    places = {"disk": Path(tempfile.gettempdir())}
    if Path("/dev/shm").is_dir():
        places["memory"] = Path("/dev/shm")
    for name, place in places.items():
        with tempfile.TemporaryDirectory(dir=place, prefix="gradient-upload-") as directory:
            yield from measured(name, Path(directory))


def measured(where: str, root: Path) -> Iterator[Row]:
    tree = root / "tree"
    make(tree)
    copied, first, made, resubmitted, sent = [], [], [], [], []
    for number in range(ROUNDS):  # in turns, so that a busy moment meets them all
        copied.append(timed(copy, tree, root / "copy"))
        shutil.rmtree(root / "copy")
        data = root / f"server-{number}"
        with server(data) as submit:
            first.append(timed(submit, tree))
            made.append(timed(unpack, tree, data, root / "made"))
            shutil.rmtree(root / "made")
            for again in range(ROUNDS):
                changed = tree / "07" / f"f{again * DIRECTORIES + 7}"
                changed.write_bytes(os.urandom(BYTES))
                started = time.perf_counter()
                sent.append(submit(tree))
                resubmitted.append(time.perf_counter() - started)
        shutil.rmtree(data)
    zipped = timed(subprocess.run, ["zip", "-qr", root / "tree.zip", tree])
    median = statistics.median
    yield Row(f"first upload, {where}", median(first), "s", median(copied), "cp -r and sync (at most 3.3)")
    yield Row(f"first upload, {where}, best", min(first), "s", min(copied), "cp -r and sync, best")
    yield Row(f"unpacked by the server, {where}", median(made), "s", median(copied), "cp -r and sync")
    yield Row(f"one file changed, {where}", median(resubmitted), "s", zipped, "zip -r (at most 0.1)")
    yield Row(f"bytes sent then, {where}", max(sent), "B", BYTES, "the changed file")


def make(tree: Path) -> None:
    chance = random.Random(1)
    words = [chance.randbytes(chance.randint(2, 9)).hex() for _ in range(5000)]
    for number in range(FILES):
        directory = tree / f"{number % DIRECTORIES:02}"
        directory.mkdir(parents=True, exist_ok=True)
        text = " ".join(chance.choices(words, k=BYTES // 10)).encode()[:BYTES]
        (directory / f"f{number}").write_bytes(text if number % 2 else chance.randbytes(BYTES))


def copy(tree: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", tree, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)


def unpack(tree: Path, data: Path, target: Path) -> None:
    """As the server makes a job's workspace, beside it: the blobs it holds, into a directory."""
    from gradient_jupyter.workspace.blobs import BlobStore
    from gradient_jupyter.workspace.materialise import materialise
    from gradient_jupyter.workspace.scan import scan
    from gradient_jupyter.workspace.statcache import StatCache

    manifest = scan(tree, cache=StatCache(data / "cache"), limit_bytes=None).manifest
    materialise(manifest, BlobStore(data / "data" / "blobs"), target)


@contextmanager
def server(root: Path) -> Iterator[Callable[[Path], int]]:
    """A solo server with a data root of its own, and a function that sends a directory to it and returns how
    many bytes of content travelled."""
    from gradient_jupyter.client import Client, Progress, workspaces

    ours = {
        "XDG_CACHE_HOME": root / "cache",
        "XDG_CONFIG_HOME": root / "config",
        "JUPYTER_RUNTIME_DIR": root / "runtime",
        "GRADIENT_DATA_DIR": root / "data",
    }
    before = dict(os.environ)
    os.environ.update({name: str(path) for name, path in ours.items()})
    try:
        with Client() as client:

            def submit(tree: Path) -> int:
                told: list[Progress] = []
                workspaces.find(tree, max_size="none").send(client._transport, told.append)
                return told[-1].bytes

            try:
                yield submit
            finally:
                client.stop_server()
    finally:
        os.environ.clear()
        os.environ.update(before)


def timed(work: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started
