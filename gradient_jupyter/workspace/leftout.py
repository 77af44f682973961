"""What stayed behind, counted by rule, so that a person can see a rule that takes too much.

Counting is for showing. It gives up in a large tree (and then says *at least*), and never fails.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field

from gradient_jupyter.workspace.ignore import Rule
from gradient_jupyter.workspace.wording import shown

#: Nobody waits for the count of an environment's files, least of all on a network file system.
_MAX_ENTRIES = 100_000
_MAX_SECONDS = 2.0
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What one rule kept from being sent."""

    rule: Rule
    examples: tuple[str, ...]
    """The first paths it matched; a directory ends in a slash."""
    files: int
    bytes: int
    at_least: bool
    """There was too much to count: files and bytes are a lower bound."""


@dataclass(slots=True)
class _Row:
    examples: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    at_least: bool = False


class Tally:
    """Collects ``LeftOut`` rows during a scan of ``root``. It looks at ``max_entries`` inside directories."""

    def __init__(self, root: bytes, *, max_entries: int = _MAX_ENTRIES) -> None:
        self._root = root
        self._rows: dict[Rule, _Row] = {}
        self._entries_left = max_entries
        self._seconds_left = _MAX_SECONDS

    def add(self, path: bytes, rule: Rule, *, is_directory: bool) -> None:
        """``path``, and everything below it, stays behind because of ``rule``."""
        row = self._rows.setdefault(rule, _Row())
        if len(row.examples) < _EXAMPLES:
            row.examples.append(shown(path) + ("/" if is_directory else ""))
        full = os.path.join(self._root, path)
        if is_directory:
            self._count(full, row)
            return
        row.files += 1
        try:
            status = os.lstat(full)
        except OSError:
            row.at_least = True
        else:
            row.bytes += status.st_size if stat.S_ISREG(status.st_mode) else 0

    def rows(self) -> tuple[LeftOut, ...]:
        """Largest first."""
        rows = [
            LeftOut(rule, tuple(row.examples), row.files, row.bytes, row.at_least)
            for rule, row in self._rows.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.bytes, row.rule.source, row.rule.line or 0)))

    def _count(self, directory: bytes, row: _Row) -> None:
        began = time.monotonic()
        stack = [directory]
        while stack:
            if self._entries_left <= 0 or time.monotonic() - began > self._seconds_left:
                row.at_least = True
                break
            try:
                with os.scandir(stack.pop()) as listing:
                    for entry in listing:
                        self._entries_left -= 1
                        if self._entries_left < 0:
                            break
                        if entry.is_dir(follow_symlinks=False):
                            stack.append(entry.path)
                            continue
                        row.files += 1
                        if entry.is_file(follow_symlinks=False):
                            row.bytes += entry.stat(follow_symlinks=False).st_size
            except OSError:  # unreadable or gone: nobody asked for it
                row.at_least = True
        if self._entries_left < 0:
            row.at_least = True
        self._seconds_left -= time.monotonic() - began
