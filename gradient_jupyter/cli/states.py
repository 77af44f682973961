"""States as they are shown everywhere: an icon, a word and a colour, always all three."""

from __future__ import annotations

import time

from gradient_jupyter.cli.text import clean, duration, ordinal
from gradient_jupyter.resources.job import Job, Phase, State

LOOK: dict[State, tuple[str, str]] = {
    State.PENDING: ("◷", "dim"),
    State.PROVISIONING: ("◌", "cyan"),
    State.RUNNING: ("●", "blue"),
    State.STOPPED: ("✓", "green"),
    State.FAILED: ("✗", "red"),
    State.ERROR: ("▲", "yellow"),
    State.CANCELLED: ("⊘", "dim"),
    State.PREEMPTED: ("‖", "yellow"),
}
_PHASE_WORDS = {
    Phase.QUEUED: "Queued",
    Phase.RETRYING: "Retrying",
    Phase.PREPARING: "Preparing",
    Phase.PULLING: "Pulling",
    Phase.COLLECTING: "Collecting",
}


def word(job: Job) -> str:
    """The phase's word where there is one, else the state's."""
    return _PHASE_WORDS.get(job.phase, job.state.value)


def label(job: Job) -> tuple[str, str]:
    """Icon and word, and their style."""
    icon, style = LOOK[job.state]
    return f"{icon} {word(job)}", style


def title(job: Job) -> str:
    """What a person calls it: ``train #42``."""
    return f"{clean(job.name)} #{job.number}"


def lasted(job: Job) -> str:
    """How long it has run, or waited so far."""
    now = time.time_ns() // 1000
    if job.started_us is not None:
        return duration((job.ended_us or now) - job.started_us)
    return "" if job.final else duration(now - job.created_us)


def why(job: Job) -> str:
    """Its reason, else its place in the queue; and its exit code: in one line."""
    parts = []
    if job.queue_position is not None and not job.final:
        parts.append("next" if job.queue_position == 1 else f"{ordinal(job.queue_position)} in the queue")
    if job.reason is not None and job.reason.message:
        parts = [clean(job.reason.message).rstrip(".")]
    if job.final and job.exit_code is not None and str(job.exit_code) not in " ".join(parts).split():
        parts.append(f"exit {job.exit_code}")
    return ", ".join(parts)


def exit_code(job: Job) -> int:
    """What ``run`` and ``waitfor`` end with: the job's own code, 130 cancelled, 125 the platform's fault."""
    match job.state:
        case State.STOPPED:
            return 0
        case State.FAILED:
            code = job.exit_code or 1
            return code if 0 < code < 256 else 1
        case State.CANCELLED:
            return 130
        case _:
            return 125
