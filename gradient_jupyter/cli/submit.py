"""Sending a directory away from the command line: what ``run`` and ``jobs create`` have in common."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gradient_jupyter.cli.follow import Follower, step
from gradient_jupyter.cli.options import Submission
from gradient_jupyter.cli.states import exit_code, title, why
from gradient_jupyter.cli.terminal import Live, note, print_json, say
from gradient_jupyter.cli.text import clean, count, size
from gradient_jupyter.client import Client, Job, Progress
from gradient_jupyter.workspace.repository import parse

if TYPE_CHECKING:
    from gradient_jupyter.resources.receipt import Receipt

#: Artifacts of which it is said one by one that they are not the same.
_TOLD = 10


def submit(
    command: tuple[str, ...], submission: Submission, *, follow: bool, dry_run: bool, as_json: bool
) -> int:
    """Does what the options ask and returns the exit code."""
    with Client() as client:
        if dry_run:
            from gradient_jupyter.cli.preflight import sheet

            return sheet(client, submission, as_json=as_json)
        job = _create(client, command, submission, quiet=as_json)
        _remember(submission, job)
        return accepted(job, follow=follow, as_json=as_json)


def repeat(
    path: str, command: tuple[str, ...] | None, submission: Submission, *, follow: bool, as_json: bool
) -> int:
    """Runs what a receipt says once more, and compares what comes of it."""
    from gradient_jupyter.cli.optionsfile import load
    from gradient_jupyter.client import receipts

    receipt = receipts.read(load(path))
    running, shown = submission.running, _Shown(quiet=as_json)
    with Client() as client:
        with shown:
            job = client.jobs.repeat(
                receipt,
                workspace=submission.workspace,
                command=command,
                project=submission.project,
                project_id=submission.project_id,
                name=submission.name,
                machine_type=submission.machine_type,
                env=submission.env,
                retries=running.retries,
                max_duration=running.max_duration_s,
                priority=running.priority,
                tags=running.tags,
                ports=running.ports,
                max_size=submission.max_size,
                ignore=submission.ignore,
                workspace_username=submission.workspace_username,
                workspace_password=submission.workspace_password,
                datasets=submission.datasets or None,
                on_progress=shown.show,
            )
        for each in job.record.datasets:
            if receipt.outcome.datasets.get(each.wanted, each.snapshot) != each.snapshot:
                note(step("!", "yellow", "otherwise", f"{clean(each.wanted)} holds other files now"))
        _warn(job)
        there = receipt.outcome.python
        if job.record.host and there and job.record.host.python != there:
            note(step("!", "yellow", "note", f"The receipt's job ran with {clean(there)}."))
        _remember(submission, job)
        ended = accepted(job, follow=follow, as_json=as_json)
        if follow:
            _compare(receipt, job)
        return ended


def _compare(receipt: Receipt, job: Job) -> None:
    """Says what came out otherwise than the receipt says."""
    from gradient_jupyter.client import receipts

    before = receipt.outcome
    if before.exit_code != job.exit_code:
        was, now = ("none" if each is None else each for each in (before.exit_code, job.exit_code))
        note(step("!", "yellow", "otherwise", f"exit code {now}; the receipt has {was}"))
    if not before.artifacts:
        return
    differ = receipts.differences(receipt, job.artifacts.list())
    if not differ:
        note(step("✓", "green", "the same", f"{count(len(before.artifacts), 'artifact')}, to the byte"))
    for path, how in differ[:_TOLD]:
        note(step("!", "yellow", "otherwise", f"{clean(path)}  {how}"))
    if len(differ) > _TOLD:
        note(step("!", "yellow", "otherwise", f"{len(differ) - _TOLD} more"))


def _remember(submission: Submission, job: Job) -> None:
    """The directory knows its project and its last job from now on."""
    from pathlib import Path

    from gradient_jupyter.client import directory

    there = Path(submission.workspace or ".").expanduser()
    if submission.workspace is not None and not there.is_dir():
        return
    chosen = submission.project is not None or submission.project_id is not None
    directory.remember(
        there,
        project="" if chosen else job.record.project,
        project_id="" if chosen else job.record.project_id,
        job_id=job.id,
        make=submission.init,
    )


def accepted(job: Job, *, follow: bool, as_json: bool) -> int:
    """There is a job: says so, or stays with it to its end. Returns the exit code."""
    if not follow:
        if as_json:
            print_json(job.record)
        else:
            waits = f"  {why(job.record)}" if why(job.record) else ""
            note(step("◷", "dim", "created", f"{title(job.record)}{waits}"))
            say(job.id)
        return 0
    Follower(all_to_stderr=as_json).to_the_end(job)
    if as_json:
        print_json(job.record)
    return exit_code(job.record)


class _Shown:
    """Shows how files travel. Use it around what makes the job."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = Live()
        self._began = time.monotonic()

    def show(self, progress: Progress) -> None:
        took = f"{time.monotonic() - self._began:.1f} s"
        if progress.stage == "sent":
            self._live.clear()
            what = (
                f"{count(progress.files, 'file')}, {size(progress.bytes)}"
                if progress.files
                else "nothing new"
            )
            if not self._quiet:
                note(step("✓", "green", "sent", what, took))
        elif progress.stage == "fetching":
            self._live.show(step("◌", "cyan", "fetching", clean(progress.source)), now=True)
        elif progress.stage == "fetched":
            self._live.clear()
            if not self._quiet:
                commit = parse(progress.source).commit[:12]
                what = f"{commit}  {count(progress.files, 'file')}, {size(progress.bytes)}"
                note(step("✓", "green", "fetched", what, took))
            for warning in progress.warnings:
                note(step("!", "yellow", "note", clean(warning)))
        elif progress.total:
            self._live.show(
                step("◌", "cyan", progress.stage, f"{size(progress.bytes)} of {size(progress.total)}"),
                now=progress.stage == "sending",
            )

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._live.clear()
        if kind is KeyboardInterrupt:
            note("\n  Left before there was a job; nothing runs.")


def _create(client: Client, command: tuple[str, ...], submission: Submission, *, quiet: bool) -> Job:
    shown = _Shown(quiet=quiet)
    with shown:
        job = client.jobs.create(
            command,
            workspace=submission.workspace,
            workspace_username=submission.workspace_username,
            workspace_password=submission.workspace_password,
            project=submission.project,
            project_id=submission.project_id,
            name=submission.name,
            machine_type=submission.machine_type,
            env=submission.env,
            retries=submission.running.retries or 0,
            max_duration=submission.running.max_duration_s,
            priority=submission.running.priority or 0,
            tags=submission.running.tags or (),
            ports=submission.running.ports or (),
            datasets=submission.datasets,
            max_size=submission.max_size,
            ignore=submission.ignore,
            on_progress=shown.show,
        )
    _warn(job)
    return job


def _warn(job: Job) -> None:
    for warning in job.record.warnings:
        note(step("!", "yellow", "note", clean(warning)))
