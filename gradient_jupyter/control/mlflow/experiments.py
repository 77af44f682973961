"""Projects as MLflow's experiments: found by name, tagged, renamed.

A running job sees one: its own project. What it logs goes there, whatever its script calls it: so that
``mlflow.set_experiment`` works in a script that was written elsewhere, every name is answered with that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.people import access, audit, projects
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane
from gradient_jupyter.control.running import attempts
from gradient_jupyter.resources.decoding import convert
from gradient_jupyter.resources.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.project import Project, ProjectName
from gradient_jupyter.resources.run_filter import Condition, Order
from gradient_jupyter.store import experiments as rows
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store.experiments import Experiment

#: What MLflow's clients call the experiment of somebody who has chosen none.
DEFAULT_ID = "0"
DEFAULT_NAME = "Default"
MOST_TAGS = 1000


class NameTaken(InvalidRequest):
    """As MLflow has it: 400, not 409."""

    default_code = "name-taken"


async def create(
    plane: Plane, principal: Principal, name: str, location: str | None, tags: Sequence[tuple[str, str]]
) -> Project:
    if principal.attempt is not None:
        own = (await by_name(plane, principal, name)).id
        return await plane.database.read(
            lambda connection: access.project(connection, principal, own, Role.VIEWER)
        )
    if location:
        raise InvalidRequest(
            "Artifacts lie with this server, so an experiment has no artifact_location of its own.",
            next="Leave artifact_location out.",
            code="no-artifact-location",
        )
    access.check_unbound(principal)
    called = _name(name)
    for key, value in tags:
        _check_tag(key, value)
    plane.check_space()

    def work(connection: Connection) -> Project:
        if project_rows.named(connection, principal.owner, called):
            raise NameTaken(f"Experiment '{called}' already exists.", next="It is your project of that name.")
        project = project_rows.create(connection, principal.owner, called, principal.user_id)
        rows.set_tags(connection, project.id, tags)
        return project

    return await plane.database.write(work)


async def get(plane: Plane, principal: Principal, experiment_id: str) -> Experiment:
    def work(connection: Connection) -> Experiment:
        project_id = _resolved(connection, principal, experiment_id)
        return rows.get(connection, _project(connection, principal, project_id, Role.VIEWER).id)

    return await plane.database.read(work)


async def by_name(plane: Plane, principal: Principal, name: str) -> Experiment:
    """One's own, before one that somebody shares. Inside a job that of the job, whatever the name."""

    def work(connection: Connection) -> Experiment:
        if principal.attempt is not None:
            found: str | None = attempts.living(connection, *principal.attempt).project_id
        else:
            found = rows.named(connection, principal.owner, principal.all, name)
        if found is None:
            raise _no_experiment(name)
        return rows.get(connection, found)

    return await plane.database.read(work)


async def search(
    plane: Plane,
    principal: Principal,
    conditions: Sequence[Condition],
    orders: Sequence[Order],
    deleted: bool | None,
    limit: int,
    offset: int,
) -> list[Experiment]:
    def work(connection: Connection) -> list[Experiment]:
        only = None
        if principal.attempt is not None:
            only = attempts.living(connection, *principal.attempt).project_id
        return rows.search(connection, principal.all, only, conditions, orders, deleted, limit, offset)

    return await plane.database.read(work)


async def rename(plane: Plane, principal: Principal, experiment_id: str, name: str) -> None:
    called = _name(name)

    def work(connection: Connection, project: Project) -> None:
        if project.name == called:
            return
        there = project_rows.named(connection, project.owner, called)
        if there is not None:
            raise NameTaken(f"Experiment '{called}' already exists.", next="Choose another name.")
        project_rows.rename(connection, project.id, called)
        told = f"{project.name} → {called}"
        audit.record(connection, "project.rename", "project", project.id, detail=told)

    await _change(plane, principal, experiment_id, Role.ADMIN, work)


async def delete(plane: Plane, principal: Principal, experiment_id: str) -> None:
    """A project with jobs or runs in it is refused, as it cannot be taken back."""
    await plane.database.read(lambda connection: _check_outside(connection, principal))
    await projects.delete(plane, principal, experiment_id, with_jobs=False)


