"""Jobs: sending a directory away as one, and holding on to it.

``Job`` is a handle: its properties are what was last heard of the job, its methods ask the server.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from gradient_jupyter.client import directory, logs, projects, receipts, upload, workspaces
from gradient_jupyter.client.artifacts import Artifacts
from gradient_jupyter.client.datasets import Datasets
from gradient_jupyter.client.logs import LogLine
from gradient_jupyter.client.machine_types import MachineTypes
from gradient_jupyter.client.metrics import Metrics
from gradient_jupyter.client.stream import OPEN, OutOfTime, follow
from gradient_jupyter.client.submission import check_request, host_environment
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources import job as wire
from gradient_jupyter.resources.dataset import parse as parse_dataset
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import InvalidRequest, NotFound
from gradient_jupyter.resources.event import Action, Event
from gradient_jupyter.resources.job import State
from gradient_jupyter.resources.page import Attempts
from gradient_jupyter.resources.page import Jobs as Page
from gradient_jupyter.resources.port import Port, parse
from gradient_jupyter.resources.receipt import Receipt
from gradient_jupyter.workspace.preflight import Preflight

_PAGE = 200
_TRIES = 3


class Jobs:
    """All jobs you may see. ``client.jobs``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        command: Sequence[str] | str,
        *,
        workspace: Path | str | None = ".",
        workspace_username: str | None = None,
        workspace_password: str | None = None,
        project: str | None = None,
        project_id: str | None = None,
        name: str | None = None,
        machine_type: str | None = None,
        env: Mapping[str, str] | None = None,
        retries: int = 0,
        max_duration: float | timedelta | None = None,
        priority: int = 0,
        tags: Sequence[str] = (),
        ports: str | Sequence[str] = (),
        datasets: Sequence[str] = (),
        max_size: int | str | None = None,
        ignore: Sequence[str] = (),
        on_progress: Callable[[upload.Progress], None] | None = None,
    ) -> Job:
        """Sends ``workspace`` and asks for ``command`` to be run in a copy of it.

        ``workspace`` is a directory, a zip file (unpacked as it is), any other file (alone), a repository
        that the server fetches (``"git+https://github.com/owner/repo@ref#subdirectory=dir"``), or None for
        no files. A private repository is opened with ``workspace_password="secret:NAME"`` and, where its host
        cares, ``workspace_username``.
        ``max_size`` is the most that may be sent, in bytes or as ``"2GiB"``; ``"none"`` lifts the limit.
        ``ignore`` are further rules of what stays behind, as in a ``.gradientignore``.
        ``command`` is an argument vector that no shell looks at; a string is split into one as a shell
        would. Without a project it is the directory's own: ``.ps_project/config.json``, else its name; of a
        repository its name.
        Returns as soon as the job is accepted.

        ``retries``: how often it is started again when it fails or is lost. ``max_duration`` (seconds): how
        long an attempt may run. ``priority`` orders your own jobs that wait; higher goes first. ``ports``
        (``"EXT:INT[:scheme]"``): what the job listens on at INT is reached at EXT while it runs. ``datasets``
        (``"mnist"``, ``"mnist:3"``) are at ``/datasets/NAME`` and ``/data/NAME``, read-only; without a number
        it is the newest version now.
        """
        words = _words(command)
        _one_project(project, project_id)
        login = _login(workspace_username, workspace_password, project, project_id)
        files = workspaces.find(workspace, on_progress, max_size=max_size, ignore=ignore, login=login)
        theirs = project is None and project_id is None
        if theirs:
            project, project_id = files.project()
        request = wire.CreateJob(
            command=words,
            snapshot=files.snapshot,
            project=project,
            project_id=project_id,
            name=name,
            machine_type=machine_type,
            host=host_environment(),
            env=dict(env or {}),
            retries=retries,
            max_duration_s=_seconds(max_duration),
            priority=priority,
            tags=tuple(tags),
            ports=_ports(ports) or (),
            datasets=tuple(datasets),
        )
        check_request(request)
        with _directory_project(theirs):
            return self._send(request, files, on_progress)

    def _send(
        self,
        request: wire.CreateJob,
        files: workspaces.Workspace,
        on_progress: Callable[[upload.Progress], None] | None,
    ) -> Job:
        """Asks for the job, and sends its files where the server lacks them."""
        key = secrets.token_urlsafe(24)
        if files.known is not None:
            # Nothing changed since it was read before, so it may well be there: then all is one request.
            try:
                record = self._ask(msgspec.structs.replace(request, source=files.known.source), key)
            except NotFound as error:
                if error.code != "no-such-snapshot":
                    raise
            else:
                if on_progress is not None:
                    on_progress(upload.Progress("sent", 0, 0))
                return Job(self._transport, record)
        self._check(request)
        tries = _TRIES
        while True:
            sent = files.send(self._transport, on_progress)
            request = msgspec.structs.replace(request, snapshot=sent.snapshot, source=sent.source)
            try:
                return Job(self._transport, self._ask(request, key))
            except NotFound as error:
                # Cleared away between the two requests: what nothing names is not kept for ever.
                if error.code != "no-such-snapshot" or (tries := tries - 1) == 0:
                    raise

    def _ask(self, request: wire.CreateJob, key: str) -> wire.Job:
        """Asked twice with the same key, there is still one job."""
        headers = {"Idempotency-Key": key}
        return self._transport.request(
            "POST", "/jobs", wire.Job, body=request, headers=headers, repeatable=True
        )

    def repeat(
        self,
        receipt: Receipt | Mapping[str, object],
        *,
        workspace: Path | str | None = ".",
        command: Sequence[str] | str | None = None,
        project: str | None = None,
        project_id: str | None = None,
        name: str | None = None,
        machine_type: str | None = None,
        env: Mapping[str, str] | None = None,
        retries: int | None = None,
        max_duration: float | timedelta | None = None,
        priority: int | None = None,
        tags: Sequence[str] | None = None,
        ports: str | Sequence[str] | None = None,
        max_size: int | str | None = None,
        ignore: Sequence[str] = (),
        workspace_username: str | None = None,
        workspace_password: str | None = None,
        datasets: Sequence[str] | None = None,
        on_progress: Callable[[upload.Progress], None] | None = None,
    ) -> Job:
        """Runs what a receipt says exactly so again, save for what is given here; ``env`` is laid over.

        The files are the same to the byte: the server's, if it still has them and they are yours; else those
        in ``workspace``, or in the repository they came from, if they are the same. ``max_size`` and
        ``ignore`` are for reading ``workspace``, user name and password for opening the repository. Raises
        ``NotFound`` (``receipt-files-missing``) when they are nowhere.
        """
        if not isinstance(receipt, Receipt):
            receipt = receipts.read(receipt)
        _one_project(project, project_id)
        there = receipts.Where(
            workspace=None if workspace is None else os.fspath(workspace),
            max_size=max_size,
            ignore=ignore,
            login=_login(
                workspace_username,
                workspace_password,
                None if project_id is not None else project or receipt.project,
                project_id,
            ),
        )
        there.check(receipt)
        seconds, opened = _seconds(max_duration), _ports(ports)
        request = wire.CreateJob(
            command=receipt.command if command is None else _words(command),
            snapshot=receipt.snapshot,
            source=receipt.source,
            project=None if project_id is not None else project or receipt.project,
            project_id=project_id,
            name=name or receipt.name,
            machine_type=machine_type or receipt.machine_type,
            host=host_environment(),
            env={**receipt.env, **(env or {})},
            retries=receipt.retries if retries is None else retries,
            max_duration_s=receipt.max_duration_s if seconds is None else seconds,
            priority=receipt.priority if priority is None else priority,
            tags=receipt.tags if tags is None else tuple(tags),
            ports=receipt.ports if opened is None else opened,
            datasets=receipt.datasets if datasets is None else tuple(datasets),
        )
        check_request(request)
        key = secrets.token_urlsafe(24)
        try:
            return Job(self._transport, self._ask(request, key))
        except NotFound as error:
            if error.code != "no-such-snapshot":
                raise
        sent = receipts.bring(self._transport, receipt, there, on_progress)
        request = msgspec.structs.replace(request, source=sent.source or receipt.source)
        return Job(self._transport, self._ask(request, key))

    def preflight(
        self,
        workspace: Path | str | None = ".",
        *,
        max_size: int | str | None = None,
        ignore: Sequence[str] = (),
        workspace_username: str | None = None,
        workspace_password: str | None = None,
        project: str | None = None,
        project_id: str | None = None,
    ) -> Preflight:
        """What ``create`` would send from ``workspace`` now and what it would leave out. Nothing is sent;
        a repository is fetched by the server, which has no other way to know."""
        login = _login(workspace_username, workspace_password, project, project_id)
        return workspaces.find(workspace, max_size=max_size, ignore=ignore, login=login).look(self._transport)

    def get(self, job_id: str) -> Job:
        return Job(self._transport, self._transport.request("GET", _path(job_id), wire.Job))

    def list(
        self,
        *,
        project_id: str | None = None,
        state: State | str | Sequence[State | str] | None = None,
        tag: str | Sequence[str] | None = None,
        name: str | None = None,
        machine_type: str | None = None,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, read page by page as they are asked for; at most ``limit`` of them.

        Those in one of several states, bearing all of several tags, with ``name`` as a part of their name.
        ``since`` and ``until`` say when they were created; a timedelta counts back from now.
        """
        cursor, left = None, limit
        fixed = {
            "project_id": project_id,
            "state": [state] if isinstance(state, str) else state,
            "tag": [tag] if isinstance(tag, str) else tag,
            "name": name,
            "machine_type": machine_type,
            "since_us": _moment_us(since),
            "until_us": _moment_us(until),
        }
        while left is None or left > 0:
            query = {
                **fixed,
                "limit": min(_PAGE, left or _PAGE),
                "cursor": cursor,
            }
            page = self._transport.request("GET", "/jobs", Page, query=query)
            for record in page.items[:left]:
                yield Job(self._transport, record)
            if left is not None:
                left -= len(page.items)
            if (cursor := page.next) is None:
                return

    def _check(self, request: wire.CreateJob) -> None:
        """What would be refused in the end is refused now, before a large directory has been sent."""
        if request.project_id is not None:
            projects.Projects(self._transport).get(request.project_id)
        for text in request.datasets:
            if (named := parse_dataset(text)) is not None:
                Datasets(self._transport).get(named.name)
        if request.machine_type is not None:
            known = MachineTypes(self._transport).list()
            if all(one.name != request.machine_type for one in known):
                raise InvalidRequest(
                    f"There is no machine type {request.machine_type!r}. Nothing was sent.",
                    next="There is: " + ", ".join(one.name for one in known) + ".",
                    code="unknown-machine-type",
                )


class Job:
    """One job. ``record`` is what was last heard of it; ``refresh()`` asks again."""

    def __init__(self, transport: Transport, record: wire.Job) -> None:
        self._transport = transport
        self.record = record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def final(self) -> bool:
        return self.record.final

    @property
    def exit_code(self) -> int | None:
        return self.record.exit_code

    @property
    def reason(self) -> wire.Reason | None:
        """Why it is where it is, and what to do about it."""
        return self.record.reason

    @property
    def artifacts(self) -> Artifacts:
        """What it left, or has left so far, in ``/artifacts``."""
        return Artifacts(self._transport, self.id)

    @property
    def metrics(self) -> Metrics:
        """Its numbers, and those that were measured about it."""
        return Metrics(self._transport, self.id)

    def refresh(self) -> Job:
        return self._heard(self._transport.request("GET", _path(self.id), wire.Job))

    def wait(self, timeout: float | None = None, until: State | str | None = None) -> Job:
        """Waits until the job is final, or has been in the state ``until``. Returns the job itself.

        Raises TimeoutError after ``timeout`` seconds (the job goes on), and NotFound once it is deleted.
        """
        wanted = State(until) if until is not None else None
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            # Connected first and asked then, so that no change falls between the two.
            for message in follow(self._transport, "/events", deadline=deadline):
                if message.event in (OPEN, "reset"):
                    self.refresh()
                elif message.event == "change":
                    change = decode(message.data, type=Event)
                    if change.id != self.id:
                        continue
                    if change.action is Action.DELETED:
                        self.refresh()  # raises NotFound
                    self._heard(decode(change.resource, type=wire.Job))
                leaving = self.record.target is wire.Target.DELETED
                if (self.final and not leaving) or (wanted and self.has_been(wanted)):
                    return self
        except OutOfTime:
            pass
        raise TimeoutError(f"Job {self.id} is still {self.state} after {timeout:g} s.")

    def has_been(self, state: State) -> bool:
        return self.state is state or any(moment.state is state for moment in self.record.history)

    def logs(self, follow: bool = False, attempt: int | None = None) -> Iterator[LogLine]:
        """The log so far; with ``follow`` until the job is final, whatever happens to the connection.

        It is the log of the job's newest attempt, or of the ``attempt`` that is named.
        """
        return logs.read(self._transport, self.id, follow_it=follow, attempt=attempt, on_job=self._heard)

    def watch(self, on_change: Callable[[Job], None]) -> Iterator[LogLine]:
        """As ``logs(follow=True)``; ``on_change`` is called between the lines when the job has changed."""

        def heard(record: wire.Job) -> None:
            self._heard(record)
            on_change(self)

        return logs.read(self._transport, self.id, follow_it=True, on_job=heard)

    def rerun(
        self,
        command: Sequence[str] | str | None = None,
        *,
        project: str | None = None,
        project_id: str | None = None,
        name: str | None = None,
        machine_type: str | None = None,
        env: Mapping[str, str] | None = None,
        unset: Sequence[str] = (),
        retries: int | None = None,
        max_duration: float | timedelta | None = None,
        priority: int | None = None,
        tags: Sequence[str] | None = None,
        ports: str | Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
    ) -> Job:
        """The same files once more, as a new job; what is not given is as it was.

        ``env`` is laid over the old variables, those in ``unset`` are taken away. On engines that run where
        you are, the new job has the Python of this process. It has the same versions of its datasets, unless
        ``datasets`` names others (``()``: none).
        """
        request = wire.RerunJob(
            command=None if command is None else _words(command),
            project=project,
            project_id=project_id,
            name=name,
            machine_type=machine_type,
            host=host_environment(),
            env=dict(env or {}),
            unset=tuple(unset),
            retries=retries,
            max_duration_s=_seconds(max_duration),
            priority=priority,
            tags=None if tags is None else tuple(tags),
            ports=_ports(ports),
            datasets=None if datasets is None else tuple(datasets),
        )
        check_request(request)
        record = self._transport.request(
            "POST",
            _path(self.id) + "/rerun",
            wire.Job,
            body=request,
            headers={"Idempotency-Key": secrets.token_urlsafe(24)},
            repeatable=True,
        )
        return Job(self._transport, record)

    def receipt(self) -> Receipt:
        """What it takes to run it exactly so again, and what has come of it so far."""
        self.refresh()
        return receipts.of(self.record, self.artifacts.list())

    def attempts(self) -> list[wire.Attempt]:
        """Every run of its command, oldest first: when, how it ended, and why."""
        return [*self._transport.request("GET", _path(self.id) + "/attempts", Attempts).items]

    def update(
        self, *, name: str | None = None, tags: Sequence[str] | None = None, priority: int | None = None
    ) -> Job:
        """Changes its name or its tags, or its priority while it waits."""
        changes = wire.UpdateJob(name=name, tags=None if tags is None else tuple(tags), priority=priority)
        check_request(changes)
        return self._heard(
            self._transport.request("PATCH", _path(self.id), wire.Job, body=changes, repeatable=True)
        )

    def stop(self) -> Job:
        """Asks for its end. It is over when ``wait()`` says so; stopping what is final changes nothing."""
        return self._heard(
            self._transport.request("POST", _path(self.id) + "/stop", wire.Job, repeatable=True)
        )

    def delete(self) -> None:
        """Asks for its removal with log and artifacts; it is stopped first where it still runs."""
        self._heard(self._transport.request("DELETE", _path(self.id), wire.Job))

    def _heard(self, record: wire.Job) -> Job:
        self.record = record
        return self

    def __repr__(self) -> str:
        record = self.record
        ended = "" if record.exit_code is None else f", exit {record.exit_code}"
        return (
            f"<Job {record.id} {record.name!r} #{record.number} of {record.project!r}: {record.state}{ended}>"
        )


def _one_project(project: str | None, project_id: str | None) -> None:
    if project is not None and project_id is not None:
        raise InvalidRequest("A job belongs to one project: give its name or its id, not both.")


@contextlib.contextmanager
def _directory_project(theirs: bool) -> Iterator[None]:
    """What the directory itself says of its project may have come with somebody else's repository."""
    try:
        yield
    except NotFound as error:
        if not theirs or error.code != "no-such-project":
            raise
        raise NotFound(
            f"The directory's {directory.CONFIG} names a project that is not yours here. {error.message}",
            next="Name another with --project NAME; gradient projects clear forgets that one.",
            code=error.code,
        ) from error


def _login(
    username: str | None, password: str | None, project: str | None, project_id: str | None
) -> workspaces.Login | None:
    if password is None:
        if username is not None:
            raise InvalidRequest(
                "A user name alone opens no repository.",
                next="Give workspace_password (--workspacePassword) too: secret:NAME.",
                code="bad-credentials",
            )
        return None
    return workspaces.Login(password, username, project, project_id)


def _words(command: Sequence[str] | str) -> tuple[str, ...]:
    words = tuple(shlex.split(command) if isinstance(command, str) else map(os.fspath, command))
    if not words:
        raise InvalidRequest("A job needs a command.", next='For example: ["python", "train.py"].')
    return words


def _seconds(duration: float | timedelta | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _ports(ports: str | Sequence[str] | None) -> tuple[Port, ...] | None:
    return parse(ports) if ports else None if ports is None else ()


def _moment_us(moment: datetime | timedelta | None) -> int | None:
    if isinstance(moment, timedelta):
        moment = datetime.now(UTC) - moment
    return None if moment is None else max(0, round(moment.timestamp() * 1e6))


def _path(job_id: str) -> str:
    from urllib.parse import quote

    return f"/jobs/{quote(job_id, safe='')}"
