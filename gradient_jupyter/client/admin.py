"""Looking after an installation: how full its disk is, clearing away, how it does. ``client.admin``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from gradient_jupyter.client.transport import Transport
from gradient_jupyter.resources.admin import Collect, Collected, Diagnosis, DiskUse
from gradient_jupyter.resources.decoding import decode
from gradient_jupyter.resources.errors import ServerUnavailable
from gradient_jupyter.resources.secret import Rotated

_LONG_S = 3600.0
"""Everything may be looked at, or cleared away, before the answer."""


class Admin:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def disk(self, *, collectable: bool = True) -> DiskUse:
        """What takes how much; ``collectable``: also what ``collect`` would free now."""
        query = {"collectable": "true"} if collectable else None
        return self._transport.request("GET", "/admin/disk", DiskUse, query=query, answer_s=_LONG_S)

    def collect(self, *, dry_run: bool = False, trust_clock: bool = False) -> Collected:
        """Removes what nothing refers to any more, and jobs older than they are kept; ``dry_run`` only
        tells."""
        body = Collect(dry_run=dry_run, trust_clock=trust_clock)
        return self._transport.request(
            "POST", "/admin/collect", Collected, body=body, repeatable=True, answer_s=_LONG_S
        )

    def rotate_key(self) -> Rotated:
        """Makes a new key for secrets and encrypts every one under it that can be read."""
        return self._transport.request("POST", "/admin/secrets/rotate", Rotated, answer_s=_LONG_S)

    def doctor(self, *, full: bool = False) -> Diagnosis:
        """How everything does; ``full`` reads every stored file."""
        query = {"full": "true"} if full else None
        return self._transport.request("GET", "/admin/doctor", Diagnosis, query=query, answer_s=_LONG_S)


def examine(data: Path, *, full: bool = False) -> Diagnosis:
    """The same for your own installation from its files alone, without a server and without starting one."""
    words = [sys.executable, "-m", "gradient_jupyter.server.doctor", "--data", str(data)]
    done = subprocess.run(
        [*words, "--full"] if full else words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        check=False,
    )
    try:
        return decode(done.stdout, type=Diagnosis)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise ServerUnavailable(
            "The installation cannot be examined" + (f": {told[-1]}" if told else "."),
            next="Is gradient-jupyter installed whole? pip install --force-reinstall gradient-jupyter",
            code="doctor-failed",
        ) from error