async def set_tag(plane: Plane, principal: Principal, experiment_id: str, key: str, value: str) -> None:
    _check_tag(key, value)
    plane.check_space()

    def work(connection: Connection, project: Project) -> None:
        rows.set_tags(connection, project.id, [(key, value)])
        if rows.count_tags(connection, project.id) > MOST_TAGS:
            raise InvalidRequest(
                f"The experiment {project.id} has {MOST_TAGS:,} tags, which is as many as one may have.",
                code="too-many-words",
            )

    await _change(plane, principal, experiment_id, Role.MEMBER, work)


async def delete_tag(plane: Plane, principal: Principal, experiment_id: str, key: str) -> None:
    def work(connection: Connection, project: Project) -> None:
        if not rows.delete_tag(connection, project.id, key):
            raise NotFound(f"The experiment {project.id} has no tag {key[:100]!r}.", code="no-such-tag")

    await _change(plane, principal, experiment_id, Role.MEMBER, work)


def place_for_run(connection: Connection, principal: Principal, experiment_id: str) -> project_rows.Place:
    """The project of a new run. Of somebody who has chosen none it is ``Default``, made when it is needed;
    through a token that opens one project, that one."""
    if experiment_id in ("", DEFAULT_ID) and principal.bound is not None:
        experiment_id = principal.bound
    elif experiment_id in ("", DEFAULT_ID):
        named = project_rows.place_named(connection, principal.owner, DEFAULT_NAME)
        if named is not None:
            experiment_id = named.id
        else:
            made = project_rows.create(connection, principal.owner, DEFAULT_NAME, principal.user_id)
            experiment_id = made.id
    place = access.place(connection, principal, experiment_id, Role.MEMBER)
    if place.deleting:
        raise Conflict(
            f"The project {place.name!r} is being deleted.",
            next="Use another one, or wait until it is gone.",
            code="project-deleting",
        )
    return place


def check_own(job: Job, experiment_id: str) -> None:
    """Whether an attempt of the job means its own project."""
    if experiment_id not in ("", DEFAULT_ID, job.project_id):
        raise _not_inside(job, experiment_id)


def _project(connection: Connection, principal: Principal, project_id: str, role: Role) -> Project:
    if principal.attempt is not None:
        job = attempts.living(connection, *principal.attempt)
        if project_id != job.project_id:
            raise _not_inside(job, project_id)
    return access.project(connection, principal, project_id, role)


def _resolved(connection: Connection, principal: Principal, experiment_id: str) -> str:
    if experiment_id != DEFAULT_ID:
        return experiment_id
    if principal.attempt is not None:
        return attempts.living(connection, *principal.attempt).project_id
    if principal.bound is not None:
        return principal.bound
    named = project_rows.place_named(connection, principal.owner, DEFAULT_NAME)
    if named is None:
        raise _no_experiment(experiment_id)
    return named.id


async def _change(
    plane: Plane,
    principal: Principal,
    experiment_id: str,
    role: Role,
    work: Callable[[Connection, Project], None],
) -> None:
    def all_of_it(connection: Connection) -> None:
        _check_outside(connection, principal)
        project_id = _resolved(connection, principal, experiment_id)
        work(connection, access.project(connection, principal, project_id, role))

    await plane.database.write(all_of_it)


def _check_outside(connection: Connection, principal: Principal) -> None:
    if principal.attempt is None:
        return
    job = attempts.living(connection, *principal.attempt)
    raise Forbidden(
        f"A job does not make or change experiments: it logs into its own project, {job.project!r}.",
        next="Leave mlflow.set_experiment out, or send the job with --project.",
        code="attempt-token",
    )


def _name(name: str) -> str:
    try:
        return str(convert(name, ProjectName))
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            "An experiment is called by 1 to 200 characters on one line.", code="bad-name"
        ) from error


def _check_tag(key: str, value: str) -> None:
    if not 1 <= len(key) <= 250 or len(value) > 20_000:
        raise InvalidRequest(
            "A tag of an experiment has a key of 1 to 250 and a value of at most 20,000 characters.",
            code="bad-tag",
        )


def _not_inside(job: Job, name: str) -> NotFound:
    return NotFound(
        f"There is no experiment {name[:100]!r} inside a job: a job logs into its own project, "
        f"{job.project!r}.",
        next="Leave mlflow.set_experiment out, or send the job with --project.",
        code="no-such-experiment",
    )


def _no_experiment(name: str) -> NotFound:
    return NotFound(
        f"There is no experiment {name[:100]!r}.",
        next="An experiment is a project here: `gradient projects list` shows yours.",
        code="no-such-experiment",
    )
