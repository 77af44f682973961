"""Jobs as people see them: submitted, read, stopped, deleted. What follows from it is ``reconcile``'s."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from gradient_jupyter.control.data import datasets
from gradient_jupyter.control.people import access, audit
from gradient_jupyter.control.people.access import Principal
from gradient_jupyter.control.plane import Plane, job_name
from gradient_jupyter.control.running import ports
from gradient_jupyter.control.scheduling import machines
from gradient_jupyter.control.scheduling.machines import WHOLE_HOST
from gradient_jupyter.control.vault import secrets
from gradient_jupyter.resources.base import new_id, now_us
from gradient_jupyter.resources.dataset import JobDataset
from gradient_jupyter.resources.errors import Conflict, InvalidRequest, NotFound
from gradient_jupyter.resources.job import (
    CreateJob,
    Job,
    Moment,
    Phase,
    RerunJob,
    State,
    Target,
    UpdateJob,
)
from gradient_jupyter.resources.machine_type import MachineType
from gradient_jupyter.resources.owner import Role
from gradient_jupyter.resources.page import Attempts, JobQuery, Jobs
from gradient_jupyter.store import attempts as attempt_rows
from gradient_jupyter.store import jobs as rows
from gradient_jupyter.store import ledger, spent_keys
from gradient_jupyter.store import projects as project_rows
from gradient_jupyter.store import secrets as secret_rows
from gradient_jupyter.store import snapshots as snapshot_rows

T = TypeVar("T")
#: What was asked for, and the datasets that it has.
Asked = tuple[CreateJob, tuple[JobDataset, ...]]


async def machine_types(plane: Plane) -> tuple[MachineType, ...]:
    claims = await plane.database.read(ledger.taken)
    return machines.offer(await plane.sizes(), await plane.nodes(), claims)


async def submit(plane: Plane, principal: Principal, request: CreateJob, idempotency_key: str | None) -> Job:
    """Stores the job. Returns when it is durable; the same key never makes a second one."""
    machine_type = await _check_machine(plane, request.machine_type)

    def check(connection: Connection) -> Asked:
        if snapshot_rows.get(connection, principal.owner, request.snapshot) is None:
            raise NotFound(
                f"There is no snapshot {request.snapshot!r}.",
                next="Send the directory first (POST /snapshots).",
                code="no-such-snapshot",
            )
        return request, datasets.resolve(connection, plane, principal, request.datasets)

    return await _create(plane, principal, check, machine_type, idempotency_key)


async def rerun(
    plane: Plane, principal: Principal, job_id: str, changes: RerunJob, idempotency_key: str | None
) -> Job:
    """The same files and, where ``changes`` says nothing else, the same command once more, as a new job."""
    source = await plane.database.read(
        lambda connection: access.job(connection, principal, job_id, Role.MEMBER)
    )
    machine_type = await _check_machine(plane, changes.machine_type or source.machine_type)
    request = _repeated(source, changes)

    def check(connection: Connection) -> Asked:
        # Its files are kept as long as it is; whoever may run the job may have them run. So is its data.
        access.job(connection, principal, job_id, Role.MEMBER)
        if changes.datasets is None:
            datasets.check_public(plane, source.datasets)
            return request, source.datasets
        return request, datasets.resolve(connection, plane, principal, changes.datasets)

    # What somebody else has written gets nothing of one's own without being told to.
    theirs = (
        frozenset() if source.created_by == principal.user_id else request.env.keys() - changes.env.keys()
    )
    return await _create(
        plane, principal, check, machine_type, idempotency_key, rerun_of=job_id, theirs=theirs
    )


async def _create(
    plane: Plane,
    principal: Principal,
    check: Callable[[Connection], Asked],
    machine_type: str,
    idempotency_key: str | None,
    rerun_of: str | None = None,
    theirs: Set[str] = frozenset(),
) -> Job:
    """``theirs``: the variables that are as somebody else has sent them."""
    plane.check_space()

    def work(connection: Connection) -> tuple[Job, bool]:
        if idempotency_key and (found := _made(connection, principal, idempotency_key)):
            return found, False
        request, given = check(connection)
        project = _project(connection, principal, request)
        if idempotency_key and rows.is_key_taken(connection, project.owner, idempotency_key):
            raise Conflict(
                f"A job that somebody else has sent has the Idempotency-Key {idempotency_key!r}.",
                next="Take one that nobody else will take, for instance a random one.",
                code="idempotency-key-taken",
            )
        _check_queued(connection, plane, project.owner)
        ports.check(connection, principal, plane, request.ports)
        meant = secrets.meant(connection, principal, project, request.env, theirs)
        created = now_us()
        job = Job(
            id=new_id("j"), name=request.name or job_name(request.command), project_id=project.id,
            project=project.name, owner=project.owner, created_by=principal.user_id,
            number=project_rows.next_number(connection, project.id), command=request.command,
            snapshot=request.snapshot, machine_type=machine_type, state=State.PENDING, phase=Phase.QUEUED,
            target=Target.RUN, created_us=created, env=request.env, host=request.host,
            priority=request.priority, retries=request.retries, max_duration_s=request.max_duration_s,
            tags=tuple(dict.fromkeys(request.tags)), source=request.source, datasets=given,
            rerun_of=rerun_of, ports=request.ports,
            history=(Moment(state=State.PENDING, phase=Phase.QUEUED, time_us=created),),
        )  # fmt: skip
        rows.create(connection, job, idempotency_key)
        if meant:
            sender = access.through(connection, principal, project.id, Role.MEMBER)
            secret_rows.bind(connection, job.id, meant, sender)
        return job, True

    job, new = await plane.database.write(work)
    if new:
        plane.reconciler.look_at_queue()
    return await again(plane, job)


def _made(connection: Connection, principal: Principal, idempotency_key: str) -> Job | None:
    """The job that the same submit has made before. Raises ``Conflict`` when it was deleted since, and
    ``NotFound`` when its sender may not see it any more."""
    found = rows.by_idempotency_key(connection, principal.user_id, idempotency_key)
    if found is not None:
        return access.job(connection, principal, found.id, Role.VIEWER)
    if erased := spent_keys.job_of(connection, principal.user_id, idempotency_key):
        raise Conflict(
            f"This submit made the job {erased}, which has been deleted since.",
            next="To run it all the same, submit it anew.",
            code="job-deleted",
        )
    return None


async def get(plane: Plane, principal: Principal, job_id: str) -> Job:
    job = await plane.database.read(lambda connection: access.job(connection, principal, job_id, Role.VIEWER))
    return await again(plane, job)


async def page(plane: Plane, principal: Principal, query: JobQuery, before: int | None) -> Jobs:
    items, following = await plane.database.read(
        lambda connection: rows.page(connection, principal.all, query, before)
    )
    return Jobs(
        items=tuple(await _explained(plane, items)), next=None if following is None else str(following)
    )


async def attempts(plane: Plane, principal: Principal, job_id: str) -> Attempts:
    """Every run of its command, oldest first."""

    def work(connection: Connection) -> Attempts:
        access.job(connection, principal, job_id, Role.VIEWER)
        return Attempts(items=tuple(attempt_rows.of_job(connection, job_id)))

    return await plane.database.read(work)


async def update(plane: Plane, principal: Principal, job_id: str, changes: UpdateJob) -> Job:
    """Name and tags of any job; the priority of one that waits."""

    def work(connection: Connection) -> Job:
        job = access.job(connection, principal, job_id, Role.MEMBER)
        values: dict[str, Any] = {}
        if changes.name is not None:
            values["name"] = changes.name
        if changes.tags is not None:
            values["tags"] = tuple(dict.fromkeys(changes.tags))
        if changes.priority is not None and changes.priority != job.priority:
            if job.state is not State.PENDING:
                raise Conflict(
                    f"The job {job_id} waits no more ({job.state}), so a priority changes nothing.",
                    code="job-not-waiting",
                )
            values["priority"] = changes.priority
        return rows.change(connection, job, **values) if values else job

    job = await plane.database.write(work)
    plane.reconciler.look_at_queue()
    return (await _explained(plane, [job]))[0]


async def stop(plane: Plane, principal: Principal, job_id: str) -> Job:
    """Asks for its end; of a job that has ended already this changes nothing."""
    return await _aim(plane, principal, job_id, Target.CANCELLED, Role.MEMBER)


async def delete(plane: Plane, principal: Principal, job_id: str) -> Job:
    """Asks for its removal with everything it left; a running job is stopped first."""
    return await _aim(plane, principal, job_id, Target.DELETED, Role.ADMIN)


async def _aim(plane: Plane, principal: Principal, job_id: str, target: Target, role: Role) -> Job:
    def work(connection: Connection) -> Job:
        job = access.job(connection, principal, job_id, role)
        if job.target is Target.DELETED or job.target is target or (job.final and target is Target.CANCELLED):
            return job
        verb = "delete" if target is Target.DELETED else "stop"
        audit.record(connection, f"job.{verb}", "job", job.id, detail=f"in {job.project_id}: {job.name}")
        return rows.change(connection, job, target=target)

    job = await plane.database.write(work)
    plane.reconciler.look_at(job_id)
    return job


def _repeated(source: Job, changes: RerunJob) -> CreateJob:
    def chosen(new: T | None, old: T) -> T:
        return old if new is None else new

    env = {name: value for name, value in source.env.items() if name not in changes.unset} | changes.env
    elsewhere = changes.project is not None
    return CreateJob(
        command=chosen(changes.command, source.command), snapshot=source.snapshot, project=changes.project,
        project_id=changes.project_id or (None if elsewhere else source.project_id),
        name=changes.name or (job_name(changes.command) if changes.command else source.name),
        machine_type=changes.machine_type or source.machine_type, host=changes.host or source.host, env=env,
        priority=chosen(changes.priority, source.priority), retries=chosen(changes.retries, source.retries),
        max_duration_s=changes.max_duration_s or source.max_duration_s,
        tags=chosen(changes.tags, source.tags), source=source.source,
        ports=chosen(changes.ports, source.ports),
    )  # fmt: skip


def _project(connection: Connection, principal: Principal, request: CreateJob) -> project_rows.Place:
    if (request.project_id is None) == (request.project is None):
        raise InvalidRequest(
            "A job belongs to one project.", next="Give either project_id or project (its name)."
        )
    if request.project_id is not None:
        project = access.place(connection, principal, request.project_id, Role.MEMBER)
    else:
        assert request.project is not None
        named = access.place_named(connection, principal, request.project, Role.MEMBER)
        project = named or project_rows.place(
            connection,
            project_rows.create(connection, principal.owner, request.project, principal.user_id).id,
        )
    if project.deleting:
        raise Conflict(
            f"The project {project.name!r} is being deleted.",
            next="Use another one, or wait until it is gone.",
        )
    return project


async def _check_machine(plane: Plane, wanted: str | None) -> str:
    sizes = await plane.sizes()
    name = wanted or plane.settings.default_machine_type or (WHOLE_HOST if WHOLE_HOST in sizes else None)
    known = ", ".join(sorted(sizes)) or "none"
    if name is None or name not in sizes:
        raise InvalidRequest(
            f"There is no machine type {name!r}." if name else "A job needs a machine type.",
            next=f"Known here: {known}. `gradient machineTypes` shows their sizes.",
            code="unknown-machine-type",
        )
    most = plane.settings.limits.max_gpus
    if most is not None and sizes[name].gpus > most:
        raise Conflict(
            f"{name} has {sizes[name].gpus} GPUs, and you may use {most} at a time.",
            next=f"Choose another: {known}. `gradient machineTypes` shows their sizes.",
            code="over-limit",
        )
    if machines.fits(sizes[name], machines.rooms(await plane.nodes())) == 0:
        raise Conflict(
            f"No machine here is as large as {name}, so the job would wait for ever.",
            next=f"Choose another: {known}. `gradient machineTypes` shows their sizes.",
            code="machine-type-too-large",
        )
    return name


def _check_queued(connection: Connection, plane: Plane, owner: str) -> None:
    most = plane.settings.limits.max_queued_jobs
    if most is not None and rows.queued(connection, owner, most) >= most:
        raise Conflict(
            f"You have {most} {'job' if most == 1 else 'jobs'} waiting, as many as may wait at a time.",
            next="Send it again when some have started, or stop some: gradient jobs list --state Pending",
            code="queue-full",
        )


async def again(plane: Plane, job: Job) -> Job:
    """The same row, told anew where it stands in the queue."""
    return (await _explained(plane, [job]))[0]


async def _explained(plane: Plane, jobs: list[Job]) -> list[Job]:
    """Tells each waiting job where it stands and why it waits: the answer moves with the queue."""
    if not any(_waits(job) for job in jobs):
        return jobs
    standing = await plane.standing()
    return [
        msgspec.structs.replace(job, queue_position=standing.position(job.id), reason=standing.reason(job))
        if _waits(job)
        else job
        for job in jobs
    ]


def _waits(job: Job) -> bool:
    return job.phase is Phase.QUEUED and job.target is Target.RUN
