"""``gradient jobs receipt``."""

from __future__ import annotations

from pathlib import Path

import click

from gradient_jupyter.cli.options import job_argument, json_option


@click.command()
@job_argument
@click.option(
    "--output", "-o", metavar="FILE", help="Write it there; as JSON if it ends in .json.  [print it]"
)
@json_option
def receipt(*, job_id: str, output: str | None, as_json: bool) -> int:
    """Write what it takes to run a job exactly so again: its command, its files by
    their digest, its variables, limits and ports; and what came of it.

    Variables are written as they were given: secrets by their name, everything else
    in clear. The file is readable by you alone.

    \b
    gradient jobs receipt -o best.yaml j7k2m9qxw3ab
    gradient run --receipt best.yaml
    """
    import msgspec

    from gradient_jupyter.cli.optionsfile import write_new
    from gradient_jupyter.cli.terminal import note, print_json, say
    from gradient_jupyter.cli.text import clean
    from gradient_jupyter.client import Client, receipts

    with Client() as client:
        job = client.jobs.get(job_id)
        made = job.receipt()
    if not job.final:
        note(f"  {job.id} is not over; what comes of it is not in its receipt.")
    said = receipts.plain(made)
    if output is None and as_json:
        print_json(said)
        return 0
    if output is not None and output.endswith(".json"):
        text = msgspec.json.format(msgspec.json.encode(said), indent=2).decode() + "\n"
    else:
        import yaml

        text = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=2**20)
    if output is None:
        say(text.rstrip("\n"))
        return 0
    write_new(output, text)
    if as_json:
        print_json({"path": output})
    else:
        note(f"  {clean(str(Path(output)))}  Repeat it: gradient run --receipt {clean(output)}")
    return 0
