"""The last metrics of an attempt are read whatever the disk does, and nobody waits for ever (P9)."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sending import ANN, send
from test_eventfiles import NAME, event, record

from gradient_jupyter.control import jobs
from gradient_jupyter.control.measuring import eventfiles, spool
from gradient_jupyter.control.measuring.records import records
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running.endings import Endings
from gradient_jupyter.control.running.plan import Conclude, Note
from gradient_jupyter.resources.errors import NoSpace
from gradient_jupyter.resources.job import CreateJob, Job, Phase, Reason, State, Target
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store.ledger import Claim

#: How long is waited for what must not hang.
PATIENCE_S = 60
POINT = b'["%s",0.5,1,1000000]\n'
EXIT = Conclude(State.FAILED, Reason(code="exit", message="The command ended with exit code 1."), 1)
RUNS = [Note(State.RUNNING, Phase.RUNNING, 1)]


async def attempt(plane: Plane, target: Target = Target.RUN) -> tuple[Job, Path]:
    """A job with an attempt on a machine, and the directory of that."""
    asked = CreateJob(command=("true",), snapshot=await send(plane, {}), project="p", retries=1)
    made = await jobs.submit(plane, ANN, asked, None)
    job = await plane.database.write(
        lambda connection: rows.change(
            connection, made, state=State.PROVISIONING, phase=Phase.STARTING, attempt=1, target=target
        )
    )
    directory = plane.layout.attempt(job.id, 1)
    for name in ("artifacts", "spool"):
        (directory / name).mkdir(parents=True)
    return job, directory


async def found(plane: Plane, job: Job) -> Job:
    again = await plane.database.read(lambda connection: rows.find(connection, job.id))
    assert again is not None
    return again


async def keys(plane: Plane, directory: Path) -> set[str]:
    return {one.key for one in await plane.points.summaries(directory)}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of which the disk gives back nothing but errors."""
    names: set[str] = set()
    for module, call in ((eventfiles, "open_inside"), (spool, "open_found")):
        real = getattr(module, call)

        def opening(*args, real=real, **more):
            fd = real(*args, **more)
            if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) in names:
                os.close(fd)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return fd

        monkeypatch.setattr(module, call, opening)
    return names


def test_the_end_of_the_server_does_not_wait_for_a_read(with_plane, monkeypatch) -> None:
    """Fault: SIGTERM while a file is read, on a disk that does not answer."""
    reading, answer = threading.Event(), threading.Event()

    def slow(fd, position):
        reading.set()
        answer.wait(PATIENCE_S)
        yield from records(fd, position)

    monkeypatch.setattr(eventfiles, "records", slow)

    async def work(plane: Plane) -> None:
        plane.points.start()
        job, directory = await attempt(plane)
        (directory / "artifacts" / NAME).write_bytes(record(event()))
        plane.queue.claims[job.id] = Claim(
            job_id=job.id, attempt=1, node="n", machine_type="m", cpus=1, memory_bytes=1, gpus=()
        )
        plane.gathering.watch(job)
        watching = plane.gathering._watching
        assert watching is not None
        await asyncio.to_thread(reading.wait, PATIENCE_S)
        closing = asyncio.create_task(plane.gathering.close())
        try:
            done, _ = await asyncio.wait({closing}, timeout=PATIENCE_S / 6)
            assert done and watching.cancelled()
        finally:
            plane.gathering._watched.clear()
            answer.set()
            watching.cancel()
        plane.gathering.watch(job)
        assert plane.gathering._watching is None, "after its end it begins nothing"

    with_plane(work)


def test_a_file_that_cannot_be_read_is_told_and_keeps_nothing_from_its_end(with_plane, broken) -> None:
    """Fault: EIO in one of the files. The others are stored, the job ends and says it."""
    broken |= {NAME, "1-00000000-1.points"}

    async def work(plane: Plane) -> None:
        plane.points.start()
        job, directory = await attempt(plane)
        (directory / "artifacts" / NAME).write_bytes(record(event("bad")))
        (directory / "artifacts" / f"{NAME}.2").write_bytes(record(event("good")))
        (directory / "spool" / "1-00000000-1.points").write_bytes(POINT % b"unsent")
        (directory / "spool" / "2-00000000-1.points").write_bytes(POINT % b"sent")
        ended = await Endings(plane).conclude(job, EXIT, RUNS)
        assert ended is not None and ended.state is State.FAILED
        (said,) = ended.warnings
        assert f"{NAME} (input/output error)" in said and "1-00000000-1.points (input/output error)" in said
        assert await keys(plane, directory) == {"good", "sent"}

    with_plane(work)


@pytest.mark.parametrize("module", [eventfiles, spool])
def test_a_directory_that_cannot_be_walked_is_told_as_well(with_plane, monkeypatch, module) -> None:
    def walk(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield

    monkeypatch.setattr(module, "walk_inside", walk)

    async def work(plane: Plane) -> None:
        job, _ = await attempt(plane)
        ended = await Endings(plane).conclude(job, EXIT, RUNS)
        assert ended is not None and "(input/output error)" in ended.warnings[0]

    with_plane(work)


def test_what_may_pass_holds_a_job_up_and_it_says_so_until_a_person_stops_it(with_plane, monkeypatch) -> None:
    """Fault: no space for the last points. It is tried again; who stops the job does not wait for that."""

    async def work(plane: Plane) -> None:
        async def full(*_, **__):
            raise NoSpace("There is no space.")

        job, directory = await attempt(plane)
        (directory / "spool" / "1-00000000-1.points").write_bytes(POINT % b"x")
        append = plane.points.append
        plane.points.append = full  # type: ignore[method-assign]
        for end in (Endings(plane).conclude, Endings(plane).retry):
            with pytest.raises(NoSpace):
                await end(job, EXIT, RUNS)
        held = await found(plane, job)
        assert (held.state, held.phase) == (State.RUNNING, Phase.COLLECTING)
        assert held.reason is not None and held.reason.code == "collecting"
        assert "held up: there is no space left" in held.reason.message and job.id in held.reason.next
        moments = len(held.history)
        with pytest.raises(NoSpace):
            await Endings(plane).conclude(held, EXIT, [])
        assert len((await found(plane, job)).history) == moments, "the same is said once"
        await jobs.stop(plane, ANN, job.id)
        ended = await Endings(plane).conclude(await found(plane, job), EXIT, [])
        assert ended is not None and ended.final
        assert ended.warnings == (
            "Not all metrics were stored: there is no space left on the server's disk.",
        )
        plane.points.append = append  # type: ignore[method-assign]

    with_plane(work)


def test_what_an_attempt_had_lost_is_told_also_where_another_follows(with_plane) -> None:
    async def work(plane: Plane) -> None:
        plane.points.start()
        job, directory = await attempt(plane)
        (directory / "spool" / "1-00000000-1.points").write_bytes(b"no point\n" + POINT % b"x")
        retried = await Endings(plane).retry(job, EXIT, RUNS)
        assert retried is not None and retried.phase is Phase.RETRYING
        assert retried.warnings == ("1 line of what gradient_job had not sent cannot be read.",)
        assert await keys(plane, directory) == {"x"}

    with_plane(work)
