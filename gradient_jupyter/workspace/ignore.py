"""Which files of a directory stay behind, and by which rule.

Four kinds of rules, weakest first: our ``DEFAULTS``, every ``.gitignore``, every ``.gradientignore``, and
what was ``named`` for this one time (``--ignoreFiles``), which is read like a ``.gradientignore`` of the
root. Within a kind a deeper file beats a shallower one and a later line an earlier one, as in git. So the
last match wins, and a ``!`` line brings anything back. Two things follow git where that is not obvious:

- What lies in a left-out *directory* is not looked at. To bring back ``data/small.csv`` under ``data/``,
  bring back ``data/`` first.
- A ``!`` line of a ``.gitignore`` that consists of wildcards only (``!*/``, the usual end of a list of
  what to keep) takes back what ``.gitignore`` left out, but not our defaults: git itself would never look
  into ``.git`` for it. In a ``.gradientignore`` it takes back everything.

This module reads no files: ``scan`` hands it what it found. Patterns and paths are bytes, because names are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from gradient_jupyter.workspace.pattern import Pattern, lines, parse
from gradient_jupyter.workspace.wording import shown

GITIGNORE = b".gitignore"
GRADIENTIGNORE = b".gradientignore"
#: How rules are called that stand in no file.
NAMED = b"--ignoreFiles"

#: What nobody means to send: repositories, environments and caches (large, made again in the job), and
#: files that by their name hold credentials. Written as an ignore file.
DEFAULTS = b"""
.git
.ps_project/
.hg
.svn
.venv/
venv/
.tox/
.nox/
node_modules/
__pycache__/
*.pyc
.ipynb_checkpoints/
.mypy_cache/
.pytest_cache/
.ruff_cache/
.DS_Store
.nfs*
**/.jupyter/runtime/
.env
.env.*
!.env.example
!.env.sample
!.env.template
!.env.dist
.envrc
.netrc
_netrc
.npmrc
.pypirc
.pgpass
.my.cnf
.htpasswd
.git-credentials
.vault-token
.dockercfg
**/.docker/config.json
**/.streamlit/secrets.toml
**/.config/gcloud/
**/.cache/huggingface/token
.aws/
.azure/
.gnupg/
.kube/
.ssh/
id_rsa*
id_dsa*
id_ecdsa*
id_ed25519*
*.pem
*.key
*.p12
*.pfx
*.ppk
*.jks
*.keystore
*.kdbx
credentials.json
application_default_credentials.json
client_secret*.json
service-account*.json
service_account*.json
kaggle.json
"""


#: What is left out of data: what a version control keeps for itself.
REPOSITORIES = b"""
.git
.hg
.svn
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as it is named to the person who wonders where a file has gone."""

    pattern: str
    """The line as it was written."""
    source: str
    """``default``, or the ignore file's path inside the directory."""
    line: int | None
    """Counted from one; None for a default."""


class Verdict(NamedTuple):
    """What happens to one path. ``rule`` decided it; None means that no rule matched."""

    left_out: bool
    rule: Rule | None


#: A virtual environment is known by what it holds, not by its name.
PYTHON_ENVIRONMENT = Rule("a directory with pyvenv.cfg", "default", None)
CONDA_ENVIRONMENT = Rule("a directory with conda-meta", "default", None)

_KEPT = Verdict(False, None)


class _RuleList:
    """The rules of one ignore file. ``base`` is its directory, with a slash at the end unless it is the
    root."""

    def __init__(self, base: bytes, rules: Iterable[tuple[Rule, Pattern]]) -> None:
        self._start = len(base)
        self._rules = tuple(rules)
        # Nearly every path matches nothing, so all rules are first tried at once.
        self._any_name = _any_of(p.expression for _, p in self._rules if p.by_name)
        self._any_path = _any_of(p.expression for _, p in self._rules if not p.by_name)

    def last_match(self, path: bytes, name: bytes, is_directory: bool) -> tuple[Rule, Pattern] | None:
        below = path[self._start :]
        hit = (self._any_name is not None and self._any_name.fullmatch(name)) or (
            self._any_path is not None and self._any_path.fullmatch(below)
        )
        if not hit:
            return None
        for rule, pattern in reversed(self._rules):
            if pattern.directory_only and not is_directory:
                continue
            subject = name if pattern.by_name else below
            if re.compile(pattern.expression, re.DOTALL).fullmatch(subject):
                return rule, pattern
        return None


