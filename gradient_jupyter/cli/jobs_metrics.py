"""``gradient jobs metrics``: the numbers of a job as a table with curves, watched, or as JSON."""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from gradient_jupyter.cli.options import Moment, json_option
from gradient_jupyter.cli.terminal import Column, Row, note, say

if TYPE_CHECKING:
    from gradient_jupyter.client import Client, Job
    from gradient_jupyter.client.metrics import Metrics
    from gradient_jupyter.resources.metric import Bucket, Summary

#: Letters of a curve in the table, and in one that is narrow.
_CURVE, _SHORT_CURVE = 24, 10
_BARS = "▁▂▃▄▅▆▇█"
#: As Gradient's users type it: ``jobs metrics get|stream --id JOB``.
_GET, _STREAM = ("get", "list"), "stream"


@click.command()
@click.argument("named", nargs=-1, metavar="JOB [METRIC]...")
@click.option("--id", "--jobId", "--job-id", "named_id", hidden=True)
@click.option("--follow", "-f", is_flag=True, help="Stay with it until the job is over. Ctrl-C leaves.")
@click.option("--system", is_flag=True, help="Only what was measured: CPU, memory, GPUs.")
@click.option("--custom", is_flag=True, help="Only what the job itself has written.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Of that attempt.  [the newest]")
@click.option("--start", type=Moment(), metavar="TIME", help="Curves and --json points: not before.")
@click.option("--end", type=Moment(), metavar="TIME", help="Curves and --json points: not after.")
@click.option(
    "--buckets", type=click.IntRange(1, 10_000), metavar="N", help="With --json: N buckets for each metric."
)
@json_option
def metrics(
    *,
    named: tuple[str, ...],
    named_id: str | None,
    follow: bool,
    system: bool,
    custom: bool,
    attempt: int | None,
    start: datetime.datetime | None,
    end: datetime.datetime | None,
    buckets: int | None,
    as_json: bool,
) -> int:
    """The numbers of a job: what it wrote, and what was measured about it.

    METRIC is a name, or the beginning of one with a * behind it. With --json and names every point is
    printed, as [step, time_us, value]; without names the summaries.

    \b
    gradient jobs metrics JOB
    gradient jobs metrics JOB --follow
    gradient jobs metrics JOB loss 'val/*' --json
    """
    if named and named[0] in (*_GET, _STREAM):
        follow = follow or named[0] == _STREAM
        named = named[1:]
    job_id, names = (named_id, named) if named_id else ((named or (None,))[0], named[1:])
    if job_id is None:
        raise click.UsageError("Name one job by its id; gradient jobs list shows them.")
    if system and custom:
        raise click.UsageError("--system and --custom leave nothing: give one of them.")
    if follow and any(each is not None for each in (attempt, start, end, buckets)):
        raise click.UsageError("--follow shows what comes now, without --attempt, --start, --end, --buckets.")
    if buckets and not as_json:
        raise click.UsageError("--buckets is for --json; the table has curves.")
    begin_us, end_us = _microseconds(start), _microseconds(end)
    wanted = _Wanted(names, "system" if system else "custom" if custom else None)
    from gradient_jupyter.client import Client

    with Client() as client:
        if follow:
            return _follow(client, job_id, wanted, as_json)
        job = client.jobs.get(job_id)
        source = job.metrics if attempt is None else job.metrics.of_attempt(attempt)
        found = [each for each in source.list() if wanted(each)]
        if not found:
            _check_names(names)
        if as_json:
            _print_json(source, found, bool(names) or buckets is not None, buckets, begin_us, end_us)
        elif not found:
            note(_nothing(job))
        else:
            from gradient_jupyter.cli.terminal import table

            table(_COLUMNS, _rows(found, lambda each: _curve(source, each, begin_us, end_us)))
    return 0


def _microseconds(moment: datetime.datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1e6)


class _Wanted:
    """Which metrics were asked for."""

    def __init__(self, names: Sequence[str], kind: str | None) -> None:
        self._names = names
        self._kind = kind

    def __call__(self, each: Summary) -> bool:
        if self._kind is not None and each.kind != self._kind:
            return False
        return not self._names or any(
            each.key.startswith(name[:-1]) if name.endswith("*") else each.key == name for name in self._names
        )


def _check_names(names: Sequence[str]) -> None:
    from gradient_jupyter.cli.failures import Failed

    if names:
        raise Failed(
            f"There is no metric {names[0]!r} here.",
            next="gradient jobs metrics JOB shows those there are.",
            code="no-such-metric",
        )


def _nothing(job: Job) -> str:
    if job.final:
        return "  This job has left no numbers. log_metrics() of gradient_job writes some: docs/metrics.md"
    return "  No numbers yet. --follow waits for them."


_COLUMNS = (
    Column("Metric", gives=True),
    Column("Last", right=True),
    Column("Step", right=True),
    Column("Least", right=True),
    Column("Greatest", right=True),
    Column("Points", right=True),
    Column(""),
)


def _rows(found: Iterable[Summary], curve: Callable[[Summary], str]) -> Iterator[Row]:
    from gradient_jupyter.cli.text import clean

    for each in found:
        system = each.kind == "system"
        yield (
            (clean(each.key), "dim" if system else ""),
            _number(each, each.last),
            ("" if system else f"{each.last_step:,}", "dim"),
            _number(each, each.min),
            _number(each, each.max),
            (f"{each.count:,}", "dim"),
            (curve(each), "cyan"),
        )


