"""The people of an account: finding and merging them by Ortto's strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sandbox.ortto import builtin
from sandbox.ortto.fields import wrong_value
from sandbox.ortto.schema import Schema
from sandbox.ortto.wire import Ids, ItemError, RefusedError, require_id

EMAIL = "str::email"
EXTERNAL_ID = "str::ei"
PERSON_ID = "str::person_id"
PERMISSION = "bol::p"
SMS_PERMISSION = "bol::sp"

MERGE_FIELDS = 3

APPEND, OVERWRITE, IGNORE = 1, 2, 3
FIND_ANY, FIND_NEXT_IF_EMPTY, FIND_ALL = 0, 1, 2


@dataclass
class Person:
    """One contact."""

    id: str
    created: float
    seen: float
    fields: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)


@dataclass
class Tag:
    """One tag; made when it is first put on somebody."""

    id: int
    name: str
    created: float
    used: float
    people: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Rules:
    """How a request wants its people found and merged."""

    merge_by: tuple[str, ...]
    strategy: int = OVERWRITE
    find: int = FIND_ANY
    skip_non_existing: bool = False
    suppression_field: str = ""
    alternatives: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def by_id(self) -> bool:
        """Tell whether people are named by their ids, without a lookup."""
        return self.merge_by == (PERSON_ID,)


@dataclass(frozen=True)
class Entry:
    """One person of a request, checked."""

    fields: dict[str, Any]
    tags: list[str] = field(default_factory=list)
    unset_tags: list[str] = field(default_factory=list)
    clear_fields: list[str] = field(default_factory=list)


def read_rules(body: dict[str, Any], schema: Schema, default_merge_by: tuple[str, ...]) -> Rules:
    """Read the merge settings of a request; what is absent comes from the key's own settings."""
    merge_by = body.get("merge_by") or list(default_merge_by)
    if not isinstance(merge_by, list) or not 1 <= len(merge_by) <= MERGE_FIELDS:
        raise RefusedError(400, f"merge_by must be a list of at most {MERGE_FIELDS} field ids")
    if merge_by != [PERSON_ID]:
        for field_id in merge_by:
            if not isinstance(field_id, str) or not schema.has_field(field_id):
                raise RefusedError(400, f"Invalid merge_by ({field_id}: Object not found)")
    return Rules(
        merge_by=tuple(merge_by),
        strategy=_choice(body, "merge_strategy", (APPEND, OVERWRITE, IGNORE), OVERWRITE),
        find=_choice(body, "find_strategy", (FIND_ANY, FIND_NEXT_IF_EMPTY, FIND_ALL), FIND_ANY),
        skip_non_existing=body.get("skip_non_existing") is True,
        suppression_field=str(body.get("suppression_list_field_id") or ""),
        alternatives=_alternatives(body.get("merge_by_alt_fields")),
    )


def read_entry(raw: Any, rules: Rules, schema: Schema) -> Entry:
    """Check one person of a request."""
    if not isinstance(raw, dict):
        raise ItemError("a person must be an object")
    fields = raw.get("fields")
    if not isinstance(fields, dict):
        raise ItemError("fields must be an object")
    for field_id, value in fields.items():
        _check_field(field_id, value, rules, schema)
    _check_location(raw.get("location"))
    return Entry(
        fields=fields,
        tags=_names(raw, "tags"),
        unset_tags=_names(raw, "unset_tags"),
        clear_fields=_names(raw, "clear_fields"),
    )


