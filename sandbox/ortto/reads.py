"""The calls that only read an account."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sandbox.ortto import builtin
from sandbox.ortto.account import Account
from sandbox.ortto.people import EMAIL, EXTERNAL_ID, PERMISSION, SMS_PERMISSION, Person
from sandbox.ortto.wire import ItemError, RefusedError, milliseconds, require_id

PEOPLE_PAGE, PEOPLE_PAGE_MAX = 50, 500
FEED_PAGE_MAX = 40
FIELD_IDS = 150
RETENTION = {"type": "time", "max_value": 90}

Test = Callable[[Person], bool]


def get_people(account: Account, body: dict[str, Any]) -> dict[str, Any]:
    """Answer person/get: people by filter, newest first unless sorted otherwise."""
    limit = _number(body, "limit", PEOPLE_PAGE, 1, PEOPLE_PAGE_MAX)
    offset = _number(body, "offset", 0, 0, None)
    fields = _field_ids(account, body)
    found = _sorted(_filtered(account, body), body)
    page = found[offset : offset + limit]
    return {
        "contacts": [_shown(person, fields) for person in page],
        "meta": {
            "total_contacts": len(account.people.by_id),
            "total_organizations": 0,
            "total_matches": len(found),
            "total_subscribers": account.people.subscribers(),
        },
        "offset": offset,
        "next_offset": offset + len(page),
        "cursor_id": body.get("cursor_id") or account.ids.record(),
        "has_more": offset + len(page) < len(found),
    }


def get_people_by_ids(account: Account, body: dict[str, Any]) -> dict[str, Any]:
    """Answer person/get-by-ids: an object by id, not a list; unknown ids are left out."""
    ids = body.get("contact_ids")
    if not isinstance(ids, list):
        raise RefusedError(400, "contact_ids must be a list")
    fields = _field_ids(account, body)
    wanted = [account.people.by_id.get(_id(person_id)) for person_id in ids]
    return {"contacts": {person.id: _shown(person, fields) for person in wanted if person}}


def get_feed(account: Account, body: dict[str, Any]) -> dict[str, Any]:
    """Answer person/get/activities (help.ortto.com/a-773)."""
    person_id = _id(body.get("person_id"))
    limit = _number(body, "limit", FEED_PAGE_MAX, 1, FEED_PAGE_MAX)
    offset = _number(body, "offset", 0, 0, None)
    wanted = body.get("activities") or []
    if not isinstance(wanted, list):
        raise RefusedError(400, "activities must be a list")
    since = _since(account, body.get("timeframe"))
    found = [
        activity
        for activity in account.activities.of(person_id)
        if activity.created_at >= since and (not wanted or activity.activity_id in wanted)
    ]
    page = found[offset : offset + limit]
    shown = [
        {
            "id": activity.id,
            "attr": activity.attributes,
            "created_at": activity.created,
            "field_id": activity.activity_id,
            "render_cmds": [{"content": _title(account, activity.activity_id)}, {"content": "."}],
        }
        for activity in page
    ]
    return {
        "activities": shown or None,
        "meta": {
            "total_activities": len(found),
            "field_ids": wanted or None,
            "has_more": offset + len(page) < len(found),
            "retention": RETENTION,
        },
        "offset": offset,
        "next_offset": offset + len(page),
    }


def get_subscriptions(account: Account, body: dict[str, Any]) -> dict[str, Any]:
    """Answer person/subscriptions; this account has no audiences."""
    people = body.get("people")
    if not isinstance(people, list) or not people:
        raise RefusedError(400, "people must be a list")
    found = [_named(account, named) for named in people]
    return {"people": [_subscriptions(person) for person in found if person]}


def get_tags(account: Account, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Answer tags/get: a bare list (help.ortto.com/a-263)."""
    part = str(body.get("q") or "").lower()
    people = account.people
    return [
        {
            "id": tag.id,
            "instance_id": "sandbox",
            "name": tag.name,
            "created_by_id": "0" * 24,
            "created_by_name": "",
            "created_by_email": "",
            "created_at": milliseconds(tag.created),
            "last_used": milliseconds(tag.used),
            "count": len(tag.people),
            "subscribers": sum(people.by_id[one].fields.get(PERMISSION) is True for one in tag.people),
            "type": "",
        }
        for tag in people.tags.values()
        if part in tag.name.lower()
    ]


def get_schema(account: Account, body: dict[str, Any]) -> dict[str, Any]:
    """Answer instance-schema/get."""
    wanted = body.get("namespaces") or []
    if not isinstance(wanted, list):
        raise RefusedError(400, "namespaces must be a list")
    return account.schema.described(wanted)


# -- filters ------------------------------------------------------------------------------------------------


def _filtered(account: Account, body: dict[str, Any]) -> list[Person]:
    condition = body.get("filter")
    if condition is None or condition == {}:
        people = list(account.people.by_id.values())
    else:
        test = _test(account, condition)
        people = [person for person in _candidates(account, condition) if test(person)]
    part = str(body.get("q") or "").lower()
    if not part:
        return people
    return [person for person in people if part in _searched(person)]


def _searched(person: Person) -> str:
    return " ".join(str(person.fields.get(name, "")) for name in (EMAIL, "str::first", "str::last")).lower()


