"""``gradient admin``: how full the disk is, clearing away, how everything does, who did what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradient_jupyter.cli.options import Duration, json_option
from gradient_jupyter.cli.terminal import note, say

if TYPE_CHECKING:
    from gradient_jupyter.resources.admin import Collected, Diagnosis, DiskUse, Share

_WORDS = {
    "artifacts": "what jobs left in /artifacts",
    "logs": "what jobs printed",
    "metrics": "what jobs measured",
    "runs": "runs and models that MLflow logged beside jobs",
    "workspaces": "copies that runs work in",
    "files": "what was sent, each content once",
    "storage": "/storage, kept for ever",
    "trees": "datasets, unpacked for jobs",
    "database": "with its log and backups",
    "engines": "what runs write for the server",
    "trash": "being removed",
    "ballast": "given up when the disk is full",
    "other": "",
}
_FREED = {
    "jobs": "Jobs older than they are kept",
    "snapshots": "Snapshots that no job and no dataset names",
    "runs": "Runs that were deleted",
    "trees": "Unpacked datasets that no job uses",
    "files": "Files that no snapshot names",
    "uploads": "Uploads that never ended",
    "leftovers": "Leftovers of what is not known any more",
}
_ICONS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@click.group()
def admin() -> None:
    """Look after the installation: the disk, what can go, what is wrong, who did what."""


@admin.command()
@click.option("--quick", is_flag=True, help="Without what gc would free, which takes longest to find out.")
@json_option
def df(*, quick: bool, as_json: bool) -> int:
    """What takes how much of the disk, by kind, project and owner."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client

    with Client() as client:
        use = client.admin.disk(collectable=not quick)
    if as_json:
        print_json(use)
    else:
        _show_use(use)
    return 0


