"""The activities of an account: events sent through the API, and those of Ortto's own doing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox.ortto.wire import Ids, seconds

A_DAY = 86_400
EVENTS_A_DAY = 50


@dataclass(frozen=True)
class Event:
    """An activity that a request wants created, checked."""

    activity_id: str
    attributes: dict[str, Any]
    created: float
    key: str | None
    backdated: bool
    """Whether the request itself gave `created`; only then can the event be recognised again."""


@dataclass(frozen=True)
class Activity:
    """One stored activity of one person."""

    id: str
    activity_id: str
    person_id: str
    email: str | None
    attributes: dict[str, Any]
    created: str
    key: str | None
    received_at: float
    created_at: float


class Activities:
    """All activities; `sent` came through the API, `own` are opens, clicks and the like."""

    def __init__(self, clock: Callable[[], float], ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self.sent: list[Activity] = []
        self.own: list[Activity] = []
        self.duplicates = 0
        self.dropped = 0
        self._by_key: set[tuple[str, float]] = set()
        self._by_person: dict[str, list[Activity]] = {}
        self._recent: dict[tuple[str, str], deque[float]] = {}

    def store(self, person_id: str, email: str | None, event: Event) -> Activity | None:
        """Store an event, unless it is a repeat (same key and created) or one too many of a day."""
        identity = (event.key, event.created) if event.key is not None and event.backdated else None
        if identity in self._by_key:
            self.duplicates += 1
            return None
        now = self._clock()
        if not self._within_limit(person_id, event.activity_id, now):
            self.dropped += 1
            return None
        if identity:
            self._by_key.add(identity)
        activity = self._made(person_id, email, event, now)
        self.sent.append(activity)
        return activity

    def store_own(
        self, person_id: str, email: str | None, activity_id: str, attributes: dict[str, Any]
    ) -> Activity:
        """Store something that Ortto noticed itself."""
        now = self._clock()
        event = Event(activity_id, attributes, created=now, key=None, backdated=False)
        activity = self._made(person_id, email, event, now)
        self.own.append(activity)
        return activity

    def of(self, person_id: str) -> list[Activity]:
        """Return what a person did, newest first."""
        stored = self._by_person.get(person_id, [])
        return sorted(stored, key=lambda activity: activity.created_at)[::-1]

    def has(self, person_id: str, activity_id: str) -> bool:
        """Tell whether a person ever did this."""
        return any(activity.activity_id == activity_id for activity in self._by_person.get(person_id, ()))

    def _within_limit(self, person_id: str, activity_id: str, now: float) -> bool:
        recent = self._recent.setdefault((person_id, activity_id), deque())
        while recent and recent[0] <= now - A_DAY:
            recent.popleft()
        if len(recent) >= EVENTS_A_DAY:
            return False
        recent.append(now)
        return True

    def _made(self, person_id: str, email: str | None, event: Event, now: float) -> Activity:
        activity = Activity(
            id=self._ids.record(),
            activity_id=event.activity_id,
            person_id=person_id,
            email=email,
            attributes=event.attributes,
            created=seconds(event.created),
            key=event.key,
            received_at=now,
            created_at=event.created,
        )
        self._by_person.setdefault(person_id, []).append(activity)
        return activity