def _any_of(expressions: Iterable[bytes]) -> re.Pattern[bytes] | None:
    joined = b"|".join(b"(?:" + expression + b")" for expression in expressions)
    return re.compile(joined, re.DOTALL) if joined else None


def _rule_list(base: bytes, name: bytes | None, text: bytes) -> _RuleList:
    source = "default" if name is None else shown(base + name)
    rules = []
    for number, line in enumerate(lines(text), 1):
        pattern = parse(line)
        if pattern is not None:
            rule = Rule(shown(line), source, None if name is None else number)
            rules.append((rule, pattern))
    return _RuleList(base, rules)


class Ignore:
    """The rules in force inside one directory. Immutable: ``enter`` gives those of a directory below."""

    __slots__ = ("_data", "_defaults", "_git", "_gradient", "_named")

    def __init__(self, *, defaults: bool = True, named: Iterable[str] = ()) -> None:
        self._defaults: _RuleList | None = _rule_list(b"", None, DEFAULTS) if defaults else None
        self._git: tuple[_RuleList, ...] = ()  # deepest first
        self._gradient: tuple[_RuleList, ...] = ()
        text = b"\n".join(os.fsencode(pattern) for pattern in named)
        self._named: _RuleList | None = _rule_list(b"", NAMED, text) if text else None
        self._data = False

    @classmethod
    def of_data(cls) -> Ignore:
        """For a directory that is data, all of which is wanted: no file in it says what is not."""
        rules = cls(defaults=False)
        rules._defaults = _rule_list(b"", None, REPOSITORIES)
        rules._data = True
        return rules

    @property
    def has_defaults(self) -> bool:
        return self._defaults is not None and not self._data

    def enter(self, directory: bytes, *, gitignore: bytes | None, gradientignore: bytes | None) -> Ignore:
        """The rules inside ``directory`` (a path from the root, empty for the root itself), given what its
        two ignore files hold; None stands for no such file."""
        if self._data or (gitignore is None and gradientignore is None):
            return self
        base = directory + b"/" if directory else b""
        inner = Ignore.__new__(Ignore)
        inner._defaults, inner._git, inner._gradient = self._defaults, self._git, self._gradient
        inner._named = self._named
        inner._data = False
        if gitignore is not None:
            inner._git = (_rule_list(base, GITIGNORE, gitignore), *self._git)
        if gradientignore is not None:
            inner._gradient = (_rule_list(base, GRADIENTIGNORE, gradientignore), *self._gradient)
        return inner

    def verdict(self, path: bytes, *, is_directory: bool) -> Verdict:
        """What happens to ``path``, which lies in the directory these rules are for or below it.

        It looks at this path alone: the caller walks down and does not enter what is left out.
        """
        name = path.rpartition(b"/")[2]
        for rules in (self._named, *self._gradient) if self._named is not None else self._gradient:
            match = rules.last_match(path, name, is_directory)
            if match:
                return Verdict(not match[1].negated, match[0])
        for rules in self._git:
            match = rules.last_match(path, name, is_directory)
            if match:
                if match[1].negated and match[1].sweeping:
                    break
                return Verdict(not match[1].negated, match[0])
        if self._defaults is not None:
            match = self._defaults.last_match(path, name, is_directory)
            # A default that re-includes ("!.env.example") only takes back another default.
            if match and not match[1].negated:
                return Verdict(True, match[0])
        return _KEPT
