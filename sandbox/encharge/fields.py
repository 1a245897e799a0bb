"""Person fields: those every account has, and those that come into being by being written."""

from __future__ import annotations

from typing import Any

# (name, title, type, format, locked in the UI); `unsubscribed` is an assumed API name.
_DEFAULTS: tuple[tuple[str, str, str, str | None, bool], ...] = (
    ("id", "ID", "string", None, True),
    ("email", "Email", "string", None, False),
    ("userId", "User ID", "string", None, False),
    ("name", "Name", "string", None, False),
    ("firstName", "First name", "string", None, False),
    ("lastName", "Last name", "string", None, False),
    ("title", "Title", "string", None, False),
    ("company", "Company", "string", None, False),
    ("phone", "Phone", "string", None, False),
    ("website", "Website", "string", None, False),
    ("address", "Address", "string", None, False),
    ("city", "City", "string", None, False),
    ("country", "Country", "string", None, False),
    ("timezone", "Timezone", "string", None, True),
    ("ip", "IP", "string", None, True),
    ("tags", "Tags", "string", None, False),
    ("unsubscribed", "Unsubscribed", "boolean", None, False),
    ("leadScore", "Lead score", "number", None, True),
    ("createdAt", "Created at", "string", "date-time", True),
    ("updatedAt", "Updated at", "string", "date-time", True),
    ("lastActivity", "Last activity", "string", "date-time", True),
    ("validationResult", "Validation result", "string", None, True),
    ("validationConfidence", "Validation confidence", "number", None, True),
    ("isEmailDisposable", "Disposable email", "boolean", None, True),
    ("isEmailRole", "Role email", "boolean", None, True),
    ("CommunicationCategories", "Communication categories", "any", None, True),
)

DEFAULT_NAMES = frozenset(name for name, *_ in _DEFAULTS)
TYPES = ("string", "number", "boolean", "integer", "any")


def make_field(name: str, **given: Any) -> dict[str, Any]:
    """Build a field as `GET /fields` shows it."""
    field_type = given.get("type", "string")
    displays = {"string": "text", "number": "number", "boolean": "checkbox", "integer": "integer"}
    return {
        "name": name,
        "title": name,
        "type": field_type,
        "format": None,
        "readOnly": False,
        "array": False,
        "enum": None,
        "enumNames": None,
        "allowNewEnumValues": False,
        "displayType": displays.get(field_type, "text"),
        **given,
    }


def default_fields() -> dict[str, dict[str, Any]]:
    """Build the fields of a new account, by name."""
    return {
        name: make_field(name, title=title, type=field_type, format=date_format, readOnly=locked)
        for name, title, field_type, date_format, locked in _DEFAULTS
    }


def field_for(name: str, value: Any) -> dict[str, Any]:
    """Build the field that writing a value under an unknown name creates."""
    if isinstance(value, bool):
        return make_field(name, type="boolean")
    if isinstance(value, int | float):
        return make_field(name, type="number")
    if isinstance(value, str):
        return make_field(name, type="string")
    return make_field(name, type="any", array=isinstance(value, list))
