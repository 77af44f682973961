"""A job's output on a terminal: its colours stay, everything else that a terminal would obey goes.

A log may hold anything: titles, links, clipboard writes, cursor moves that overwrite what we have said.
Sequences may be cut anywhere between two pieces of a log. A sequence that is never finished ends with its
line, so that it cannot swallow the rest.
"""

from __future__ import annotations

import re

#: What begins a string that runs until BEL or ST: OSC, DCS, SOS, PM, APC, in both their forms.
_STRING = "(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])"
_INSIDE = "[^\x07\x18\x1a\x1b\x9c\n]*"
_CONTROL = "(?:\x1b\\[|\x9b)[0-?]*[ -/]*"

_TOKENS = re.compile(
    "(?P<colour>\x1b\\[[0-9;:]*m)"
    f"|{_CONTROL}[@-~]"
    f"|{_STRING}{_INSIDE}(?:\x07|\x9c|\x1b\\\\)?"
    "|\x1b[ -/]*[0-~]?"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
_UNFINISHED = re.compile(f"(?:{_CONTROL}|{_STRING}{_INSIDE}\x1b?|\x1b[ -/]*)\\Z")
_LONGEST = 4096
RESET = "\x1b[0m"


class Filter:
    """Feed it one stream's text, in order."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        text, self._held = self._held + text, ""
        if (tail := _UNFINISHED.search(text)) is not None:
            kept = tail[0]
            text = text[: tail.start()]
            # Of a long one the beginning is enough to know what it is.
            self._held = kept if len(kept) <= _LONGEST else kept[:2]
        return _TOKENS.sub(lambda token: token["colour"] or "", text)
