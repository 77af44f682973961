"""The filter and order expressions of MLflow's searches, as typed conditions.

    metrics.accuracy > 0.9 AND params.`model type` = 'tree' AND tags.team IS NOT NULL
    attributes.run_id IN ('j1', 'j2') AND status != 'FAILED'

An expression is comparisons joined by AND. What stands on the left is ``<kind>.<key>``, or a bare attribute.
Here it is only read: what a key means, and how a comparison is carried out, is its reader's.
"""

from __future__ import annotations

import enum
import fnmatch
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gradient_jupyter.resources.errors import InvalidRequest

_LONGEST = 8_192
_MOST = 100
MOST_ORDERS = 100
#: With each of them a comparison may take as many times longer as a value has characters.
_MOST_SIGNS = 4
_LONGEST_PATTERN = 500


class Kind(enum.StrEnum):
    ATTRIBUTE = "attribute"
    METRIC = "metric"
    PARAM = "param"
    TAG = "tag"
    DATASET = "dataset"


class Operator(enum.StrEnum):
    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    LIKE = "LIKE"
    """``%`` stands for any text, ``_`` for one character. Case counts."""
    ILIKE = "ILIKE"
    IN = "IN"
    NOT_IN = "NOT IN"
    IS_NULL = "IS NULL"
    IS_NOT_NULL = "IS NOT NULL"


_ORDERED = frozenset(Operator) - {
    Operator.LIKE, Operator.ILIKE, Operator.IN, Operator.NOT_IN, Operator.IS_NULL, Operator.IS_NOT_NULL,
}  # fmt: skip
_WORDS = frozenset({Operator.EQUAL, Operator.UNEQUAL, Operator.LIKE, Operator.ILIKE})
_ALLOWED: dict[Kind, frozenset[Operator]] = {
    Kind.METRIC: _ORDERED,
    Kind.PARAM: _WORDS | {Operator.IS_NULL, Operator.IS_NOT_NULL},
    Kind.TAG: _WORDS | {Operator.IS_NULL, Operator.IS_NOT_NULL},
    Kind.DATASET: _WORDS | {Operator.IN, Operator.NOT_IN},
}
_OF_TEXT = _WORDS | {Operator.IN, Operator.NOT_IN}
_KINDS = {
    "attribute": Kind.ATTRIBUTE, "attributes": Kind.ATTRIBUTE, "attr": Kind.ATTRIBUTE, "run": Kind.ATTRIBUTE,
    "metric": Kind.METRIC, "metrics": Kind.METRIC,
    "param": Kind.PARAM, "params": Kind.PARAM, "parameter": Kind.PARAM, "parameters": Kind.PARAM,
    "tag": Kind.TAG, "tags": Kind.TAG,
    "dataset": Kind.DATASET, "datasets": Kind.DATASET,
}  # fmt: skip


class Condition(NamedTuple):
    kind: Kind
    key: str
    operator: Operator
    value: str | float | tuple[str, ...] | None


class Order(NamedTuple):
    kind: Kind
    key: str
    ascending: bool


class Vocabulary(NamedTuple):
    """What can be searched for. ``attributes`` says of each whether it is a number."""

    attributes: dict[str, bool]
    kinds: frozenset[Kind]
    aliases: dict[str, str]


#: Of two values, or of a column and a value.
COMPARED: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.MORE: operator.gt,
    Operator.AT_LEAST: operator.ge,
}


def fulfils(value: str | float | None, condition: Condition) -> bool:
    """Whether a value that is there fulfils it; one that is not there fulfils ``IS NULL`` alone."""
    wanted = condition.value
    match condition.operator:
        case Operator.IS_NULL:
            return value is None
        case Operator.IS_NOT_NULL:
            return value is not None
        case _ if value is None:
            return False
        case Operator.LIKE:
            return fnmatch.fnmatchcase(str(value), glob(str(wanted)))
        case Operator.ILIKE:
            return fnmatch.fnmatchcase(str(value).lower(), glob(str(wanted).lower()))
        case Operator.IN:
            return isinstance(wanted, tuple) and value in wanted
        case Operator.NOT_IN:
            return isinstance(wanted, tuple) and value not in wanted
        case _:
            return bool(COMPARED[condition.operator](value, wanted))


