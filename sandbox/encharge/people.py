"""The people of an account: found by id, userId or email, merged by upserts, tagged, archived, erased."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.encharge.fields import default_fields, field_for

IDENTIFIERS = ("id", "userId", "email")
LONGEST_VALUE = 5_000
LARGEST_PERSON = 200_000


class RefusedError(Exception):
    """A call that the vendor refuses."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Person:
    """One person. `values` are its fields, custom ones among them, without the tags."""

    values: dict[str, Any]
    tags: dict[str, None] = field(default_factory=dict)
    archived: bool = False

    @property
    def id(self) -> str:
        """Return the UUID that Encharge gave."""
        return str(self.values["id"])

    @property
    def anonymous(self) -> bool:
        """Tell whether neither email nor userId is known (article 78 of the help centre)."""
        return not (self.values.get("email") or self.values.get("userId"))

    @property
    def unsubscribed(self) -> bool:
        """Tell whether the person left all mail; imports write the word `true`."""
        return self.values.get("unsubscribed") in (True, "true")

    def read(self, attributes: Collection[str] = ()) -> dict[str, Any]:
        """Return the person as reads show it: flat, the tags as one comma string or null."""
        whole = {**self.values, "tags": ",".join(self.tags) or None}
        if not attributes:
            return whole
        return {key: value for key, value in whole.items() if key == "id" or key in attributes}


