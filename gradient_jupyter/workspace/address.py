"""The address of a file on the web, as a person writes it. Text to parts and back, no I/O.

Read strictly, as ``repository`` does it, and for the same reason: whatever two readers might understand
differently is refused.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn
from urllib.parse import unquote, urljoin

from gradient_jupyter.resources.errors import InvalidRequest
from gradient_jupyter.workspace.repository import DEFAULT_PORTS, parse_host, parse_port
from gradient_jupyter.workspace.wording import shown

LONGEST = 4096
_TARGET = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]|^`{}\"<>-]|%[0-9A-Fa-f]{2})*")
_EXAMPLE = "It looks like https://example.com/data/mnist.tar.gz."


class Address(NamedTuple):
    scheme: str
    host: str
    """Lower case; an address in its one usual form, IPv6 without brackets."""
    port: int
    path: str
    query: str

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def url(self) -> str:
        return f"{self.origin}{self.path}{'?' + self.query if self.query else ''}"

    @property
    def source(self) -> str:
        """For people, and for keeping: a query may hold a signature that opens a door."""
        return self.origin + self.path

    @property
    def name(self) -> str:
        """The last part of its path as a file's name that every system can have; may be empty."""
        return file_name(unquote(self.path.rpartition("/")[2], errors="replace"))

    def follow(self, location: str) -> Address:
        """Where a redirect from here leads."""
        return parse(urljoin(self.url, location.strip()))


def is_address(text: str) -> bool:
    """Whether somebody means one, rightly written or not."""
    return text.lower().startswith(("https://", "http://"))


def file_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text.replace("\\", "/").rpartition("/")[2]).lstrip(".")
    return name[-100:].lstrip(".")


def parse(text: str) -> Address:
    """``text`` in its parts. ``InvalidRequest`` (code ``bad-url``) says what is wrong with it."""
    if len(text) > LONGEST:
        _refuse(f"A URL has at most {LONGEST} characters.")
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        _refuse(
            f"'{_short(text)}' has characters that no URL has.",
            "Write the host in its xn-- form, and everything else outside of ASCII as %XX.",
        )
    scheme, slashes, rest = text.partition("://")
    scheme = scheme.lower()
    if not slashes or scheme not in DEFAULT_PORTS:
        _refuse(f"'{_short(text)}' is not the URL of something that is fetched over https.", _EXAMPLE)
    rest = rest.partition("#")[0]
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:] or "/"
    if "@" in authority:
        _refuse(
            "A URL here holds no user name, password or token: it would be stored.",
            "Leave out what stands before the '@'. If it needs a login, download it and send the file.",
        )
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", authority)
    try:
        if match is None:
            raise ValueError(f"'{_short(authority)}' is not a host.")
        host = parse_host(match[1])
        port = DEFAULT_PORTS[scheme] if match[2] is None else parse_port(match[2])
    except ValueError as error:
        _refuse(f"{error} It stands where the URL's host should.", _EXAMPLE)
    if not target.startswith("/"):
        target = "/" + target
    path, _, query = target.partition("?")
    if not _TARGET.fullmatch(target):
        _refuse(f"'{_short(path)}' is not the path of a URL.", _EXAMPLE)
    return Address(scheme, host, port, path, query)


def _short(text: str) -> str:
    line = shown(text.partition("?")[0].encode("utf-8", "surrogatepass"))
    return line if len(line) <= 100 else line[:100] + "…"


def _refuse(message: str, next: str = "") -> NoReturn:
    raise InvalidRequest(message, next=next, code="bad-url")