def _candidates(account: Account, condition: dict[str, Any]) -> list[Person]:
    """Narrow the people down by the index where the filter allows."""
    for wanted in [condition, *condition.get("$and", [])]:
        if "$str::is" in wanted:
            return account.people.having(wanted["$str::is"]["field_id"], wanted["$str::is"]["value"])
    return list(account.people.by_id.values())


def _test(account: Account, condition: Any) -> Test:
    """Turn a filter into a test of a person, or refuse it."""
    if not isinstance(condition, dict) or len(condition) != 1:
        raise RefusedError(400, "Invalid filter")
    operation, operand = next(iter(condition.items()))
    if operation in ("$and", "$or"):
        if not isinstance(operand, list) or not operand:
            raise RefusedError(400, f"Invalid filter ({operation} needs a list)")
        tests = [_test(account, part) for part in operand]
        join = all if operation == "$and" else any
        return lambda person: join(test(person) for test in tests)
    if operation not in _OPERATIONS:
        raise RefusedError(400, f"Invalid filter (Unknown operation {operation})")
    if not isinstance(operand, dict) or not isinstance(operand.get("field_id"), str):
        raise RefusedError(400, f"Invalid filter ({operation} needs a field_id)")
    field_id = operand["field_id"]
    is_known = account.schema.has_activity if operation.startswith("$act") else account.schema.has_field
    if not is_known(field_id):
        raise RefusedError(400, f"Invalid filter ({field_id}: Object not found)")
    value = operand.get("value")
    if operation.startswith("$str") and not isinstance(value, str):
        raise RefusedError(400, f"Invalid filter ({operation} needs a string)")
    return lambda person: _OPERATIONS[operation](account, person, field_id, value)


_OPERATIONS: dict[str, Callable[[Account, Person, str, Any], bool]] = {
    "$str::is": lambda account, person, field_id, value: person.fields.get(field_id) == value,
    "$str::contains": lambda account, person, field_id, value: (
        value.lower() in str(person.fields.get(field_id, "")).lower()
    ),
    "$bol::is": lambda account, person, field_id, value: person.fields.get(field_id, False) is value,
    "$has_any_value": lambda account, person, field_id, value: field_id in person.fields,
    "$has_no_value": lambda account, person, field_id, value: field_id not in person.fields,
    "$act::has_occurred": lambda account, person, field_id, value: account.activities.has(person.id, field_id),
}


# -- parts of answers ---------------------------------------------------------------------------------------


def _sorted(people: list[Person], body: dict[str, Any]) -> list[Person]:
    field_id = body.get("sort_by_field_id")
    if not field_id:
        return people[::-1]
    last_first = body.get("sort_order") == "desc"
    return sorted(people, key=lambda person: str(person.fields.get(field_id, "")), reverse=last_first)


def _shown(person: Person, fields: list[str] | None) -> dict[str, Any]:
    """Show a person; unset fields are absent. Without `fields` all set ones are shown (not documented)."""
    shown = (
        person.fields
        if fields is None
        else {field_id: person.fields[field_id] for field_id in fields if field_id in person.fields}
    )
    return {"id": person.id, "fields": dict(shown)}


def _subscriptions(person: Person) -> dict[str, Any]:
    shown = {
        "person_status": "merged",
        "person_id": person.id,
        "email": person.fields.get(EMAIL),
        "subscriptions": [],
        "email_permissions": person.fields.get(PERMISSION, False),
        "sms_permissions": person.fields.get(SMS_PERMISSION, False),
        "ios_permissions": False,
        "android_permissions": False,
        "web_permissions": False,
    }
    return {key: value for key, value in shown.items() if value is not None}


def _named(account: Account, named: Any) -> Person | None:
    if not isinstance(named, dict):
        raise RefusedError(400, "a person must be an object")
    if named.get("person_id"):
        return account.people.by_id.get(_id(named["person_id"]))
    for key, field_id in (("email", EMAIL), ("external_id", EXTERNAL_ID)):
        if named.get(key):
            return next(iter(account.people.having(field_id, named[key])), None)
    raise RefusedError(400, "a person needs a person_id, email or external_id")


def _title(account: Account, activity_id: str) -> str:
    if activity_id in builtin.ACTIVITIES:
        return builtin.ACTIVITIES[activity_id][0]
    definitions = account.schema.definitions | account.schema.archived
    return str(definitions[activity_id]["name"]) if activity_id in definitions else activity_id


def _since(account: Account, timeframe: Any) -> float:
    """Read a timeframe such as `last-7-days`; others than last-N-days are not narrowed."""
    kind = timeframe.get("type") if isinstance(timeframe, dict) else ""
    match = re.fullmatch(r"last-(\d+)-days", str(kind))
    return account.clock() - int(match[1]) * 86_400 if match else 0


def _field_ids(account: Account, body: dict[str, Any]) -> list[str] | None:
    fields = body.get("fields")
    if fields is None:
        return None
    if not isinstance(fields, list) or len(fields) > FIELD_IDS:
        raise RefusedError(400, f"fields must be a list of at most {FIELD_IDS} field ids")
    for field_id in fields:
        if not isinstance(field_id, str) or not account.schema.has_field(field_id):
            raise RefusedError(400, f"Invalid fields ({field_id}: Object not found)")
    return fields


def _number(body: dict[str, Any], key: str, default: int, least: int, most: int | None) -> int:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most and value > most):
        raise RefusedError(400, f"Invalid {key} {value}")
    return value


def _id(value: object) -> str:
    try:
        return require_id(value)
    except ItemError as error:
        raise RefusedError(400, str(error)) from None
