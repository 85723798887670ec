"""Encryption of what the store keeps of a vault: AES-256 in Galois/Counter Mode, by `cryptography`.

The key is `<home>/keys/keyvault.key`, 32 random bytes that only the owner may read. Each text is bound to what it is
about (the associated data), so that one secret's text can't be put in another's place.
"""

from __future__ import annotations

import base64
import os
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from localazure.core import keys

_KEY_BITS = 256
# NIST SP 800-38D, 5.2.1.1: 96 bits; random ones are good for 2^32 messages under one key.
_NONCE_BYTES = 12


class SealBroken(ValueError):
    """The text wasn't sealed with this home's key for this purpose, or was changed."""


class Seal:
    """Seals and opens texts. The key is made at the first use."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def close(self, content: bytes, about: str) -> str:
        """`content` encrypted, in base64url without padding; opens only for the same `about`."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, content, about.encode())
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, sealed: str, about: str) -> bytes:
        """The content. Raises SealBroken."""
        cipher = self._cipher
        try:
            raw = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], about.encode())
        except (ValueError, InvalidTag):
            raise SealBroken(f"not sealed for {about} with the key {self._path}") from None

    @cached_property
    def _cipher(self) -> AESGCM:
        if not self._path.exists():
            keys.write_once(self._path, AESGCM.generate_key(_KEY_BITS))
        key = self._path.read_bytes()
        if len(key) * 8 != _KEY_BITS:
            raise ValueError(f"{self._path} isn't a key of {_KEY_BITS} bits; the vault's secrets can't be read without")
        return AESGCM(key)
