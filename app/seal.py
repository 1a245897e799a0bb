"""Seals what the journal keeps and nobody else may read: tokens.

The journal holds personal data in the clear, and its copies (backups, dumps, replicas) pass through more hands than
the settings do. An access token in them would let its finder read and change the whole Kommo account for a day. So
it is encrypted, with a key made of KOMMO_CLIENT_SECRET: whoever has a copy alone, or the settings alone, has no
token. Whoever has both has all. A changed client secret opens nothing any more: somebody logs in again.
"""

from __future__ import annotations

import base64

PURPOSE = b"kommo-relay: tokens in the journal, 1"


class SealError(Exception):
    """It was sealed with another secret, or changed since."""


class Seal:
    """Seals with a key made of one secret, which must be random and long: it is not stretched."""

    def __init__(self, secret: str) -> None:
        # Here, as it takes 7 MB that nobody with a long-lived token needs.
        from cryptography.fernet import Fernet, InvalidToken
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(secret.encode())
        self._fernet = Fernet(base64.urlsafe_b64encode(key))
        self._changed = InvalidToken

    def close(self, text: str) -> str:
        """Return a text that only the same secret can open."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return what was sealed. Raises SealError."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except self._changed as error:
            raise SealError from error
