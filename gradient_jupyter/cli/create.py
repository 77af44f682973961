"""``gradient jobs create``: as ``run``, in the words of Gradient's own command line."""

from __future__ import annotations

import shlex

import click

from gradient_jupyter.cli.options import Submission, json_option, submission_options


@click.command(context_settings={"allow_interspersed_args": False})
@submission_options
@click.option("--command", "line", metavar="TEXT", help="The command as one text; split as a shell would.")
@click.option("--follow", "-f", is_flag=True, help="Stay with it and end with its exit code, as run does.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent and what stays behind; send nothing.")
@json_option
@click.argument("words", metavar="[--] [CMD]...", nargs=-1, type=click.UNPROCESSED)
def create(
    words: tuple[str, ...],
    *,
    submission: Submission,
    line: str | None,
    follow: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Send a directory away as a job that runs CMD, and print the job's id.

    CMD is a program with its arguments; no shell looks at them.

    \b
    gradient jobs create --name nightly -- python train.py --epochs 10
    gradient jobs create --workspace none --command "nvidia-smi -L"
    """
    if line is not None and words:
        raise click.UsageError("Give the command once: as --command, or after --.")
    if line is not None:
        try:
            words = tuple(shlex.split(line))
        except ValueError as error:
            raise click.UsageError(f"--command cannot be split: {error}.") from None
    if not words and not dry_run:
        raise click.UsageError("Say what to run: gradient jobs create -- CMD ...")
    from gradient_jupyter.cli.submit import submit

    return submit(words, submission, follow=follow, dry_run=dry_run, as_json=as_json)
