"""How long a process may still write to a vendor for the jobs that it holds."""

from __future__ import annotations

import time

KEPT_BACK = (
    0.25  # of a lease: what was let go out must be answered, or timed out, before another process may take over
)


def _now() -> float:
    """Return seconds that go on while the machine sleeps, and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """One lane's lease in this process. A process that was frozen finds it over before it writes anything."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._closed = False

    @staticmethod
    def begin() -> float:
        """Return the moment before a claim or a renewal is asked for, to be given to `extend`."""
        return _now()

    def extend(self, begun: float, seconds: float) -> None:
        """Let writes out for the most part of a lease of `seconds` that was asked for at `begun`."""
        self._until = begun + seconds * (1 - KEPT_BACK)

    def end(self) -> None:
        """Let no more writes out: some of the jobs are not ours any more."""
        self._until = float("-inf")

    def close(self) -> None:
        """Let no more writes out, for good: the process stops."""
        self._closed = True

    def holds(self) -> bool:
        """Say whether a write may go out now."""
        return not self._closed and _now() < self._until


class NoLease(Lease):
    """For work that no other process can take over."""

    def holds(self) -> bool:
        """Say that a write may go out."""
        return True
