"""Encrypts one secret, and opens it again: AES-256-GCM with a random nonce.

What is sealed is bound to its owner, its name and its key: moved to another row it does not open, so who can
write the database cannot make another person's secret their own.
"""

from __future__ import annotations

import os

from gradient_jupyter.resources.secret import SecretValue

_FORMAT = b"\x01"
_NONCE = 12


class Unopened(Exception):
    """What is stored is not what was sealed there under that key."""


def seal(value: SecretValue, key: bytes, *, owner: str, name: str, key_id: str) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # only a server with secrets loads it

    nonce = os.urandom(_NONCE)
    text = value.reveal().encode()
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, text, _bound_to(owner, name, key_id))


def unseal(sealed: bytes, key: bytes, *, owner: str, name: str, key_id: str) -> SecretValue:
    """Raises ``Unopened``."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if not isinstance(sealed, bytes) or sealed[:1] != _FORMAT:
        raise Unopened
    nonce, rest = sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :]
    try:
        return SecretValue(AESGCM(key).decrypt(nonce, rest, _bound_to(owner, name, key_id)).decode())
    except (InvalidTag, ValueError):
        raise Unopened from None


def _bound_to(owner: str, name: str, key_id: str) -> bytes:
    # None of the three can hold a null byte.
    return b"\0".join((b"gradient secret", owner.encode(), name.encode(), key_id.encode()))
