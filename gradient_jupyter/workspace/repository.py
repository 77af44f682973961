"""A repository as a workspace, as a person writes it: ``git+https://host/owner/repo@ref#subdirectory=dir``.

Text to parts and back, no I/O. The form is pip's. It is read strictly, because it becomes arguments of
other programs: whatever two readers might understand differently is refused with what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, NoReturn
from urllib.parse import quote, unquote

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.resources.snapshot import check_path
from gradient_jupyter.workspace.wording import shown

PREFIX = "git+"
DEFAULT_PORTS = {"https": 443, "http": 80}
LONGEST = 2048

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: What many programs read as a number, and some of them as an address.
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)+")
_REF = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]*[A-Za-z0-9_/+-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_EXAMPLE = "It looks like git+https://github.com/owner/repo@main."


class Repository(NamedTuple):
    """Where files come from. ``ref`` is a branch, a tag, a full commit, or empty for what the repository
    itself shows first; ``subdirectory`` is empty for all of it."""

    scheme: str
    host: str
    """Lower case; an address in its one usual form, IPv6 without brackets."""
    port: int
    path: str
    ref: str = ""
    subdirectory: str = ""

    @property
    def url(self) -> str:
        """What git is given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def commit(self) -> str:
        """``ref`` if it is a full commit, else empty."""
        return self.ref.lower() if _COMMIT.fullmatch(self.ref.lower()) else ""

    @property
    def name(self) -> str:
        """What people call it: the last part of its path."""
        return unquote(self.path.rpartition("/")[2], errors="replace").removesuffix(".git") or "repository"

    def at(self, commit: str) -> Repository:
        return self._replace(ref=commit)

    def __str__(self) -> str:
        ref = f"@{self.ref}" if self.ref else ""
        below = f"#subdirectory={quote(self.subdirectory)}" if self.subdirectory else ""
        return f"{PREFIX}{self.url}{ref}{below}"


def is_repository(text: str) -> bool:
    """Whether somebody means a repository, rightly written or not."""
    return text.lower().startswith(PREFIX)


def parse(text: str) -> Repository:
    """``text`` in its parts. ``InvalidRequest`` (code ``bad-repository``) says what is wrong with it."""
    if len(text) > LONGEST:
        _refuse(f"The address of a repository has at most {LONGEST} characters.")
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        _refuse(
            f"'{_short(text)}' has characters that no address of a repository has.",
            "Write the host in its xn-- form, and everything else outside of ASCII as %XX.",
        )
    transport, slashes, rest = text.partition("://")
    scheme = transport.lower().removeprefix(PREFIX)
    if not slashes or not is_repository(transport) or scheme not in DEFAULT_PORTS:
        _refuse(f"'{_short(text)}' is not the address of a repository that is fetched over https.", _EXAMPLE)
    rest, _, fragment = rest.partition("#")
    if "?" in rest:
        _refuse("The address of a repository has no '?'.", _EXAMPLE)
    authority, slash, below = rest.partition("/")
    if "@" in authority:
        _refuse(
            "The address of a repository holds no user name, password or token: it would be stored.",
            "Leave out what stands before the '@'. A private repository: --workspacePassword secret:NAME.",
        )
    host, port = _host(authority)
    path, ref = _path(slash + below)
    subdirectory = _subdirectory(fragment)
    return Repository(scheme, host, port or DEFAULT_PORTS[scheme], path, ref, subdirectory)


def parse_host(text: str) -> str:
    """A host's name or address in its one form. ``ValueError`` with a sentence for what is neither, or is
    an address in disguise (``0177.1``, ``2130706433``), which other programs read as one."""
    host = text.lower()
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            address = None
        if address is None or not host.endswith("]") or address.scope_id is not None:
            raise ValueError(f"'{_short(text)}' is not an IPv6 address.")
        return str(address)
    if not _NAME.fullmatch(host) or len(host) > 253:
        raise ValueError(f"'{_short(text)}' is not the name of a host.")
    if _NUMERIC.fullmatch(host.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"'{_short(text)}' is not an IPv4 address as people write it.") from None
    return host


def parse_port(text: str) -> int:
    """A port. ``ValueError`` with a sentence for what is none."""
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise ValueError(f"'{_short(text)}' is not a port.")
    return int(text)


def ref_problem(ref: str) -> str | None:
    """Why ``ref`` cannot name a branch, a tag or a commit here, or None."""
    if not _REF.fullmatch(ref) or len(ref) > 250:
        return "has characters that we do not pass on"
    if any(not part or part.startswith(".") or part.endswith((".", ".lock")) for part in ref.split("/")):
        return "has a part that git does not allow"
    if ".." in ref:
        return "holds '..'"
    return None


def _host(authority: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", authority)
    if match is None:
        _refuse(f"'{_short(authority)}' is not a host.", _EXAMPLE)
    try:
        return parse_host(match[1]), None if match[2] is None else parse_port(match[2])
    except ValueError as error:
        _refuse(f"{error} It stands where the repository's host should.", _EXAMPLE)


def _path(text: str) -> tuple[str, str]:
    path, at, ref = text.rpartition("@")
    if not at or path.endswith("/"):  # the '@' begins a name, as in /@scope/repo
        path, ref, at = text, "", ""
    path = path.rstrip("/")
    if not _PATH.fullmatch(path) or any(unquote(part) in (".", "..") for part in path.split("/")):
        _refuse(f"'{_short(path)}' is not the path of a repository.", _EXAMPLE)
    if at and (problem := ref_problem(ref)):
        _refuse(
            f"The branch or tag '{_short(ref)}' {problem}.",
            "Name its commit instead, with all 40 digits.",
        )
    return path, ref


def _subdirectory(fragment: str) -> str:
    if not fragment:
        return ""
    key, equals, value = fragment.partition("=")
    if key != "subdirectory" or not equals or "&" in value:
        _refuse("After '#' only subdirectory=PATH may stand.", f"{_EXAMPLE[:-1]}#subdirectory=train.")
    try:
        path = unquote(value, errors="strict").strip("/")
    except UnicodeDecodeError:
        _refuse("The subdirectory is not UTF-8.")
    if problem := check_path(path):
        _refuse(f"The subdirectory '{_short(path)}' {problem}.", "Name it as seen from the top.")
    if not path.isprintable():
        _refuse("The subdirectory has characters that cannot be shown.")
    return path


def _short(text: str) -> str:
    line = shown(text.encode("utf-8", "surrogatepass"))
    return line if len(line) <= 100 else line[:100] + "…"


def _refuse(message: str, next: str = "") -> NoReturn:
    raise InvalidRequest(message, next=next, code="bad-repository")
