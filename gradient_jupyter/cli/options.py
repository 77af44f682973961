"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_NAME = r"[A-Za-z_][A-Za-z0-9_]*\Z"


def json_option(command: F) -> F:
    """``--json``: the result as JSON, and errors too."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        if isinstance(ctx.obj, dict):
            ctx.obj["gradient.json"] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Print JSON."
    )(command)


def job_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """``JOB``, or ``--id JOB`` as Gradient's users type it. Passed on as ``job_id``."""

    @click.argument("job_id", metavar="JOB", required=False)
    @click.option("--id", "--jobId", "--job-id", "named_id", hidden=True)
    @functools.wraps(command)
    def with_job(*args: Any, job_id: str | None, named_id: str | None, **more: Any) -> Any:
        if (job_id is None) == (named_id is None):
            raise click.UsageError("Name one job by its id; gradient jobs list shows them.")
        return command(*args, job_id=job_id or named_id, **more)

    return with_job


class Submission(NamedTuple):
    """What ``run`` and ``jobs create`` were asked to send."""

    workspace: str | None
    project: str | None
    project_id: str | None
    name: str | None
    machine_type: str | None
    env: dict[str, str]


def submission_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a new job. Passed on as ``submission``."""

    @click.option("--machineType", "--machine-type", "machine_type", metavar="NAME", help="What to run on.")
    @click.option(
        "--project", metavar="NAME", help="The project's name; made when it is new.  [this directory's]"
    )
    @click.option("--projectId", "--project-id", "project_id", metavar="ID", help="The project, by its id.")
    @click.option("--name", metavar="NAME", help="What to call the job.")
    @click.option(
        "--workspace", metavar="PATH", default=".", help="The directory to send, or none.  [this directory]"
    )
    @click.option(
        "--env",
        "-e",
        "pairs",
        metavar="NAME=VALUE",
        multiple=True,
        help="A variable for the job; repeatable.",
    )
    @functools.wraps(command)
    def with_submission(
        *args: Any,
        machine_type: str | None,
        project: str | None,
        project_id: str | None,
        name: str | None,
        workspace: str,
        pairs: tuple[str, ...],
        **more: Any,
    ) -> Any:
        if project is not None and project_id is not None:
            raise click.UsageError("--project and --projectId name the same thing: give one of them.")
        for option, value in (("--project", project), ("--name", name), ("--workspace", workspace)):
            if value == "":
                raise click.UsageError(f"{option} is empty.")
        submission = Submission(
            workspace=None if workspace == "none" else workspace,
            project=project,
            project_id=project_id,
            name=name,
            machine_type=machine_type,
            env=_environment(pairs),
        )
        return command(*args, submission=submission, **more)

    return with_submission


def _environment(pairs: tuple[str, ...]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for pair in pairs:
        name, given, value = pair.partition("=")
        if not re.match(_NAME, name):
            raise click.UsageError(f"--env {pair!r}: a variable looks like NAME=VALUE.")
        if not given:
            if name not in os.environ:
                raise click.UsageError(f"--env {name}: it has no value, and there is none in this shell.")
            value = os.environ[name]
        variables[name] = value
    return variables
