"""A rehearsal: what the clients would write is caught at the last moment, as it would go over the wire."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WireCall:
    """A call as it goes over the wire, with our keys masked. `body`: the very text, "" for none.

    `caught`: it would write, and was not sent. `status`: None without an answer, and `trouble` says why.
    `ahead`: by how many seconds the vendor's clock is ahead of ours, None if it does not say.
    """

    vendor: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: str
    caught: bool
    status: int | None = None
    trouble: str = ""
    ahead: float | None = None


class Rehearsal:
    """Hears of every call; those that write end here. Several threads may call at once."""

    def __init__(self) -> None:
        self._calls: list[WireCall] = []
        self._lock = threading.Lock()

    def hear(self, call: WireCall) -> None:
        """Note a call."""
        with self._lock:
            self._calls.append(call)

    def take(self) -> tuple[WireCall, ...]:
        """Return the calls since the last time, in their order."""
        with self._lock:
            calls, self._calls = tuple(self._calls), []
        return calls
