"""The ``gradient`` command: one tree of verbs over the Python client.

``main`` answers ``--help`` and ``--version`` by itself; everything else is loaded when it is asked for, so
that a prompt which completes or asks for help is not kept waiting.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """The entry point. Ends the process with the command's exit code."""
    words = sys.argv[1:]
    if "_GRADIENT_COMPLETE" not in os.environ:
        if words in ([], ["--help"], ["-h"], ["help"]):
            from gradient_jupyter.cli.verbs import overview

            sys.exit(_say(overview()))
        if words in (["--version"], ["version"]):
            from gradient_jupyter import __version__

            sys.exit(_say(f"gradient {__version__}\n"))
    # Modules are loaded and stay: to look among them for garbage, again and again, finds none.
    gc.set_threshold(50_000)
    from gradient_jupyter.cli.program import run

    sys.exit(run(words))


def _say(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
