"""Options and arguments that several commands share."""

from __future__ import annotations

import datetime
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
    """``JOB``, or ``--id JOB`` as Gradient's users type it; without one the last job of this directory.
    Passed on as ``job_id``."""
    return _job_argument(command, else_last=True)


def named_job_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """As ``job_argument``, for what cannot be undone: the job has to be named."""
    return _job_argument(command, else_last=False)


def _job_argument(command: Callable[..., Any], *, else_last: bool) -> Callable[..., Any]:
    @click.argument("job_id", metavar="[JOB]" if else_last else "JOB", required=False)
    @click.option("--id", "--jobId", "--job-id", "named_id", hidden=True)
    @functools.wraps(command)
    def with_job(*args: Any, job_id: str | None, named_id: str | None, **more: Any) -> Any:
        if job_id is not None and named_id is not None:
            raise click.UsageError("Name one job, once.")
        given = job_id if job_id is not None else named_id
        return command(*args, job_id=_last_job(else_last) if given is None else given, **more)

    return with_job


def _last_job(allowed: bool) -> str:
    """The last job of this directory; says which one it is."""
    from gradient_jupyter.client import directory

    job_id = directory.last_job() if allowed else None
    if job_id is None:
        raise click.UsageError("Name one job by its id; gradient jobs list shows them.")
    from gradient_jupyter.cli.terminal import note

    note(f"  {job_id} is the last job of this directory.")
    return job_id


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


class Moment(click.ParamType[datetime.datetime]):
    """``2h`` (so long ago), ``2026-11-24``, ``2026-11-24 14:30``; local time, unless it says another."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime.datetime:
        if isinstance(value, datetime.datetime):
            return value
        try:
            return datetime.datetime.fromisoformat(value.strip()).astimezone()
        except (ValueError, OverflowError, OSError):
            pass
        try:
            ago = datetime.timedelta(seconds=Duration().convert(value, None, None))
            return datetime.datetime.now(datetime.UTC) - ago
        except (click.BadParameter, OverflowError):
            self.fail(f"{value!r} is no time: 2h, 7d, 2026-11-24, '2026-11-24 14:30'.", param, ctx)


class Running(NamedTuple):
    """How a job is to be run. None: as it is without saying so."""

    priority: int | None
    retries: int | None
    max_duration_s: float | None
    tags: tuple[str, ...] | None
    ports: tuple[str, ...] | None


class Submission(NamedTuple):
    """What ``run`` and ``jobs create`` were asked to send."""

    workspace: str | None
    project: str | None
    project_id: str | None
    name: str | None
    machine_type: str | None
    env: dict[str, str]
    max_size: str | None
    ignore: tuple[str, ...]
    init: bool
    """Whether the directory remembers its project."""
    running: Running
    workspace_username: str | None = None
    workspace_password: str | None = None
    datasets: tuple[str, ...] = ()


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
    @click.option("--tags", "tag_lists", multiple=True, hidden=True)
    @click.option(
        "--ports",
        metavar="EXT:INT",
        multiple=True,
        help="Reach INT of the job at EXT while it runs; repeatable, or EXT:INT,EXT:INT. 'none' leaves "
        "out those of a receipt, a rerun or an options file.",
    )
    @functools.wraps(command)
    def with_running(
        *args: Any,
        retries: int | None,
        max_duration_s: float | None,
        priority: int | None,
        tags: tuple[str, ...],
        tag_lists: tuple[str, ...],
        ports: tuple[str, ...],
        **more: Any,
    ) -> Any:
        tags = (*tags, *separated(tag_lists))
        none = ports == ("none",)
        running = Running(priority, retries, max_duration_s, tags or None, () if none else ports or None)
        return command(*args, running=running, **more)

    return with_running  # fmt: skip


def dataset_option(command: F) -> F:
    """``--dataset``. Passed on as ``datasets``."""
    return click.option(
        "--dataset",
        "datasets",
        metavar="NAME[:VERSION]",
        multiple=True,
        help="Data to read at /datasets/NAME; repeatable.  Without VERSION: the newest.",
    )(command)


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
    @click.option("--jobEnv", "--experimentEnv", "json_text", hidden=True)
    @functools.wraps(command)
    def with_env(
        *args: Any, pairs: tuple[str, ...], files: tuple[str, ...], json_text: str | None, **more: Any
    ) -> Any:
        variables: dict[str, str] = {} if json_text is None else _json_variables(json_text)
        for file in files:
            variables |= _environment(_lines(file), f"--env-file {file}")
        return command(*args, env=variables | _environment(pairs, "--env"), **more)

    return with_env  # fmt: skip


def _json_variables(text: str) -> dict[str, str]:
    """The variables of a JSON object, as Gradient's ``--jobEnv`` took them."""
    import json

    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or any(isinstance(value, dict | list) for value in said.values()):
        raise click.UsageError("""--jobEnv is a JSON object of variables, such as '{"SEED": 1}'.""")
    pairs = (
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in said.items()
    )
    return _environment(pairs, "--jobEnv")


def separated(texts: Iterable[str]) -> tuple[str, ...]:
    """The parts of lists whose parts are separated by commas."""
    return tuple(part for text in texts for each in text.split(",") if (part := each.strip()))


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
    @click.option(
        "--ignoreFiles",
        "--ignore-files",
        "ignore",
        metavar="PATTERN",
        multiple=True,
        help="Leave these out as well, as .gradientignore would; repeatable, or A,B.",
    )
    @click.option("--workspaceRef", "ref", hidden=True)
    @click.option(
        "--init",
        type=bool,
        default=True,
        metavar="BOOL",
        help="Whether a directory's first job writes its project to .ps_project.  [true]",
    )
    @click.option("--no-init", "no_init", is_flag=True, help="The same as --init false.")
    @dataset_option
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
        ignore: tuple[str, ...],
        ref: str | None,
        init: bool,
        no_init: bool,
        env: dict[str, str],
        running: Running,
        datasets: tuple[str, ...],
        **more: Any,
    ) -> Any:
        if project is not None and project_id is not None:
            raise click.UsageError("--project and --projectId name the same thing: give one of them.")
        for option, value in (("--project", project), ("--name", name), ("--workspace", workspace)):
            if value == "":
                raise click.UsageError(f"{option} is empty.")
        if ref is not None:
            workspace = _at(workspace, ref)
        submission = Submission(
            workspace=None if workspace == "none" else workspace,
            max_size=max_size,
            ignore=separated(ignore),
            init=init and not no_init,
            project=project,
            project_id=project_id,
            name=name,
            machine_type=machine_type,
            env=env,
            running=running,
            workspace_username=workspace_username,
            workspace_password=workspace_password,
            datasets=datasets,
        )
        return command(*args, submission=submission, **more)

    return with_submission


def _at(workspace: str, ref: str) -> str:
    """A repository at a branch, a tag or a commit."""
    address, mark, below = workspace.partition("#")
    if not address.lower().startswith("git+") or "@" in address.partition("://")[2]:
        raise click.UsageError(
            "--workspaceRef names what to take of a repository: --workspace git+https://HOST/REPO."
        )
    return f"{address}@{ref}{mark}{below}"


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
