"""The verbs, where each is found and what it is for in one line. Imports nothing, so that help is quick."""

from __future__ import annotations


class Verb:
    """``name`` is that of the command in its module."""

    def __init__(self, module: str, name: str, summary: str, aliases: tuple[str, ...] = ()) -> None:
        self.module = module
        self.name = name
        self.summary = summary
        self.aliases = aliases


VERBS: dict[str, Verb] = {
    "run": Verb("run", "run", "Send this directory away as a job, follow it, end with its exit code"),
    "jobs": Verb("jobs", "jobs", "create, list, show, logs, metrics, waitfor, receipt, rerun, stop, ..."),
    "projects": Verb(
        "projects", "projects", "list, create, show, rename, delete, members, init, clear", ("project",)
    ),
    "datasets": Verb("datasets", "datasets", "create, update, list, show, files, delete"),
    "secrets": Verb("secrets", "secrets", "list, set, delete passwords and tokens for jobs"),
    "machineTypes": Verb(
        "machine_types", "machine_types", "What a job can run on, and what is free", ("machine-types",)
    ),
    "login": Verb("login", "login", "Remember a server and a token for it"),
    "logout": Verb("login", "logout", "Forget them; your own server is used again"),
    "whoami": Verb("login", "whoami", "Which server the commands speak to, and as whom"),
    "server": Verb("server", "server", "start, stop, status of your own server"),
    "admin": Verb("admin", "admin", "df, gc, doctor, audit, rotate-key: disk, what is wrong, who did what"),
    "tokens": Verb("tokens", "tokens", "create, list, revoke: for CI and other programs of yours"),
    "completion": Verb("completion", "completion", "Completion of commands for bash, zsh or fish"),
    "version": Verb("version", "version", "The version of this program"),
}

JOB_VERBS: dict[str, Verb] = {
    "create": Verb("create", "create", "Send a directory away as a job"),
    "list": Verb("jobs_read", "list_jobs", "Jobs, newest first"),
    "show": Verb("jobs_read", "show", "One job: where it is, why, and what to do next", ("details",)),
    "logs": Verb("jobs_follow", "logs", "What a job has printed; --follow to stay with it"),
    "metrics": Verb("jobs_metrics", "metrics", "Its numbers, as a table with curves; --follow to watch"),
    "waitfor": Verb("jobs_follow", "waitfor", "Wait until a job is over, or in a state"),
    "receipt": Verb("jobs_receipt", "receipt", "Write what it takes to run it exactly so again"),
    "rerun": Verb("jobs_rerun", "rerun", "Run a job's files once more, with what you change", ("clone",)),
    "tags": Verb("jobs_tags", "tags", "add, remove, set the tags of a job"),
    "stop": Verb("jobs_write", "stop", "Ask jobs to end"),
    "delete": Verb("jobs_write", "delete", "Remove jobs with their logs and artifacts", ("destroy",)),
    "artifacts": Verb("artifacts", "artifacts", "list, download, delete what a job left in /artifacts"),
}


#: What Gradient's first command line had as one word, and as a verb of jobs.
OLD_JOB_VERBS: dict[str, Verb] = {
    "artifactsList": Verb("artifacts", "list_artifacts", ""),
    "artifactsGet": Verb("artifacts", "download", ""),
    "artifactsDestroy": Verb("artifacts", "delete", ""),
    "machineTypes": Verb("machine_types", "machine_types", ""),
}


def resolve(verbs: dict[str, Verb], word: str) -> tuple[str, Verb] | None:
    """The verb that ``word`` names or is another spelling of."""
    for name, verb in verbs.items():
        if word == name or word in verb.aliases:
            return name, verb
    return None


def overview() -> str:
    """What ``gradient --help`` prints."""
    rows = "\n".join(f"  {name:<13} {verb.summary}" for name, verb in VERBS.items())
    return f"""\
Usage: gradient COMMAND ...

Send the directory you are in away as a job, watch it, and fetch what it leaves in /artifacts.

{rows}

  gradient run train.py --epochs 10       run it in a copy of this directory
  gradient run --dry-run train.py         what would be sent, and what stays behind
  gradient run -d -- make all             leave at once; prints the job's id
  gradient jobs logs --follow JOB         watch it again, from anywhere
  gradient jobs artifacts download JOB    fetch what it left

Each command explains itself with --help, and prints JSON with --json. What matches .gitignore or
.gradientignore is not sent. Completion: eval "$(gradient completion bash)" (or zsh, fish).
Your own server starts by itself; gradient login, or GRADIENT_URL and GRADIENT_TOKEN, name another.
"""
