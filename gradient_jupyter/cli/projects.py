"""``gradient projects``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from gradient_jupyter.cli.command import Words
from gradient_jupyter.cli.options import json_option
from gradient_jupyter.cli.terminal import note, say

if TYPE_CHECKING:
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.project import Project

_ID = re.compile(r"pr[0-9a-z]{12}\Z")


@click.group(cls=Words)
def projects() -> None:
    """Projects: what jobs belong to. A directory's first job makes one, named after it."""


@projects.command("list")
@json_option
def list_projects(*, as_json: bool) -> int:
    """All your projects."""
    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    with Client() as client:
        found = list(client.projects.list())
    if as_json:
        print_json(found)
    elif not found:
        note("  No projects yet. The first job of a directory makes one: gradient run train.py")
    else:
        now = now_us()
        table(
            (Column("Project", gives=True), Column("Id"), Column("Jobs", right=True), Column("Created")),
            (
                (clean(one.name), (one.id, "dim"), f"{one.jobs:,}", (moment(one.created_us, now), "dim"))
                for one in found
            ),
        )
    return 0


@projects.command()
@click.argument("name", required=False)
@click.option("--name", "named", hidden=True)
@json_option
def create(*, name: str | None, named: str | None, as_json: bool) -> int:
    """Make a project called NAME, and print its id."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client

    if (name is None) == (named is None):
        raise click.UsageError("Say what to call it: gradient projects create NAME")
    with Client() as client:
        project = client.projects.create(name or named or "")
    if as_json:
        print_json(project)
    else:
        say(project.id)
    return 0


@projects.command()
@click.argument("project", required=False)
@click.option("--id", "--projectId", "--project-id", "named", hidden=True)
@json_option
def show(*, project: str | None, named: str | None, as_json: bool) -> int:
    """One project, by its id or its name."""
    from gradient_jupyter.cli.sheet import facts
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean, count, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    with Client() as client:
        found = _one(client, project, named)
    if as_json:
        print_json(found)
        return 0
    facts(
        [
            ("Project", f"{clean(found.name)}  {found.id}"),
            ("Jobs", count(found.jobs, "job")),
            ("Owner", clean(found.owner)),
            ("Created", moment(found.created_us, now_us())),
            ("Next", "it is being removed, with its jobs" if found.deleting else ""),
        ]
    )
    return 0


@projects.command()
@click.argument("project", required=False)
@click.option("--id", "--projectId", "--project-id", "named", hidden=True)
@click.option("--jobs", "jobs_too", is_flag=True, help="Its jobs, with logs and artifacts, go too.")
@json_option
def delete(*, project: str | None, named: str | None, jobs_too: bool, as_json: bool) -> int:
    """Remove a project, by its id or its name. One that holds jobs is kept, unless --jobs is given."""
    from gradient_jupyter.cli.failures import Failed
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.errors import Conflict

    with Client() as client:
        found = _one(client, project, named)
        try:
            gone = client.projects.delete(found.id, jobs=jobs_too)
        except Conflict as error:
            if error.code != "project-not-empty":
                raise
            raise Failed(
                error.message,
                next=f"gradient projects delete --jobs {found.id} removes them too.",
                code=error.code,
            ) from None
    if as_json:
        print_json(gone)
    else:
        note(f"  {clean(gone.name)}  {gone.id}  is being removed")
    return 0


def _one(client: Client, word: str | None, named_id: str | None) -> Project:
    """The project a person means: an id, or a name."""
    if (word is None) == (named_id is None):
        raise click.UsageError("Name one project by its id or its name; gradient projects list shows them.")
    if named_id is not None:
        return client.projects.get(named_id)
    assert word is not None
    return client.projects.get(word) if _ID.match(word) else client.projects.find(word)
