"""Broadcasts and what people did with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sandbox.vendor import numbers

SEEDED = ("Proposal follow-up - May", "Product news 14")
_METRICS = {"opened": "open", "clicked": "click"}


class Mails:
    """The broadcasts with their totals, and every activity. A mail that is no broadcast belongs to a flow."""

    def __init__(self, now: str) -> None:
        self.broadcasts: dict[int, dict[str, Any]] = {}
        self.activity: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._ids: Iterator[int] = numbers(3101)
        self._email_ids: dict[str, int] = {}
        self._seen: set[tuple[str, str, str]] = set()
        for number, name in enumerate(SEEDED, start=501):
            self.broadcasts[number] = {
                "id": number,
                "name": name,
                "status": "sent",
                "audience": {"type": "segment", "segmentId": 1},
                "emailId": self.email_id(name),
                "sendAt": now,
                "peopleEntered": 0,
                "peopleExited": 0,
                "cachedMetric": {
                    "updatedAt": now,
                    "isStale": False,
                    "data": {"delivered": 0, "open": 0, "click": 0},
                },
            }

    def email_id(self, name: str) -> int:
        """Return the id of a mail, giving it one at first."""
        if name not in self._email_ids:
            self._email_ids[name] = next(self._ids)
        return self._email_ids[name]

    def record(self, name: str, event: str, person_id: str, entry: dict[str, Any]) -> bool:
        """Note an activity, count it in the broadcast's totals, and return whether the person did it before.

        Opens and clicks count once per person (article 227 of the help centre). Who does anything with a mail
        has got it, unless it bounced.
        """
        self.activity[name].append(entry)
        arrived = self._note(name, "entered", person_id)
        again = not self._note(name, event, person_id)
        for broadcast in self.broadcasts.values():
            if broadcast["name"] == name:
                self._count(broadcast, event, arrived=arrived, again=again, now=entry["at"])
        return again

    def _note(self, name: str, what: str, person_id: str) -> bool:
        new = (name, what, person_id) not in self._seen
        self._seen.add((name, what, person_id))
        return new

    @staticmethod
    def _count(broadcast: dict[str, Any], event: str, *, arrived: bool, again: bool, now: str) -> None:
        metric = broadcast["cachedMetric"]
        metric["updatedAt"] = now
        if arrived:
            broadcast["peopleEntered"] += 1
            broadcast["peopleExited"] += 1
            metric["data"]["delivered"] += event != "bounced"
        if event in _METRICS and not again:
            metric["data"][_METRICS[event]] += 1
