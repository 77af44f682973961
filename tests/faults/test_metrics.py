"""What disks do to metrics: full, without power, read-only. What was acknowledged stays (P8, P12, P13)."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from disks import loop_disk, need_mounts, need_program, tmpfs
from faults.actor import Actor

from gradient_jupyter.control.measuring.points import Points
from gradient_jupyter.resources.errors import GradientError, NoSpace, ServerError
from gradient_jupyter.resources.metric import Kind, Sample
from gradient_jupyter.store import guarded, series
from gradient_jupyter.store.pointfile import NAME
from gradient_jupyter.store.points import PointFile


def steps(directory: Path) -> list[int]:
    found = series.points(directory, Kind.CUSTOM, "x", None, 100_000)
    return [each.step for each in found.points] if found else []


def some(start: int, count: int = 100) -> list[Sample]:
    return [Sample("x", math.sin(n), n, n) for n in range(start, start + count)]


def test_on_a_full_disk_points_are_refused_whole_and_later_taken(tmp_path):
    """P12. Heals when there is room; the sender sends again what was refused."""
    need_mounts()

    async def main(directory: Path) -> None:
        points = Points(10**7, 100)
        points.start()
        await points.append(directory, some(0))
        disk.fill()
        at, refused = 100, 0
        for _ in range(2000):
            try:
                await points.append(directory, some(at))
            except NoSpace as error:
                assert error.next
                refused += 1
                if refused == 3:
                    break
            else:
                assert not refused, "after a refusal there is no room by itself"
                at += 100
        assert refused == 3
        assert steps(directory) == list(range(at))
        disk.free()
        await points.append(directory, some(at))
        assert steps(directory) == list(range(at + 100))
        await points.close()

    with tmpfs(tmp_path / "disk", 4 << 20) as disk:
        directory = tmp_path / "disk" / "run"
        directory.mkdir()
        asyncio.run(main(directory))
        assert [path.name for path in directory.iterdir()] == [NAME]


@pytest.mark.parametrize("synced", [False, True])
def test_a_power_loss_takes_the_last_moment_at_most_and_damages_nothing(tmp_path, monkeypatch, synced):
    """P8. What was synced, which is a second after it came, is there; whatever is there is a beginning."""
    need_mounts()
    need_program("mkfs.ext4")
    written, reached = threading.Event(), threading.Event()
    sync = guarded.sync

    def watched(path: Path) -> None:
        last = written.is_set()
        sync(path)
        if last:
            reached.set()

    monkeypatch.setattr(guarded, "sync", watched)

    async def main(directory: Path) -> int:
        points = Points(10**7, 100)
        points.start()
        for start in range(0, 19_900, 100):
            await points.append(directory, some(start))
        written.set()  # but for one, so that there is something left to sync
        await points.append(directory, some(19_900))
        if synced:
            assert await asyncio.to_thread(reached.wait, 60)
        disk.cut_power()
        for start in range(20_000, 20_500, 100):
            with pytest.raises((GradientError, OSError)):
                await points.append(directory, some(start))
        await points.close()
        return 20_000

    with loop_disk(tmp_path / "image", tmp_path / "disk") as disk:
        directory = tmp_path / "disk" / "run"
        directory.mkdir()
        count = asyncio.run(main(directory))
        disk.unmount()
        disk.mount()
        found = steps(directory)
        assert found == list(range(len(found)))
        assert len(found) % 100 == 0
        if synced:
            assert len(found) == count


def test_on_a_disk_that_takes_no_writes_metrics_are_read(tmp_path):
    """P13: a read-only server shows what it has."""
    need_mounts()

    async def fill(directory: Path) -> None:
        points = Points(10**7, 100)
        points.start()
        await points.append(directory, some(0, 5000))
        await points.close()

    async def read(directory: Path) -> list[int]:
        points = Points(10**7, 100)
        whole = await points.read(directory, "x")
        assert (await points.buckets(directory, "x", 10)).count == 5000
        await points.close()
        return [each.step for each in whole.points]

    with tmpfs(tmp_path / "disk", 8 << 20) as disk:
        directory = tmp_path / "disk" / "run"
        directory.mkdir()
        asyncio.run(fill(directory))
        disk.read_only()
        assert asyncio.run(read(directory)) == list(range(5000))
        disk.read_only(False)


def test_writers_of_many_runs_do_not_hinder_each_other(tmp_path):
    """More files than are kept open, one of them damaged: each of the others has all of its points."""

    async def main() -> None:
        points = Points(10**7, 100)
        points.start()
        directories = [tmp_path / str(n) for n in range(100)]
        for directory in directories:
            directory.mkdir()
        (directories[50] / NAME).write_bytes(b"no database, but a hundred bytes of something else" * 2)

        async def write(directory: Path) -> None:
            for start in range(0, 300, 100):
                await points.append(directory, some(start))
                await points.append(directory, some(start))

        done = await asyncio.gather(*map(write, directories), return_exceptions=True)
        assert [n for n, each in enumerate(done) if each is not None] == [50]
        await points.close()
        for n, directory in enumerate(directories):
            if n != 50:
                assert steps(directory) == list(range(300))
                assert [path.name for path in directory.iterdir()] == [NAME]

    asyncio.run(main())


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_that_holds_its_file_locked_gets_nothing_stored_and_hinders_no_other(tmp_path):
    """Boundary B4: a run's code may open its own file where nothing keeps it from that."""

    async def main() -> None:
        points = Points(10**7, 100)
        points.start()
        held, other = tmp_path / "held", tmp_path / "other"
        held.mkdir()
        other.mkdir()
        await points.append(held, some(0))
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, held / NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        refused, _ = await asyncio.gather(
            points.append(held, some(100)), points.append(other, some(0)), return_exceptions=True
        )
        assert isinstance(refused, ServerError) and refused.code == "metrics-locked"
        assert steps(other) == list(range(100))
        holder.communicate(b"")
        await points.append(held, some(100))
        assert steps(held) == list(range(200))
        await points.close()

    asyncio.run(main())


