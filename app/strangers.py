"""Callers without the right secret: told apart in constant time, kept waiting, counted, and told of once.

A right secret is always let in, whatever others do: a webhook that is turned away may be a deal that is lost, and
behind a proxy, or at a vendor where anybody can have an account, many callers share one address. So nobody is shut
out. What keeps guessers out is that a secret has 16 characters or more; this makes them slow and seen.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Collection, Iterable
from hashlib import sha256

import structlog

log = structlog.get_logger("relay.strangers")

PLACES = 2  # threads that may be held at once; whoever comes when they are taken is not kept waiting
WAIT_SECONDS = 0.5
WAVE_SECONDS = 600.0  # refusals within so long are told of together
LINES = 10  # refusals of a wave that have a log line each
LOUD = 100  # refusals that make a wave worth a warning; then ten times as many each time

Refused = Callable[[str, bool], None]  # by which door, and whether a secret was tried


def is_ours(presented: Iterable[str], ours: Collection[str]) -> bool:
    """Say whether one of the presented values is one of ours.

    All are compared, and as digests: the time taken tells neither how far one is right nor how long ours are.
    """
    known = [_digest(secret) for secret in ours]
    found = [hmac.compare_digest(_digest(one), other) for one in presented if one for other in known]
    return any(found)


def _digest(value: str) -> bytes:
    return sha256(value.encode("utf-8", "surrogatepass")).digest()


class Strangers:
    """What one process does with those who are refused; `observe` hears of each of them."""

    def __init__(
        self,
        *,
        places: int = PLACES,
        observe: Refused = lambda door, tried: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._observe = observe
        self._clock = clock
        self._lock = threading.Lock()
        self._waves: dict[str, tuple[float, int]] = {}  # by door: since when, how many

    def refused(self, door: str, address: str | None, *, tried: bool) -> bool:
        """Count a refusal at a door; say whether it is worth a log line of its own.

        `tried`: a secret was presented, and is wrong. `address`: where it came from, as far as we know.
        """
        self._observe(door, tried)
        count, seconds = self._gather(door)
        if count >= LOUD and str(count).strip("0") == "1":
            log.warning(
                "many callers without the right secret: a guesser, or a vendor with an old one",
                door=door,
                count=count,
                seconds=round(seconds),
                address=address,
            )
        return count <= LINES

    def keep_waiting(self) -> None:
        """Let whoever tried a wrong secret wait for a moment, if a place for that is free."""
        if self._places.acquire(blocking=False):
            try:
                time.sleep(WAIT_SECONDS)
            finally:
                self._places.release()

    def _gather(self, door: str) -> tuple[int, float]:
        """Return how many have been refused in this wave, and since how many seconds it lasts."""
        now = self._clock()
        with self._lock:
            began, count = self._waves.get(door, (now, 0))
            if now - began > WAVE_SECONDS:
                began, count = now, 0
            self._waves[door] = began, count + 1
        return count + 1, now - began
