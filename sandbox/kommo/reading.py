"""Reads the bodies of writes, and finds what is wrong with them before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol
from urllib.parse import urlsplit

from sandbox.kommo.bodies import NOTE_TYPES
from sandbox.kommo.fields import CHOICES, TYPES, Field, Option
from sandbox.kommo.hooks import SETTINGS
from sandbox.kommo.query import MOST
from sandbox.kommo.records import INCOMING, KINDS, Account, Kind, Lead
from sandbox.kommo.refusals import BAD_CHOICE, MISSING, NOT_EXPECTED, Problems, Refusal
from sandbox.kommo.work import Draft

Data = dict[str, Any]
Error = tuple[str, str]
TASK_TYPES = {1: "Follow-up", 2: "Meeting"}
NOTE_PARAMS: dict[str, tuple[str, ...]] = {
    "common": ("text",),
    "service_message": ("service", "text"),
    "extended_service_message": ("service", "text"),
    "sms_in": ("text", "phone"),
    "sms_out": ("text", "phone"),
    "call_in": ("uniq", "duration", "source", "link", "phone"),
    "call_out": ("uniq", "duration", "source", "link", "phone"),
}
STRUCTURE = {"id", "request_id", "custom_fields_values", "_embedded", "tags_to_add", "tags_to_delete"}


class Check(Protocol):
    """Says what is wrong with a value, or None."""

    def __call__(self, account: Account, value: Any, /) -> Error | None: ...


def _type_error(wanted: str) -> Error:
    return "InvalidType", f"This value should be of type {wanted}."


def _text(_: Account, value: Any) -> Error | None:
    return None if isinstance(value, str) else _type_error("string")


def _whole(_: Account, value: Any) -> Error | None:
    return None if isinstance(value, int) and not isinstance(value, bool) else _type_error("int")


def _whole_or_null(account: Account, value: Any) -> Error | None:
    return None if value is None else _whole(account, value)


def _truth(_: Account, value: Any) -> Error | None:
    return None if isinstance(value, bool) else _type_error("bool")


def _user(account: Account, value: Any) -> Error | None:
    return _whole(account, value) or (None if value in account.users else BAD_CHOICE)


def _user_or_robot(account: Account, value: Any) -> Error | None:
    return None if value == 0 and value is not False else _user(account, value)


def _pipeline(account: Account, value: Any) -> Error | None:
    return _whole(account, value) or (None if value in account.pipelines else BAD_CHOICE)


def _choice(choices: Any) -> Check:
    return lambda account, value: None if isinstance(value, int | str) and value in choices else BAD_CHOICE


def _result(_: Account, value: Any) -> Error | None:
    good = isinstance(value, dict) and value.keys() == {"text"} and isinstance(value["text"], str)
    return None if good else _type_error("object")


AUTHORS: dict[str, Check] = {
    "responsible_user_id": _user,
    "created_by": _user_or_robot,
    "updated_by": _user_or_robot,
    "created_at": _whole,
    "updated_at": _whole,
}
CHECKS: dict[Kind, dict[str, Check]] = {
    "leads": {
        "name": _text,
        "price": _whole_or_null,
        "pipeline_id": _pipeline,
        "status_id": _whole,
        "loss_reason_id": _whole_or_null,
        "closed_at": _whole_or_null,
        **AUTHORS,
    },
    "contacts": {"name": _text, "first_name": _text, "last_name": _text, **AUTHORS},
    "companies": {"name": _text, **AUTHORS},
}
LINKS: dict[Kind, tuple[Kind, ...]] = {
    "leads": ("contacts", "companies"),
    "contacts": ("companies",),
    "companies": (),
}
TASK: dict[str, Check] = {
    "text": _text,
    "complete_till": _whole,
    "task_type_id": _choice(TASK_TYPES),
    "entity_id": _whole,
    "entity_type": _choice(KINDS),
    "duration": _whole,
    "is_completed": _truth,
    "result": _result,
    **AUTHORS,
}
NOTE: dict[str, Check] = {
    "entity_id": _whole,
    "note_type": _choice(NOTE_TYPES),
    "params": lambda account, value: None if isinstance(value, dict) else _type_error("object"),
    "created_by": _user_or_robot,
    "responsible_user_id": _user,
    "is_need_to_trigger_digital_pipeline": _truth,
}
TAG: dict[str, Check] = {"name": _text, "color": lambda account, value: None}
FIELD: dict[str, Check] = {
    "name": _text,
    "type": _choice(TYPES),
    "code": _text,
    "sort": _whole,
    "enums": lambda account, value: None if isinstance(value, list) else _type_error("array"),
    "is_api_only": _truth,
}


def batch(body: Any) -> list[Data]:
    """Return the items of an array body.

    https://developers.kommo.com/docs/http-codes; an object where an array belongs is taken to be a 400 (unsure).
    """
    if body in (None, [], {}):
        raise Refusal(400, "Request data can not be empty")
    if not isinstance(body, list) or not all(isinstance(item, dict) for item in body):
        raise Refusal(400, "Request data must be an array of objects")
    if len(body) > MOST:
        raise Refusal(422, f"Limit {MOST} per page")
    return body


def single(body: Any) -> Data:
    """Return an object body."""
    if body in (None, [], {}):
        raise Refusal(400, "Request data can not be empty")
    if not isinstance(body, dict):
        raise Refusal(400, "Request data must be an object")
    return body


def request_id(item: Data, index: int) -> str:
    """Return the item's own request id, or its index as text."""
    return str(item.get("request_id", index))


