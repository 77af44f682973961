"""The supervisor's side of a log: its syncing thread ends whenever it is closed."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from solo import PATIENCE_S

from gradient_jupyter.engines.framedlog import Reader, Writer
from gradient_jupyter.engines.local import journal
from gradient_jupyter.engines.local.journal import STDOUT, Hints, Journal


def test_a_journal_that_is_closed_in_the_moment_of_a_sync_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: the command ends just when its log is about to be synced. The thread slept for ever, and the
    supervisor, which waits for it, never said how the command ended (P11: nothing of a job stays)."""
    monkeypatch.setattr(journal, "SYNC_AFTER_S", 0.001)
    hints = Hints(str(tmp_path), "nobody", "key")
    log = Journal(Writer(tmp_path / "log"), hints)

    class ClosedInBetween(threading.Event):
        def clear(self) -> None:
            log._closing.set()  # what ``close`` does first
            self.set()
            super().clear()

    log._dirty = ClosedInBetween()
    log.start_syncing()
    log.append(STDOUT, b"the last line\n")
    assert log._thread is not None
    log._thread.join(PATIENCE_S)
    assert not log._thread.is_alive()
    log.close()
    hints._socket.close()
    os.close(hints._directory)


def test_what_the_platform_says_begins_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: the disk is full in the middle of a line, for a while. P7: nobody else goes on with it."""
    monkeypatch.setattr(journal, "RETRY_EVERY_S", 0.0)
    hints = Hints(str(tmp_path), "nobody", "key")

    class Full(Writer):
        full = False

        def append(self, stream: int, data: bytes | memoryview, time_us: int) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().append(stream, data, time_us)

    writer = Full(tmp_path / "log")
    log = Journal(writer, hints)
    log.say("begins")
    log.append(STDOUT, b"half a li")
    writer.full = True
    log.append(STDOUT, b"ne\n")
    writer.full = False
    log.append(STDOUT, b"whole\n")
    log.append(STDOUT, b"half again")
    writer.full = True
    log.append(STDOUT, b"?\n")
    writer.full = False
    log.say("ends")
    assert log.close() == "5 bytes of its output are not in the log: no space was left."
    hints._socket.close()
    os.close(hints._directory)
    with Reader(tmp_path / "log") as reader:
        text = b"".join(chunk.data for chunk in reader.read(0))
    assert text.decode().splitlines() == [
        "gradient: begins", "half a li", "gradient: 3 bytes of output are missing here: no space was left.",
        "whole", "half again", "gradient: 2 bytes of output are missing here: no space was left.",
        "gradient: ends",
    ]  # fmt: skip
