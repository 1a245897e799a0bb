"""The limits of Ortto's API: calls a second, bad requests, and sync merges at once (help.ortto.com/a-235)."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from sandbox.ortto.switches import Switches
from sandbox.ortto.wire import RefusedError

BAD_REQUESTS = 15
BAD_SECONDS = 15
BAD_KEY = (401, 403)


class Limits:
    """Counts calls and says who has to wait; each limit is off until its switch is set."""

    def __init__(self, clock: Callable[[], float], switches: Switches) -> None:
        self._clock = clock
        self._switches = switches
        self._lock = threading.Lock()
        self._calls: deque[float] = deque()
        self._feed_call = 0.0
        self._bad: dict[tuple[str, bool], deque[float]] = {}
        self._banned_until: dict[str, float] = {}
        self._merging = 0

    def banned(self, address: str) -> int:
        """Return for how many seconds more an address is banned."""
        with self._lock:
            return max(0, math.ceil(self._banned_until.get(address, 0) - self._clock()))

    def count_bad(self, address: str, status: int) -> None:
        """Count a refused call; the 15th within 15 seconds bans its address for 15 seconds."""
        if not self._switches.ban or not 400 <= status < 500 or status == 429:
            return
        now = self._clock()
        with self._lock:
            times = self._bad.setdefault((address, status in BAD_KEY), deque())
            times.append(now)
            _forget(times, now - BAD_SECONDS)
            if len(times) >= BAD_REQUESTS:
                times.clear()
                self._banned_until[address] = now + BAD_SECONDS

    def too_fast(self, is_feed: bool) -> int:
        """Count a call; return the seconds to wait if the plan's rate, or one feed a second, is passed."""
        if not self._switches.rate:
            return 0
        now = self._clock()
        with self._lock:
            _forget(self._calls, now - 1)
            if len(self._calls) >= self._switches.rate:
                return 1
            if is_feed and now - self._feed_call < 1:
                return 1
            self._calls.append(now)
            if is_feed:
                self._feed_call = now
            return 0

    @contextlib.contextmanager
    def merge_slot(self) -> Iterator[None]:
        """Take one of the slots for sync merges by a merge key, as long as such a merge lasts."""
        with self._lock:
            # That such merges "start to fail" is documented (help.ortto.com/a-257), status and text are not.
            if self._switches.merge_limit and self._merging >= self._switches.merge_limit:
                raise RefusedError(503, "Too many concurrent merges")
            self._merging += 1
        try:
            time.sleep(self._switches.merge_seconds)
            yield
        finally:
            with self._lock:
                self._merging -= 1


def _forget(times: deque[float], before: float) -> None:
    while times and times[0] <= before:
        times.popleft()