def plain(
    account: Account, item: Data, checks: dict[str, Check], problems: Problems, skip: Collection[str] = ()
) -> Data:
    """Return the good values of an item; unknown keys are refused."""
    good = {}
    for key, value in item.items():
        if key in skip:
            continue
        error = checks[key](account, value) if key in checks else NOT_EXPECTED
        if error:
            problems.add(error, key)
        else:
            good[key] = value
    return good


def entity(account: Account, kind: Kind, item: Data, problems: Problems, old: Any = None) -> Draft:
    """Read a lead, contact or company to make, or to change if `old` is given."""
    draft = Draft(plain(account, item, CHECKS[kind], problems, STRUCTURE))
    draft.fields = account.fields[kind].read(item.get("custom_fields_values"), problems)
    draft.tags_to_add = _tag_names(account, kind, item.get("tags_to_add"), problems.under("tags_to_add"))
    draft.tags_to_delete = _tag_names(account, kind, item.get("tags_to_delete"), problems.under("tags_to_delete"))
    _embedded(account, kind, item, draft, problems, making=old is None)
    if kind == "leads":
        _check_stage(account, draft, problems, old)
    return draft


def _embedded(account: Account, kind: Kind, item: Data, draft: Draft, problems: Problems, *, making: bool) -> None:
    embedded = item.get("_embedded")
    if embedded is None:
        return
    if not isinstance(embedded, dict):
        problems.wrong_type("_embedded", "object")
        return
    part = problems.under("_embedded")
    allowed = LINKS[kind] if making else ()
    for key in embedded.keys() - {"tags", *allowed}:
        part.add(NOT_EXPECTED, key)
    if "tags" in embedded:
        draft.tags = _tag_names(account, kind, embedded["tags"], part.under("tags"))
    if "contacts" in allowed:
        draft.contact_ids = _linked(account, "contacts", embedded.get("contacts"), part.under("contacts"))
    if "companies" in allowed:
        ids = _linked(account, "companies", embedded.get("companies"), part.under("companies"))
        draft.company_id = ids[0] if ids else None


def _tag_names(account: Account, kind: Kind, items: Any, problems: Problems) -> list[str]:
    """Return the names of tags that are given by id or by name."""
    if items is None:
        return []
    if not isinstance(items, list):
        problems.wrong_type(0, "array")
        return []
    names = []
    for index, item in enumerate(items):
        if isinstance(item, dict) and item.get("id") is not None:
            tag = account.tags[kind].by_id.get(item["id"]) if isinstance(item["id"], int) else None
            if tag:
                names.append(tag.name)
            else:
                problems.under(index).add(BAD_CHOICE, "id")
        elif isinstance(item, dict) and isinstance(item.get("name"), str) and item["name"]:
            names.append(item["name"])
        else:
            problems.under(index).add(MISSING, "name")
    return names


def _linked(account: Account, kind: Kind, items: Any, problems: Problems) -> list[int]:
    """Return the ids of entities to link, the main one first."""
    if items is None:
        return []
    if not isinstance(items, list):
        problems.wrong_type(0, "array")
        return []
    found = []
    for index, item in enumerate(items):
        number = item.get("id") if isinstance(item, dict) else None
        if isinstance(number, int) and number in account.of(kind):
            found.append((not item.get("is_main", False), number))
        else:
            problems.under(index).add(BAD_CHOICE, "id")
    found.sort(key=lambda pair: pair[0])
    return [number for _, number in found]


def _check_stage(account: Account, draft: Draft, problems: Problems, old: Lead | None) -> None:
    """Refuse a stage that is not in the pipeline, and the incoming one."""
    status_id = draft.plain.get("status_id")
    if status_id is None:
        return
    default = old.pipeline_id if old else next(iter(account.pipelines))
    stage = account.stage(draft.plain.get("pipeline_id", default), status_id)
    if not stage or stage.type == INCOMING:
        problems.add(BAD_CHOICE, "status_id")


def task(account: Account, item: Data, problems: Problems, *, making: bool) -> Data:
    """Read a task.

    https://developers.kommo.com/reference/add-tasks
    """
    values = plain(account, item, TASK, problems, {"id", "request_id"})
    if making:
        _require(item, ("text", "complete_till"), problems)
    if ("entity_id" in item) != ("entity_type" in item):
        problems.add(MISSING, "entity_type" if "entity_id" in item else "entity_id")
    elif "entity_type" in values and values.get("entity_id") not in account.of(values["entity_type"]):
        problems.add(BAD_CHOICE, "entity_id")
    if "result" in values:
        values["result"] = values["result"]["text"]
    return values