@admin.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option("--trust-clock", is_flag=True, help="Delete jobs for their age although the clock looks wrong.")
@json_option
def gc(*, dry_run: bool, trust_clock: bool, as_json: bool) -> int:
    """Remove what nothing refers to any more, and jobs older than they are kept."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client

    with Client() as client:
        collected = client.admin.collect(dry_run=dry_run, trust_clock=trust_clock)
    if as_json:
        print_json(collected)
    else:
        _show_collected(collected)
    return 0


@admin.command()
@click.option("--full", is_flag=True, help="Read every stored file, not a sample.")
@json_option
def doctor(*, full: bool, as_json: bool) -> int:
    """How everything does, and what to do about it. Exit code 1 when something is wrong.

    Starts no server: without one it looks at the files alone.
    """
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.resources.admin import Level

    found = _diagnosis(full)
    if as_json:
        print_json(found)
    else:
        _show_diagnosis(found)
    return 1 if found.level is Level.FAIL else 0


@admin.command("rotate-key")
@json_option
def rotate_key(*, as_json: bool) -> int:
    """Make a new key for secrets, and encrypt every secret under it.

    Also the way on when the key is lost: what cannot be read stays unreadable and is set anew.
    """
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.client import Client

    with Client() as client:
        done = client.admin.rotate_key()
    if as_json:
        print_json(done)
    else:
        many = f"{done.secrets:,} {'secret is' if done.secrets == 1 else 'secrets are'}"
        note(f"  ✓ new key   {done.key_id}; {many} encrypted under it")
        if done.unreadable:
            note(f"  ! {done.unreadable:,} could not be read and are as they were: gradient secrets list")
    return 0


@admin.command()
@click.option("--since", type=Duration(), metavar="TIME", help="Only so long ago or less: 90m, 24h, 7d.")
@click.option("-n", "--lines", type=click.IntRange(min=1), default=100, help="At most so many.  [100]")
@json_option
def audit(*, since: float | None, lines: int, as_json: bool) -> int:
    """Who changed rights, destroyed or revealed something: when, what, from where. Newest first."""
    from itertools import islice

    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    now = now_us()
    since_us = None if since is None else max(0, now - round(since * 1e6))
    with Client() as client:
        found = list(islice(client.admin.audit(since_us=since_us), lines))
    if as_json:
        print_json(found)
    elif not found:
        note("  Nothing is recorded" + (" since then." if since is not None else "."))
    else:
        table(
            (
                Column("When"), Column("What"), Column("To", gives=True), Column("By"), Column("From"),
                Column("", gives=True),
            ),
            (
                (
                    (moment(one.time_us, now), "dim"),
                    (one.action, "red" if one.result == "refused" else ""),
                    clean(one.id),
                    clean(one.attempt or one.token_id or one.user_id or "the server")
                    if one.action != "login"
                    else clean(one.token_id or "nobody known"),
                    clean(one.address),
                    (clean(one.detail), "dim"),
                )
                for one in found
            ),
        )  # fmt: skip
    return 0


def _diagnosis(full: bool) -> Diagnosis:
    """By the server where one can tell, else from its files."""
    import os

    from gradient_jupyter.client import Client
    from gradient_jupyter.client.admin import examine
    from gradient_jupyter.resources.errors import ServerError, ServerUnavailable
    from gradient_jupyter.resources.server import data_root

    try:
        with Client(start=False) as client:
            return client.admin.doctor(full=full)
    except (ServerUnavailable, ServerError):
        elsewhere = "GRADIENT_URL" in os.environ or "JUPYTERHUB_API_URL" in os.environ
        if elsewhere:
            raise
        return examine(data_root(), full=full)


def _show_use(use: DiskUse) -> None:
    from gradient_jupyter.cli.sheet import facts
    from gradient_jupyter.cli.terminal import Column, table
    from gradient_jupyter.cli.text import clean, size

    used = use.total - use.free
    rows = [
        ("Data", clean(use.data)),
        ("Disk", f"{size(use.free)} of {size(use.total)} free, {size(used)} used"),
        ("Reserve", f"below {size(use.reserve)} of free space nothing is taken in and nothing is started"),
    ]
    if use.collectable is not None:
        rows.append(("Can go", f"{size(use.collectable)}: gradient admin gc"))
    facts(rows)
    say()
    table(
        (Column("Kind"), Column("Size", right=True), Column("Files", right=True), Column("", gives=True)),
        (
            (
                one.kind,
                ("" if one.complete else "at least ") + size(one.bytes),
                f"{one.files:,}",
                (_WORDS.get(one.kind, ""), "dim"),
            )
            for one in use.items
            if one.bytes or one.files
        ),
    )
    _shares("Project", "logs, artifacts, workspaces and runs", use.projects)
    _shares("Owner", "files sent, before compression", use.owners)


def _shares(title: str, what: str, shares: tuple[Share, ...]) -> None:
    from gradient_jupyter.cli.terminal import Column, table
    from gradient_jupyter.cli.text import clean, size

    if not shares:
        return
    say()
    table(
        (
            Column(title, gives=True), Column("Id"), Column("Jobs", right=True), Column("Size", right=True),
            Column("", gives=True),
        ),
        (
            (clean(one.name), (one.id, "dim"), f"{one.jobs:,}", size(one.bytes), ("" if row else what, "dim"))
            for row, one in enumerate(shares)
        ),
    )  # fmt: skip


def _show_collected(collected: Collected) -> None:
    from gradient_jupyter.cli.terminal import Column, paint, table
    from gradient_jupyter.cli.text import clean, size

    found = [item for item in collected.items if item.count]
    if found:
        table(
            (Column("Would go" if collected.dry_run else "Gone"), Column("Count", right=True),
             Column("Size", right=True)),
            ((_FREED.get(item.kind, item.kind), f"{item.count:,}", size(item.bytes)) for item in found),
        )  # fmt: skip
        for item in found:
            for name in item.names:
                say(f"  {paint(clean(name), 'dim')}")
        say()
    for warning in collected.warnings:
        note(f"  {paint('!', 'yellow')} {clean(warning)}")
    if not found:
        say("  Nothing can go: everything is referred to, or came too recently.")
    elif collected.dry_run:
        say(f"  {size(collected.bytes)} would be freed. Nothing was removed.")
    else:
        free = f"free space went from {size(collected.free_before)} to {size(collected.free_after)}"
        say(f"  {size(collected.bytes)} freed; {free}.")


def _show_diagnosis(found: Diagnosis) -> None:
    from gradient_jupyter.cli.terminal import paint
    from gradient_jupyter.cli.text import clean

    width = max(len(check.name) for check in found.checks) + 2
    for check in found.checks:
        icon, style = _ICONS[check.level]
        word = check.level.value.ljust(5)
        name = paint(check.name.ljust(width), "bold")
        say(f"  {paint(f'{icon} {word}', style)} {name}{clean(check.message)}")
        if check.next:
            say(f"{' ' * (10 + width)}{paint('next:', 'dim')} {clean(check.next)}")
