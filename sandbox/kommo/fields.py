"""Custom fields: their kinds, what values they take, and how a value reads in the API and in a webhook."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sandbox.kommo.refusals import BAD_CHOICE, MISSING, NOT_EXPECTED, Problems

Value = dict[str, Any]
"""One value of a field as the API reads it: `value`, and for options `enum_id` and `enum_code`."""

TEXTS = ("text", "textarea", "url", "streetaddress", "tracking_data")
NUMBERS = ("numeric", "monetary", "price")
DATES = ("date", "date_time", "birthday")
CHOICES = ("select", "radiobutton", "multiselect")
TYPES = (*TEXTS, *NUMBERS, *DATES, *CHOICES, "checkbox", "multitext")
SEVERAL = ("multiselect", "multitext")
TRUTHS = {True: True, False: False, "1": True, "0": False}
"""What a checkbox takes; 1 and 0 are equal to True and False."""
WRITABLE = {"field_id", "field_code", "field_name", "values"}


@dataclass(frozen=True)
class Option:
    """One choice of a field."""

    id: int
    value: str
    sort: int = 0
    code: str | None = None


@dataclass
class Field:
    """A custom field of leads, contacts or companies."""

    id: int
    name: str
    type: str
    code: str | None = None
    options: list[Option] = field(default_factory=list)
    sort: int = 500
    is_predefined: bool = False
    is_api_only: bool = False


class Fields:
    """The custom fields of one kind of entity, by id and by code."""

    def __init__(self, fields: Iterable[Field] = ()) -> None:
        self.by_id: dict[int, Field] = {}
        self.by_code: dict[str, Field] = {}
        for item in fields:
            self.add(item)

    def add(self, item: Field) -> None:
        """Add a field."""
        self.by_id[item.id] = item
        if item.code:
            self.by_code[item.code] = item

    def find(self, key: int | str) -> Field:
        """Return the field of an id or a code; an unknown one is a KeyError."""
        found = self.by_code.get(str(key)) or (self.by_id.get(int(key)) if str(key).isdigit() else None)
        if not found:
            raise KeyError(f"no custom field {key!r}")
        return found

    def read(self, items: Any, problems: Problems) -> dict[int, list[Value]]:
        """Return the values written by `custom_fields_values`, by field id; an empty list clears a field.

        https://developers.kommo.com/reference/custom-fields
        """
        if items is None:
            return {}
        if not isinstance(items, list):
            problems.wrong_type("custom_fields_values", "array")
            return {}
        written: dict[int, list[Value]] = {}
        for index, item in enumerate(items):
            part = problems.under("custom_fields_values").under(index)
            found = self._addressed(item, part)
            if found:
                written[found.id] = _values(found, item.get("values"), part)
        return written

    def _addressed(self, item: Any, problems: Problems) -> Field | None:
        if not isinstance(item, dict):
            problems.wrong_type("field_id", "object")
            return None
        for key in item.keys() - WRITABLE:
            problems.add(NOT_EXPECTED, key)
        key = "field_id" if "field_id" in item else "field_code"
        if key not in item:
            problems.add(MISSING, "field_id")
            return None
        every: dict[Any, Field] = self.by_id if key == "field_id" else self.by_code
        found = every.get(item[key]) if isinstance(item[key], int | str) else None
        if not found:
            problems.add(BAD_CHOICE, key)
        return found


def _values(found: Field, items: Any, problems: Problems) -> list[Value]:
    if items is None:  # Not documented, but clients clear a field so.
        return []
    if not isinstance(items, list):
        problems.wrong_type("values", "array")
        return []
    part = problems.under("values")
    if len(items) > 1 and found.type not in SEVERAL:
        part.add(NOT_EXPECTED, 1)
        return []
    read = READERS[found.type]
    values = [_value(found, item, read, part.under(index)) for index, item in enumerate(items)]
    return [value for value in values if value is not None]


def _value(
    found: Field, item: Any, read: Callable[[Field, Value, Problems], Value | None], problems: Problems
) -> Value | None:
    if not isinstance(item, dict):
        problems.wrong_type("value", "object")
        return None
    takes_options = found.type in CHOICES or found.type == "multitext"
    allowed = {"value", "enum_id", "enum_code"} if takes_options else {"value"}
    # An explicit null is refused as if the key were unknown (Krukov/amocrm_api#68).
    unexpected = [key for key in item if key not in allowed or (key != "value" and item[key] is None)]
    for key in unexpected:
        problems.add(NOT_EXPECTED, key)
    return None if unexpected else read(found, item, problems)


def _text(_: Field, item: Value, problems: Problems) -> Value | None:
    if isinstance(item.get("value"), str):
        return {"value": item["value"]}
    problems.wrong_type("value", "string")
    return None


def _number(_: Field, item: Value, problems: Problems) -> Value | None:
    value = item.get("value")
    try:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            float(value)
            return {"value": str(value)}
    except ValueError:
        pass
    problems.wrong_type("value", "numeric")
    return None


def _truth(_: Field, item: Value, problems: Problems) -> Value | None:
    value = item.get("value")
    if isinstance(value, bool | int | str) and value in TRUTHS:
        return {"value": TRUTHS[value]}
    problems.wrong_type("value", "bool")
    return None


def _date(_: Field, item: Value, problems: Problems) -> Value | None:
    value = item.get("value")
    if isinstance(value, int) and not isinstance(value, bool):
        return {"value": value}
    try:
        if isinstance(value, str):
            return {"value": int(value) if value.isdigit() else int(datetime.fromisoformat(value).timestamp())}
    except ValueError:
        pass
    problems.wrong_type("value", "timestamp")
    return None


def _choice(found: Field, item: Value, problems: Problems) -> Value | None:
    for key, attribute in (("enum_id", "id"), ("enum_code", "code"), ("value", "value")):
        if key not in item:
            continue
        for option in found.options:
            if getattr(option, attribute) == item[key]:
                return {"value": option.value, "enum_id": option.id, "enum_code": option.code}
        problems.add(BAD_CHOICE, key)
        return None
    problems.add(MISSING, "value")
    return None


def _coded_text(found: Field, item: Value, problems: Problems) -> Value | None:
    if not isinstance(item.get("value"), str):
        problems.wrong_type("value", "string")
        return None
    key = "enum_id" if "enum_id" in item else "enum_code"
    wanted = item.get(key, found.options[0].code)
    for option in found.options:
        if wanted == (option.id if key == "enum_id" else option.code):
            return {"value": item["value"], "enum_id": option.id, "enum_code": option.code}
    problems.add(BAD_CHOICE, key)
    return None


READERS: dict[str, Callable[[Field, Value, Problems], Value | None]] = {
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys(NUMBERS, _number),
    **dict.fromkeys(DATES, _date),
    **dict.fromkeys(CHOICES, _choice),
    "checkbox": _truth,
    "multitext": _coded_text,
}


def in_api(fields: Fields, values: dict[int, list[Value]]) -> list[dict[str, Any]] | None:
    """Return `custom_fields_values` of an entity; null when all are empty."""
    return [
        {
            "field_id": item.id,
            "field_name": item.name,
            "field_code": item.code,
            "field_type": item.type,
            "values": values[item.id],
            "is_computed": False,
        }
        for item in fields.by_id.values()
        if values.get(item.id)
    ] or None


def in_hook(fields: Fields, values: dict[int, list[Value]]) -> list[dict[str, Any]]:
    """Return `custom_fields` of an entity in a webhook.

    https://developers.kommo.com/docs/webhooks-general
    """
    shown = []
    for item in fields.by_id.values():
        if not values.get(item.id):
            continue
        entry: dict[str, Any] = {"id": item.id, "name": item.name, "values": _hook_values(item, values[item.id])}
        if item.code:
            entry["code"] = item.code
        shown.append(entry)
    return shown


def _hook_values(item: Field, values: list[Value]) -> Any:
    if item.type in ("date", "date_time"):
        return [value["value"] for value in values]
    if item.type == "birthday":
        return [{"value": datetime.fromtimestamp(v["value"], UTC).strftime("%d.%m.%Y")} for v in values]
    shown = [
        {"value": value["value"], **({"enum": value["enum_id"]} if "enum_id" in value else {})} for value in values
    ]
    # Radio buttons are documented without an index.
    return shown[0] if item.type == "radiobutton" else shown
