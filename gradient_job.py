"""What a job says of itself: numbers, and how far it is.

    import gradient_job

    gradient_job.log_metrics({"loss": 0.31, "accuracy": 0.9}, step=epoch)
    gradient_job.set_progress(0.4, "epoch 4 of 10")

This one file is put into every task: standard library only, Python 3.8 or later, nothing to install. Outside
a job it does nothing, and says so once.

Training never waits for it. What is logged is appended to a file beside the task and sent from there by a
thread, in batches, again and again while the server does not answer. A point is its name, step, time and
value, so one that arrives twice is the same point. Whatever the end was like (``os._exit``, SIGKILL, out of
memory), the server reads what was not sent from that file when the run is over. Only where the file cannot be
written (a full disk) are points kept in memory, a bounded number of them; those that cannot be kept are
counted, and that is said once on stderr.
"""

from __future__ import annotations

import atexit
import http.client
import json
import math
import operator
import os
import random
import sys
import threading
import time as _clock
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["flush", "log_metric", "log_metrics", "set_progress"]

_BATCH_POINTS = 1000
_BATCH_BYTES = 512 * 1024
_EVERY_S = 0.2
"""A batch is sent when it is full, or after this long."""
_PROGRESS_S = 1.0
_TIMEOUT_S = 20.0
_BACKOFF_S = (0.1, 5.0)
_QUIET_S = 30.0
"""How long a server may be away before that is worth a word."""
_SEGMENT_BYTES = 8 * 1024 * 1024
_SPOOL_BYTES = 256 * 1024 * 1024
_MEMORY_POINTS = 50000
_EXIT_S = 5.0
"""How long the end of the process waits for the last points to be sent, where the file has them too …"""
_EXIT_WITHOUT_FILE_S = 30.0
"""… and where it does not."""
_KEY_LENGTH = 250
_MESSAGE_LENGTH = 200
_INT64 = 1 << 63


def log_metrics(metrics: Mapping[str, Any], step: int | None = None, time: float | None = None) -> None:
    """Log one value for each name. Returns at once, whatever the network does.

    Names have 1 to 250 printable characters. Values are whatever ``float()`` takes but text: also numpy's and
    torch's scalars, NaN and the infinities; True counts as 1. ``step`` is a whole number; without one each
    name counts on from its last step, the first is 0. ``time`` is in seconds since 1970; without one it is
    now. Raises ``TypeError`` or ``ValueError`` for what is not like that, and then logs nothing of it.
    """
    time_us = _time_us(time)
    number = None if step is None else _step(step)
    pairs = [(_key(key), _value(key, value)) for key, value in metrics.items()]
    if pairs and _in_job():
        _logger.log(pairs, number, time_us)


def log_metric(name: str, value: Any, step: int | None = None) -> None:
    """Log one value; as ``log_metrics({name: value}, step)``."""
    log_metrics({name: value}, step)


def set_progress(fraction: float | None, message: str = "") -> None:
    """Say how far the job is: from 0 to 1, or None where that is not known, and in words (one line of at most
    200 letters). The newest counts. Returns at once."""
    if fraction is not None:
        fraction = _value("fraction", fraction)
        if not 0 <= fraction <= 1:
            raise ValueError("fraction must be from 0 to 1, not %r" % fraction)
    if not isinstance(message, str):
        raise TypeError("message must be text, not %s" % type(message).__name__)
    message = "".join(letter if letter.isprintable() else " " for letter in message)[:_MESSAGE_LENGTH]
    if _in_job():
        _logger.progress({"fraction": fraction, "message": message})


def flush(timeout: float | None = None) -> bool:
    """Wait until the server has everything that was logged so far, for ``timeout`` seconds at most (None: as
    long as it takes). Returns whether it has. At the end of the process this happens by itself, for a bounded
    time."""
    return _logger.flush(timeout) if _in_job() else True


# Values.


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError("a metric's name must be text, not %s" % type(key).__name__)
    if not 1 <= len(key) <= _KEY_LENGTH or not key.isprintable():
        raise ValueError("a metric's name has 1 to %d printable characters: %r" % (_KEY_LENGTH, key[:80]))
    return key


