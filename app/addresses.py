"""Email addresses: one spelling for one mailbox, so that two systems can be compared."""

from __future__ import annotations

MAX_LENGTH = 254  # RFC 5321: what fits into a MAIL command
MAX_LOCAL_LENGTH = 64
FORBIDDEN = frozenset(' <>()[],;:"\\')  # legal only in quotes, which no mailing platform sends to


def clean_email(text: str) -> str | None:
    """Return the address trimmed and lower-cased, or None if it is not one."""
    email = text.strip().lower()
    if len(email) > MAX_LENGTH or not email.isprintable() or not FORBIDDEN.isdisjoint(email):
        return None
    local, at, domain = email.partition("@")
    if not (at and local and domain) or "@" in domain or len(local) > MAX_LOCAL_LENGTH:
        return None
    if domain.startswith(".") or domain.endswith(".") or ".." in domain:
        return None
    return email
