"""Words that nobody may see, learned while the process runs: tokens that change by themselves.

Those of the settings are known from the start. These belong to the process: whoever writes a line or shows a page
must keep them back, whichever part of the service they passed through.
"""

from __future__ import annotations

import threading

SHORTEST = 8  # characters; what is shorter is a part of common words
KEPT = 16  # the latest

_words: tuple[str, ...] = ()
_lock = threading.Lock()


def learn(*words: str) -> None:
    """Keep words back from now on; of many, the latest."""
    global _words
    with _lock:
        new = [word for word in words if len(word) >= SHORTEST and word not in _words]
        _words = (*_words, *new)[-KEPT:]


def covered(text: str, by: str) -> str:
    """Return a text with `by` in place of what was learned."""
    for word in _words:
        text = text.replace(word, by)
    return text
