"""One Ortto account: its schema, people and activities, and the calls that change them."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable
from typing import Any

from sandbox.ortto.activities import Activities, Activity, Event
from sandbox.ortto.fields import wrong_value
from sandbox.ortto.people import (
    EMAIL,
    PERMISSION,
    PERSON_ID,
    Entry,
    People,
    Person,
    Rules,
    read_entry,
    read_rules,
)
from sandbox.ortto.schema import Schema
from sandbox.ortto.switches import Switches
from sandbox.ortto.wire import Ids, ItemError, RefusedError, parse_time, require_id

ITEMS = 100
ATTRIBUTES = 15
ACTIVITY_BYTES = 16_000
RETENTION = 90 * 86_400

Sender = tuple[Person | None, Entry, Rules]
"""Whose activity it is: somebody named by id, or a person to merge."""


class Account:
    """All state of the account. Its methods expect the vendor's lock to be held."""

    def __init__(self, clock: Callable[[], float], ids: Ids, switches: Switches) -> None:
        self.clock = clock
        self.ids = ids
        self.switches = switches
        self.default_merge_by: tuple[str, ...] = (EMAIL,)
        """What the API key was set to in the UI; used when a request names no `merge_by`."""
        self.schema = Schema(clock)
        self.people = People(clock, ids, self._permission_changed)
        self.activities = Activities(clock, ids)
        self.echoes: list[tuple[Person, Activity]] = []
        """Unsubscribes and resubscribes made through the API, not yet told to the webhook."""
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    # -- the queue of calls acknowledged but not applied ------------------------------------------------------

    def settle(self) -> None:
        """Apply what was queued and is due."""
        while self._queue and self._queue[0][0] <= self.clock():
            heapq.heappop(self._queue)[2]()

    def queued(self) -> int:
        """Count the calls still to be applied."""
        return len(self._queue)

    def _later(self, job: Callable[[], object]) -> None:
        due = self.clock() + self.switches.async_seconds
        heapq.heappush(self._queue, (due, next(self._order), job))
        self.settle()

    # -- person/merge -----------------------------------------------------------------------------------------

    def merge_people(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create or update people (help.ortto.com/a-257)."""
        raw_people = _items(body, "people")
        rules = read_rules(body, self.schema, self.default_merge_by)
        queue = body.get("async") is True
        refused: list[dict[str, str]] = []
        jobs: list[Callable[[], dict[str, str]]] = []
        for raw in raw_people:
            try:
                entry = read_entry(raw, rules, self.schema)
                self.people.check(entry, rules)
                jobs.append(lambda entry=entry: self._merge_one(entry, rules, queue))  # type: ignore[misc]
            except ItemError as error:
                refused.append(error.detail)
                jobs.append(lambda detail=error.detail: detail)  # type: ignore[misc]
        if len(refused) == len(jobs):
            raise RefusedError(400, f"No valid contacts provided ({refused[0]['error']})", refused)
        return {"people": [job() for job in jobs]}

    def upsert(self, fields: dict[str, Any], merge_by: str = EMAIL) -> Person:
        """Create or update one person as an import in the UI does."""
        rules = Rules((merge_by,))
        entry = read_entry({"fields": fields}, rules, self.schema)
        self.people.check(entry, rules)
        person, _ = self.people.merge(entry, rules)
        assert person is not None  # noqa: S101 - only skip_non_existing yields nobody
        return person

    def _merge_one(self, entry: Entry, rules: Rules, queue: bool) -> dict[str, str]:
        if queue:
            self._later(lambda: self.people.merge(entry, rules))
            # The answer to async is only known from activities/create; taken to be alike.
            return {**_echoed(entry.fields.get(PERSON_ID) if rules.by_id else None), "status": "queued"}
        person, status = self.people.merge(entry, rules)
        return {**_echoed(person.id if person else None), "status": status}

    def _permission_changed(self, person: Person, allowed: bool) -> None:
        context = "str::s-ctx" if allowed else "str::u-ctx"
        attributes = {"str::is": "API"}
        if context in person.fields:
            attributes[context] = person.fields[context]
        field_id = "act::s-all" if allowed else "act::u-all"
        activity = self.activities.store_own(person.id, person.fields.get(EMAIL), field_id, attributes)
        if self.switches.echo:
            self.echoes.append((person, activity))

    # -- activities/create ------------------------------------------------------------------------------------

    def create_activities(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create activities and the people they belong to (help.ortto.com/a-271)."""
        raw_activities = _items(body, "activities")
        refused: list[dict[str, str]] = []
        jobs: list[Callable[[], dict[str, str]]] = []
        for raw in raw_activities:
            try:
                event = self._read_event(raw)
                sender = self._read_sender(raw, body)
                queue = body.get("async") is True or self._is_queued(event)
                jobs.append(
                    lambda event=event, sender=sender, queue=queue: self._create_one(event, sender, queue)  # type: ignore[misc]
                )
            except ItemError as error:
                refused.append(error.detail)
                jobs.append(lambda detail=error.detail: detail)  # type: ignore[misc]
        if len(refused) == len(jobs) or (refused and not self.switches.partial):
            # Text modelled on the recorded one of person/merge; that of a batch is not recorded.
            raise RefusedError(400, f"No valid activities provided ({refused[0]['error']})", refused)
        return {"activities": [job() for job in jobs]}

    def _read_event(self, raw: Any) -> Event:
        if not isinstance(raw, dict):
            raise ItemError("an activity must be an object")
        if len(json.dumps(raw, ensure_ascii=False).encode()) > ACTIVITY_BYTES:
            raise ItemError(f"an activity may have at most {ACTIVITY_BYTES} bytes")
        activity_id = raw.get("activity_id")
        if not isinstance(activity_id, str) or not self.schema.has_activity(activity_id):
            raise ItemError(f"failed to validate activity {activity_id} in schema: {activity_id}: Object not found")
        key = raw.get("key")
        if key is not None and not isinstance(key, str):
            raise ItemError("key must be a string")
        if raw.get("location") is not None and not isinstance(raw["location"], dict):
            raise ItemError("location must be an object")
        given = raw.get("created")
        created = self.clock() if given is None else parse_time(given)
        if created is None:
            raise ItemError("created must be an RFC 3339 time")
        attributes = self._read_attributes(activity_id, raw.get("attributes"))
        return Event(activity_id, attributes, created, key, backdated=given is not None)

    def _read_attributes(self, activity_id: str, attributes: Any) -> dict[str, Any]:
        if attributes is None:
            return {}
        if not isinstance(attributes, dict):
            raise ItemError("attributes must be an object")
        if len(attributes) > ATTRIBUTES:
            raise ItemError(f"an activity may have at most {ATTRIBUTES} attributes")
        for name, value in attributes.items():
            known = self.schema.has_attribute(activity_id, name)
            problem = wrong_value(name, value) if known else "Object not found"
            if problem:
                raise ItemError(f"failed to validate attribute {name} in schema: {name}: {problem}")
        return attributes

    def _read_sender(self, raw: dict[str, Any], body: dict[str, Any]) -> Sender:
        if raw.get("person_id") is not None:
            # `fields` are ignored then.
            person = self.people.by_id.get(require_id(raw["person_id"]))
            if person is None:
                raise ItemError(f"{raw['person_id']}: Object not found")
            return person, Entry({}), Rules((PERSON_ID,))
        # Ortto's page has merge_by at the top; a recorded call with it inside the activity got 200 too.
        inside = {key: raw[key] for key in ("merge_by", "merge_strategy") if raw.get(key) is not None}
        rules = read_rules({**body, **inside}, self.schema, self.default_merge_by)
        entry = read_entry({"fields": raw.get("fields")}, rules, self.schema)
        self.people.check(entry, rules)
        return None, entry, rules

    def _is_queued(self, event: Event) -> bool:
        return self.switches.reply == "queued" or event.created < self.clock() - RETENTION

    def _create_one(self, event: Event, sender: Sender, queue: bool) -> dict[str, str]:
        if queue:
            self._later(lambda: self._apply(event, sender))
            person = sender[0]
            echoed = _echoed(person.id if person else None)
            return {**echoed, "status": "queued", "person_status": "queued"}
        person, person_status = self._apply(event, sender)
        return {
            **_echoed(person.id if person else None),
            "status": "ingested",
            "person_status": person_status,
            "activity_id": event.activity_id,
        }

    def _apply(self, event: Event, sender: Sender) -> tuple[Person | None, str]:
        person, entry, rules = sender
        status = "merged"
        if person is None:
            person, status = self.people.merge(entry, rules)
        if person is None:
            return None, status
        if self.activities.store(person.id, person.fields.get(EMAIL), event):
            self.schema.set_live(event.activity_id)
        return person, "created" if status == "created" else "updated"

    # -- Ortto's own doing ------------------------------------------------------------------------------------

    def note(self, person: Person, field_id: str, attributes: dict[str, Any]) -> Activity:
        """Store what somebody did with an email, and what follows for the person."""
        if field_id in ("act::u-all", "act::s-all"):
            self.people.set_field(person, PERMISSION, field_id == "act::s-all")
        if field_id == "act::b":
            self.people.set_field(person, "bol::hb", True)
        return self.activities.store_own(person.id, person.fields.get(EMAIL), field_id, attributes)

    def write_back(self, person: Person, answer: Any) -> str:
        """Write the fields of a journey webhook's answer to the person (help.ortto.com/a-626); say what failed."""
        if not isinstance(answer, dict) or not isinstance(answer.get("fields"), dict):
            return ""
        try:
            rules = read_rules({**answer, "merge_by": [PERSON_ID]}, self.schema, self.default_merge_by)
            entry = read_entry({"fields": {**answer["fields"], PERSON_ID: person.id}}, rules, self.schema)
        except (ItemError, RefusedError) as error:
            return f"not written back: {error}"
        self.people.merge(entry, rules)
        return ""


def _items(body: dict[str, Any], key: str) -> list[Any]:
    items = body.get(key)
    if not isinstance(items, list) or not items:
        raise RefusedError(400, f"{key} must be a list of 1 to {ITEMS} objects")
    if len(items) > ITEMS:
        raise RefusedError(400, f"Too many {key}: at most {ITEMS} a request")
    return items


def _echoed(person_id: str | None) -> dict[str, str]:
    return {"person_id": person_id} if person_id else {}
