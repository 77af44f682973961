"""The pre-flight sheet: what would be sent, what stays behind and by which rule, what would go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradient_jupyter.cli.machine_types import machine_table
from gradient_jupyter.cli.options import Submission
from gradient_jupyter.cli.terminal import Column, Row, paint, print_json, say, side_by_side
from gradient_jupyter.cli.text import clean, count, size
from gradient_jupyter.client import Client
from gradient_jupyter.workspace.repository import is_repository

if TYPE_CHECKING:
    from gradient_jupyter.workspace.preflight import Preflight


def sheet(client: Client, submission: Submission, *, as_json: bool) -> int:
    """Prints it and returns 0. The server is asked what it has; no content is sent."""
    flight = client.jobs.preflight(
        submission.workspace,
        max_size=submission.max_size,
        workspace_username=submission.workspace_username,
        workspace_password=submission.workspace_password,
        project=submission.project,
        project_id=submission.project_id,
    )
    if as_json:
        print_json(flight)
        return 0
    files = f"{count(flight.count, 'file')}  {size(flight.bytes)}"
    if submission.workspace is not None and is_repository(submission.workspace):
        say(f"\n  {paint(clean(flight.root), 'bold')}  {paint('holds', 'dim')}  {files}\n")
    else:
        name = Path(flight.root).name or "no workspace"
        new = f"{size(flight.new_bytes)} new"
        new = paint(new, "blue") if flight.new_bytes else paint("nothing new", "dim")
        say(f"\n  {paint(clean(name), 'bold')}  {paint('would send', 'dim')}  {files}  {new}\n")
    if flight.files or flight.left_out:
        _files(flight)
    _machines(client, submission.machine_type)
    for warning in flight.warnings:
        say(f"  {paint('!', 'yellow')} {clean(warning)}")
    return 0


_LARGEST = (Column("Largest", gives=True), Column(""), Column("Size", right=True))
_LEFT_OUT = (
    Column("Left out", gives=True),
    Column("By", gives=True),
    Column("Files", right=True),
    Column("Size", right=True),
)


def _files(flight: Preflight) -> None:
    """The largest files, and beside them what stays behind and by which rule."""
    largest: list[Row] = [
        (clean(file.path), ("new", "blue") if file.new else "", size(file.size)) for file in flight.largest
    ]
    left_out: list[Row] = []
    for row in flight.left_out:
        ours, more = row.source == "default", "over " if row.at_least else ""
        left_out.append(
            (
                clean(", ".join(row.examples) if ours else row.rule),
                "always" if ours else clean(row.source),
                f"{more}{row.files:,}",
                f"{more}{size(row.bytes)}",
            )
        )
    side_by_side((_LARGEST, largest), (_LEFT_OUT, left_out))


def _machines(client: Client, chosen: str | None) -> None:
    types = client.machine_types.list()
    say()
    machine_table(types, chosen or (types[0].name if len(types) == 1 else ""))
    say()
    if chosen is not None and all(one.name != chosen for one in types):
        say(f"  {paint('!', 'yellow')} There is no machine type {clean(chosen)}; the job would be refused.")
