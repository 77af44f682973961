"""``gradient jobs list`` and ``show``."""

from __future__ import annotations

import datetime

import click

from gradient_jupyter.cli.options import Moment, job_argument, json_option, separated

_STATES = ("Pending", "Provisioning", "Running", "Stopped", "Failed", "Error", "Cancelled", "Preempted")


@click.command("list")
@click.option("--project", metavar="NAME", help="Only this project's.")
@click.option("--projectId", "--project-id", "project_id", metavar="ID", help="The same, by its id.")
@click.option(
    "--state",
    "states_",
    type=click.Choice(_STATES, case_sensitive=False),
    multiple=True,
    metavar="STATE",
    help="Only those in this state; repeatable.  " + ", ".join(_STATES) + ".",
)
@click.option("--tag", "tags", metavar="TEXT", multiple=True, help="Only those with this tag; repeatable.")
@click.option("--tags", "tag_lists", multiple=True, hidden=True)
@click.option("--name", metavar="TEXT", help="Only those with this in their name.")
@click.option("--machineType", "--machine-type", "machine_type", metavar="NAME", help="Only those on it.")
@click.option("--since", type=Moment(), metavar="TIME", help="Created since: 2h (ago), 2026-11-24.")
@click.option("--until", type=Moment(), metavar="TIME", help="Created before.")
@click.option(
    "--limit", "-l", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@click.option("--all", "everything", is_flag=True, help="All there are.")
@json_option
def list_jobs(
    *,
    project: str | None,
    project_id: str | None,
    states_: tuple[str, ...],
    tags: tuple[str, ...],
    tag_lists: tuple[str, ...],
    name: str | None,
    machine_type: str | None,
    since: datetime.datetime | None,
    until: datetime.datetime | None,
    limit: int,
    everything: bool,
    as_json: bool,
) -> int:
    """Jobs, newest first.

    \b
    gradient jobs list --state Failed --state Error --since 1d
    gradient jobs list --project leaf-health --tag baseline --all --json
    """
    from gradient_jupyter.cli import states
    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client

    if project is not None and project_id is not None:
        raise click.UsageError("--project and --projectId name the same thing: give one of them.")
    with Client() as client:
        if project is not None:
            project_id = client.projects.find(project).id
        found = client.jobs.list(
            project_id=project_id,
            state=states_,
            tag=(*tags, *separated(tag_lists)),
            name=name,
            machine_type=machine_type,
            since=since,
            until=until,
            limit=None if everything else limit,
        )
        records = [job.record for job in found]
    if as_json:
        print_json(records)
    elif not records and (states_ or tags or tag_lists or name or machine_type or since or until):
        click.echo("  No job is like that.", err=True)
    elif not records:
        click.echo("  No jobs here yet. The one step that makes one: gradient run train.py", err=True)
    else:
        columns = (
            Column("State"),
            Column("Job", gives=True),
            Column("Id"),
            Column("Project", gives=True),
            Column("Machine"),
            Column("Time", right=True),
            Column("Why", gives=True),
        )
        rows = (
            (
                states.label(record),
                states.title(record),
                (record.id, "dim"),
                clean(record.project),
                clean(record.machine_type),
                states.lasted(record),
                states.why(record),
            )
            for record in records
        )
        table(columns, rows)
    return 0


@click.command()
@job_argument
@json_option
def show(*, job_id: str, as_json: bool) -> int:
    """One job: where it is, why, and what to do next."""
    from gradient_jupyter.cli.sheet import job_sheet
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client

    with Client() as client:
        job = client.jobs.get(job_id)
        attempts = job.attempts() if job.record.attempt > 1 and not as_json else []
    if as_json:
        print_json(job.record)
    else:
        job_sheet(job.record, attempts)
    return 0
