"""``gradient datasets``: data for jobs to read, in versions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from gradient_jupyter.cli.options import json_option
from gradient_jupyter.cli.terminal import note, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradient_jupyter.client import Client, Dataset, Progress
    from gradient_jupyter.resources.dataset import Dataset as Record
    from gradient_jupyter.resources.dataset import Named, Version

_SHOWN = 20


@click.group()
def datasets() -> None:
    """Datasets: data for jobs to read at /datasets/NAME, stored once, in versions."""


def _from_options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(
        (
            click.option(
                "--from", "source", metavar="PATH|URL", help="A directory, a .zip, another file, or https://…"
            ),
            click.option("--description", metavar="TEXT", help="What it is, for people."),
            click.option("--sha256", metavar="HEX", help="Of a URL: what comes must have this digest."),
            click.option("--etag", metavar="TEXT", help="Of a URL: the version that must be there."),
            click.option(
                "--no-extract", "no_extract", is_flag=True,
                help="Of a URL: keep a zip or tar archive packed.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@datasets.command()
@_from_options
@click.argument("name", required=False)
@click.option("--name", "named", hidden=True)
@json_option
def create(name: str | None, *, named: str | None, as_json: bool, **given: object) -> int:
    """Make a dataset, or the next version of one that is there, and print its id.

    Everything in a directory is sent but what is stored already; only .git, .hg and .svn stay behind.
    A zip file is unpacked. A URL is fetched by the server; zip and tar archives are unpacked.

    \b
    gradient datasets create mnist --from ./mnist
    gradient datasets create mnist --from https://example.com/mnist.tar.gz
    gradient run --dataset mnist train.py
    """
    if (name is None) == (named is None):
        raise click.UsageError("Say what to call it: gradient datasets create NAME --from PATH")
    return _make(name or named or "", must_exist=False, as_json=as_json, **given)  # type: ignore[arg-type]


@datasets.command()
@_from_options
@click.argument("name")
@json_option
def update(name: str, *, as_json: bool, **given: object) -> int:
    """Make the next version of a dataset that is there, or change its description."""
    if given["source"] is None and given["description"] is None:
        raise click.UsageError("Say what is new: --from PATH, or --description TEXT.")
    return _make(name, must_exist=True, as_json=as_json, **given)  # type: ignore[arg-type]


def _make(
    name: str,
    *,
    must_exist: bool,
    source: str | None,
    description: str | None,
    sha256: str | None,
    etag: str | None,
    no_extract: bool,
    as_json: bool,
) -> int:
    from gradient_jupyter.cli.terminal import Live, print_json
    from gradient_jupyter.client import Client

    if source == "":
        raise click.UsageError("--from is empty.")
    live = Live()
    began = time.monotonic()
    with Client() as client:
        if must_exist:
            client.datasets.get(name)
        try:
            made = client.datasets.create(
                name, source, description=description, sha256=sha256, etag=etag, extract=not no_extract,
                on_progress=lambda progress: _show(live, progress),
            )  # fmt: skip
        finally:
            live.clear()
    if as_json:
        print_json(made.record)
        return 0
    _tell(made, source, began)
    say(made.id)
    return 0


def _show(live: object, progress: Progress) -> None:
    from gradient_jupyter.cli.follow import step
    from gradient_jupyter.cli.terminal import Live
    from gradient_jupyter.cli.text import clean, size

    assert isinstance(live, Live)
    far = f"{size(progress.bytes)} of {size(progress.total)}" if progress.total else clean(progress.source)
    live.show(step("◌", "cyan", progress.stage, far), now=progress.stage != "reading")


def _tell(made: Dataset, source: str | None, began: float) -> None:
    from gradient_jupyter.cli.follow import step
    from gradient_jupyter.cli.text import clean, count, size

    took = f"{time.monotonic() - began:.1f} s"
    for warning in made.warnings:
        note(step("!", "yellow", "note", clean(warning)))
    if source is None:
        note(step("✓", "green", "dataset", clean(made.name)))
    elif made.added is not None:
        what = f"{count(made.added.files, 'file')}, {size(made.added.bytes)}"
        note(step("✓", "green", f"version {made.added.number}", f"{clean(made.name)}  {what}", took))
    elif made.latest is not None:
        note(
            step(
                "✓", "green", "unchanged", f"{clean(made.name)}  version {made.latest.number} holds the same"
            )
        )


@datasets.command("list")
@json_option
def list_datasets(*, as_json: bool) -> int:
    """Your datasets, and the public ones."""
    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean, size
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    with Client() as client:
        found = [one.record for one in client.datasets.list()]
    if as_json:
        print_json(found)
    elif not found:
        note("  No datasets yet. To make one: gradient datasets create NAME --from PATH")
    else:
        now = now_us()
        table(
            (
                Column("Dataset", gives=True), Column("Version", right=True), Column("Files", right=True),
                Column("Size", right=True), Column("Created"), Column("Description", gives=True),
            ),
            (
                (
                    clean(one.name),
                    "public" if one.public else str(one.latest.number) if one.latest else "none",
                    f"{one.latest.files:,}" if one.latest else "",
                    size(one.latest.bytes) if one.latest else "",
                    (_when(one, now), "dim"),
                    clean(one.description),
                )
                for one in found
            ),
        )  # fmt: skip
    return 0


def _when(one: Record, now_us: int) -> str:
    from gradient_jupyter.cli.text import moment

    when_us = one.latest.created_us if one.latest else one.created_us
    return moment(when_us, now_us) if when_us else ""


@datasets.command()
@click.argument("name")
@json_option
def show(name: str, *, as_json: bool) -> int:
    """One dataset: its versions, and where jobs find it."""
    import msgspec

    from gradient_jupyter.cli.sheet import facts
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean, count, moment
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    with Client() as client:
        found = client.datasets.get(name)
        versions = [] if found.public else list(found.versions())
    record = found.record
    if as_json:
        print_json({**msgspec.to_builtins(record), "all_versions": versions})
        return 0
    word = clean(record.name)
    facts(
        [
            ("Dataset", f"{word}  {clean(record.id)}"),
            ("About", clean(record.description)),
            ("Owner", "the administrator; every job has it" if found.public else clean(record.owner)),
            ("In jobs", f"/datasets/{word} and /data/{word}, read-only; $GRADIENT_DATASETS_DIR/{word}"),
            ("Use", f"gradient run {'' if found.public else f'--dataset {word} '}train.py"),
            ("Versions", "" if found.public else count(len(versions), "version") if versions else "none yet"),
            ("Created", moment(record.created_us, now_us()) if record.created_us else ""),
        ]
    )
    if versions:
        say()
        _versions(versions)
    return 0


def _versions(versions: list[Version]) -> None:
    from gradient_jupyter.cli.terminal import Column, table
    from gradient_jupyter.cli.text import clean, moment, size
    from gradient_jupyter.resources.base import now_us

    now = now_us()
    table(
        (
            Column("Version", right=True), Column("Files", right=True), Column("Size", right=True),
            Column("Created"), Column("From", gives=True),
        ),
        (
            (
                str(one.number), f"{one.files:,}", size(one.bytes), (moment(one.created_us, now), "dim"),
                clean(one.source),
            )
            for one in versions[:_SHOWN]
        ),
    )  # fmt: skip
    if len(versions) > _SHOWN:
        note(f"  … and {len(versions) - _SHOWN} older ones: --json shows all.")


@datasets.command()
@click.argument("dataset", metavar="NAME[:VERSION]")
@json_option
def files(dataset: str, *, as_json: bool) -> int:
    """What a version holds; the newest, unless one is named."""
    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean, size
    from gradient_jupyter.client import Client

    with Client() as client:
        found, named = _one(client, dataset)
        held = list(found.files(named.version))
    if as_json:
        print_json(held)
    elif not held:
        note("  It holds no files.")
    else:
        table(
            (Column("Size", right=True), Column("File")),
            ((size(file.size), clean(file.path)) for file in held),
        )
    return 0


@datasets.command()
@click.argument("dataset", metavar="NAME[:VERSION]")
@json_option
def delete(dataset: str, *, as_json: bool) -> int:
    """Remove a dataset with all its versions, or one version.

    Refused while jobs that are not over have it. Jobs that are over keep what they had, and can be rerun.
    """
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean, size
    from gradient_jupyter.client import Client

    with Client() as client:
        found, named = _one(client, dataset)
        gone = found.delete(named.version)
    if as_json:
        print_json(gone)
        return 0
    what = clean(found.name) if gone.gone else f"{clean(found.name)}:{named.version}"
    held = "nothing is freed while jobs, or other datasets, hold the same files"
    freed = f"up to {size(gone.bytes)} will be freed" if gone.bytes else held
    note(f"  {what}  is gone; {freed}")
    return 0


def _one(client: Client, text: str) -> tuple[Dataset, Named]:
    from gradient_jupyter.resources.dataset import parse

    named = parse(text)
    if named is None:
        raise click.UsageError(f"{text!r} names no dataset; it looks like mnist, or mnist:3.")
    return client.datasets.get(named.name), named
