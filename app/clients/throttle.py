"""A vendor's rate limit, over all threads and processes, and who goes first within it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Protocol

import structlog

from app.clients.errors import ApiError, Fault
from app.events import Priority as Priority
from app.events import Turn

log = structlog.get_logger("relay.throttle")

LATE = 0.03  # of a second's share at the limit: what the budget's own margin makes up for
SURE_SECONDS = 0.02  # how far the clocks of two machines may differ


class Booking(Protocol):
    """Where the calls of all processes are counted: the journal."""

    def let_go(
        self, vendor: str, per_second: float, priority: Priority, holder: str, *, now: float, ahead: float
    ) -> Turn:
        """Give a call its turn, not before `ahead` seconds from now, and count it."""

    def turn_of(self, vendor: str, holder: str) -> float | None:
        """Return when a call may go as things are now; None: not any more."""

    def slow_down(self, vendor: str, per_second: float, *, retry_after: float, now: float) -> float | None:
        """Let fewer calls go for a while; return how many a second, None if that was done already."""


class Throttle:
    """Makes callers of one priority wait until their call may go, `per_second` calls of all priorities together."""

    def __init__(
        self,
        booking: Booking,
        vendor: str,
        per_second: float,
        priority: Priority,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._booking = booking
        self._vendor = vendor
        self._per_second = per_second
        self._late = LATE * max(1.0, 1 / per_second)
        self._priority = priority
        self._clock = clock
        self._sleep = sleep

    def wait(self) -> None:
        """Wait for a place within the limit.

        Raises ApiError while the vendor wants no calls at all, and what the booking raises.
        """
        ahead = 0.0
        while True:
            holder = uuid.uuid4().hex[:12]
            asked = self._clock()
            turn = self._booking.let_go(
                self._vendor, self._per_second, self._priority, holder, now=asked, ahead=ahead
            )
            answered = self._clock()
            if turn.closed:
                raise self._closed(turn.at - asked)
            # Who had the place goes in it, unless it was ours on disk before that moment.
            heard_by = turn.at - SURE_SECONDS if turn.taken else turn.at + self._late
            if answered <= heard_by and (turn.at <= asked or self._wait_in(turn.at, holder)):
                return
            # The disk or the machine was slow and the place has passed: a call that went now would meet those of
            # the next second.
            ahead = 2 * (answered - asked)

    def _wait_in(self, at: float, holder: str) -> bool:
        """Wait for a place to come, and for a later one each time that a more urgent call takes it.

        False if it passed unused.
        """
        self._sleep(max(0.0, at - self._clock()))
        while True:
            turn = self._booking.turn_of(self._vendor, holder)
            if turn is None or self._clock() > turn + self._late:
                return False
            if turn <= at:
                return True
            self._sleep(turn - at)
            at = turn

    def _closed(self, seconds: float) -> ApiError:
        return ApiError(
            f"{self._vendor.capitalize()}: not asked: it wants no calls for {seconds:.0f} s, after too many",
            fault=Fault.PASSING,
            vendor=self._vendor,
            retry_after=seconds,
        )

    def refused(self, retry_after: float | None) -> None:
        """Hear that the vendor refused a call as one too many, and how many seconds it wants us to wait.

        The limit was kept, so others use it too: from now on, fewer calls go.
        """
        rate = self._booking.slow_down(
            self._vendor, self._per_second, retry_after=retry_after or 0.0, now=self._clock()
        )
        if rate is not None:
            log.warning(
                "calls slowed down: the limit was kept, and was too much", vendor=self._vendor, per_second=rate
            )