def test_pipes_in_place_of_files_hold_up_neither_other_runs_nor_the_end(tmp_path):
    """Boundary B4: to open a named pipe waits for its other end. More of them than there are readers."""

    async def main() -> None:
        points = Points(10**7, 100)
        points.start()
        pipes = [tmp_path / str(n) for n in range(5)]
        for directory in pipes:
            directory.mkdir()
            await points.append(directory, some(0))
            (directory / NAME).unlink()
            os.mkfifo(directory / NAME)
        other = tmp_path / "other"
        other.mkdir()
        looked = await asyncio.gather(*map(points.summaries, pipes), return_exceptions=True)
        assert all(isinstance(each, ServerError) and each.code == "metrics-damaged" for each in looked)
        await points.append(other, some(0))
        assert [each.count for each in await points.summaries(other)] == [100]
        await points.close()

    asyncio.run(main())


LOOKS = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("SELECT count(*) FROM series").fetchall()
connection.close()
"""


def test_another_program_that_looks_at_the_file_takes_nothing_from_it(tmp_path):
    """P8. Fault: somebody opens it with sqlite3 and closes it again, while the server writes to it; then the
    server dies. (Closing any descriptor of a file gives up all of a process's locks on it.)"""

    async def main() -> None:
        points = Points(10**7, 100)
        points.start()
        for start in range(0, 3000, 100):
            await points.append(tmp_path, some(start))
            if start % 1000 == 0:
                guarded.sync(tmp_path / NAME)
                subprocess.run([sys.executable, "-c", LOOKS, str(tmp_path / NAME)], check=True)
        shutil.copytree(tmp_path, tmp_path / "dead")  # as the files stand when it dies now
        await points.close()

    asyncio.run(main())
    assert steps(tmp_path / "dead") == steps(tmp_path) == list(range(3000))


KILLED = """
import os, sys
from pathlib import Path
from gradient_jupyter.resources.metric import Kind, Sample
from gradient_jupyter.store.points import PointFile
samples = [Sample("x", float(n), n, n) for n in range(100)]
PointFile(Path(sys.argv[1]), 10**7, 100).append(Kind.CUSTOM, [samples])
os._exit(9)
"""


def test_what_a_killed_server_left_in_several_files_is_one_when_the_run_is_over(tmp_path):
    """P8: a copy of the one file, or a disk that takes no writes, shows all. Fault: kill -9, and nothing is
    logged to the run any more. Heals when the run's end is seen."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert f"{NAME}-wal" in os.listdir(tmp_path)

    async def main() -> None:
        points = Points(10**7, 100)
        points.start()
        await points.release(tmp_path)
        assert os.listdir(tmp_path) == [NAME]
        assert steps(tmp_path) == list(range(100))
        await points.release(tmp_path / "none")
        await points.close()

    asyncio.run(main())
    assert not (tmp_path / "none").exists()


def logging(directory: Path) -> None:
    """A server's writer, from a run's first point to the end of the run."""
    file = PointFile(directory, 10**7, 100)
    file.append(Kind.CUSTOM, [some(0)])
    (directory.parent / "told").touch()
    file.close()


def test_a_server_killed_while_it_makes_or_closes_the_file_loses_no_point(tmp_path):
    """P8, asset A3. Fault: SIGKILL at every effect on the file and its journal. What was acknowledged is read
    at once, by somebody who changes nothing; and when the run's end is seen there is one file."""

    async def release() -> None:
        points = Points(10**7, 100)
        points.start()
        await points.release(directory)
        await points.close()

    places, told, beside = [], tmp_path / "told", set()
    directory = tmp_path / "run"
    with Actor(__name__) as actor:
        for nth in range(1, 100):
            directory.mkdir()
            where = actor.killed(logging, directory, nth, "write,sync,name,create", rf"{NAME}(-journal)?$")
            beside |= {*os.listdir(directory)}
            expected = list(range(100)) if told.exists() else []
            assert steps(directory) in (expected, list(range(100))), where
            asyncio.run(release())
            assert {*os.listdir(directory)} <= {NAME}, where
            assert steps(directory) in (expected, list(range(100))), where
            shutil.rmtree(directory)
            told.unlink(missing_ok=True)
            if where is None:
                break
            places.append(where)
    assert f"{NAME}-journal" in beside and len(places) > 20, places


def test_what_cannot_be_made_one_hinders_no_end(tmp_path):
    """P8. Fault: damage."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (tmp_path / NAME).write_bytes(b"no database, and long enough to be looked at" * 100)

    async def main() -> None:
        points = Points(10**7, 100)
        points.start()
        await points.release(tmp_path)
        await points.close()

    asyncio.run(main())
