"""Whether the wall clock may be believed when it decides what is old enough to be deleted.

Order and time-outs never depend on it (P14). Retention has to: "ended 30 days ago" is a matter of the wall
clock alone. So before anything is deleted for its age the clock is held against what else is known: the boot
clock, which nobody sets, and the time of the newest event. Where they disagree, nothing is deleted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from gradient_jupyter.control.keeping.leases import boot_s
from gradient_jupyter.resources.base import now_us

_JUMP_S = 600.0
_DAY_S = 24 * 3600.0
_UNSYNCHRONISED = 5


class Clock:
    """Remembers how wall and boot clock stood to each other when the server started."""

    def __init__(
        self,
        wall_us: Callable[[], int] = now_us,
        boot_s: Callable[[], float] = boot_s,
        synchronised: Callable[[], bool] | None = None,
    ) -> None:
        self._wall_us = wall_us
        self._boot_s = boot_s
        self._synchronised = synchronised or is_synchronised
        self._wall_start_us = wall_us()
        self._boot_start_s = boot_s()

    def jumped_s(self) -> float:
        """By how much the wall clock was set since the server started; forward is positive."""
        wall_s = (self._wall_us() - self._wall_start_us) / 1e6
        return wall_s - (self._boot_s() - self._boot_start_s)

    def doubt(self, newest_us: int | None, keep_s: float) -> str | None:
        """Why nothing may be deleted for being older than ``keep_s``, or None. ``newest_us`` is the newest
        event before the server started."""
        reason = None
        if (jump := self.jumped_s()) > _JUMP_S:
            reason = f"the clock was set forward by {_span(jump)} while the server ran"
        elif newest_us is not None:
            gap = (self._wall_start_us - newest_us) / 1e6
            if gap > max(_DAY_S, keep_s / 10):
                reason = f"the newest event is {_span(gap)} old: nobody was here, or the clock is wrong"
        # A clock that a time server keeps was put right, not wrong.
        return None if reason is None or self._synchronised() else reason


def is_synchronised() -> bool:
    """Whether the kernel says that a time server keeps the clock (``adjtimex``); False where nobody can."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # ``struct timex`` with no mode set only asks. It has 208 bytes; the answer's state is the return value.
    state: int = libc.adjtimex(ctypes.create_string_buffer(512))
    return 0 <= state < _UNSYNCHRONISED


def _span(seconds: float) -> str:
    return f"{seconds / _DAY_S:,.0f} days" if seconds >= 2 * _DAY_S else f"{seconds / 3600:,.1f} hours"