def changed_task(account: Account, item: Data, problems: Problems) -> tuple[Any, Data]:
    """Read one task of an array of changes."""
    found = _found(account.tasks, item, problems)
    return found, task(account, item, problems, making=False)


def _found(items: dict[int, Any], item: Data, problems: Problems) -> Any:
    """Return what the id of an array's item names; a problem if it names nothing."""
    number = item.get("id")
    found = items.get(number) if isinstance(number, int) else None
    if not found:
        problems.add(BAD_CHOICE, "id")
    return found


def changed_note(account: Account, kind: Kind, item: Data, problems: Problems) -> tuple[Any, Data]:
    """Read one note of an array of changes: its text and whatever else its kind has."""
    found = _found(account.notes[kind], item, problems)
    if not found:
        return None, {}
    rest = {key: value for key, value in item.items() if key != "id"}
    return found, note(account, kind, rest, problems, found.entity_id)


def note(account: Account, kind: Kind, item: Data, problems: Problems, entity_id: int | None) -> Data:
    """Read a note; `entity_id` is the address's, None = the item's.

    https://developers.kommo.com/reference/notes-types
    """
    values = plain(account, item, NOTE, problems, {"request_id"})
    _require(item, ("note_type", "params"), problems)
    for key in NOTE_PARAMS.get(values.get("note_type", ""), ()):
        if key not in values.get("params", {}):
            problems.add(MISSING, f"params.{key}")
    if not isinstance(values.get("params", {}).get("text", ""), str):
        problems.wrong_type("params.text", "string")
    if entity_id is not None:
        values["entity_id"] = entity_id
    elif "entity_id" not in item:
        problems.add(MISSING, "entity_id")
    elif "entity_id" in values and values["entity_id"] not in account.of(kind):
        problems.add(BAD_CHOICE, "entity_id")
    return values


def tag(account: Account, item: Data, problems: Problems) -> str:
    """Read a tag; return its name."""
    values = plain(account, item, TAG, problems, {"request_id"})
    _require(item, ("name",), problems)
    return str(values.get("name", ""))


def field(account: Account, kind: Kind, item: Data, problems: Problems) -> Field | None:
    """Read a custom field to make.

    https://developers.kommo.com/reference/add-custom-fields
    """
    values = plain(account, item, FIELD, problems, {"request_id"})
    _require(item, ("name", "type"), problems)
    if values.get("type") in CHOICES:
        _require(item, ("enums",), problems)
    if values.get("code") in account.fields[kind].by_code:
        problems.add(BAD_CHOICE, "code")
    options = _options(account, values.pop("enums", []), problems.under("enums"))
    if problems.errors:
        return None
    return Field(id=next(account.ids["fields"]), options=options, **values)


def _options(account: Account, items: list[Any], problems: Problems) -> list[Option]:
    options = []
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("value"), str):
            problems.under(index).add(MISSING, "value")
            continue
        sort, code = item.get("sort", index + 1), item.get("code")
        options.append(Option(next(account.ids["options"]), item["value"], sort, code))
    return options


def webhook(body: Data, problems: Problems) -> tuple[str, list[str], int | None]:
    """Read a webhook to register: its address, settings and sort.

    https://developers.kommo.com/reference/add-webhooks
    """
    for key in body.keys() - {"destination", "settings", "sort"}:
        problems.add(NOT_EXPECTED, key)
    settings, sort = body.get("settings"), body.get("sort")
    if not isinstance(settings, list) or not settings:
        problems.add(MISSING, "settings")
        settings = []
    for index, name in enumerate(settings):
        if not isinstance(name, str) or name not in SETTINGS:
            problems.under("settings").add(BAD_CHOICE, index)
    if sort is not None and not isinstance(sort, int):
        problems.wrong_type("sort", "int")
    if "destination" not in body:
        problems.add(MISSING, "destination")
    elif not resolves(body["destination"]):
        problems.add(("InvalidUrl", "Invalid URL"), "destination")
    return body.get("destination", ""), settings, sort


def resolves(destination: Any) -> bool:
    """Say whether Kommo could resolve an address; here, all hosts do but those under `.invalid`."""
    if not isinstance(destination, str):
        return False
    try:
        parts = urlsplit(destination)
        host = parts.hostname
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and not str(host).endswith(".invalid")


def _require(item: Data, keys: tuple[str, ...], problems: Problems) -> None:
    for key in keys:
        if key not in item:
            problems.add(MISSING, key)


Reader = Callable[[Data, Problems], Any]


def each(items: list[Data], read: Reader) -> tuple[list[Any], list[Problems]]:
    """Read every item; return what was read, and the problems."""
    problems = [Problems(request_id(item, index)) for index, item in enumerate(items)]
    return [read(item, part) for item, part in zip(items, problems, strict=True)], problems
