"""The supervisor's side of a log: its syncing thread ends whenever it is closed."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from solo import PATIENCE_S

from gradient_jupyter.engines.framedlog import Writer
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
