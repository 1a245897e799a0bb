"""Kommo's limit on calls: so many a second, then 429, then everybody out."""

from __future__ import annotations

from collections import deque
from typing import Literal

WINDOW_SECONDS = 60
Verdict = Literal["go", "too many", "blocked"]


class Limiter:
    """A token bucket that blocks the caller after too many refusals.

    https://developers.kommo.com/docs/limitations: 429 over the rate; if repeated, every request gets 403.
    """

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._filled_at = 0.0
        self._refused: deque[float] = deque()
        self._blocked_until = 0.0

    def judge(
        self, now: float, rate: float, block_after: int, block_seconds: float, others: float = 0.0
    ) -> Verdict:
        """Count a call and say what becomes of it. Rate 0 = no limit; `others` calls a second come before ours."""
        if now < self._blocked_until:
            return "blocked"
        if not rate or self._take(now, rate, others):
            return "go"
        self._refused.append(now)
        while self._refused[0] < now - WINDOW_SECONDS:
            self._refused.popleft()
        if block_after and len(self._refused) >= block_after:
            self._refused.clear()
            self._blocked_until = now + block_seconds
        return "too many"

    def _take(self, now: float, rate: float, others: float) -> bool:
        """Take a token if there is one; the bucket holds one second's worth."""
        full = max(rate, 1.0)
        if self._tokens is None:
            self._tokens = full
        else:
            filled = self._tokens + max(0.0, now - self._filled_at) * (rate - others)
            self._tokens = min(full, max(0.0, filled))
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
