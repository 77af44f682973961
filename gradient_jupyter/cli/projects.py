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
    """One project, by its id or name.  [this directory's]"""
    from gradient_jupyter.cli.sheet import facts
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean, count, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    with Client() as client:
        found = _of_directory(client) if project is None and named is None else _one(client, project, named)
    if as_json:
        print_json(found)
        return 0
    facts(
        [
            ("Project", f"{clean(found.name)}  {found.id}"),
            ("Jobs", count(found.jobs, "job")),
            ("Owner", clean(found.owner)),
            ("Members", count(len(found.members), "member") if found.members else ""),
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


@projects.command()
@click.argument("names", metavar="[PROJECT] NAME", nargs=-1)
@click.option("--id", "--projectId", "--project-id", "named", hidden=True)
@click.option("--name", "new", hidden=True)
@json_option
def rename(*, names: tuple[str, ...], named: str | None, new: str | None, as_json: bool) -> int:
    """Give a project another name. Everything in it stays, and so does its id.

    \b
    gradient projects rename leaf-health leaf-health-2
    """
    from pathlib import Path

    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client, directory

    given = [*names, *([new] if new is not None else [])]
    if len(given) != (1 if named is not None else 2):
        raise click.UsageError("Say which, and its new name: gradient projects rename PROJECT NAME")
    with Client() as client:
        found = _one(client, None if named is not None else given[0], named)
        renamed = client.projects.rename(found.id, given[-1])
    directory.rename(Path(), renamed.id, renamed.name)
    if as_json:
        print_json(renamed)
    else:
        note(f"  {clean(found.name)} is called {clean(renamed.name)} now  {renamed.id}")
    return 0


@projects.command("init")
@click.argument("project", required=False)
@click.option("--id", "--projectId", "--project-id", "named", hidden=True)
@click.option("--name", "name", hidden=True)
@json_option
def init_directory(*, project: str | None, named: str | None, name: str | None, as_json: bool) -> int:
    """Let this directory's jobs belong to PROJECT, from now on.

    It is written to .ps_project/config.json. A project that is not there yet is made by
    the first job. Without PROJECT: one that is called like the directory.
    """
    from pathlib import Path

    from gradient_jupyter.cli.failures import Failed
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client, directory
    from gradient_jupyter.resources.errors import NotFound

    word = project if project is not None else name
    project_id = ""
    if named is not None or (word is not None and _ID.match(word)):
        with Client() as client:
            found = client.projects.get(named or word or "")
        word, project_id = found.name, found.id
    elif word is None:
        word, known = directory.of_directory(Path())
        if known is not None:
            raise NotFound(f"This directory belongs to {known} already.", next="gradient projects clear")
    directory.forget(Path())
    if not directory.remember(Path(), project=word or "", project_id=project_id):
        raise Failed(
            f"{Path().absolute()} cannot remember its project.",
            next="It is written to .ps_project, never in a home directory, and never through a link.",
        )
    if as_json:
        print_json({"project": word, "projectId": project_id or None})
    else:
        note(f"  Jobs of this directory belong to {clean(word or '')}.")
    return 0


@projects.command("clear")
@json_option
def clear_directory(*, as_json: bool) -> int:
    """Let this directory forget its project and its last job. Nothing on the server changes."""
    from pathlib import Path

    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import directory

    forgotten = directory.forget(Path())
    if as_json:
        print_json({"forgotten": forgotten})
    else:
        note("  Forgotten." if forgotten else "  This directory remembered nothing.")
    return 0


@projects.group()
def members() -> None:
    """Who shares a project, and as what."""


_ROLE = click.Choice(("viewer", "member", "admin"), case_sensitive=False)


@members.command("list")
@click.argument("project")
@json_option
def list_members(*, project: str, as_json: bool) -> int:
    """Who shares a project, its owner first."""
    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client

    with Client() as client:
        found = client.projects.members(_one(client, project, None).id).list()
    if as_json:
        print_json(found)
    else:
        table(
            (Column("Name", gives=True), Column("Role"), Column("Principal", gives=True)),
            (
                (clean(one.name), "owner" if one.owner else one.role.value, (clean(one.principal), "dim"))
                for one in found
            ),
        )
    return 0


@members.command("add")
@click.argument("project")
@click.argument("who", metavar="PRINCIPAL")
@click.option("--role", type=_ROLE, default="member", metavar="ROLE", help="viewer, member, admin.  [member]")
@json_option
def add_member(*, project: str, who: str, role: str, as_json: bool) -> int:
    """Make somebody a member.

    PRINCIPAL is a person's name, user:ID, or group:NAME of a group of yours. A viewer sees
    jobs, logs and artifacts; a member runs and stops jobs; an admin also deletes, and
    decides who shares the project.

    \b
    gradient projects members add leaf-health maria
    gradient projects members add leaf-health group:botany --role viewer
    """
    return _set(project, who, role, as_json=as_json)


@members.command("set")
@click.argument("project")
@click.argument("who", metavar="PRINCIPAL")
@click.option("--role", type=_ROLE, required=True, metavar="ROLE", help="viewer, member, admin.")
@json_option
def set_member(*, project: str, who: str, role: str, as_json: bool) -> int:
    """Change what a member may do."""
    return _set(project, who, role, as_json=as_json)


@members.command("remove")
@click.argument("project")
@click.argument("who", metavar="PRINCIPAL")
@json_option
def remove_member(*, project: str, who: str, as_json: bool) -> int:
    """End a membership. Jobs that the member has sent stay in the project."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client

    with Client() as client:
        found = _one(client, project, None)
        left = client.projects.members(found.id).remove(who)
    if as_json:
        print_json(left)
    else:
        note(f"  {clean(who)} shares {clean(found.name)} no more.")
    return 0


def _set(project: str, who: str, role: str, *, as_json: bool) -> int:
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client

    with Client() as client:
        found = client.projects.members(_one(client, project, None).id).set(who, role)
    if as_json:
        print_json(found)
    else:
        note(f"  {clean(who)} shares {clean(found.name)} as {role}.")
    return 0


def _of_directory(client: Client) -> Project:
    """The project that a job from here would belong to."""
    from pathlib import Path

    from gradient_jupyter.client import directory

    name, project_id = directory.of_directory(Path())
    return client.projects.get(project_id) if project_id is not None else client.projects.find(name or "")


def _one(client: Client, word: str | None, named_id: str | None) -> Project:
    """The project a person means: an id, or a name."""
    if (word is None) == (named_id is None):
        raise click.UsageError("Name one project by its id or its name; gradient projects list shows them.")
    if named_id is not None:
        return client.projects.get(named_id)
    assert word is not None
    return client.projects.get(word) if _ID.match(word) else client.projects.find(word)
