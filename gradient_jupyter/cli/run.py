"""``gradient run``: this directory, one command, its output here, its exit code ours."""

from __future__ import annotations

import click

from gradient_jupyter.cli.options import Submission, json_option, submission_options


@click.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    short_help="Send this directory away as a job and follow it.",
)
@submission_options
@click.option("--detach", "-d", is_flag=True, help="Leave once the job is accepted; print its id.")
@click.option(
    "--receipt", metavar="FILE", help="Repeat the job of that receipt, with what is said beside it."
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent and what stays behind; send nothing.")
@json_option
@click.argument("words", metavar="X [ARGS]...", nargs=-1, type=click.UNPROCESSED)
def run(
    words: tuple[str, ...],
    *,
    submission: Submission,
    detach: bool,
    receipt: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run X in a copy of this directory, follow it, and end with its exit code.

    X that ends in .py runs in the Python of this command; anything else is a program with its arguments,
    and no shell looks at them. Options for gradient stand before X, those after it belong to X.

    Ctrl-C leaves; the job goes on. Exit codes: the job's own; 130 cancelled; 125 the platform failed;
    2 what was typed; 1 anything else.

    \b
    gradient run train.py --epochs 10
    gradient run --machineType A4000 --env SEED=1 train.py
    gradient run bash -c 'make all > $GRADIENT_ARTIFACTS_DIR/log'
    gradient run --workspace git+https://github.com/owner/repo@main train.py
    """
    from gradient_jupyter.cli.submit import repeat, submit

    if receipt is not None:
        if dry_run:
            raise click.UsageError("A receipt says what its job would send: --dry-run adds nothing to it.")
        again = _command(words, submission) if words else None
        return repeat(receipt, again, submission, follow=not detach, as_json=as_json)
    command = _command(words, submission) if words or not dry_run else ()
    return submit(command, submission, follow=not detach, dry_run=dry_run, as_json=as_json)


def _command(words: tuple[str, ...], submission: Submission) -> tuple[str, ...]:
    """The argument vector that ``words`` ask for."""
    from gradient_jupyter.cli.failures import Failed

    if not words or not words[0]:
        raise click.UsageError("Say what to run, for example: gradient run train.py")
    first, rest = words[0], words[1:]
    if first.endswith(".ipynb"):
        raise Failed(
            "Notebooks do not run as jobs yet.",
            next=f"gradient run jupyter nbconvert --to notebook --execute {first} --output-dir /artifacts",
            code="notebook",
        )
    if not first.endswith(".py"):
        return words
    return ("python", _script(first, submission.workspace), *rest)


def _script(name: str, workspace: str | None) -> str:
    """The script as its job finds it: relative to the directory that is sent."""
    from pathlib import Path

    from gradient_jupyter.cli.failures import Failed
    from gradient_jupyter.workspace.repository import is_repository

    if workspace is None or is_repository(workspace):
        return name  # what is there shows when it runs
    path = Path(workspace).expanduser()
    if path.is_file():  # a zip, whose content shows when it runs, or the script alone
        return path.name if Path(name).resolve() == path.resolve() else name
    root = path.resolve()
    here = (root / name).resolve() if not Path(name).is_absolute() else Path(name).resolve()
    if not here.is_file():
        raise Failed(
            f"There is no {name} in {root}.", next="Check the name, or name its directory: --workspace PATH."
        )
    if Path(name).is_absolute() and here.is_relative_to(root):
        return str(here.relative_to(root))
    return name
