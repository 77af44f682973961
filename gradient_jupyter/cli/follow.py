"""Following a job: its output is our output, what we say about it goes to standard error."""

from __future__ import annotations

import sys
from typing import TextIO

from gradient_jupyter.cli import states
from gradient_jupyter.cli.ansi import RESET, Filter
from gradient_jupyter.cli.terminal import Live, note, paint
from gradient_jupyter.cli.text import clean, duration
from gradient_jupyter.client.jobs import Job
from gradient_jupyter.client.logs import STDOUT, LogLine
from gradient_jupyter.resources.job import PLACED, Phase, State

_WORD, _WHAT = 13, 48


def step(icon: str, style: str, word: str, what: str, took: str = "") -> str:
    """One line of what happens: icon, word, what, how long."""
    mark = paint(f"{icon} {word}", style, sys.stderr) + " " * max(1, _WORD - len(word) - 2)
    line = f"  {mark}{what}"
    return f"{line}{' ' * max(1, _WHAT - len(what))}{paint(took, 'dim', sys.stderr)}" if took else line


class Output:
    """Writes a job's words to our standard output and error: verbatim, but harmless on a terminal."""

    def __init__(self, *, all_to_stderr: bool = False) -> None:
        self._all_to_stderr = all_to_stderr
        self._filters = {"out": Filter(), "err": Filter()}
        self._mid_line = False
        self._coloured = False

    def write(self, line: LogLine) -> None:
        to_stdout = line.stream == STDOUT and not self._all_to_stderr
        stream = sys.stdout if to_stdout else sys.stderr
        text = line.text
        if line.stream == "platform":
            text = paint(clean(text).strip(), "dim", stream) + "\n"
            self.settle()
        if stream.isatty():
            text = self._filters["out" if to_stdout else "err"].feed(text)
            self._mid_line = not text.endswith("\n") if text else self._mid_line
            self._coloured = True
            stream.write(text)
        else:
            _verbatim(stream, text)
        stream.flush()

    def settle(self) -> None:
        """Before we speak: ends a line the job has left open on the terminal, and its colours."""
        if self._coloured and sys.stderr.isatty():
            sys.stdout.flush()
            sys.stderr.write(RESET + ("\n" if self._mid_line else ""))
            self._mid_line = self._coloured = False


def _verbatim(stream: TextIO, text: str) -> None:
    """The job's own bytes, whatever encoding this process thinks a pipe has."""
    data = text.encode("utf-8", "surrogateescape")
    if (binary := getattr(stream, "buffer", None)) is not None:
        stream.flush()
        binary.write(data)
    else:
        stream.write(text)


class Follower:
    """Stays with one job until it is final."""

    def __init__(self, *, all_to_stderr: bool = False) -> None:
        self._output = Output(all_to_stderr=all_to_stderr)
        self._live = Live()
        self._told: tuple[object, ...] = ()

    def to_the_end(self, job: Job) -> Job:
        """Shows its log and its states as they come. Ctrl-C leaves it to itself (KeyboardInterrupt)."""
        try:
            for line in job.watch(self._changed):
                self._live.clear()
                self._output.write(line)
        except KeyboardInterrupt:
            self._live.clear()
            self._output.settle()
            note(f"\n  The job goes on. Again: gradient jobs logs --follow {job.id}")
            note(f"                   Stop: gradient jobs stop {job.id}")
            raise
        self._live.clear()
        self._output.settle()
        say_end(job)
        return job

    def _changed(self, job: Job) -> None:
        record = job.record
        seen = (record.state, record.phase, record.queue_position, record.reason)
        if seen == self._told or record.final:
            return
        before, self._told = self._told, seen
        self._output.settle()
        icon, style = states.LOOK[record.state]
        word = states.word(record).lower()
        if record.state is State.RUNNING:
            self._live.clear()
            if record.phase is Phase.RUNNING and (not before or before[0] is not State.RUNNING):
                where = f" on {clean(record.machine_type)}"
                note(step(icon, style, word, f"{states.title(record)}  {record.id}{where}"))
                for port in record.ports:
                    note(step("→", "cyan", "reached", f"{port.url}  (its port {port.internal})"))
                if sys.stderr.isatty():
                    again = f"Ctrl-C leaves; the job goes on. Again: gradient jobs logs --follow {record.id}"
                    note("  " + paint(again, "dim", sys.stderr))
            return
        line = step(icon, style, word, states.why(record) or f"{states.title(record)}  {record.id}")
        if record.phase is Phase.RETRYING:
            self._live.clear()
            note(line)
        elif sys.stderr.isatty():
            self._live.show(line, now=True)
        elif record.phase is Phase.QUEUED and not (record.reason and record.reason.code == PLACED):
            note(line)


def say_end(job: Job) -> None:
    """How it ended, why, and what to do about it."""
    record = job.record
    icon, style = states.LOOK[record.state]
    took = duration(record.ended_us - record.started_us) if record.started_us and record.ended_us else ""
    ended = f"exit {record.exit_code}" if record.exit_code is not None else ""
    note(step(icon, style, states.word(record), f"{states.title(record)}  {ended}".rstrip(), took))
    if record.state is State.STOPPED or record.reason is None:
        return
    for heading, text in (("Why", record.reason.message), ("Next", record.reason.next)):
        if text:
            note(f"  {paint(heading, 'bold', sys.stderr)}{' ' * (_WORD - len(heading))}{clean(text)}")
