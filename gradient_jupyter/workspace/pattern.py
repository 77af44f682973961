"""One line of an ignore file as a regular expression over bytes, with exactly git's meaning.

This follows git's ``dir.c`` (how a line is read) and ``wildmatch.c`` (what it matches), quirks included:
``?`` and ``[…]`` match one *byte* and never a slash, ``**`` counts only as a whole part, and what stands
before the first wildcard is compared literally. pathspec was meant to do this; against
``git check-ignore`` it differs in brackets, in trailing blanks and in ``**`` (tests/workspace/test_ignore).
Case always counts, as on every file system we run jobs on.

It knows one pattern. Which files hold patterns, and which of them wins, is in ``ignore``.
"""

from __future__ import annotations

import re
import string
from typing import NamedTuple

_SLASH, _STAR, _ESCAPE, _OPEN, _CLOSE = b"/*\\[]"
_SPECIAL = re.compile(rb"[*?\[\\]")


def _bytes_of(text: str) -> frozenset[int]:
    return frozenset(text.encode())


#: git's own character tables: ASCII only, and vertical tab and form feed are no space.
_CLASSES = {
    b"alnum": _bytes_of(string.ascii_letters + string.digits),
    b"alpha": _bytes_of(string.ascii_letters),
    b"blank": _bytes_of(" \t"),
    b"cntrl": frozenset((*range(32), 127)),
    b"digit": _bytes_of(string.digits),
    b"graph": frozenset(range(33, 127)),
    b"lower": _bytes_of(string.ascii_lowercase),
    b"print": frozenset(range(32, 127)),
    b"punct": _bytes_of(string.punctuation),
    b"space": _bytes_of(" \t\r\n"),
    b"upper": _bytes_of(string.ascii_uppercase),
    b"xdigit": _bytes_of(string.hexdigits),
}


class Pattern(NamedTuple):
    """A line that can match something. ``expression`` has to match the whole of what it is tried on."""

    expression: bytes
    negated: bool
    directory_only: bool
    by_name: bool
    """It is tried on the last part of a path; otherwise on the path below the ignore file's directory."""
    sweeping: bool
    """It consists of wildcards only (``!*/``): it names nothing in particular."""


def lines(text: bytes) -> list[bytes]:
    """An ignore file's lines as git splits them: no byte order mark, a carriage return at the end cut."""
    text = text.removeprefix(b"\xef\xbb\xbf")
    return [line.removesuffix(b"\r") for line in text.split(b"\n")]


def parse(line: bytes) -> Pattern | None:
    """The pattern on this line, or None when it is blank, a comment, or can never match."""
    if line.startswith(b"#"):
        return None
    line = _without_trailing_spaces(line.split(b"\0", 1)[0])
    negated = line.startswith(b"!")
    body = line[1:] if negated else line
    directory_only = body.endswith(b"/")
    if directory_only:
        body = body[:-1]
    if not body:
        return None
    sweeping = not body.strip(b"*/?")
    if b"/" not in body:
        expression = _translate(body, start=0, double=False)
        return Pattern(expression, negated, directory_only, True, sweeping) if expression else None
    body = body.removeprefix(b"/")
    # git compares the part before the first wildcard by itself and hands on the rest, so that a "**"
    # right after it stands at the start of a pattern, even in "a**/b".
    first = _SPECIAL.search(body)
    expression = _translate(body, start=first.start() if first else len(body), double=True)
    return Pattern(expression, negated, directory_only, False, sweeping) if expression else None


def _without_trailing_spaces(line: bytes) -> bytes:
    """Trailing spaces do not count unless a backslash stands before them."""
    end = 0
    i = 0
    while i < len(line):
        if line[i] == _ESCAPE:
            i += 1
            if i >= len(line):
                return line
            end = i + 1
        elif line[i] != 0x20:
            end = i + 1
        i += 1
    return line[:end]


def _translate(pattern: bytes, *, start: int, double: bool) -> bytes | None:
    """The expression for ``pattern``, or None when it is malformed and so never matches.

    Between two slashes every ``*`` but the last becomes an atomic shortest match: the leftmost place for
    the characters after it is as good as any, and a hostile ``*a*a*a*`` cannot take exponential time.
    """
    out: list[bytes] = []
    chunk: list[bytes] = []  # single-byte matches since the last star or slash
    after_star = False

    def end_of_part() -> None:
        nonlocal after_star
        if after_star:
            out.append(b"[^/]*")
        out.extend(chunk)
        chunk.clear()
        after_star = False

    i, end = 0, len(pattern)
    while i < end:
        char = pattern[i]
        if char == _STAR:
            run = i
            while i < end and pattern[i] == _STAR:
                i += 1
            rest = pattern[i : i + 2]
            alone = rest[:1] in (b"", b"/") or rest == b"\\/"
            if double and i - run > 1 and (run == start or pattern[run - 1] == _SLASH) and alone:
                end_of_part()
                if rest[:1] == b"/":
                    out.append(b"(?:.*/)?")
                    i += 1
                else:
                    out.append(b".*")
                continue
            if after_star:
                out.append(b"(?>[^/]*?" + b"".join(chunk) + b")")
            else:
                out.extend(chunk)
            chunk.clear()
            after_star = True
            continue
        if char == _OPEN:
            bracket = _bracket(pattern, i + 1)
            if bracket is None:
                return None
            members, i = bracket
            chunk.append(_one_of(members - {_SLASH}))
            continue
        if char == _ESCAPE:
            i += 1
            if i == end:
                return None
            char = pattern[i]
        elif char == 0x3F:  # "?"
            chunk.append(b"[^/]")
            i += 1
            continue
        if char == _SLASH:
            end_of_part()
            out.append(b"/")
        else:
            chunk.append(re.escape(bytes((char,))))
        i += 1
    end_of_part()
    return b"".join(out)


def _bracket(pattern: bytes, i: int) -> tuple[frozenset[int], int] | None:
    """The bytes a ``[…]`` whose inside starts at ``i`` matches, and where it ends; None when malformed."""
    padded = pattern + b"\0"  # as in git's C: a read past the end finds the terminator
    negated = padded[i : i + 1] in (b"!", b"^")
    if negated:
        i += 1
    members: set[int] = set()
    previous = 0
    while True:
        char = padded[i]
        if not char:
            return None
        if char == _ESCAPE:
            i += 1
            char = padded[i]
            if not char:
                return None
            members.add(char)
        elif char == 0x2D and previous and padded[i + 1] not in (0, _CLOSE):  # "-"
            i += 1
            last = padded[i]
            if last == _ESCAPE:
                i += 1
                last = padded[i]
                if not last:
                    return None
            members.update(range(previous, last + 1))
            char = 0
        elif char == _OPEN and padded[i + 1] == 0x3A:  # "[:"
            close = padded.find(b"]", i + 2)
            if close < 0:
                return None
            if close == i + 2 or padded[close - 1] != 0x3A:
                members.add(char)
            else:
                named = _CLASSES.get(padded[i + 2 : close - 1])
                if named is None:
                    return None
                members.update(named)
                i = close
                char = 0
        else:
            members.add(char)
        previous = char
        i += 1
        if padded[i] == _CLOSE:
            break
    everything = frozenset(range(1, 256))
    return (everything - members if negated else frozenset(members)), i + 1


def _one_of(members: frozenset[int]) -> bytes:
    if not members:
        return b"(?!)"
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]"