def glob(pattern: str) -> str:
    """The pattern of a ``LIKE`` as one of the shell's."""
    signs = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(signs.get(letter, letter) for letter in pattern)


def parse(text: str | None, words: Vocabulary) -> list[Condition]:
    """Raises ``InvalidRequest`` with what was expected and what stands there."""
    if not text or not text.strip():
        return []
    reader = _Reader(text)
    found = [_comparison(reader, words)]
    while reader.word("AND"):
        found.append(_comparison(reader, words))
    if reader.token is not None:
        raise reader.wrong("AND or the end")
    if len(found) > _MOST:
        raise _bad(f"A filter has at most {_MOST} comparisons")
    return found


def parse_order(text: str, words: Vocabulary) -> Order:
    """One entry of ``order_by``: a key, and ASC or DESC."""
    reader = _Reader(text)
    kind, key = _identifier(reader, words)
    ascending = True
    if reader.word("DESC"):
        ascending = False
    else:
        reader.word("ASC")
    if reader.token is not None:
        raise reader.wrong("ASC, DESC or the end")
    return Order(kind, key, ascending)


def parse_orders(entries: Sequence[str] | None, words: Vocabulary) -> list[Order]:
    """A whole ``order_by``. What is named again changes nothing any more."""
    if entries is not None and len(entries) > MOST_ORDERS:
        raise _bad(f"Results are ordered by at most {MOST_ORDERS} keys, not by {len(entries):,}")
    found: dict[tuple[Kind, str], Order] = {}
    for entry in entries or ():
        order = parse_order(entry, words)
        found.setdefault((order.kind, order.key), order)
    return list(found.values())


# No two repetitions in it can take the same characters, so that reading is linear in what callers send.
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*' | "(?:[^"]|"")*")
      | (?P<quoted>`[^`]*`)
      | (?P<number>[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,40})?(?![\w.]))
      | (?P<operator>!=|<>|<=|>=|==|=|<|>)
      | (?P<mark>[(),.])
      | (?P<word>[^\s'"`!<>=(),.]+)
    )""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


class _Reader:
    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise _bad(f"A filter has at most {_LONGEST:,} characters")
        self._text = text
        self._tokens = self._all()
        self.token = next(self._tokens, None)

    def _all(self) -> Iterator[_Token]:
        at, text = 0, self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise _bad(f"The filter cannot be read at {text[at : at + 30].strip()!r}")
            kind = match.lastgroup
            yield _Token(kind, match[kind], match.start(kind), match.end())
            at = match.end()

    def take(self, *kinds: str) -> _Token | None:
        """The token, if it is of one of these kinds."""
        token = self.token
        if token is None or token.kind not in kinds:
            return None
        self.token = next(self._tokens, None)
        return token

    def word(self, word: str) -> bool:
        if self.token is None or self.token.kind != "word" or self.token.text.upper() != word:
            return False
        self.token = next(self._tokens, None)
        return True

    def mark(self, mark: str) -> bool:
        if self.token is None or self.token.kind != "mark" or self.token.text != mark:
            return False
        self.token = next(self._tokens, None)
        return True

    def wrong(self, expected: str) -> InvalidRequest:
        there = "the end" if self.token is None else repr(self._text[self.token.start :][:30])
        return _bad(f"The filter has {there} where {expected} should be")


