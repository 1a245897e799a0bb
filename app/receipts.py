"""What a request waits for: its events, until each is settled or will not be for now. In memory only."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from app.events import Event, Lane, State
from app.journal import Recorded

LANES = list(Lane)


@dataclass(frozen=True)
class Part:
    """How one job of an event stands."""

    lane: Lane
    state: State
    reason: str = ""


@dataclass
class Wait:
    """A request that waits for its events: done when each of them is settled, or will not be for now."""

    open: dict[int, set[Lane]]  # by event id
    parts: dict[int, list[Part]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def settle(self, event_id: int, part: Part, owed: Iterable[Lane]) -> None:
        """Note a settled job and what follows from it."""
        lanes = self.open.get(event_id)
        parts = self.parts.setdefault(event_id, [])
        # Another lane may have carried out what follows before this one, which made it, came to say so here.
        told = {earlier.lane for earlier in parts}
        parts.append(part)
        if lanes is None:
            return
        lanes.discard(part.lane)
        lanes.update(lane for lane in owed if lane not in told)
        if part.state == State.PENDING or not lanes:
            self._close(event_id)

    def give_up_on(self, lane: Lane, reason: str) -> None:
        """Stop waiting for the events that a paused lane holds back."""
        for event_id in [key for key, lanes in self.open.items() if lane in lanes]:
            self.parts.setdefault(event_id, []).append(Part(lane, State.PENDING, reason))
            self._close(event_id)

    def _close(self, event_id: int) -> None:
        del self.open[event_id]
        if not self.open:
            self.over.set()


class Receipt:
    """What was written down of one webhook, and how its events stand as far as this process has seen."""

    def __init__(self, recorded: Sequence[Recorded]) -> None:
        self.recorded = recorded
        self.wait = Wait(
            {item.event.id: {Lane.RESOLVE} for item in recorded if not item.duplicate and not item.refused}
        )

    def parts(self, event: Event) -> list[Part]:
        """Return how the jobs of an event stand, in the order of the lanes; none if nothing was heard of them."""
        return sorted(self.wait.parts.get(event.id, []), key=lambda part: LANES.index(part.lane))

    def open(self, event: Event) -> bool:
        """Say whether an event is still under way."""
        return event.id in self.wait.open
