"""``gradient jobs artifacts``: what a run left in ``/artifacts``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradient_jupyter.cli.command import Words
from gradient_jupyter.cli.options import job_argument, json_option, named_job_argument
from gradient_jupyter.cli.terminal import note

if TYPE_CHECKING:
    from gradient_jupyter.client import Job


@click.group(cls=Words)
def artifacts() -> None:
    """What a job left in /artifacts: list it, fetch it, remove it."""


@artifacts.command("list")
@job_argument
@click.option("--files", "pattern", metavar="GLOB", help="Only these: a file, a directory, or '*.png'.")
@click.option("--size", "-s", "sizes", is_flag=True, help="Their size in bytes.  [for people]")
@click.option("--links", "-l", is_flag=True, help="Their addresses; the token opens them.")
@json_option
def list_artifacts(*, job_id: str, pattern: str | None, sizes: bool, links: bool, as_json: bool) -> int:
    """The files a job has left so far."""
    import msgspec

    from gradient_jupyter.cli.terminal import Column, print_json, table
    from gradient_jupyter.cli.text import clean, moment, size
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.base import now_us

    with Client() as client:
        kept = client.jobs.get(job_id).artifacts
        found = kept.list(pattern)
        address = {file.path: kept.url(file.path) for file in found} if links else {}
    if as_json:
        plain = [msgspec.structs.asdict(file) for file in found]
        print_json([{**row, "url": address[row["path"]]} for row in plain] if links else plain)
    elif not found:
        note("  This job has left nothing " + ("like that." if pattern else "in /artifacts."))
    else:
        now = now_us()
        kept_size = Column("Size", right=True)
        sized = ((str(file.size) if sizes else size(file.size), file) for file in found)
        if links:
            table((kept_size, Column("Address")), ((text, address[file.path]) for text, file in sized))
        else:
            table(
                (Column("Artifact", gives=True), kept_size, Column("Changed")),
                ((clean(file.path), text, (moment(file.modified_us, now), "dim")) for text, file in sized),
            )
    return 0


@artifacts.command()
@job_argument
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option(
    "--destinationDir", "--destination-dir", "-o", "destination", metavar="DIR", help="Where to.  [./JOB]"
)
@click.option("--zip", "zip_file", metavar="FILE", help="All of it as one zip file instead.")
@json_option
def download(
    *, job_id: str, paths: tuple[str, ...], destination: str | None, zip_file: str | None, as_json: bool
) -> int:
    """Fetch artifacts: all of them, or those named by PATH (a file, a directory, a pattern such as '*.png').

    What is here already is not fetched again; what was cut off goes on where it stopped.
    """
    from gradient_jupyter.cli.terminal import Live, print_json
    from gradient_jupyter.cli.text import clean, count, size
    from gradient_jupyter.client import Client
    from gradient_jupyter.resources.artifact import Artifact

    if zip_file is not None and (paths or destination is not None):
        raise click.UsageError("--zip takes everything into one file: no paths, no --destinationDir.")
    with Client() as client:
        job = client.jobs.get(job_id)
        if zip_file is not None:
            return _zip(job, Path(zip_file), as_json=as_json)
        to = Path(destination if destination is not None else job.id)
        live = Live()
        here: dict[str, int] = {}

        def show(artifact: Artifact, so_far: int) -> None:
            here[artifact.path] = so_far
            live.show(f"  {size(so_far)} of {size(artifact.size)}  {clean(artifact.path)}")

        try:
            fetched = job.artifacts.download(to, paths or None, on_progress=show)
        finally:
            live.clear()
    if as_json:
        print_json([{"path": os.fspath(path)} for path in fetched])
    elif not fetched:
        note("  This job has left nothing in /artifacts.")
    else:
        total = size(sum(here.values()))
        note(f"  {count(len(fetched), 'file')}, {total}, in {clean(os.fspath(to))}")
    return 0


def _zip(job: Job, target: Path, *, as_json: bool) -> int:
    """All artifacts as one file, which appears whole or not at all."""
    import tempfile

    from gradient_jupyter.cli.terminal import Live, print_json
    from gradient_jupyter.cli.text import clean, size

    live = Live()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".gradient-", delete=False) as file:
        temporary = Path(file.name)
        try:
            job.artifacts.zip(file, lambda count: live.show(f"  {size(count)}"))
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            live.clear()
    if as_json:
        print_json({"path": os.fspath(target), "size": target.stat().st_size})
    else:
        note(f"  {size(target.stat().st_size)}, in {clean(os.fspath(target))}")
    return 0


@artifacts.command()
@named_job_argument
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@json_option
def delete(*, job_id: str, paths: tuple[str, ...], as_json: bool) -> int:
    """Remove artifacts of a job that is over. They cannot be had back."""
    from gradient_jupyter.cli.terminal import print_json
    from gradient_jupyter.cli.text import clean, count
    from gradient_jupyter.client import Client

    with Client() as client:
        job = client.jobs.get(job_id)
        for path in paths:
            job.artifacts.delete(path)
    if as_json:
        print_json([{"path": path} for path in paths])
    else:
        note(f"  {count(len(paths), 'file')} removed: {clean(', '.join(paths))}")
    return 0
