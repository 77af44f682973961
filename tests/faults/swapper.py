"""A job gone bad: swaps what lies in its artifacts, as fast as it can, until it is told to stop.

``python swapper.py ARTIFACTS FOREIGN COUNTER [SWAPS]``: ``FOREIGN`` is a directory outside with canaries in
it, ``COUNTER`` a file of 8 bytes in which the swaps are counted. Standard library only: it is a job, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys

EXCHANGE = 2
HERE = -100
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    artifacts, foreign, counter = sys.argv[1:4]
    most = int(sys.argv[4]) if len(sys.argv) > 4 else 1 << 62
    canary = f"{foreign}/canary"
    size = os.path.getsize(canary)
    os.chdir(artifacts)
    os.makedirs("d", exist_ok=True)
    for name in ("file", "d/canary", "calm", "pair"):
        with open(name, "wb") as file:
            file.write(b"o" * size)
    os.link("pair", "pair-2")
    os.symlink(foreign, "aside")
    os.symlink(canary, "link")
    os.mkfifo("pipe")
    os.link(canary, "hard")
    os.makedirs("far", exist_ok=True)
    os.link(f"{foreign}/moved", "far/first")
    calls = [
        # One second name, seen twice by whoever walks past, as if both were in here.
        lambda: os.rename("far/first", "zz"),
        # A directory and a link to a foreign one that holds the same names.
        lambda: exchange("d", "aside"),
        # A file and a second name of a foreign one, a link to it, a pipe.
        lambda: exchange("file", "hard"),
        lambda: exchange("file", "link"),
        lambda: exchange("file", "pipe"),
        # A foreign file that has its one name back by the time somebody counts.
        lambda: (os.link(f"{foreign}/brief", "brief"), os.unlink("brief")),
        lambda: os.rename("zz", "far/first"),
        lambda: exchange("pair", "hard"),
    ]
    with open(counter, "r+b") as file, mmap.mmap(file.fileno(), 8) as count:
        done = 0
        while count[7] == 0 and done < most:
            for call in calls:
                try:
                    call()
                except OSError:
                    for name in (".", "d", "far"):  # it was collected, and so forbidden to change
                        with contextlib.suppress(OSError):
                            os.chmod(name, 0o700)
            done += len(calls)
            count[0:7] = done.to_bytes(7, "little")


def exchange(one: str, other: str) -> None:
    if LIBC.renameat2(HERE, one.encode(), HERE, other.encode(), EXCHANGE):
        raise OSError(ctypes.get_errno(), "exchange")


if __name__ == "__main__":
    main()