def _comparison(reader: _Reader, words: Vocabulary) -> Condition:
    kind, key = _identifier(reader, words)
    operator = _operator(reader)
    numeric = kind is Kind.METRIC or (kind is Kind.ATTRIBUTE and words.attributes[key])
    allowed = _ALLOWED.get(kind) or (_ORDERED if numeric else _OF_TEXT)
    if operator not in allowed:
        raise _bad(f"{operator} does not go with {kind}s such as {key!r}; {', '.join(sorted(allowed))} do")
    if operator in (Operator.IS_NULL, Operator.IS_NOT_NULL):
        return Condition(kind, key, operator, None)
    if operator in (Operator.IN, Operator.NOT_IN):
        return Condition(kind, key, operator, _list(reader))
    if numeric:
        number = reader.take("number")
        if number is None:
            raise reader.wrong(f"a number for {key!r}")
        return Condition(kind, key, operator, float(number.text))
    value = _quoted(reader)
    if operator in (Operator.LIKE, Operator.ILIKE) and value.count("%") > _MOST_SIGNS:
        raise _bad(f"A pattern has at most {_MOST_SIGNS} signs %")
    if operator in (Operator.LIKE, Operator.ILIKE) and len(value) > _LONGEST_PATTERN:
        raise _bad(f"A pattern has at most {_LONGEST_PATTERN} characters")
    return Condition(kind, key, operator, value)


def _identifier(reader: _Reader, words: Vocabulary) -> tuple[Kind, str]:
    first = reader.take("word", "quoted", "text")
    if first is None:
        raise reader.wrong("a name such as metrics.accuracy")
    kind, key = Kind.ATTRIBUTE, _bare(first)
    if reader.mark("."):
        if key not in _KINDS:
            raise _bad(f"There is nothing like {key!r} to search for; there are: {', '.join(words.kinds)}")
        kind, key = _KINDS[key], _key(reader)
    if kind not in words.kinds:
        raise _bad(f"One cannot search for {kind}s here, but for: {', '.join(sorted(words.kinds))}")
    key = words.aliases.get(key, key) if kind is Kind.ATTRIBUTE else key
    if kind is Kind.ATTRIBUTE and key not in words.attributes:
        raise _bad(f"There is no attribute {key!r}; there are: {', '.join(sorted(words.attributes))}")
    if kind is Kind.DATASET and key not in ("name", "digest", "context"):
        raise _bad(f"A dataset has a name, a digest and a context, and no {key!r}")
    return kind, key


def _key(reader: _Reader) -> str:
    """The rest of the name: one that is quoted, or parts with points between them and nothing else."""
    if (quoted := reader.take("quoted", "text")) is not None:
        return _bare(quoted)
    parts, end = [], None
    while reader.token is not None and (end is None or reader.token.start == end):
        token = reader.take("word", "number") if reader.token.text != "." else reader.take("mark")
        if token is None:
            break
        parts.append(token.text)
        end = token.end
    if not parts:
        raise reader.wrong("a key")
    return "".join(parts)


def _operator(reader: _Reader) -> Operator:
    sign = reader.take("operator")
    if sign is not None:
        return Operator({"==": "=", "<>": "!="}.get(sign.text, sign.text))
    for word in (Operator.LIKE, Operator.ILIKE, Operator.IN):
        if reader.word(word):
            return word
    if reader.word("NOT"):
        if reader.word("IN"):
            return Operator.NOT_IN
        raise reader.wrong("IN")
    if reader.word("IS"):
        negated = reader.word("NOT")
        if reader.word("NULL"):
            return Operator.IS_NOT_NULL if negated else Operator.IS_NULL
        raise reader.wrong("NULL")
    raise reader.wrong("a comparison such as = or LIKE")


def _list(reader: _Reader) -> tuple[str, ...]:
    if not reader.mark("("):
        raise reader.wrong("a list such as ('a', 'b')")
    found = [_quoted(reader)]
    while reader.mark(","):
        if reader.mark(")"):
            return tuple(found)
        found.append(_quoted(reader))
        if len(found) > 1000:
            raise _bad("A list has at most 1000 values")
    if not reader.mark(")"):
        raise reader.wrong(", or )")
    return tuple(found)


def _quoted(reader: _Reader) -> str:
    value = reader.take("text")
    if value is None:
        raise reader.wrong("a value in quotes")
    return _bare(value)


def _bare(token: _Token) -> str:
    if token.kind == "quoted":
        return token.text[1:-1]
    if token.kind == "text":
        quote = token.text[0]
        return token.text[1:-1].replace(quote * 2, quote)
    return token.text


def _bad(message: str) -> InvalidRequest:
    return InvalidRequest(
        f"{message}.",
        next="For example: metrics.accuracy > 0.9 AND params.model = 'tree'",
        code="bad-filter",
    )
