"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

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


class Duration(click.ParamType[float]):
    """``90``, ``90s``, ``30m``, ``2h``, ``1h30m``, ``1d``: seconds as a number."""

    name = "duration"
    _UNITS: ClassVar[dict[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        text = value.strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
        if re.fullmatch(r"\d+(?:\.\d+)?", text):
            seconds = float(text)
        elif parts and "".join(number + unit for number, unit in parts) == text:
            seconds = sum(float(number) * self._UNITS[unit] for number, unit in parts)
        else:
            seconds = 0.0
        if seconds <= 0:
            self.fail(f"{value!r} is no duration: 90s, 30m, 2h, 1h30m, 1d.", param, ctx)
        return seconds


class Running(NamedTuple):
    """How a job is to be run. None: as it is without saying so."""

    priority: int | None
    retries: int | None
    max_duration_s: float | None
    tags: tuple[str, ...] | None


class Submission(NamedTuple):
    """What ``run`` and ``jobs create`` were asked to send."""

    workspace: str | None
    project: str | None
    project_id: str | None
    name: str | None
    machine_type: str | None
    env: dict[str, str]
    max_size: str | None
    running: Running
    workspace_username: str | None = None
    workspace_password: str | None = None


def running_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How often, how long and how urgently. Passed on as ``running``."""

    @click.option(
        "--retries",
        type=click.IntRange(0, 100),
        metavar="N",
        help="Start it again, up to N times, when it fails or is lost.  [0]",
    )
    @click.option(
        "--maxDuration",
        "--max-duration",
        "max_duration_s",
        type=Duration(),
        metavar="TIME",
        help="Stop an attempt that runs longer: 90s, 30m, 2h.  [no limit]",
    )
    @click.option(
        "--priority",
        type=click.IntRange(-100, 100),
        metavar="N",
        help="Before (or after) your other jobs that wait: -100 to 100.  [0]",
    )
    @click.option("--tag", "tags", metavar="TEXT", multiple=True, help="To find it again; repeatable.")
    @functools.wraps(command)
    def with_running(
        *args: Any,
        retries: int | None,
        max_duration_s: float | None,
        priority: int | None,
        tags: tuple[str, ...],
        **more: Any,
    ) -> Any:
        running = Running(priority, retries, max_duration_s, tags or None)
        return command(*args, running=running, **more)

    return with_running  # fmt: skip


def env_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--env`` and ``--env-file``. Passed on as ``env``."""

    @click.option(
        "--env",
        "-e",
        "pairs",
        metavar="NAME=VALUE",
        multiple=True,
        help="A variable for the job; repeatable.  NAME alone: as it is here.",
    )
    @click.option(
        "--envFile",
        "--env-file",
        "files",
        metavar="FILE",
        multiple=True,
        help="Variables from a file, one a line; # begins a comment line.",
    )
    @functools.wraps(command)
    def with_env(*args: Any, pairs: tuple[str, ...], files: tuple[str, ...], **more: Any) -> Any:
        variables: dict[str, str] = {}
        for file in files:
            variables |= _environment(_lines(file), f"--env-file {file}")
        return command(*args, env=variables | _environment(pairs, "--env"), **more)

    return with_env  # fmt: skip


def _lines(file: str) -> list[str]:
    """The variables of a file as Docker reads them: no quotes, no shell."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise click.UsageError(f"--env-file {file}: {why}.") from error
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def submission_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a new job. Passed on as ``submission``."""

    @click.option("--machineType", "--machine-type", "machine_type", metavar="NAME", help="What to run on.")
    @click.option(
        "--project", metavar="NAME", help="The project's name; made when it is new.  [this directory's]"
    )
    @click.option("--projectId", "--project-id", "project_id", metavar="ID", help="The project, by its id.")
    @click.option("--name", metavar="NAME", help="What to call the job.")
    @click.option(
        "--workspace",
        metavar="PATH",
        default=".",
        help="A directory, a .zip, another file, git+https://HOST/REPO@REF, or none.  [this directory]",
    )
    @click.option(
        "--workspaceUsername",
        "--workspace-username",
        "workspace_username",
        metavar="NAME",
        help="Of a private repository; needed where its password is no token.",
    )
    @click.option(
        "--workspacePassword",
        "--workspace-password",
        "workspace_password",
        metavar="secret:NAME",
        help="The secret that opens a private repository.",
    )
    @click.option(
        "--maxSize",
        "--max-size",
        "max_size",
        metavar="SIZE",
        help="The most to send, such as 2GiB, or none.  [$GRADIENT_WORKSPACE_LIMIT, else 512MiB]",
    )
    @env_options
    @running_options
    @functools.wraps(command)
    def with_submission(
        *args: Any,
        machine_type: str | None,
        project: str | None,
        project_id: str | None,
        name: str | None,
        workspace: str,
        workspace_username: str | None,
        workspace_password: str | None,
        max_size: str | None,
        env: dict[str, str],
        running: Running,
        **more: Any,
    ) -> Any:
        if project is not None and project_id is not None:
            raise click.UsageError("--project and --projectId name the same thing: give one of them.")
        for option, value in (("--project", project), ("--name", name), ("--workspace", workspace)):
            if value == "":
                raise click.UsageError(f"{option} is empty.")
        submission = Submission(
            workspace=None if workspace == "none" else workspace,
            max_size=max_size,
            project=project,
            project_id=project_id,
            name=name,
            machine_type=machine_type,
            env=env,
            running=running,
            workspace_username=workspace_username,
            workspace_password=workspace_password,
        )
        return command(*args, submission=submission, **more)

    return with_submission


def _environment(pairs: Iterable[str], said: str) -> dict[str, str]:
    variables: dict[str, str] = {}
    for pair in pairs:
        name, given, value = pair.partition("=")
        if not re.match(_NAME, name):
            raise click.UsageError(f"{said}: {pair!r} is no variable; one looks like NAME=VALUE.")
        if not given:
            if name not in os.environ:
                raise click.UsageError(f"{said}: {name} has no value, and there is none in this shell.")
            value = os.environ[name]
        variables[name] = value
    return variables
