"""The grammar of Ortto's field ids (`type:namespace:name`) and the values each type takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from sandbox.ortto.wire import parse_time

# Decimals and money carry `int` too and travel times 1000: no other number type occurs in a recorded schema.
PREFIXES = {
    "text": "str",
    "email": "str",
    "url": "str",
    "link": "str",
    "single_select": "str",
    "large_text": "txt",
    "integer": "int",
    "decimal": "int",
    "currency": "int",
    "bool": "bol",
    "date": "dtz",
    "time": "tme",
    "phone": "phn",
    "multi_select": "sst",
    "object": "obj",
}
SELECTS = ("single_select", "multi_select")

STRING_LENGTH = 255
TEXT_LENGTH = 4000
OBJECT_BYTES = 15_000


def slug(name: str) -> str:
    """Write a display name as Ortto does inside ids: lower case, kebab."""
    # Whether an underscore survives is unsure; here it becomes a hyphen like every other sign.
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def wrong_value(field_id: str, value: Any) -> str:
    """Say what is wrong with a value for a field; empty if nothing is."""
    if value is None:
        return ""
    check, wanted = _VALUES.get(field_id.split(":", 1)[0], (_anything, ""))
    # The real text for a wrong value is not recorded.
    return "" if check(value) else f"value must be {wanted}"


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_date(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_integer(value.get(part)) for part in ("year", "month", "day"))


def _is_phone(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("phone"), str) or isinstance(value.get("n"), str)


def _is_list_of_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and len(json.dumps(value).encode()) <= OBJECT_BYTES


def _anything(value: Any) -> bool:
    return True


_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (
        lambda value: isinstance(value, str) and len(value) <= STRING_LENGTH,
        f"a string of at most {STRING_LENGTH} characters",
    ),
    "txt": (
        lambda value: isinstance(value, str) and len(value) <= TEXT_LENGTH,
        f"a string of at most {TEXT_LENGTH} characters",
    ),
    "int": (_is_integer, "an integer"),
    "bol": (lambda value: isinstance(value, bool), "true or false"),
    "dtz": (_is_date, "an object of year, month and day"),
    "tme": (lambda value: parse_time(value) is not None, "an RFC 3339 time"),
    "phn": (_is_phone, "an object of c and n, or of phone"),
    "geo": (lambda value: isinstance(value, dict) and isinstance(value.get("name"), str), "an object of name"),
    "sst": (_is_list_of_strings, "a list of strings"),
    "obj": (_is_object, f"an object of at most {OBJECT_BYTES} bytes"),
}
