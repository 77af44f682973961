"""Hides secrets in a stream of bytes, wherever it is cut into pieces.

Looked for are the texts themselves and what programs make of them without meaning to: base64 (in each of the
three positions in which a text can stand in what is encoded), quoted for URLs, escaped for JSON and by
Python, and the single lines of what has several. That is best effort: a program can always print a secret in
a form that nobody recognises. Each form costs a search through all output, so it has to be a usual one.

All bytes that belong to an occurrence are replaced, also where occurrences overlap. Held back are only bytes
that may be the beginning of one, until what follows tells; the result does not depend on how the stream was
cut.

Standard library only: part of the supervisor.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable

SHORTEST = 4
"""Bytes. What is shorter stands in ordinary words and numbers."""
_SHORTEST_ENCODED = 8
_SHORTEST_LINE = 16
_MASKS = (b"***", b"###", b"===", b"???", b"___", b"xxx")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Patterns:
    """What is looked for, for several streams. ``secrets`` are whole values."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found: dict[bytes, None] = {}
        for secret in secrets:
            found.update(dict.fromkeys(forms(secret)))
        # One that is part of another is found with it.
        self.forms = tuple(found)
        #: Bytes after which something that was begun may go on. Few of them end a line.
        self.going_on = frozenset(byte for form in self.forms for byte in form[:-1])
        #: So that what is put in place of one secret never makes another.
        self.mask = next(
            (mask for mask in _MASKS if not any(mask[:1] in form for form in self.forms)), _MASKS[0]
        )

    def text(self, text: str) -> str:
        """``text``, masked: for what is said in one piece."""
        if not self.forms:
            return text
        stream = Masking(self)
        whole = stream.feed(text.encode("utf-8", "surrogateescape")) + stream.end()
        return whole.decode("utf-8", "surrogateescape")


class Masking:
    """One stream on its way through."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._held = b""
        self._covered = 0
        """How many bytes at the beginning of what is held belong to an occurrence that was masked already."""

    def feed(self, data: bytes) -> bytes:
        """What may be shown now."""
        patterns = self._patterns
        if not patterns.forms or not data:
            return data
        data = self._held + data
        until = self._begun(data) if data[-1] in patterns.going_on else len(data)
        found = [form for form in patterns.forms if form in data]
        if not (found or self._covered):
            self._held = data[until:]
            return data[:until] if until < len(data) else data
        return self._masked(data, _places(data, found), until)

    def end(self) -> bytes:
        """What was held back, now that nothing follows. The beginning of one secret may be another one,
        whole: ``100%`` is the beginning of its own form for URLs."""
        held = self._held
        rest = self._masked(held, _places(held, self._patterns.forms), len(held))
        self._held, self._covered = b"", 0
        return rest

    def _masked(self, data: bytes, places: list[tuple[int, int]], until: int) -> bytes:
        shown: list[bytes] = []
        at = covered = self._covered
        for start, stop in places:
            if start >= until:
                break  # it is found again with what follows
            if start >= covered:  # it does not overlap with the one before
                shown += (data[at:start], self._patterns.mask)
            at = covered = max(covered, stop)
        if at < until:
            shown.append(data[at:until])
        # An occurrence may reach into what is held back, where the next one may begin.
        self._held, self._covered = data[until:], max(0, covered - until)
        return b"".join(shown)

    def _begun(self, data: bytes) -> int:
        """Where the first thing begins that may become an occurrence with what follows."""
        first = len(data)
        for form in self._patterns.forms:
            at = max(0, len(data) - len(form) + 1)
            head = form[:1]
            while (at := data.find(head, at, first)) >= 0:
                if form.startswith(data[at:]):
                    first = at
                    break
                at += 1
        return first


def _places(data: bytes, forms: Iterable[bytes]) -> list[tuple[int, int]]:
    """Where these stand, in order; those that overlap, too."""
    places = []
    for form in forms:
        at = -1
        while (at := data.find(form, at + 1)) >= 0:
            places.append((at, at + len(form)))
    places.sort()
    return places


def forms(secret: str) -> list[bytes]:
    """A secret as programs may print it, itself first; none when it is too short to be told from others."""
    text = secret.encode("utf-8", "surrogateescape")
    found: dict[bytes, None] = {}
    if len(text) >= SHORTEST:
        found[text] = None
        for escaped in (
            json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1],
            repr(text)[2:-1],
        ):  # fmt: skip
            found[escaped.encode("utf-8", "surrogateescape")] = None
        for keep in (b"", b"/"):
            quoted = b"".join(
                bytes((byte,)) if byte in _UNRESERVED or byte in keep else b"%%%02X" % byte for byte in text
            )
            found.update(dict.fromkeys((quoted, quoted.replace(b"%20", b"+"))))
    lines = [line.strip() for line in text.splitlines()]
    if len(lines) > 1:
        # Of a private key: its first and last line are everybody's.
        kept = (line for line in lines if len(line) >= _SHORTEST_LINE and not line.startswith(b"-----"))
        found.update(dict.fromkeys(kept))
    if len(text) >= _SHORTEST_ENCODED:
        for before in range(3):
            encoded = _base64(text, before)
            found.update(dict.fromkeys((encoded, encoded.replace(b"+", b"-").replace(b"/", b"_"))))
    return list(found)


def _base64(text: bytes, before: int) -> bytes:
    """The digits that depend on ``text`` alone where ``before`` bytes stand before it."""
    digits = binascii.b2a_base64(bytes(before) + text + bytes(2), newline=False)
    return digits[-(-before * 8 // 6) : (before + len(text)) * 8 // 6]
