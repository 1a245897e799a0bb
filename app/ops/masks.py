"""Secrets that webhooks, links and vendors' words may hold: nobody needs to see them on a page."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from app.logs import Veil

HIDDEN = "•••"
_WORDS = "secret|token|passwor[dt]|passwd|api[_-]?key|write[_-]?key|signature|authorization"
_NAME = rf"(?:{_WORDS})[\w.\[\]-]{{0,20}}"
WORDS = re.compile(_WORDS, re.IGNORECASE)  # most texts hold none of them, and that is quickly told
# `?secret=…`, `token: …`, `"api_key": "…"`, in text that is no JSON (any more).
PAIR = re.compile(rf"""({_NAME}["']?\s{{0,3}}[=:]\s{{0,3}}["']?)(?!Bearer|Basic)[^\s&"',;<>}}\]]+""", re.IGNORECASE)
CREDENTIAL = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
# Ortto's private keys, and JSON web tokens, as Kommo's are; looked for once in each run of their letters.
KEY = re.compile(r"\bPRV-[\w-]+|(?<![\w-])(?=[\w-]*\beyJ[\w-]{5})[\w-]++\.[\w-]{5,}+\.[\w-]*")


class Mask:
    """Hides secrets: those that the service knows wherever they stand, others by their names and forms."""

    def __init__(self, secrets: Collection[str]) -> None:
        # As in the logs, but that addresses are whole: they are what is looked for on a page.
        self._known = Veil(secrets, emails="full", mark=HIDDEN).words

    def value(self, value: Any) -> Any:
        """Return a value of JSON without secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self._named(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def text(self, text: str) -> str:
        """Return text without secrets."""
        text = self._known(text)
        text = KEY.sub(HIDDEN, CREDENTIAL.sub(rf"\1 {HIDDEN}", text))
        return PAIR.sub(rf"\1{HIDDEN}", text) if WORDS.search(text) else text

    def pair(self, key: str, value: str) -> tuple[str, str]:
        """Return a field of a form without secrets."""
        return self.text(key), HIDDEN if value and WORDS.search(key) else self.text(value)

    def _named(self, key: str, value: Any) -> Any:
        return HIDDEN if isinstance(value, str) and value and WORDS.search(key) else self.value(value)