@dataclass
class Change:
    """What a write did to one person."""

    person: Person
    before: dict[str, Any]
    """Its values until then; empty = the person is new."""
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Old and new value of each field that changed, as `changedFields` shows them."""
    added_tags: list[str] = field(default_factory=list)
    removed_tags: list[str] = field(default_factory=list)
    left_mail: bool = False


class People:
    """All people of an account, with its fields and tags. The caller holds the lock."""

    def __init__(self, now: Callable[[], str]) -> None:
        self._now = now
        self.clear()

    def clear(self) -> None:
        """Forget everybody; ids start over, so that runs can be compared."""
        self.by_id: dict[str, Person] = {}
        self.fields = default_fields()
        self.tags: dict[str, str] = {}
        """When each tag came into being."""
        self._by_user_id: dict[str, Person] = {}
        # A second userId on a known email makes a second person with that email; the first one is matched.
        self._by_email: dict[str, dict[str, Person]] = {}
        self._random = random.Random(1)

    # -- finding --------------------------------------------------------------------------------------------

    def find(self, given: Mapping[str, Any]) -> Person | None:
        """Find whom an id, userId or email selects, in that order; archived people too.

        The order is not documented. A userId can be set once: an id or email whose person has another userId
        does not match (article 80 of the help centre).
        """
        user_id = as_user_id(given)
        holders = self._by_email.get(email_key(given.get("email")), {}).values()
        for person in (self.by_id.get(str(given.get("id"))), self._by_user_id.get(user_id), *holders):
            if person and (not user_id or person.values.get("userId") in (None, "", user_id)):
                return person
        return None

    def listed(self, *, archived: bool = False) -> list[Person]:
        """Return everybody who is, or is not, archived, in order of creation."""
        return [person for person in self.by_id.values() if person.archived == archived]

    def tag_counts(self) -> Counter[str]:
        """Return how many people have each tag."""
        counts = Counter(dict.fromkeys(self.tags, 0))
        for person in self.listed():
            counts.update(person.tags.keys())
        return counts

    # -- writing --------------------------------------------------------------------------------------------

    def check(self, given: Any) -> None:
        """Refuse what cannot be upserted.

        Only the two sizes are documented (article 206); that a call beyond them is refused, and the status,
        is assumed.
        """
        if not isinstance(given, dict):
            raise RefusedError(422, "Each person should be an object.")
        if not any(given.get(key) for key in IDENTIFIERS):
            raise RefusedError(422, "Each person should have at least one of: id, userId, email.")
        if not isinstance(given.get("email") or "", str):
            raise RefusedError(422, "Field email should be a string.")
        for key, value in given.items():
            if isinstance(value, str) and len(value) > LONGEST_VALUE:
                raise RefusedError(422, f"Field {key} should not be longer than {LONGEST_VALUE} characters.")
        known = self.find(given)
        if len(json.dumps({**(known.values if known else {}), **given})) > LARGEST_PERSON:
            raise RefusedError(422, "The fields of a person should not exceed 200 kB.")

    def upsert(self, given: Mapping[str, Any], known: Person | None = None) -> Change:
        """Update `known` or whom `given` selects, else create a person; unknown keys become fields.

        Tags add to those there are: documented for ingest, assumed for REST. An archived person comes back.
        """
        person = known or self.find(given)
        before = dict(person.values) if person else {}
        person = person or self._create()
        person.archived = False
        values = {key: value for key, value in given.items() if key not in ("id", "tags")}
        if values.get("userId"):
            values["userId"] = str(values["userId"])
        if "name" not in values and ("firstName" in values or "lastName" in values):
            names = {**person.values, **values}
            values["name"] = " ".join(str(names[key]) for key in ("firstName", "lastName") if names.get(key))
        change = Change(person, before, fields=self._write(person, values))
        change.left_mail = bool(before) and "unsubscribed" in change.fields and person.unsubscribed
        change.added_tags = self.tag(person, split_tags(given.get("tags")))
        return change

    def tag(self, person: Person, tags: Iterable[str]) -> list[str]:
        """Add tags to a person and return those that are new to it."""
        new = [tag for tag in tags if tag not in person.tags]
        for tag in new:
            self.tags.setdefault(tag, self._now())
            person.tags[tag] = None
        return new

    def untag(self, person: Person, tags: Iterable[str]) -> list[str]:
        """Take tags from a person and return those that it had."""
        gone = [tag for tag in tags if tag in person.tags]
        for tag in gone:
            del person.tags[tag]
        return gone

    def erase(self, person: Person) -> None:
        """Forget a person for good."""
        self._unindex(person)
        del self.by_id[person.id]

    def drop_field(self, name: str) -> None:
        """Delete a field and everybody's value of it."""
        del self.fields[name]
        for person in self.by_id.values():
            person.values.pop(name, None)

    def _create(self) -> Person:
        now = self._now()
        made = uuid.UUID(int=self._random.getrandbits(128), version=4)
        times = {"createdAt": now, "updatedAt": now, "lastActivity": now}
        person = self.by_id[str(made)] = Person({"id": str(made), "leadScore": 0, **times})
        return person

    def _write(self, person: Person, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Set values and return those that changed."""
        changed = {
            key: {"oldValue": person.values.get(key), "newValue": value}
            for key, value in values.items()
            if key not in person.values or person.values[key] != value
        }
        if not changed:
            return {}
        self._unindex(person)
        person.values.update({"updatedAt": self._now(), **values})
        self._index(person)
        for key in changed:
            if key not in self.fields:
                self.fields[key] = field_for(key, values[key])
        return changed

    def _index(self, person: Person) -> None:
        if user_id := as_user_id(person.values):
            self._by_user_id[user_id] = person
        if email := email_key(person.values.get("email")):
            self._by_email.setdefault(email, {})[person.id] = person

    def _unindex(self, person: Person) -> None:
        if self._by_user_id.get(as_user_id(person.values)) is person:
            del self._by_user_id[as_user_id(person.values)]
        holders = self._by_email.get(email_key(person.values.get("email")), {})
        holders.pop(person.id, None)


def as_user_id(given: Mapping[str, Any]) -> str:
    """Return the userId as text, as it is compared."""
    return str(given.get("userId") or "")


def email_key(email: Any) -> str:
    """Return an address as it is compared; case folding is not documented."""
    return email.strip().lower() if isinstance(email, str) else ""


def split_tags(tags: Any) -> list[str]:
    """Split tags at their commas; lists occur in public code and are read too."""
    parts = tags if isinstance(tags, list) else str(tags or "").split(",")
    return [tag for tag in dict.fromkeys(str(part).strip() for part in parts) if tag]
