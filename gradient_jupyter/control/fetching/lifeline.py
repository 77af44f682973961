"""Runs one command that must not outlive whoever started it, and that has limits. A program of its own.

    python -I -S lifeline.py FD FILE_BYTES MEMORY_BYTES COMMAND [ARGUMENT]...

FD is the reading end of a pipe whose other end the starter holds. When that end closes, because the starter
wants it or because it was killed, this process's whole group is killed, and with it whatever COMMAND has
started. So the starter has to begin it in a session of its own. Ends with COMMAND's exit code, or 128 and
the number of the signal that ended it. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading


def main() -> int:
    lifeline, file_bytes, memory_bytes = map(int, sys.argv[1:4])
    command = sys.argv[4:]
    for kind, most in (
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(OSError, ValueError):  # there is a lower one, or none here
            resource.setrlimit(kind, (most, most))
    child = os.fork()
    if not child:
        try:
            os.close(lifeline)
            # SIGXFSZ stays ignored, as Python has it: a file that is too large is then a sentence.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(command[0], command)  # noqa: S606  # an argument vector; no shell is wanted
        except OSError as error:
            os.write(2, f"lifeline: {command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    _, status = os.waitpid(child, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # whatever it left running
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
