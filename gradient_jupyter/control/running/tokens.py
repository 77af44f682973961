"""The tokens that runs bear: which attempt of which job, and the proof of it.

A token says job and attempt and proves it by an HMAC under a key of this installation. So none is stored
anywhere, and the same attempt has the same one after every restart. Whether the attempt is still the one that
counts is asked in ``attempts``.

A run has two. One it sends in a header; the other stands in an address, for programs that know addresses only
(the push-gateway), and opens nothing but that.
"""

from __future__ import annotations

import functools
import hmac
import re

PREFIX = "grj_"
PUSH_PREFIX = "grp_"
_TOKEN = re.compile(r"(gr[jp]_)([0-9a-z]{1,40})-([1-9][0-9]{0,8})_([0-9a-f]{64})")
#: What is proven by each. Two words, so that neither is worth anything in the other's place.
_PURPOSE = {PREFIX: "attempt", PUSH_PREFIX: "push"}


class Tokens:
    """Makes and reads attempt tokens. ``key`` are at least 32 secret bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # A run sends its token with every number that it logs.
        self._proof = functools.lru_cache(4096)(self._prove)

    def of(self, job_id: str, attempt: int, prefix: str = PREFIX) -> str:
        return f"{prefix}{job_id}-{attempt}_{self._proof(prefix, job_id, attempt)}"

    def read(self, token: str, prefix: str = PREFIX) -> tuple[str, int] | None:
        """Job and attempt of a token of ours of that kind; None for every other text."""
        match = _TOKEN.fullmatch(token)
        if match is None or match[1] != prefix:
            return None
        job_id, attempt = match[2], int(match[3])
        proof = self._proof(prefix, job_id, attempt)
        return (job_id, attempt) if hmac.compare_digest(match[4], proof) else None

    def _prove(self, prefix: str, job_id: str, attempt: int) -> str:
        said = f"{_PURPOSE[prefix]} {job_id} {attempt}"
        return hmac.digest(self._key, said.encode(), "sha256").hex()
