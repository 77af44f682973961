"""``gradient jobs tags``: the texts by which jobs are found again."""

from __future__ import annotations

from typing import Literal

import click

from gradient_jupyter.cli.options import json_option


@click.command()
@click.argument("what", metavar="add|remove|set", type=click.Choice(("add", "remove", "set")))
@click.argument("job_id", metavar="JOB", required=False)
@click.argument("texts", metavar="TAG...", nargs=-1)
@click.option("--id", "--jobId", "--job-id", "named_id", hidden=True)
@click.option("--tag", "--tags", "named_tags", multiple=True, hidden=True)
@json_option
def tags(
    *,
    what: Literal["add", "remove", "set"],
    job_id: str | None,
    texts: tuple[str, ...],
    named_id: str | None,
    named_tags: tuple[str, ...],
    as_json: bool,
) -> int:
    """Change the tags of a job, also of one that has ended.

    \b
    gradient jobs tags add j7k2m9qxw3ab keep baseline
    gradient jobs list --tag baseline
    """
    from gradient_jupyter.cli import states
    from gradient_jupyter.cli.terminal import note, print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client

    if named_id is not None and job_id is not None:
        texts, job_id = (job_id, *texts), named_id
    job_id = job_id or named_id
    given = (*texts, *named_tags)
    if job_id is None:
        raise click.UsageError("Name a job by its id; gradient jobs list shows them.")
    if not given and what != "set":
        raise click.UsageError(f"Name at least one tag to {what}.")
    with Client() as client:
        job = client.jobs.get(job_id)
        old = job.record.tags
        if what == "add":
            new = tuple(dict.fromkeys((*old, *given)))
        elif what == "remove":
            new = tuple(tag for tag in old if tag not in given)
        else:
            new = tuple(dict.fromkeys(given))
        job.update(tags=new)
    if as_json:
        print_json(job.record)
    else:
        shown = clean(", ".join(job.record.tags)) or "no tags"
        note(f"  {states.title(job.record)}  {job.id}  {shown}")
    return 0
