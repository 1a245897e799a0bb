"""A value of Kommo as a person's field at Encharge or Ortto wants it. Pure.

`None` means that the field is left out: one value that Ortto cannot take would make it refuse the whole person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from app.events import Context

ENCHARGE_LONGEST = (
    5000  # characters. Reference: https://help.encharge.io/article/206-create-and-manage-custom-fields
)
ORTTO_LONGEST = {"str": 255, "txt": 4000}  # characters. Reference: https://help.ortto.com/a-235-rate-limits
MONEY = 1000  # Ortto's money is an integer in thousandths


def kommo_value(source: str, context: Context) -> Any:
    """Return what the mapping's `from` names: a field's first value, the deal's price, the company's name."""
    entity_name, _, key = source.partition(".")
    if source == "lead.price":
        return context.lead.price if context.lead else None
    if source == "company.name":
        return context.company.name if context.company else None
    entity = {"lead": context.lead, "contact": context.contact, "company": context.company}[entity_name]
    return entity.fields.get(key) if entity else None


def encharge_value(value: Any) -> str | int | float | bool | None:
    """Return a number as a number and a text as a text."""
    if isinstance(value, int | float):
        return value
    text = _text(value)
    return text[:ENCHARGE_LONGEST] if text else None


def ortto_value(field_id: str, value: Any) -> Any:
    """Return a value in the form of its field's type, the part of the id before the first colon.

    Reference: https://help.ortto.com/a-257-create-or-update-one-or-more-people-merge
    """
    return _ORTTO[field_id.partition(":")[0]](value)


def ortto_money(field_id: str, value: int) -> Any:
    """Return an amount of money, which Ortto's integer fields hold in thousandths."""
    return value * MONEY if field_id.startswith("int:") else ortto_value(field_id, value)


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).strip() or None if isinstance(value, str | int | float) else None


def _short_text(value: Any) -> str | None:
    text = _text(value)
    return text[: ORTTO_LONGEST["str"]] if text else None


def _long_text(value: Any) -> str | None:
    text = _text(value)
    return text[: ORTTO_LONGEST["txt"]] if text else None


def _whole(value: Any) -> int | None:
    """Return a whole number.

    One with a fraction is left out: whether Ortto's field is an integer (as is) or a decimal (in thousandths)
    cannot be told from its id, and a wrong guess is wrong a thousandfold.
    """
    found = re.fullmatch(r"(-?[0-9]{1,18})(\.0*)?", _text(value) or "")
    return int(found[1]) if found else None


def _flag(value: Any) -> bool | None:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words.get((_text(value) or "").lower())


def _moment(value: Any) -> datetime | None:
    """Read Unix seconds or an ISO date; both occur in Kommo."""
    text = _text(value) or ""
    try:
        if re.fullmatch(r"-?[0-9]{1,11}", text):
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        moment.astimezone(UTC)  # the first and the last day there are have no time in UTC
    except (ValueError, OverflowError, OSError):
        return None
    return moment


def _time(value: Any) -> str | None:
    moment = _moment(value)
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}".rjust(20, "0") if moment else None  # the year 33 is 0033


def _date(value: Any) -> dict[str, Any] | None:
    moment = _moment(value)
    if not moment:
        return None
    if "-" not in (_text(value) or "").removeprefix("-"):
        # Unix seconds of midnight in the account's zone, which is not said: its noon is that day in UTC too.
        moment += timedelta(hours=12)
    return {"year": moment.year, "month": moment.month, "day": moment.day, "timezone": "UTC"}


def _phone(value: Any) -> dict[str, Any] | None:
    digits = re.sub(r"[^0-9]", "", _text(value) or "").removeprefix("00")
    return {"phone": digits, "parse_with_country_code": True} if digits else None


def _place(value: Any) -> dict[str, str] | None:
    text = _text(value)
    return {"name": text} if text else None


def _choices(value: Any) -> list[str] | None:
    text = _text(value)
    return [text] if text else None


def _object(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else None


_ORTTO: dict[str, Callable[[Any], Any]] = {
    "str": _short_text,
    "txt": _long_text,
    "int": _whole,
    "bol": _flag,
    "dtz": _date,
    "tme": _time,
    "phn": _phone,
    "geo": _place,
    "sst": _choices,
    "obj": _object,
}
