"""One job on one screen."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gradient_jupyter.cli import states
from gradient_jupyter.cli.terminal import paint, say
from gradient_jupyter.cli.text import clean, command_line, duration, moment, ordinal
from gradient_jupyter.resources.job import Attempt, Job, Phase, State

_WORD = 13


def facts(rows: list[tuple[str, str]]) -> None:
    """Words in bold and what there is to say of each; rows without anything to say are left out."""
    for heading, text in rows:
        if text:
            say(f"  {paint(heading, 'bold')}{' ' * max(1, _WORD - len(heading))}{text}")


def job_sheet(job: Job, attempts: Sequence[Attempt] = ()) -> None:
    """State first, then what, why and next, then what it was asked to do. ``attempts``: all, where there were
    several."""
    text, style = states.label(job)
    now_us = time.time_ns() // 1000
    ended = f", exit {job.exit_code}" if job.exit_code is not None else ""
    head = f"{states.title(job)}  {job.id}{ended}"
    pad = " " * max(1, _WORD - len(text))
    took = states.lasted(job)
    say(f"  {paint(text, style)}{pad}{head}{' ' * max(2, 48 - len(head))}{paint(took, 'dim')}".rstrip())
    queue = (
        ""
        if job.queue_position is None
        else ("next" if job.queue_position == 1 else ordinal(job.queue_position))
    )
    facts(
        [
            ("Why", clean(job.reason.message) if job.reason else ""),
            ("Next", clean(job.reason.next) if job.reason else ""),
            ("Queue", queue),
            ("Progress", _progress(job)),
            ("Command", command_line(job.command)),
            ("Project", f"{clean(job.project)}  {job.project_id}"),
            ("Machine", clean(job.machine_type) + (f", engine {clean(job.engine)}" if job.engine else "")),
            ("Environment", clean(" ".join(f"{name}={value}" for name, value in job.env.items()))),
            *(("Port", text) for text in _ports(job)),
            ("Datasets", _datasets(job)),
            ("Limits", _limits(job)),
            ("Tags", clean(", ".join(job.tags))),
            ("Files from", clean(job.source)),
            ("Repeats", job.rerun_of or ""),
            ("Created", moment(job.created_us, now_us)),
        ]
    )
    for warning in job.warnings:
        say(f"  {paint('!', 'yellow')} {clean(warning)}")
    _attempts(job, attempts, now_us)
    _history(job, now_us)


def _progress(job: Job) -> str:
    if job.progress is None:
        return ""
    share = "" if job.progress.fraction is None else f"{job.progress.fraction:.0%}"
    return "  ".join(part for part in (share, clean(job.progress.message)) if part)


def _ports(job: Job) -> list[str]:
    """Where it is reached; a link only while something may answer there."""
    running = (job.state, job.phase) == (State.RUNNING, Phase.RUNNING)
    return [f"{port.url}  leads to its port {port.internal}" if running else str(port) for port in job.ports]


def _datasets(job: Job) -> str:
    return clean(", ".join(f"{one.name}:{one.version}" if one.version else one.name for one in job.datasets))


def _limits(job: Job) -> str:
    said = []
    if job.retries:
        said.append(f"attempt {max(1, job.attempt)} of at most {job.retries + 1}")
    if job.max_duration_s is not None:
        said.append(f"{duration(int(job.max_duration_s * 1e6))} an attempt")
    if job.priority:
        said.append(f"priority {job.priority}")
    return ", ".join(said)


def _attempts(job: Job, attempts: Sequence[Attempt], now_us: int) -> None:
    """Those before the last one: when, how each ended, and where its log is."""
    earlier = [each for each in attempts if each.attempt < job.attempt]
    if not earlier:
        return
    say()
    for each in earlier:
        icon, style = states.LOOK[each.state or State.ERROR]
        why = clean(each.reason.message) if each.reason else ""
        stamp = paint(moment(each.created_us, now_us), "dim")
        say(f"  {stamp}  {paint(icon, style)} Attempt {each.attempt}     {why}")
    say(f"  {paint(f'gradient jobs logs {job.id} --attempt 1', 'dim')}")


def _history(job: Job, now_us: int) -> None:
    """What it went through, and how long each took."""
    if not job.history:
        return
    say()
    ends = [*(later.time_us for later in job.history[1:]), job.history[-1].time_us if job.final else now_us]
    for entry, end in zip(job.history, ends, strict=True):
        icon, style = states.LOOK[entry.state]
        word = entry.phase.value if entry.phase.value != "done" else entry.state.value
        took = "" if entry.state.final else duration(end - entry.time_us)
        stamp = paint(moment(entry.time_us, now_us), "dim")
        say(f"  {stamp}  {paint(icon, style)} {word.capitalize():<14}{paint(took, 'dim')}".rstrip())
