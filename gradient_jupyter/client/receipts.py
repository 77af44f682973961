"""Receipts: written from a job, read from a file that anybody may have written, and repeated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from gradient_jupyter.client import upload, workspaces
from gradient_jupyter.client.transport import Transport
from gradient_jupyter.client.upload import OnProgress
from gradient_jupyter.resources.artifact import Artifact
from gradient_jupyter.resources.decoding import convert
from gradient_jupyter.resources.errors import GradientError, InvalidRequest, NotFound, WorkspaceError
from gradient_jupyter.resources.job import Job
from gradient_jupyter.resources.receipt import MOST_ARTIFACTS, SCHEMA, Outcome, Output, Receipt
from gradient_jupyter.resources.snapshot import EMPTY_TREE
from gradient_jupyter.workspace.limit import parse_size
from gradient_jupyter.workspace.repository import is_repository


def of(job: Job, artifacts: Iterable[Artifact]) -> Receipt:
    """The receipt of a job that has left ``artifacts``."""
    left = [Output(path=each.path, size=each.size, digest=each.digest) for each in artifacts if each.digest]
    return Receipt(
        schema=SCHEMA,  # type: ignore[arg-type]
        name=job.name, project=job.project, command=job.command, snapshot=job.snapshot, source=job.source,
        machine_type=job.machine_type, env=job.env, ports=job.ports, retries=job.retries,
        datasets=tuple(each.wanted for each in job.datasets),
        max_duration_s=job.max_duration_s, priority=job.priority, tags=job.tags,
        outcome=Outcome(
            job=job.id, state=job.state, exit_code=job.exit_code, attempts=job.attempt,
            created_us=job.created_us, started_us=job.started_us, ended_us=job.ended_us,
            python=job.host.python if job.host else "",
            artifacts=tuple(left[:MOST_ARTIFACTS]), artifacts_in_all=len(left),
            datasets={each.wanted: each.snapshot for each in job.datasets},
        ),
    )  # fmt: skip


def plain(receipt: Receipt) -> dict[str, object]:
    """As it is written to a file; what says nothing is left out."""
    said: dict[str, object] = msgspec.to_builtins(receipt)
    return {key: value for key, value in said.items() if value not in (None, [], {}, "")}


def read(said: object) -> Receipt:
    """A receipt from plain values, whose numbers may be texts. Raises ``InvalidRequest``."""
    if not isinstance(said, dict) or said.get("schema") != SCHEMA:
        raise InvalidRequest(
            f"This is no receipt that is understood here: its schema is not {SCHEMA}.",
            next="gradient jobs receipt JOB -o FILE writes one.",
            code="bad-receipt",
        )
    try:
        return convert(said, Receipt, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"This receipt cannot be used: {error}.",
            next="gradient jobs receipt JOB -o FILE writes one.",
            code="bad-receipt",
        ) from error


class Where(NamedTuple):
    """Where a receipt's files may be had when the server does not have them any more."""

    workspace: str | None
    max_size: int | str | None = None
    ignore: Sequence[str] = ()
    login: workspaces.Login | None = None
    """Opens ``workspace`` if that is a repository, else the receipt's. Never both: anybody may have written
    the receipt, and what opens one repository is not for the other."""

    def check(self, receipt: Receipt) -> None:
        """Raises ``InvalidRequest`` for what could be of no use, also where the server has the files."""
        workspaces.check_ignore(self.workspace, self.ignore)
        if isinstance(self.max_size, str):
            parse_size(self.max_size, of="max_size")
        if self.login is not None:
            if not is_repository(self._own or receipt.source):
                raise workspaces.no_repository()
            workspaces.check_login(self.login)

    @property
    def _own(self) -> str | None:
        return self.workspace if self.workspace is not None and is_repository(self.workspace) else None

    def find(self, candidate: str, on_progress: OnProgress | None) -> workspaces.Workspace:
        if is_repository(candidate):
            opened = self._own is None or candidate == self._own
            return workspaces.find(candidate, on_progress, login=self.login if opened else None)
        return workspaces.find(candidate, on_progress, max_size=self.max_size, ignore=self.ignore)


def bring(
    transport: Transport, receipt: Receipt, where: Where, on_progress: OnProgress | None
) -> workspaces.Sent:
    """Makes the server have the receipt's files again: from the workspace if that holds the same, else from
    the repository they came from. Raises ``NotFound`` when they are nowhere."""
    workspace = where.workspace
    if receipt.snapshot == EMPTY_TREE:
        return workspaces.Sent(upload.send_nothing(transport))
    tried = ["the server does not have them"]
    candidates = [workspace] if workspace is not None else []
    if is_repository(receipt.source) and receipt.source not in candidates:
        candidates.append(receipt.source)
    for candidate in candidates:
        try:
            files = where.find(candidate, on_progress)
            if files.snapshot != receipt.snapshot and not is_repository(candidate):
                tried.append(f"{candidate} holds others")
                continue
            sent = files.send(transport, on_progress)
        except (WorkspaceError, InvalidRequest, NotFound) as error:
            tried.append(f"{candidate}: {error.message.rstrip('.')}")
            continue
        except GradientError as error:
            if error.status != 424:
                raise
            tried.append(f"{candidate}: {error.message.rstrip('.')}")
            continue
        if sent.snapshot == receipt.snapshot:
            return sent
        tried.append(f"{candidate} holds others now")
    raise NotFound(
        f"The files of the receipt ({receipt.snapshot[:12]}) are not to be had: {'; '.join(tried)}.",
        next="Name the directory that holds them as they were: --workspace DIR.",
        code="receipt-files-missing",
    )


def differences(receipt: Receipt, artifacts: Iterable[Artifact]) -> list[tuple[str, str]]:
    """Which artifacts are not as the receipt says: path, and ``other``, ``missing`` or ``new``."""
    before = {each.path: each.digest for each in receipt.outcome.artifacts}
    now = {each.path: each.digest for each in artifacts}
    found = [
        (path, "missing" if path not in now else "other")
        for path, digest in before.items()
        if now.get(path) != digest
    ]
    if receipt.outcome.artifacts_in_all <= len(before):
        found += [(path, "new") for path in now if path not in before]
    return found
