"""The queue: which waiting job gets which machine, and what the others are told. Pure.

First come, first served, strictly: a job that does not fit holds back those behind it, so nothing is
ever overtaken for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gradient_jupyter.control.machines import Room, Size
from gradient_jupyter.resources.job import Job, Reason
from gradient_jupyter.store.jobs import Waiting


class Placement(msgspec.Struct, frozen=True):
    job_id: str
    machine_type: str
    node: str
    size: Size
    gpus: tuple[str, ...]


def place(waiting: Iterable[Waiting], sizes: Mapping[str, Size], rooms: Sequence[Room]) -> list[Placement]:
    """Places as many jobs as fit, in order. ``rooms`` is used up. A job of an unknown type is passed over."""
    placed = []
    for job in waiting:
        size = sizes.get(job.machine_type)
        if size is None:
            continue
        room = next((room for room in rooms if room.holds(size)), None)
        if room is None:
            break
        placed.append(Placement(job.job_id, job.machine_type, room.node, size, room.take(size)))
    return placed


def explain(job: Job, sizes: Mapping[str, Size], running: Sequence[str]) -> Reason:
    """Why this job still waits. ``running`` names the jobs that hold machines now."""
    if job.machine_type not in sizes:
        return Reason(
            code="machine-type-gone",
            message=f"The machine type {job.machine_type} is no longer configured.",
            next=f"Stop it (gradient jobs stop {job.id}) and send it to another: gradient machineTypes",
        )
    position = job.queue_position or 1
    ahead = position - 1
    if ahead:
        jobs = "1 job is" if ahead == 1 else f"{ahead} jobs are"
        message = f"Waits for {job.machine_type}: {jobs} in front of it."
    elif running:
        shown = ", ".join(running[:3]) + (f" and {len(running) - 3} more" if len(running) > 3 else "")
        verb = "uses" if len(running) == 1 else "use"
        message = f"Next in line for {job.machine_type}, which {shown} {verb} now."
    else:
        message = f"Next in line for {job.machine_type}."
    return Reason(
        code="queued",
        message=message,
        next="It starts by itself. Smaller machine types, where there are any, run side by side: "
        "gradient machineTypes",
    )