def _value(key: Any, value: Any) -> float:
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError("the value of %r must be a number, not %s" % (key, type(value).__name__))
    try:
        return float(value)
    except OverflowError:
        raise ValueError("the value of %r is larger than a float can be" % (key,)) from None
    except Exception as error:  # a tensor of many numbers raises what its library likes
        kind = type(value).__name__
        raise TypeError("the value of %r must be one number, not %s: %s" % (key, kind, error)) from None


def _step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        try:
            number = int(step)
            whole = bool(number == step)  # "3" is not 3
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise TypeError("step must be a whole number, not %r" % (step,)) from None
    if not -_INT64 < number < _INT64:
        raise ValueError("step must fit into 64 bits: %r" % (step,))
    return number


def _time_us(time: float | None) -> int:
    if time is None:
        return _clock.time_ns() // 1000
    seconds = _value("time", time)
    if not 0 <= seconds < 1e11:
        raise ValueError("time must be in seconds since 1970, not %r" % (time,))
    return round(seconds * 1e6)


def _number(value: float) -> str:
    """As it travels: JSON has no word for NaN and the infinities, so they go as text."""
    if math.isnan(value):
        return '"nan"'
    if math.isinf(value):
        return '"inf"' if value > 0 else '"-inf"'
    return repr(value)


# What is on its way.


class _Segment:
    """A piece of the file: what was written to it, and how much of that the server has."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self.size = 0
        self.sent = 0


class _Spool:
    """Lines on their way, in the order they came, each exactly as it is sent. Not locked by itself.

    They are in files ``<process>-<random>-<number>.points`` in the directory; where that fails, in memory.
    What the server has is cut off, or the file removed. Whoever reads such a file may therefore find points
    that were sent already, and never lacks one.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._stem = "%d-%08x" % (os.getpid(), random.SystemRandom().getrandbits(32))
        self._count = 0
        self._segments: deque[_Segment] = deque()
        self._memory: deque[bytes] = deque()
        self._bytes = 0
        self.put = 0
        """Points that came in."""
        self.done = 0
        """Of these, those that the server has, or that nobody will ask for any more."""
        self.lost = 0

    @property
    def waiting(self) -> int:
        return self.put - self.done

    @property
    def only_in_memory(self) -> bool:
        return bool(self._memory)

    def append(self, lines: list[bytes]) -> None:
        self.put += len(lines)
        if self._directory is not None and self._write(b"".join(lines)):
            return
        room = max(0, _MEMORY_POINTS - len(self._memory))
        self._memory.extend(lines[:room])
        dropped = len(lines) - len(lines[:room])
        self.lost += dropped
        self.done += dropped

    def take(self) -> tuple[list[bytes], bool]:
        """The next lines, at most a batch, and whether they stand in memory. They stay until ``taken``."""
        for segment in self._segments:
            if segment.sent < segment.size:
                length = min(_BATCH_BYTES, segment.size - segment.sent)
                try:
                    data = _read(segment.fd, length, segment.sent)
                except OSError:
                    data = b""
                lines = data[: data.rfind(b"\n") + 1].splitlines(True)[:_BATCH_POINTS]
                if lines:
                    return lines, False
                # It cannot be read, or is not what we wrote: somebody has changed it.
                segment.sent = segment.size
                self.lost += 1
        lines = [self._memory[number] for number in range(min(len(self._memory), _BATCH_POINTS))]
        if not lines:
            self.done = self.put  # also what somebody took away from the files
        return lines, True

    def taken(self, lines: list[bytes], from_memory: bool) -> None:
        """The server has these."""
        self.done += len(lines)
        if from_memory:
            for _ in lines:
                self._memory.popleft()
            return
        left = sum(map(len, lines))
        for segment in list(self._segments):
            if segment.sent < segment.size:
                segment.sent += left
                break
        self._tidy()

    def clear(self) -> None:
        """Nobody wants what is waiting."""
        self.done = self.put
        self._memory.clear()
        for segment in self._segments:
            segment.sent = segment.size
        self._tidy()

    def forget(self) -> None:
        """In a forked child: these are the parent's."""
        for segment in self._segments:
            _quietly(os.close, segment.fd)

    def _write(self, data: bytes) -> bool:
        if self._bytes + len(data) > _SPOOL_BYTES:
            return False
        segment = None
        try:
            segment = self._segment()
            written = os.write(segment.fd, data)
            if written == len(data):
                segment.size += written
                self._bytes += written
                return True
        except OSError:
            pass
        if segment is not None:
            # The disk is full: what was half written must not stand before the next line.
            try:
                os.ftruncate(segment.fd, segment.size)
            except OSError:
                self._directory = None
        return False

    def _segment(self) -> _Segment:
        assert self._directory is not None
        if not self._segments or self._segments[-1].size >= _SEGMENT_BYTES:
            self._count += 1
            name = "%s-%d.points" % (self._stem, self._count)
            self._segments.append(_Segment(os.path.join(self._directory, name)))
        return self._segments[-1]

    def _tidy(self) -> None:
        while self._segments and self._segments[0].sent >= self._segments[0].size:
            segment = self._segments[0]
            self._bytes -= segment.size
            if len(self._segments) == 1:
                # The one that is being written stays, emptied.
                try:
                    os.ftruncate(segment.fd, 0)
                    segment.size = segment.sent = 0
                    return
                except OSError:
                    pass  # then another takes its place
            self._segments.popleft()
            _quietly(os.close, segment.fd)
            _quietly(os.unlink, segment.path)


