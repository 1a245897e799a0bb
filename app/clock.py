"""Notices when the machine's clock is set: times in the journal are wall-clock times, and leases hang on them."""

from __future__ import annotations

import threading
import time

JUMP_SECONDS = 2.0  # more than any slewing between two looks


class ClockWatch:
    """Compares the wall clock with the one that only counts."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._set_at = float("-inf")
        self._lock = threading.Lock()

    def look(self) -> float:
        """Return by how many seconds the clock was set since the last look, or 0."""
        with self._lock:
            offset = time.time() - time.monotonic()
            jump = offset - self._offset
            self._offset = offset
            if abs(jump) < JUMP_SECONDS:
                return 0.0
            self._set_at = time.monotonic()
            return jump

    def trusted(self, seconds: float) -> bool:
        """Say whether the clock has not been set for so long that every live process has renewed its leases."""
        return time.monotonic() - self._set_at > seconds