def _number(each: Summary, value: float | str | None) -> str:
    from gradient_jupyter.cli.text import size
    from gradient_jupyter.resources.metric import System

    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if each.kind == "system":
        name = each.key.partition("/")[0]
        if name in (System.MEMORY_USAGE, System.GPU_MEMORY_USED, System.GPU_MEMORY_FREE):
            return size(round(value))
        units = {System.GPU_POWER_DRAW.value: " W", System.GPU_TEMP.value: " °C"}
        return f"{value:.0f}{units.get(name, ' %')}"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.4g}"


def _curve(source: Metrics, each: Summary, start: int | None, end: int | None) -> str:
    if each.count < 2:
        return ""
    from gradient_jupyter.cli.terminal import width

    letters = _CURVE if width() >= 100 else _SHORT_CURVE
    found = source.buckets(each.key, letters, each.kind, from_us=start, to_us=end)
    # What is measured has a zero that means something; a machine that is busy throughout shows no waves.
    return curve(found, 0.0 if each.kind == "system" else None)


def curve(buckets: Sequence[Bucket], floor: float | None = None) -> str:
    """The means of the buckets as letters between the least of them (or ``floor``) and the greatest; a dot
    where there is no number."""
    means = [each.mean if isinstance(each.mean, (int, float)) else None for each in buckets]
    numbers = [mean for mean in means if mean is not None]
    if not numbers:
        return ""
    least, greatest = min(numbers if floor is None else (floor, *numbers)), max(numbers)
    span = greatest - least
    if span == 0 or span == float("inf"):
        flat = _BARS[0] if floor is not None and span == 0 else _BARS[3]
        return "".join("·" if mean is None else flat for mean in means)
    return "".join("·" if mean is None else _BARS[min(7, int(8 * ((mean - least) / span)))] for mean in means)


def _print_json(
    source: Metrics,
    found: Sequence[Summary],
    points: bool,
    buckets: int | None,
    start: int | None,
    end: int | None,
) -> None:
    from gradient_jupyter.cli.terminal import print_json

    if not points:
        print_json(found)
        return
    import msgspec

    from gradient_jupyter.resources.metric import shown

    told: list[dict[str, Any]] = []
    for each in found:
        whole: dict[str, Any] = msgspec.to_builtins(each)
        if buckets is not None:
            whole["buckets"] = source.buckets(each.key, buckets, each.kind, from_us=start, to_us=end)
        else:
            whole["points"] = [
                (step, time_us, shown(value))
                for step, time_us, value in source.read(each.key, each.kind)
                if (start is None or time_us >= start) and (end is None or time_us <= end)
            ]
        told.append(whole)
    print_json(told)


def _follow(client: Client, job_id: str, wanted: _Wanted, as_json: bool) -> int:
    """On a terminal one table that changes in place; elsewhere a line for each change."""
    job = client.jobs.get(job_id)
    known: dict[tuple[str, str], Summary] = {}
    curves: dict[tuple[str, str], str] = {}
    block = _Block() if sys.stdout.isatty() and not as_json else None
    try:
        for changed in job.metrics.follow():
            some = [each for each in changed if wanted(each)]
            if not some:
                continue
            for each in some:
                known[each.kind, each.key] = each
                if block is not None:
                    curves[each.kind, each.key] = _curve(job.metrics, each, None, None)
            if as_json:
                _say_lines(some)
            elif block is None:
                _say_changes(some)
            else:
                ordered = [known[key] for key in sorted(known)]
                block.show(ordered, lambda each: curves.get((each.kind, each.key), ""))
    except KeyboardInterrupt:
        note("\n  Left; the job goes on.")
        return 0
    if not known and not as_json:
        note(_nothing(job.refresh()))
    return 0


def _say_lines(some: Sequence[Summary]) -> None:
    import msgspec

    for each in some:
        say(msgspec.json.encode(each).decode())
    sys.stdout.flush()


def _say_changes(some: Sequence[Summary]) -> None:
    from gradient_jupyter.cli.text import clean

    for each in some:
        at = "" if each.kind == "system" else f"  step {each.last_step:,}"
        say(f"{clean(each.key)}  {_number(each, each.last)}{at}")
    sys.stdout.flush()


class _Block:
    """A table that is drawn again where it stands. One that is longer than the screen shows its beginning."""

    def __init__(self) -> None:
        self._lines = 0

    def show(self, found: Sequence[Summary], curve: Callable[[Summary], str]) -> None:
        import io
        import os

        from gradient_jupyter.cli.terminal import table

        height = os.get_terminal_size(sys.stdout.fileno()).lines or 24  # some terminals do not know theirs
        drawn = _Captured(io.StringIO())
        with contextlib.redirect_stdout(drawn):
            table(_COLUMNS, _rows(found, curve))
        lines = drawn.file.getvalue().splitlines()[: max(1, height - 1)]
        up = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        sys.stdout.write(up + "\n".join(lines) + "\n")
        sys.stdout.flush()
        self._lines = len(lines)


class _Captured:
    """Standard output for a moment: a terminal still, but what is written is kept."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self._terminal = sys.stdout

    def write(self, text: str) -> int:
        return int(self.file.write(text))

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return self._terminal.isatty()

    def fileno(self) -> int:
        return self._terminal.fileno()
