"""The tokens that runs bear: which attempt of which job, and the proof of it.

A token says job and attempt and proves it by an HMAC under a key of this installation. So none is stored
anywhere, and the same attempt has the same one after every restart. Whether the attempt is still the one that
counts is asked in ``attempts``.
"""

from __future__ import annotations

import hashlib
import hmac
import re

PREFIX = "grj_"
_TOKEN = re.compile(r"grj_([0-9a-z]{1,40})-([1-9][0-9]{0,8})_([0-9a-f]{64})")


class Tokens:
    """Makes and reads attempt tokens. ``key`` are at least 32 secret bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, job_id: str, attempt: int) -> str:
        return f"{PREFIX}{job_id}-{attempt}_{self._proof(job_id, attempt)}"

    def read(self, token: str) -> tuple[str, int] | None:
        """Job and attempt of a token of ours; None for every other text."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return None
        job_id, attempt = match[1], int(match[2])
        return (job_id, attempt) if hmac.compare_digest(match[3], self._proof(job_id, attempt)) else None

    def _proof(self, job_id: str, attempt: int) -> str:
        return hmac.new(self._key, f"attempt {job_id} {attempt}".encode(), hashlib.sha256).hexdigest()
