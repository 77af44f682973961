"""``gradient jobs logs`` and ``waitfor``."""

from __future__ import annotations

import sys

import click

from gradient_jupyter.cli.options import job_argument, json_option
from gradient_jupyter.cli.terminal import note, say

_STATES = ("Pending", "Provisioning", "Running", "Stopped", "Failed", "Error", "Cancelled", "Preempted")
TIMED_OUT = 124


@click.command()
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Stay with it until the job is over. Ctrl-C leaves.")
@click.option(
    "--attempt", type=click.IntRange(min=1), metavar="N", help="Of that attempt, where there were several."
)
@json_option
def logs(*, job_id: str, follow: bool, attempt: int | None, as_json: bool) -> int:
    """What a job has printed: its standard output on ours, its errors on ours.

    With --json each piece is one line: {"time_us": ..., "stream": "stdout", "text": ...}.
    """
    from gradient_jupyter.client import Client

    with Client() as client:
        job = client.jobs.get(job_id)
        if as_json:
            import msgspec

            for line in job.logs(follow=follow, attempt=attempt):
                say(msgspec.json.encode(line._asdict()).decode())
                sys.stdout.flush()
        elif follow and attempt is None:
            from gradient_jupyter.cli.follow import Follower

            Follower().to_the_end(job)
        else:
            from gradient_jupyter.cli.follow import Output

            output = Output()
            for line in job.logs(follow=follow, attempt=attempt):
                output.write(line)
            output.settle()
    return 0


@click.command()
@job_argument
@click.option(
    "--state",
    type=click.Choice(_STATES, case_sensitive=False),
    metavar="STATE",
    help=f"Wait for this state: {', '.join(_STATES)}.  [any end]",
)
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer than this.")
@json_option
def waitfor(*, job_id: str, state: str | None, timeout: float | None, as_json: bool) -> int:
    """Wait until a job is over, and end with its exit code, as run does.

    With --state: until it is, or has been, in that state; 0 when it has, 1 when it ended without. After
    --timeout the exit code is 124, and the job goes on.
    """
    from gradient_jupyter.cli import states
    from gradient_jupyter.cli.failures import Failed
    from gradient_jupyter.cli.follow import say_end
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.job import State

    wanted = State(state) if state else None
    with Client() as client:
        job = client.jobs.get(job_id)
        try:
            job.wait(timeout, wanted)
        except TimeoutError:
            raise Failed(
                f"{states.title(job.record)} is still {job.state} after {timeout:g} s; it goes on.",
                exit_code=TIMED_OUT,
                code="timeout",
            ) from None
    if as_json:
        print_json(job.record)
    elif job.final:
        say_end(job)
    else:
        text, _ = states.label(job.record)
        note(f"  {text}  {states.title(job.record)}  {job.id}")
    if wanted is None:
        return states.exit_code(job.record)
    return 0 if job.has_been(wanted) else 1
