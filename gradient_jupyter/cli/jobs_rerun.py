"""``gradient jobs rerun``: a job's files once more, byte for byte, with what is changed."""

from __future__ import annotations

from pathlib import Path

import click

from gradient_jupyter.cli.options import (
    Running,
    dataset_option,
    env_options,
    job_argument,
    json_option,
    running_options,
)


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--machineType", "--machine-type", "machine_type", metavar="NAME", help="Another machine type.")
@click.option("--project", metavar="NAME", help="Another project.  [the job's]")
@click.option("--projectId", "--project-id", "project_id", metavar="ID", help="The same, by its id.")
@click.option("--name", metavar="NAME", help="What to call the new job.")
@env_options
@click.option("--unset", metavar="NAME", multiple=True, help="Take a variable away; repeatable.")
@dataset_option
@click.option("--no-datasets", "no_datasets", is_flag=True, help="Without the data that the job had.")
@running_options
@click.option("--follow", "-f", is_flag=True, help="Stay with it and end with its exit code, as run does.")
@json_option
@job_argument
@click.argument("words", metavar="[--] [CMD]...", nargs=-1, type=click.UNPROCESSED)
def rerun(
    job_id: str,
    words: tuple[str, ...],
    *,
    machine_type: str | None,
    project: str | None,
    project_id: str | None,
    name: str | None,
    env: dict[str, str],
    unset: tuple[str, ...],
    datasets: tuple[str, ...],
    no_datasets: bool,
    running: Running,
    follow: bool,
    as_json: bool,
) -> int:
    """Run a job's files once more as a new job, and print its id.

    What is not given is as it was: command, machine type, variables, limits. CMD replaces the command.

    \b
    gradient jobs rerun j7k2m9qxw3ab
    gradient jobs rerun --env LR=0.01 --retries 2 j7k2m9qxw3ab
    gradient jobs rerun j7k2m9qxw3ab -- python train.py --epochs 50
    """
    if project is not None and project_id is not None:
        raise click.UsageError("--project and --projectId name the same thing: give one of them.")
    if datasets and no_datasets:
        raise click.UsageError("--dataset and --no-datasets do not go together.")
    if words[:1] == ("--",):  # after the job's id, click leaves it where it is
        words = words[1:]
    from gradient_jupyter.cli.submit import accepted
    from gradient_jupyter.client import Client, directory

    with Client() as client:
        job = client.jobs.get(job_id).rerun(
            words or None,
            project=project,
            project_id=project_id,
            name=name,
            machine_type=machine_type,
            env=env,
            unset=unset,
            retries=running.retries,
            max_duration=running.max_duration_s,
            priority=running.priority,
            tags=running.tags,
            ports=running.ports,
            datasets=datasets if datasets or no_datasets else None,
        )
        directory.remember(Path(), job_id=job.id, make=False)
        return accepted(job, follow=follow, as_json=as_json)
