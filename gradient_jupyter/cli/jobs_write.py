"""``gradient jobs stop`` and ``delete``."""

from __future__ import annotations

from collections.abc import Callable

import click

from gradient_jupyter.cli.options import json_option
from gradient_jupyter.cli.terminal import note


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1)
@click.option("--id", "--jobId", "--job-id", "named_ids", multiple=True, hidden=True)
@json_option
def stop(*, job_ids: tuple[str, ...], named_ids: tuple[str, ...], as_json: bool) -> int:
    """Ask jobs to end: first politely, then with force. Log and artifacts stay."""
    return _each((*job_ids, *named_ids), "stop", as_json=as_json)


@click.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1)
@click.option("--id", "--jobId", "--job-id", "named_ids", multiple=True, hidden=True)
@json_option
def delete(*, job_ids: tuple[str, ...], named_ids: tuple[str, ...], as_json: bool) -> int:
    """Remove jobs with their logs and artifacts. One that still runs is stopped first."""
    return _each((*job_ids, *named_ids), "delete", as_json=as_json)


def _each(job_ids: tuple[str, ...], verb: str, *, as_json: bool) -> int:
    from gradient_jupyter.cli import states
    from gradient_jupyter.cli.failures import show
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client, Job
    from gradient_jupyter.resources.errors import GradientError

    if not job_ids:
        raise click.UsageError("Name at least one job by its id; gradient jobs list shows them.")
    do: Callable[[Job], object] = Job.stop if verb == "stop" else Job.delete
    records, worst = [], 0
    with Client() as client:
        for job_id in job_ids:
            try:
                job = client.jobs.get(job_id)
                was_final = job.final
                do(job)
            except GradientError as error:
                if len(job_ids) == 1:
                    raise
                worst = show(error, as_json=as_json)
                continue
            records.append(job.record)
            if not as_json:
                say = "was over already" if verb == "stop" and was_final else f"is asked to {verb}"
                say = "is being removed" if verb == "delete" else say
                note(f"  {states.title(job.record)}  {job.id}  {say}")
    if as_json:
        print_json(records[0] if len(job_ids) == 1 else records)
    return worst
