"""Sending a directory away from the command line: what ``run`` and ``jobs create`` have in common."""

from __future__ import annotations

import time

from gradient_jupyter.cli.follow import Follower, step
from gradient_jupyter.cli.options import Submission
from gradient_jupyter.cli.states import exit_code, title, why
from gradient_jupyter.cli.terminal import Live, note, print_json, say
from gradient_jupyter.cli.text import clean, count, size
from gradient_jupyter.client import Client, Job, Progress
from gradient_jupyter.workspace.repository import parse


def submit(
    command: tuple[str, ...], submission: Submission, *, follow: bool, dry_run: bool, as_json: bool
) -> int:
    """Does what the options ask and returns the exit code."""
    with Client() as client:
        if dry_run:
            from gradient_jupyter.cli.preflight import sheet

            return sheet(client, submission, as_json=as_json)
        job = _create(client, command, submission, quiet=as_json)
        return accepted(job, follow=follow, as_json=as_json)


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


def _create(client: Client, command: tuple[str, ...], submission: Submission, *, quiet: bool) -> Job:
    live = Live()
    began = time.monotonic()

    def show(progress: Progress) -> None:
        if progress.stage == "sent":
            live.clear()
            took = f"{time.monotonic() - began:.1f} s"
            what = (
                f"{count(progress.files, 'file')}, {size(progress.bytes)}"
                if progress.files
                else "nothing new"
            )
            if not quiet:
                note(step("✓", "green", "sent", what, took))
        elif progress.stage == "fetching":
            live.show(step("◌", "cyan", "fetching", clean(progress.source)), now=True)
        elif progress.stage == "fetched":
            live.clear()
            if not quiet:
                took = f"{time.monotonic() - began:.1f} s"
                commit = parse(progress.source).commit[:12]
                what = f"{commit}  {count(progress.files, 'file')}, {size(progress.bytes)}"
                note(step("✓", "green", "fetched", what, took))
            for warning in progress.warnings:
                note(step("!", "yellow", "note", clean(warning)))
        elif progress.total:
            live.show(
                step("◌", "cyan", progress.stage, f"{size(progress.bytes)} of {size(progress.total)}"),
                now=progress.stage == "sending",
            )

    try:
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
            max_size=submission.max_size,
            on_progress=show,
        )
    except KeyboardInterrupt:
        live.clear()
        note("\n  Left before there was a job; nothing runs.")
        raise
    finally:
        live.clear()
    for warning in job.record.warnings:
        note(step("!", "yellow", "note", clean(warning)))
    return job
