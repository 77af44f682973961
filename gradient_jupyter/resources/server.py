"""The server as its clients meet it: what it says of itself, and where a solo server is found.

``Runtime`` is the 0600 file in Jupyter's runtime directory that leads a user's clients to their own
solo server. ``proof`` is how that server shows that it is the one which wrote the file: another program
that took over its port knows the nonce but not the token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from gradient_jupyter.resources.base import Resource

#: The version of the HTTP API, and the first part of each of its paths.
API = "v1"


class ServerInfo(Resource, frozen=True, kw_only=True):
    version: str
    api: str
    mode: str
    """``solo`` or ``hub``."""
    pid: int
    """0 for those who do not look after the server; so are ``streams``, and ``data`` is empty."""
    install: str
    """The id of this data root; names of everything its engines run begin with it."""
    engine: str
    isolation: str
    """How a job's world is made here, in one sentence."""
    started_us: int
    jobs: int | None
    """How many jobs are not final; None when the database is damaged there, and for those who do not look
    after the server."""
    streams: int
    """How many logs and event streams are open, and fetches and the administrator's work under way."""
    data: str
    """The data root."""
    read_only: str = ""
    """Why nothing is changed and nothing started, and the way out; empty in ordinary times."""
    warnings: tuple[str, ...] = ()
    """What is wrong although it serves, each with the way out."""


class Hello(Resource, frozen=True, kw_only=True):
    """What anyone may learn without a token: that this is our server, and its version."""

    version: str
    api: str
    proof: str


class Runtime(Resource, frozen=True, kw_only=True):
    """The content of the runtime file."""

    url: str
    token: str
    version: str
    api: str
    pid: int
    data: str


def proof(token: str, nonce: str, url: str) -> str:
    """What only the holder of ``token`` can answer to ``nonce`` at ``url`` (HMAC-SHA-256, hexadecimal)."""
    return hmac.new(token.encode(), f"gradient {nonce} {url}".encode(), hashlib.sha256).hexdigest()


def data_root() -> Path:
    """Solo's data: ``$GRADIENT_DATA_DIR``, else ``$XDG_DATA_HOME/gradient_jupyter``."""
    if named := os.environ.get("GRADIENT_DATA_DIR"):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser().absolute() / "gradient_jupyter"


def config_root() -> Path:
    """Solo's keys and configuration: ``$XDG_CONFIG_HOME/gradient_jupyter``."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser().absolute() / "gradient_jupyter"


def runtime_file(data: Path) -> Path:
    """Where the server of this data root says how to reach it. One file per data root."""
    from jupyter_core.paths import jupyter_runtime_dir

    tag = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]
    return Path(jupyter_runtime_dir()) / f"gradient-{tag}.json"
