"""A vendor's rate limit, over all threads and processes."""

from __future__ import annotations

import time
from typing import Protocol

LATE_SECONDS = 0.02  # what the booking's own margin makes up for


class Booking(Protocol):
    """Where the calls of all processes are counted: the journal."""

    def let_go(self, vendor: str, per_second: float, *, now: float) -> float:
        """Return when the next call may go, and count it."""


class Throttle:
    """Makes callers wait until their call may go."""

    def __init__(self, booking: Booking, vendor: str, per_second: float) -> None:
        self._booking = booking
        self._vendor = vendor
        self._per_second = per_second

    def wait(self) -> None:
        """Wait for a place within the limit. Raises what the booking raises."""
        ahead = 0.0
        while True:
            asked = time.time()
            at = self._booking.let_go(self._vendor, self._per_second, now=asked + ahead)
            answered = time.time()
            if answered <= at + LATE_SECONDS:
                time.sleep(max(0.0, at - answered))
                return
            # The disk was slow and the place has passed: a call that went now would meet those of the next second.
            ahead = 2 * (answered - asked)
