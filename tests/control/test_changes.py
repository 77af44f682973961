"""What is remembered of jobs on machines, so that their runs are known without a look at the disk (P2)."""

from __future__ import annotations

import asyncio

import msgspec

from gradient_jupyter.control.changes import Changes
from gradient_jupyter.control.scheduling.queue import Queue
from gradient_jupyter.resources.event import Action, Event
from gradient_jupyter.resources.job import PHASES, Job, Phase, State, Target
from gradient_jupyter.store.database import Change

RUNNING = Job(
    id="j1", name="n", project_id="pr1", project="p", owner="user:u1", created_by="u1", number=1,
    command=("true",), snapshot="a" * 64, machine_type="local", state=State.RUNNING, phase=Phase.RUNNING,
    target=Target.RUN, created_us=1, attempt=1, retries=0,
)  # fmt: skip
STOPPED = msgspec.structs.replace(RUNNING, state=State.STOPPED, phase=PHASES[State.STOPPED][0])


def told_of(job: Job) -> list[Change]:
    event = Event(seq=1, time_us=1, noun="job", id=job.id, action=Action.CHANGED, project_id="pr1")
    return [Change(event, job, None)]


async def published(changes: Changes, job: Job) -> None:
    changes.published(told_of(job))
    await asyncio.sleep(0)


def test_a_job_that_was_found_is_known_until_its_end():
    async def main() -> None:
        changes = Changes(Queue())
        changes.found(RUNNING, changes.told)
        assert changes.placed == {"j1": RUNNING}
        await published(changes, STOPPED)
        assert changes.placed == {}

    asyncio.run(main())


def test_a_job_that_was_read_before_its_end_does_not_come_back_after_it():
    """The reader's answer comes to the loop behind the news of what happened since."""

    async def main() -> None:
        changes = Changes(Queue())
        told = changes.told
        await published(changes, STOPPED)
        changes.found(RUNNING, told)
        assert changes.placed == {}

    asyncio.run(main())


def test_what_was_told_is_newer_than_what_was_found():
    async def main() -> None:
        changes = Changes(Queue())
        later = msgspec.structs.replace(RUNNING, attempt=2)
        await published(changes, later)
        changes.found(RUNNING, changes.told)
        assert changes.placed == {"j1": later}

    asyncio.run(main())
