"""What to do next about one job. Pure: a row and an observation in, one action out.

The reconciler asks again after every action and after every hint, so an action only ever takes the next
step. Whatever was lost, doubled or late in between, the same question has the same answer.
"""

from __future__ import annotations

import msgspec

from gradient_jupyter.engines.base import Observation
from gradient_jupyter.engines.base import Phase as Seen
from gradient_jupyter.resources.job import Job, Phase, Reason, State, Target


class Ensure(msgspec.Struct, frozen=True):
    """Have the engine run this attempt's task."""


class Stop(msgspec.Struct, frozen=True):
    """Have the engine end the task's processes."""


class Note(msgspec.Struct, frozen=True):
    """Write down what was seen: the job is in this phase now."""

    state: State
    phase: Phase
    started_us: int | None = None


class Conclude(msgspec.Struct, frozen=True):
    """Collect what the attempt left, then make the job final and release its machine."""

    state: State
    reason: Reason | None
    exit_code: int | None = None
    started_us: int | None = None
    ended_us: int | None = None
    kill: bool = False
    """Nobody can vouch for the task's processes: have them killed first."""


class Retry(msgspec.Struct, frozen=True):
    """Write down how this attempt ended, release its machine, and let the job go back to the queue."""

    end: Conclude


class Requeue(msgspec.Struct, frozen=True):
    """Nothing of the attempt before is left: drop what it left in /artifacts, and queue the next."""


class Remove(msgspec.Struct, frozen=True):
    """Everything is collected: have the engine forget the task."""


class Erase(msgspec.Struct, frozen=True):
    """Delete the job's files and its row."""


Action = Ensure | Stop | Note | Conclude | Retry | Requeue | Remove | Erase

#: Why an attempt may be followed by another. Every other end would be the same the next time: a command that
#: is not there, a run that is longer than it may be, a snapshot that is damaged.
AGAIN = frozenset({"exit", "killed", "out-of-memory", "lost", "engine"})

_CANCELLED = Reason(code="cancelled", message="Cancelled by a person.")


def plan(job: Job, seen: Observation | None) -> Action | None:
    """The next step, or None when there is nothing to do until something changes.

    ``seen`` is what the engine says of the current attempt's task; None: the engine has no such task.
    An engine that did not answer has said nothing, and ``plan`` must not be asked.
    """
    wanted = job.target is Target.RUN
    if job.final:
        if seen is not None:
            return Remove()
        return Erase() if job.target is Target.DELETED else None
    if job.state is State.PENDING:
        if seen is not None:
            # It has claimed nothing, so whatever runs under its name must not.
            return Remove() if seen.phase.ended else Stop()
        if not wanted:
            return Conclude(State.CANCELLED, _CANCELLED)
        # Placing it is the queue's decision: it needs all jobs and all machines.
        return Requeue() if job.phase is Phase.RETRYING else None
    if seen is None:
        if job.state is State.RUNNING:
            return _last_or_not(job, Conclude(State.ERROR, _lost(job)))
        return Ensure() if wanted else Conclude(State.CANCELLED, _CANCELLED)
    if seen.phase.ended:
        return _ended(job, seen)
    if not wanted:
        return Stop()
    if seen.phase is Seen.RUNNING:
        if (job.state, job.phase) != (State.RUNNING, Phase.RUNNING):
            return Note(State.RUNNING, Phase.RUNNING, seen.started_us)
        return None
    if seen.phase is Seen.PENDING:
        return Ensure()
    return None


def _ended(job: Job, seen: Observation) -> Action:
    if seen.started_us is not None and job.state is State.PROVISIONING:
        # It was over before we looked; its history has the same steps all the same.
        return Note(State.RUNNING, Phase.RUNNING, seen.started_us)
    if seen.phase is Seen.LOST:
        if job.target is not Target.RUN:
            return Conclude(State.CANCELLED, _CANCELLED, kill=True)
        end = Conclude(State.ERROR, _lost(job, seen.message), started_us=seen.started_us, kill=True)
        return _last_or_not(job, end)
    if seen.stopped and job.target is not Target.RUN:
        state, reason = State.CANCELLED, _CANCELLED
    elif seen.phase is Seen.SUCCEEDED:
        state, reason = State.STOPPED, None
    elif seen.exit_code is None:
        state, reason = State.ERROR, _platform(job, seen)
    else:
        state, reason = State.FAILED, _failed(job, seen)
    return _last_or_not(job, Conclude(state, reason, seen.exit_code, seen.started_us, seen.ended_us))


def _last_or_not(job: Job, end: Conclude) -> Conclude | Retry:
    """Whether this is the job's end, or another attempt follows. Without ``retries`` none ever does (P4)."""
    again = (
        job.target is Target.RUN
        and end.state in (State.FAILED, State.ERROR, State.PREEMPTED)
        and end.reason is not None
        and end.reason.code in AGAIN
        and job.attempt <= job.retries
    )
    return Retry(end) if again else end


def _failed(job: Job, seen: Observation) -> Reason:
    logs = f"Read its last lines: gradient jobs logs {job.id}"
    match seen.code:
        case "command-not-found":
            return Reason(
                code=seen.code,
                message=seen.message or f"{job.command[0]}: command not found (exit 127).",
                next=f"Correct it and send it again. The PATH it had: gradient jobs show {job.id} --json",
            )
        case "not-executable":
            return Reason(
                code=seen.code,
                message=seen.message or f"{job.command[0]} cannot be executed (exit 126).",
                next=f"Make it executable (chmod +x {job.command[0]}) and send the directory again.",
            )
        case "out-of-memory":
            return Reason(
                code=seen.code,
                message=seen.message or "Killed (exit 137), most likely because memory ran out.",
                next="Use less memory, for instance a smaller batch, or a larger machine type "
                "(gradient machineTypes).",
            )
        case "killed":
            return Reason(
                code=seen.code,
                message=seen.message or "Killed by SIGKILL (exit 137): by the system, or by hand.",
                next=f"If memory ran out, use less or a larger machine type. {logs}",
            )
        case "max-duration":
            return Reason(
                code=seen.code,
                message=seen.message or "It ran longer than it may, so it was stopped (exit 124).",
                next="Give it longer (--max-duration), a larger machine type, or let it save its state in "
                "/storage and go on from there.",
            )
        case "no-space":
            return Reason(
                code=seen.code,
                message=seen.message or "The disk was full while it ran.",
                next="Free some space: gradient jobs delete removes old runs.",
            )
    message = f"The command ended with exit code {seen.exit_code}."
    if seen.exit_code is not None and seen.exit_code > 128 and seen.message:
        message = seen.message
    return Reason(code="exit", message=message, next=logs)


def _platform(job: Job, seen: Observation) -> Reason:
    nexts = {
        "no-space": "Free some space: gradient jobs delete removes old runs.",
        "never-started": "Run it again.",
    }
    return Reason(
        code=seen.code or "engine",
        message=seen.message or "The engine could not run it.",
        next=nexts.get(seen.code, f"Your command was not at fault. See gradient jobs logs {job.id}"),
    )


def _lost(job: Job, how: str = "") -> Reason:
    if not job.retries:
        again = "It is not run again by itself; send it once more if it may be repeated (or use --retries). "
    elif job.attempt > job.retries:
        again = f"That was the last of {job.attempt} attempts. "
    else:
        again = ""
    return Reason(
        code="lost",
        message=how
        or "The process is gone and nobody saw how it ended: the machine restarted, or the process that "
        "watched it was killed.",
        next=f"{again}Its last lines: gradient jobs logs {job.id} --attempt {job.attempt}",
    )