class People:
    """All people, found by id or by the value of any field without a scan."""

    def __init__(self, clock: Callable[[], float], ids: Ids, on_permission: Callable[[Person, bool], None]) -> None:
        self._clock = clock
        self._ids = ids
        self._on_permission = on_permission
        self._index: dict[tuple[str, Any], dict[str, None]] = {}
        self.by_id: dict[str, Person] = {}
        self.tags: dict[str, Tag] = {}
        self.suppressed: set[str] = set()

    def having(self, field_id: str, value: Any) -> list[Person]:
        """Return the people whose field has this value, oldest first."""
        return [self.by_id[person_id] for person_id in self._index.get((field_id, value), ())]

    def subscribers(self) -> int:
        """Count the people who may be mailed."""
        return len(self._index.get((PERMISSION, True), ()))

    def find(self, fields: dict[str, Any], rules: Rules) -> Person | None:
        """Find the person that a request means (help.ortto.com/a-257, find strategies)."""
        if rules.by_id:
            return self.by_id.get(require_id(fields.get(PERSON_ID)))
        given = [field_id for field_id in rules.merge_by if isinstance(fields.get(field_id), str | int)]
        if rules.find == FIND_ALL:
            return self._find_all(given, fields, rules)
        for place, field_id in enumerate(given):
            for person in self._matching(field_id, fields[field_id], rules):
                if rules.find == FIND_ANY or not any(person.fields.get(before) for before in given[:place]):
                    return person
        return None

    def check(self, entry: Entry, rules: Rules) -> None:
        """Refuse a person that could not be merged."""
        known = self.find(entry.fields, rules)
        if known is not None:
            return
        if rules.by_id:
            raise ItemError(f"{entry.fields[PERSON_ID]}: Object not found")
        if rules.skip_non_existing:
            return
        # Read as a rule for new people: somebody found by another field has an email already.
        if not entry.fields.get(EMAIL) and not entry.fields.get(EXTERNAL_ID):
            raise ItemError("either email or external id must be present")
        if rules.suppression_field and entry.fields.get(rules.suppression_field) in self.suppressed:
            raise ItemError("Email is suppressed", status="suppressed")

    def merge(self, entry: Entry, rules: Rules) -> tuple[Person | None, str]:
        """Create or update one person; return them and the status of the answer."""
        person = self.find(entry.fields, rules)
        if person is None and rules.skip_non_existing:
            return None, "skipped"  # The real word is not recorded.
        if person is None:
            person = self._create()
            self._write(person, entry, APPEND)
            if PERMISSION not in person.fields:
                self._set(person, PERMISSION, True)
            return person, "created"
        if rules.strategy != IGNORE:
            allowed = person.fields.get(PERMISSION)
            self._write(person, entry, rules.strategy)
            if person.fields.get(PERMISSION) != allowed:
                self._on_permission(person, person.fields.get(PERMISSION) is True)
        return person, "merged"

    def set_field(self, person: Person, field_id: str, value: Any) -> None:
        """Set one field as Ortto itself does, without any check."""
        self._set(person, field_id, value)

    def _create(self) -> Person:
        now = self._clock()
        person = Person(self._ids.person(), created=now, seen=now)
        self.by_id[person.id] = person
        return person

    def _write(self, person: Person, entry: Entry, strategy: int) -> None:
        person.seen = self._clock()
        if strategy == OVERWRITE:
            # What clear_fields does exactly is unsure: here it empties fields that the request leaves out.
            for field_id in entry.clear_fields:
                self._set(person, field_id, None)
        for field_id, value in entry.fields.items():
            if field_id != PERSON_ID and (strategy == OVERWRITE or field_id not in person.fields):
                self._set(person, field_id, value)
        for name in entry.tags:
            self._tag(person, name)
        for name in entry.unset_tags:
            self._untag(person, name)

    def _set(self, person: Person, field_id: str, value: Any) -> None:
        old = person.fields.pop(field_id, None)
        if isinstance(old, str | int):
            self._index[field_id, old].pop(person.id, None)
        if value is None:
            return
        person.fields[field_id] = value
        if isinstance(value, str | int):
            self._index.setdefault((field_id, value), {})[person.id] = None

    def _tag(self, person: Person, name: str) -> None:
        now = self._clock()
        tag = self.tags.setdefault(name, Tag(len(self.tags) + 1, name, created=now, used=now))
        tag.used = now
        tag.people.add(person.id)
        if name not in person.tags:
            person.tags.append(name)

    def _untag(self, person: Person, name: str) -> None:
        if name in person.tags:
            person.tags.remove(name)
            self.tags[name].people.discard(person.id)

    def _matching(self, field_id: str, value: Any, rules: Rules) -> Iterable[Person]:
        for candidate in (field_id, *rules.alternatives.get(field_id, ())):
            yield from self.having(candidate, value)

    def _find_all(self, given: list[str], fields: dict[str, Any], rules: Rules) -> Person | None:
        if len(given) < len(rules.merge_by):
            return None
        found = [[person.id for person in self._matching(name, fields[name], rules)] for name in given]
        common = [person_id for person_id in found[0] if all(person_id in other for other in found[1:])]
        return self.by_id[common[0]] if common else None


def _check_field(field_id: str, value: Any, rules: Rules, schema: Schema) -> None:
    if field_id == PERSON_ID and rules.by_id:
        require_id(value)
        return
    problem = "Object not found"
    if schema.has_field(field_id):
        problem = "field is read only" if field_id in builtin.NOT_WRITABLE else wrong_value(field_id, value)
    if problem:
        raise ItemError(f"failed to validate field {field_id} in schema: {field_id}: {problem}")


def _check_location(location: Any) -> None:
    # Odd keys inside were accepted in recorded calls.
    if location is not None and not isinstance(location, dict):
        raise ItemError("location must be an object")


def _names(raw: dict[str, Any], key: str) -> list[str]:
    names = raw.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ItemError(f"{key} must be a list of strings")
    return names


def _choice(body: dict[str, Any], key: str, choices: tuple[int, ...], default: int) -> int:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or value not in choices:
        raise RefusedError(400, f"Invalid {key} {value}")
    return int(value)


def _alternatives(given: Any) -> dict[str, tuple[str, ...]]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RefusedError(400, "merge_by_alt_fields must be an object")
    return {name: tuple(other) if isinstance(other, list) else (str(other),) for name, other in given.items()}
