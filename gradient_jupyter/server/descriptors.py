"""Descriptors: as many as the system allows, and some for our own files whatever comes in.

Each follower holds one for its connection. Without a bound the last of them would be taken by a connection,
and then neither a log nor the database could be opened.
"""

from __future__ import annotations

import contextlib
import logging
import resource

log = logging.getLogger(__name__)

#: Wherever more are allowed, more are of no use: some systems set a hard limit of a thousand million, and
#: programs that close every possible descriptor would be at it for minutes.
_MOST = 1 << 16
#: For the database, logs, artifacts, snapshots and the engine: at most this many, at most half of all.
_OWN = 512


def raise_limit() -> int:
    """The usual soft limit is made for programs that use ``select``; ours may be as high as the hard one.

    Such programs may well be among the jobs, so they get the limit that we found, which is returned; 0 where
    nothing was changed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return 0
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # macOS has a second, lower limit of its own
        log.warning("at most %d files and connections: the limit cannot be raised (%s)", soft, error)
        return 0
    log.info("at most %d files and connections; the limit was %d", wanted, soft)
    return soft


def dump_nothing() -> None:
    """A process that holds secrets leaves no picture of its memory when it crashes."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def connections() -> int:
    """How many there may be at once. Asked anew each time: an administrator may change the limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)
    return most - min(_OWN, most // 2)
