"""Which records a list call returns, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from sandbox.kommo.fields import Field
from sandbox.kommo.query import Query, in_range, one_of
from sandbox.kommo.records import INCOMING, Account, Entity, Event, Kind, Note, Tag, Task
from sandbox.kommo.refusals import Refusal

Test = Callable[[Any], bool]
MOST_ENTITIES = 10


def entities(account: Account, kind: Kind, query: Query, found_before: float) -> list[Any]:
    """Return leads, contacts or companies. `query` finds texts written before `found_before`.

    https://developers.kommo.com/reference/leads-list, https://developers.kommo.com/reference/contacts-list
    """
    tests = _common_tests(account, kind, query) + (_lead_tests(account, query) if kind == "leads" else [])
    words = query.get("query")
    if words:
        tests.append(_text_test(words.lower(), found_before))
    items: Iterable[Entity] = _by_id(account.of(kind), query)
    by, down = query.order(("id", "created_at", "updated_at"))
    return _sorted(_kept(items, tests), by, down)


def deleted(account: Account, query: Query) -> list[Any]:
    """Return the deleted leads."""
    by, down = query.order(("id", "updated_at"))
    return _sorted(list(_by_id(account.deleted, query)), by, down)


def tasks(account: Account, query: Query) -> list[Task]:
    """Return tasks.

    https://developers.kommo.com/reference/tasks-list
    """
    entity_type, entity_ids = query.get("filter", "entity_type"), query.numbers("entity_id")
    if entity_ids is not None and not entity_type:
        raise Refusal(400, "filter[entity_id] needs filter[entity_type]")
    if entity_type and entity_ids is not None:
        items = [task for number in entity_ids for task in account.tasks_by_entity.get((entity_type, number), ())]
    else:
        items = list(_by_id(account.tasks, query))
    done = query.number("filter", "is_completed")
    tests = [
        *one_of(query.numbers("id"), attrgetter("id")),
        *one_of(query.numbers("responsible_user_id"), attrgetter("responsible_user_id")),
        *one_of(query.numbers("task_type"), attrgetter("task_type_id")),
        *one_of([entity_type] if entity_type else None, attrgetter("entity_type")),
        *one_of(None if done is None else [bool(done)], attrgetter("is_completed")),
        *in_range(query.between("updated_at"), attrgetter("updated_at")),
    ]
    by, down = query.order(("id", "created_at", "complete_till"))
    return _sorted(_kept(items, tests), by, down)


def notes(account: Account, kind: Kind, query: Query, entity_id: int | None = None) -> list[Note]:
    """Return the notes of one entity, or of all of a kind.

    https://developers.kommo.com/reference/notes-by-entity-id
    """
    entity_ids = query.numbers("entity_id") if entity_id is None else [entity_id]
    if entity_ids is None:
        items = list(_by_id(account.notes[kind], query))
    else:
        items = [note for number in entity_ids for note in account.notes_by_entity.get((kind, number), ())]
    tests = [
        *one_of(query.numbers("id"), attrgetter("id")),
        *one_of(query.words("note_type"), attrgetter("note_type")),
        *in_range(query.between("updated_at"), attrgetter("created_at")),
    ]
    by, down = query.order(("id", "updated_at"))
    wanted = _kept(items, tests)
    return _sorted(wanted, "created_at" if by == "updated_at" else by, down)


def events(account: Account, query: Query) -> list[Event]:
    """Return events, newest first.

    https://developers.kommo.com/reference/events-filtration; their order is not documented, this is the usual one.
    """
    kind, entity_ids = _event_entities(query)
    since, until = query.between("created_at")
    if kind and entity_ids is not None:
        found = [event for number in entity_ids for event in account.events.by_entity.get((kind, number), ())]
        found.sort(key=attrgetter("created_at", "id"))
    else:
        found = account.events.between(since, until)
    tests = [
        *one_of(query.words("type"), attrgetter("type")),
        *one_of([kind] if kind else None, attrgetter("kind")),
        *one_of(_at_most_ten(query, "created_by"), attrgetter("created_by")),
        *one_of(_stage_after(query), attrgetter("after")),
        *in_range((since, until), attrgetter("created_at")),
    ]
    return _kept(reversed(found), tests)


def _event_entities(query: Query) -> tuple[Kind | None, list[int] | None]:
    kinds: dict[str, Kind] = {"lead": "leads", "contact": "contacts", "company": "companies"}
    entity = query.texts("entity")
    entity_ids = _at_most_ten(query, "entity_id")
    if entity_ids is not None and (not entity or len(entity) != 1):
        raise Refusal(400, "filter[entity_id] needs one filter[entity]")
    if not entity:
        return None, entity_ids
    if entity[0] not in kinds:
        raise Refusal(400, "filter[entity] is not valid")
    return kinds[entity[0]], entity_ids


def _at_most_ten(query: Query, name: str) -> list[int] | None:
    values = query.numbers(name)
    if values and len(values) > MOST_ENTITIES:
        raise Refusal(400, f"filter[{name}] takes at most {MOST_ENTITIES} values")
    return values


def _stage_after(query: Query) -> list[Any] | None:
    path = ("filter", "value_after", "leads_statuses", "0")
    pipeline_id, status_id = query.number(*path, "pipeline_id"), query.number(*path, "status_id")
    return None if status_id is None else [((pipeline_id, status_id),)]


def _common_tests(account: Account, kind: Kind, query: Query) -> list[Test]:
    return [
        *one_of(query.texts("name"), attrgetter("name")),
        *one_of(query.numbers("created_by"), attrgetter("created_by")),
        *one_of(query.numbers("updated_by"), attrgetter("updated_by")),
        *one_of(query.numbers("responsible_user_id"), attrgetter("responsible_user_id")),
        *in_range(query.between("created_at"), attrgetter("created_at")),
        *in_range(query.between("updated_at"), attrgetter("updated_at")),
        *in_range(query.between("closest_task_at"), lambda item: account.closest_task_at(kind, item.id)),
    ]


def _lead_tests(account: Account, query: Query) -> list[Test]:
    tests = [
        *one_of(query.numbers("pipeline_id"), attrgetter("pipeline_id")),
        *in_range(query.between("price"), attrgetter("price")),
        *in_range(query.between("closed_at"), attrgetter("closed_at")),
    ]
    # Only one pair is honoured, says the page.
    path = ("filter", "statuses", "0")
    pipeline_id, status_id = query.number(*path, "pipeline_id"), query.number(*path, "status_id")
    if status_id is not None:
        pair = (pipeline_id, status_id)
        return [*tests, lambda lead: (lead.pipeline_id, lead.status_id) == pair]
    if query.numbers("id") is None:
        # Incoming stages have ids of their own, so the status alone tells them.
        incoming = {s.id for p in account.pipelines.values() for s in p.stages.values() if s.type == INCOMING}
        tests.append(lambda lead: lead.status_id not in incoming)
    return tests


def _text_test(words: str, found_before: float) -> Test:
    return lambda item: words in item.text and item.text_at <= found_before


def _kept(items: Iterable[Any], tests: list[Test]) -> list[Any]:
    for test in tests:
        items = filter(test, items)
    return list(items)


def _by_id(items: dict[int, Any], query: Query) -> Iterable[Any]:
    wanted = query.numbers("id")
    if wanted is None:
        return items.values()
    return [items[number] for number in dict.fromkeys(wanted) if number in items]


def _sorted(items: list[Any], by: str, down: bool) -> list[Any]:
    return sorted(items, key=attrgetter(by, "id") if by != "id" else attrgetter("id"), reverse=down)


def tags(account: Account, kind: Kind, query: Query) -> list[Tag]:
    """Return the tags of a kind."""
    tests: list[Test] = one_of(query.texts("name"), attrgetter("name"))
    words = query.get("query")
    if words:
        tests.append(lambda tag: words.lower() in tag.name.lower())
    return _kept(_by_id(account.tags[kind].by_id, query), tests)


def custom_fields(account: Account, kind: Kind, query: Query) -> list[Field]:
    """Return the custom fields of a kind."""
    tests = one_of(query.texts("type"), attrgetter("type"))
    return _kept(account.fields[kind].by_id.values(), tests)


def links(account: Account, kind: Kind, entity_id: int, query: Query) -> list[dict[str, Any]]:
    """Return what an entity is linked to; the leads of a contact or company are not documented as links.

    https://developers.kommo.com/reference/linked-entities
    """
    entity = account.of(kind).get(entity_id)
    if not entity:
        return []
    found: list[dict[str, Any]] = []
    if kind != "contacts":
        for index, number in enumerate(entity.contact_ids):
            metadata = {"main_contact": index == 0} if kind == "leads" else None
            found.append({"to_entity_id": number, "to_entity_type": "contacts", "metadata": metadata})
    if kind != "companies" and entity.company_id:
        found.append({"to_entity_id": entity.company_id, "to_entity_type": "companies", "metadata": None})
    return _kept(found, _link_tests(query))


def _link_tests(query: Query) -> list[Test]:
    number, kind = query.number("filter", "to_entity_id"), query.get("filter", "to_entity_type")
    if (number is None) != (kind is None):
        raise Refusal(400, "filter[to_entity_id] and filter[to_entity_type] go together")
    return [] if number is None else [lambda x: (x["to_entity_id"], x["to_entity_type"]) == (number, kind)]
