"""How the server's log reads: text for people, or one JSON object a line for programs; each with its request
and job.

Requests are told by their method, the template of their address, status and duration: never a header, a
query, a body or a real address. A flood of requests does not fill the disk: beyond a burst only some of them
are told, and how many were not.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from gradient_jupyter.control import context
from gradient_jupyter.control.context import Asking

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(about)s"
_MINE = ("method", "route", "status", "duration_ms")


def set_up(level: int | str, *, as_json: bool) -> None:
    """The whole process logs to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # What no line shows is not looked up for each of them (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger("alembic").setLevel(logging.WARNING)
    requests = logging.getLogger("gradient_jupyter.requests")
    for old in [each for each in requests.filters if isinstance(each, Burst)]:
        requests.removeFilter(old)
    requests.addFilter(Burst())


def _about(record: logging.LogRecord) -> Asking:
    asking = getattr(record, "asking", None)
    return asking if isinstance(asking, Asking) else context.current()


class _Formatter(logging.Formatter):
    """What an exception says may come from outside. Its traceback keeps its lines, each set in, so that none
    looks like a line of the log."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info:
            record.exc_text = None  # as somebody else may have put it
        return super().format(record)

    def formatException(self, ei: Any) -> str:
        return _set_in(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return _set_in(super().formatStack(stack_info))


class TextFormatter(_Formatter):
    """One line, unless something went wrong in the server: then its traceback follows."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        asking = _about(record)
        known = {
            "request": asking.request_id, "user": asking.user_id, "token": asking.token_id,
            "attempt": asking.attempt, "job": asking.job_id,
        }  # fmt: skip
        told = " ".join(f"{name}={value}" for name, value in known.items() if value)
        record.about = f" [{told}]" if told else ""
        return _printable(super().formatMessage(record))


class JsonFormatter(_Formatter):
    """One object a line, of letters that a terminal shows and does not obey. Every line has ``time``,
    ``level``, ``logger``, ``message``."""

    def format(self, record: logging.LogRecord) -> str:
        asking = _about(record)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        known = {
            "request_id": asking.request_id, "user_id": asking.user_id, "token_id": asking.token_id,
            "attempt": asking.attempt, "job_id": asking.job_id, "address": asking.address,
        }  # fmt: skip
        line |= {name: value for name, value in known.items() if value}
        line |= {name: getattr(record, name) for name in _MINE if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = msgspec.json.encode(_valid(line)).decode()
        return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _valid(line: dict[str, object]) -> dict[str, object]:
    """Text from outside may hold halves of letters that no encoding has."""
    return {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in line.items()
    }


def _escaped(letter: str) -> str:
    """As JSON has it."""
    return f"\\u{ord(letter):04x}" if letter <= "\uffff" else json.dumps(letter)[1:-1]


def _printable(text: str) -> str:
    """What a terminal would obey, and a line's end within a message, is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def _set_in(traceback: str) -> str:
    return "\n".join(f"    {_printable(line)}" for line in traceback.split("\n"))


class Burst(logging.Filter):
    """Lets ``most`` lines through at once and ``per_s`` a second after them."""

    def __init__(self, most: int = 2000, per_s: float = 5.0) -> None:
        super().__init__()
        self._most = most
        self._per_s = per_s
        self._left = float(most)
        self._last_s = time.monotonic()
        self._untold = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._last_s) * self._per_s)
        self._last_s = now
        if self._left < 1:
            self._untold += 1
            return False
        self._left -= 1
        if self._untold:
            record.msg = f"{record.msg} ({self._untold} requests before it are not told)"
            self._untold = 0
        return True
