"""Tells when webhooks come in a crowd, so that all of it can be let in before the work on it begins."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

MANY = 32  # webhooks …
WITHIN_SECONDS = 0.5  # … in so short a time are a crowd
CALM_SECONDS = 0.3  # without another webhook, it has come in
LONGEST_SECONDS = 3.0  # a crowd that goes on for longer is the usual load, for which no work may wait


class Crowd:
    """The webhooks that came last. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: deque[float] = deque(maxlen=MANY)
        self._since = 0.0  # when it began, or will have begun
        self._lock = threading.Lock()

    def comes(self) -> None:
        """Note a webhook."""
        now = self._clock()
        with self._lock:
            if not self._dense(now):
                self._since = now
            self._last.append(now)

    def waits(self) -> bool:
        """Say whether work should wait: a crowd is coming in, and has not gone on for long."""
        now = self._clock()
        with self._lock:
            coming = self._dense(now) and now - self._last[-1] < CALM_SECONDS
            return coming and now - self._since < LONGEST_SECONDS

    def _dense(self, now: float) -> bool:
        return len(self._last) == MANY and now - self._last[0] < WITHIN_SECONDS