def _read(fd: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def _quietly(work: Callable[..., Any], *arguments: Any) -> None:
    try:
        work(*arguments)
    except OSError:
        pass


class _Refused(Exception):
    """The server answered, and will answer the same again."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Line:
    """The connection to the server. ``send`` raises ``_Refused``, or ``OSError`` or ``HTTPException`` where
    it is worth trying again."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None

    def send(self, method: str, path: str, body: bytes) -> None:
        used_before = self._connection is not None
        try:
            status, said = self._ask(method, path, body)
        except (OSError, http.client.HTTPException):
            if not used_before:
                raise
            status, said = self._ask(
                method, path, body
            )  # the server closes what is idle, or was started anew
        if status >= 300:
            try:
                error = json.loads(said.decode())["error"]
                code, message = str(error["code"]), str(error["message"])
            except (ValueError, KeyError, TypeError):
                code, message = "", "it answered %d" % status
            if status in (408, 423, 425, 429) or status >= 500:
                raise OSError(message)
            raise _Refused(status, code, message)

    def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            if self._connection is None:
                kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
                self._connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
            self._connection.request(method, self._path + path, body, self._headers)
            answer = self._connection.getresponse()
            said = answer.read()
            if answer.will_close:
                self.close()
            return answer.status, said
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Logger:
    """What this process logs. A forked child has one of its own."""

    def __init__(self) -> None:
        # Reentrant, for a signal's handler that logs in the middle of logging.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._busy = False
        self._late: deque[tuple[list[tuple[str, float]], int | None, int]] = deque()
        """What a signal's handler has logged in the middle of logging."""
        self._late_progress = False
        """And it has said how far the job is."""
        self._steps: dict[str, int] = {}
        self._spool: _Spool | None = None
        self._thread: threading.Thread | None = None
        self._progress: dict[str, Any] | None = None
        self._progress_at = 0.0
        self._at_exit = False
        self._no_address = False
        """Where the server is cannot be understood: the file has the points."""
        self._hurry = False
        self._calls = 0
        """How often somebody has asked for hurry."""
        self._pid = os.getpid()
        self._full = False
        """The server takes no more points of this job."""
        self._closed = ""
        """Why nothing at all is sent any more."""
        self._muted: set[str] = set()
        """Names the server takes no more of."""
        self._told: set[str] = set()

    # What callers do.

    def log(self, pairs: list[tuple[str, float]], step: int | None, time_us: int) -> None:
        with self._lock:
            if self._busy:
                # A signal's handler, in the middle of the very same: whoever was interrupted does it.
                self._late.append((pairs, step, time_us))
                return
            self._busy = True
            try:
                self._log(pairs, step, time_us)
                while self._late:
                    self._log(*self._late.popleft())
            finally:
                self._busy = False
        self._after_all()

    def _after_all(self) -> None:
        """What came between the last look and the end."""
        if self._late:
            self.log(*self._late.popleft())
        if self._late_progress:
            with self._lock:
                self._late_progress = False
                report = self._progress
            if report is not None:
                self.progress(report)

    def _log(self, pairs: list[tuple[str, float]], step: int | None, time_us: int) -> None:
        lines = []
        for key, value in pairs:
            number = self._steps.get(key, -1) + 1 if step is None else step
            self._steps[key] = number
            if self._closed or self._full or key in self._muted:
                continue
            point = (json.dumps(key), _number(value), number, time_us)
            lines.append(("[%s,%s,%d,%d]\n" % point).encode())
        if not lines:
            return
        spool = self._spool
        if spool is None:
            spool = self._spool = _Spool(os.environ.get("GRADIENT_SPOOL_DIR") or None)
        before = spool.waiting
        spool.append(lines)
        if spool.lost:
            self._tell("lost", "points are lost: neither the server nor the disk takes them now")
        self._wake(before, spool.waiting)

    def progress(self, report: dict[str, Any]) -> None:
        with self._lock:
            if self._closed:
                return
            self._progress = report
            if self._busy:
                # As in ``log``.
                self._late_progress = True
                return
            self._busy = True
            try:
                self._wake(0, 1)
            finally:
                self._busy = False
        self._after_all()

    def flush(self, timeout: float | None) -> bool:
        until = None if timeout is None else _clock.monotonic() + timeout
        with self._changed:
            wanted = self._spool.put if self._spool else 0
            if self._thread is not None:
                self._hurry = True
                self._calls += 1
                self._changed.notify_all()
            if self._busy:
                # A signal's handler, in the middle of logging: to wait would give the lock away there, and
                # the thread would find what is half done.
                return False
            while not self._closed and self._thread is not None:
                if (self._spool is None or self._spool.done >= wanted) and self._progress is None:
                    break
                left = None if until is None else until - _clock.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            sent = (self._spool is None or self._spool.done >= wanted) and self._progress is None
            return sent and not self._closed and not self._full

    def close(self) -> None:
        """At the end of the process."""
        if self._pid != os.getpid():
            return  # in a forked child, which has inherited the call: these are the parent's
        with self._lock:
            spool = self._spool
            bound_s = _EXIT_WITHOUT_FILE_S if spool and spool.only_in_memory else _EXIT_S
        self.flush(bound_s)
        with self._lock:
            if self._closed or spool is None:
                return
            if spool.only_in_memory:
                self._tell("end", "%d points could not be sent and are lost" % spool.waiting)
            if spool.lost:
                self._tell("sum", "%d points were lost in all" % spool.lost)

    def forget(self) -> None:
        """In a forked child: everything here is the parent's."""
        if self._spool is not None:
            self._spool.forget()

    def _wake(self, before: int, after: int) -> None:
        if self._thread is None:
            self._begin()
        if before == 0 or before // _BATCH_POINTS != after // _BATCH_POINTS:
            self._changed.notify_all()

    def _begin(self) -> None:
        if not self._at_exit:
            self._at_exit = True
            _at_exit(self.close)
        if self._no_address:
            return
        try:
            line = _Line(os.environ["GRADIENT_JOB_URL"], os.environ.get("GRADIENT_JOB_TOKEN", ""))
        except (ValueError, KeyError) as error:
            self._no_address = True
            self._tell("address", "nothing is sent, GRADIENT_JOB_URL is no address: %s" % error)
            return
        thread = threading.Thread(target=self._run, args=(line,), name="gradient_job", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had, or the interpreter ends: the file has the points
            return
        self._thread = thread

    # What the thread does.

    def _run(self, line: _Line) -> None:
        pause_s = 0.0
        away_since: float | None = None
        while True:
            with self._changed:
                if pause_s:
                    self._pause(pause_s)
                else:
                    self._wait_for_work()
            try:
                self._send_points(line)
                self._send_progress(line)
                pause_s, away_since = 0.0, None
            except _Refused as refusal:
                self._refused(refusal)
                if self._closed:
                    line.close()
                    return
            except (OSError, http.client.HTTPException) as error:
                low, high = _BACKOFF_S
                pause_s = min(high, max(low, pause_s * 2)) * random.uniform(0.8, 1.2)  # noqa: S311
                now = _clock.monotonic()
                away_since = now if away_since is None else away_since
                if now > away_since + _QUIET_S:  # it may just be started anew
                    self._tell(
                        "away",
                        "the server does not answer (%s); what is logged is kept and sent later" % error,
                    )
            except Exception as error:  # whatever it is: training goes on, and the points are in the file
                self._tell("broken", "sending failed: %r" % error)
                pause_s = _BACKOFF_S[1]

    def _pause(self, pause_s: float) -> None:
        """Until then, or until somebody waits for the end of it. With the lock."""
        calls, until = self._calls, _clock.monotonic() + pause_s
        while calls == self._calls and (left := until - _clock.monotonic()) > 0:
            self._changed.wait(left)

    def _wait_for_work(self) -> None:
        """Until there is a full batch, or one that has waited long enough. With the lock."""
        while not (self._spool and self._spool.waiting) and self._progress is None:
            self._hurry = False
            self._changed.notify_all()  # whoever flushes
            self._changed.wait()
        until = _clock.monotonic() + _EVERY_S
        while not self._hurry and (self._spool is None or self._spool.waiting < _BATCH_POINTS):
            left = until - _clock.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _send_points(self, line: _Line) -> None:
        while self._spool is not None:
            with self._changed:
                lines, from_memory = self._spool.take()
                if not lines:
                    self._changed.notify_all()
                    return
            try:
                line.send("POST", "/metrics", _body(lines))
            except _Refused as refusal:
                if not self._is_about_some(refusal):
                    raise
                self._one_by_one(line, lines)
            with self._changed:
                self._spool.taken(lines, from_memory)
                self._changed.notify_all()

    def _is_about_some(self, refusal: _Refused) -> bool:
        """Whether others of the same batch may be welcome."""
        return refusal.code == "too-many-metrics" or refusal.status == 400

    def _one_by_one(self, line: _Line, lines: list[bytes]) -> None:
        """Name by name: the server does not want one of them."""
        by_key: dict[str, list[bytes]] = {}
        for text in lines:
            by_key.setdefault(json.loads(text.decode())[0], []).append(text)
        for key, some in by_key.items():
            if key not in self._muted:
                try:
                    line.send("POST", "/metrics", _body(some))
                except _Refused as refusal:
                    if not self._is_about_some(refusal):
                        raise
                    self._muted.add(key)
                    self._tell("muted", "%r and maybe others are not stored: %s" % (key, refusal))

    def _send_progress(self, line: _Line) -> None:
        with self._lock:
            report = self._progress
            early = _clock.monotonic() < self._progress_at + _PROGRESS_S and not self._hurry
        if report is None or early:
            return
        self._progress_at = _clock.monotonic()
        try:
            line.send("PUT", "/progress", json.dumps(report).encode())
        except _Refused as refusal:
            if refusal.status != 400:
                raise
            self._tell("progress", "the progress was refused: %s" % refusal)
        with self._changed:
            if self._progress is report:
                self._progress = None
            self._changed.notify_all()

    def _refused(self, refusal: _Refused) -> None:
        with self._changed:
            if refusal.status == 413:
                self._full = True
                self._tell("full", "no more points are sent: %s" % refusal)
            else:
                why = "nothing is sent any more: %s" % refusal
                if refusal.code == "attempt-fenced":
                    why = "this attempt of the job is over, so nothing is sent any more"
                self._tell("closed", why)
                self._closed = refusal.code or str(refusal.status)
                self._progress = None
            if self._spool is not None:
                self._spool.clear()
            self._changed.notify_all()

    def _tell(self, kind: str, sentence: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            _say(sentence)


def _body(lines: list[bytes]) -> bytes:
    return b'{"points":[' + b",".join(line.rstrip(b"\n") for line in lines) + b"]}"


def _say(sentence: str) -> None:
    try:
        print("gradient_job: " + sentence, file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError, AttributeError):
        pass  # stderr is closed, or there is none


def _at_exit(work: Callable[[], None]) -> None:
    atexit.register(work)
    # Children that multiprocessing forks end without atexit, and with this.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        try:
            util.Finalize(None, work, exitpriority=0)
        except Exception:  # noqa: S110  # atexit, or the file, has them too
            pass


def _in_job() -> bool:
    if os.environ.get("GRADIENT_JOB_URL"):
        return True
    global _said_outside
    if not _said_outside:
        _said_outside = True
        _say("this is no job of Gradient's, so nothing is logged")
    return False


def _after_fork() -> None:
    global _logger
    parents, _logger = _logger, _Logger()
    parents.forget()


_said_outside = False
_logger = _Logger()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
