"""Bodies of webhooks: text, JSON and bracket forms, and what can be taken from foreign values.

Nothing here trusts a type: a relay or a template may turn any value into any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

from app.ids import DIGITS, as_id

MAX_FIELDS = 20_000  # fields of a form
MAX_ITEMS = 10_000  # entries of one body; a bulk action at Kommo sends some hundreds
MAX_DEPTH = 12  # Kommo's deepest field, a value of a custom field, has 8 levels
MAX_KEY = 200  # characters of a key in the journal
YEAR_2100 = 4_102_444_800  # Unix seconds; a later time is no time
MILLISECONDS = 100_000_000_000  # from here on a number counts milliseconds

KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
UNRESOLVED = re.compile(r"\{\{.*?(?:\}\}|\Z)|\{%.*?%\}", re.DOTALL)  # a merge tag that nobody filled in
NOTHING = frozenset({"null", "none", "nil", "undefined"})  # what templates write for a value that is not there
FIELD_ID = re.compile(r"^[a-z0-9]{3}:[a-z]*:")  # how Ortto's ids of fields begin: `str:cm:kommo-lead-id`
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # but for tabs and ends of lines
LONG_WORD = re.compile(r"[^\s\[\]]{20}")  # what people type is shorter
FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class BodyError(Exception):
    """The body is not what the vendor sends; the message says what is wrong, where, and what to do."""


class FieldError(Exception):
    """One value in a body is missing or unusable; the message begins with its path."""


# -- the whole body ----------------------------------------------------------------------------------------------


def decode(body: bytes) -> str:
    """Return the body as text; raise BodyError if it is empty or not UTF-8."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"The body is not UTF-8 (see its byte {error.start}): send it as UTF-8."
        raise BodyError(message) from error
    if not text.strip():
        raise BodyError("The body is empty.")
    return text


def is_json(content_type: str, text: str) -> bool:
    """Say whether a body is to be read as JSON, by its type or, since relays mislabel it, its first character."""
    return "json" in content_type.lower() or text.lstrip()[:1] in ("{", "[")


def parse_json(text: str) -> Any:
    """Parse JSON; raise BodyError saying where it is wrong."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        message = f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        raise BodyError(message) from error
    except RecursionError as error:
        raise BodyError("The body is nested too deep.") from error
    except ValueError as error:
        raise BodyError("The body holds a number of more than 4300 digits.") from error


def parse_object(text: str) -> dict[str, Any]:
    """Parse JSON that must be an object."""
    said = parse_json(text)
    if not isinstance(said, dict):
        raise BodyError(f"The body must be a JSON object and is {shown(said)}.")
    return said


def parse_form(text: str) -> dict[str, Any]:
    """Parse a form whose keys nest by brackets, as PHP writes them.

    `leads[status][0][id]=1` becomes {"leads": {"status": {"0": {"id": "1"}}}}. All values are text. Of one
    key sent twice the last counts; a key with unpaired brackets stays as it is.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError as error:
        raise BodyError("The body has a percent-encoded value that is not UTF-8.") from error
    except ValueError as error:
        raise BodyError(f"The body has more than {MAX_FIELDS} fields.") from error
    form: dict[str, Any] = {}
    for key, value in pairs:
        _put(form, key, value)
    return form


def _put(form: dict[str, Any], key: str, value: str) -> None:
    """Put a value at the place in the form that its key names."""
    *groups, last = _split(key)
    if len(groups) >= MAX_DEPTH:
        raise BodyError(f"{shown(key)} is nested deeper than {MAX_DEPTH} levels.")
    node = form
    for group in groups:
        node = node.setdefault(group or _next_place(node, key), {})
        if not isinstance(node, dict):
            raise BodyError(f"{shown(key)} is a part of something that was a plain value before.")
    last = last or _next_place(node, key)
    if isinstance(node.get(last), dict):
        raise BodyError(f"{shown(key)} is a plain value and had parts before.")
    node[last] = value


def _next_place(node: Mapping[str, Any], key: str) -> str:
    """Return the place that `a[]` takes, the next one; one that was named before has a value of its own."""
    place = str(len(node))
    if place in node:
        raise BodyError(f"{shown(key)} would take a place that was named before: number all entries, or none.")
    return place


def _split(key: str) -> list[str]:
    """Return the parts of a key: `leads[status][0]` has `leads`, `status` and `0`."""
    match = KEY.fullmatch(key)
    if match is None:
        return [key]
    first, brackets = match.groups()
    return [first, *brackets[1:-1].split("][")] if brackets else [first]


# -- what stands in it ---------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """Return a foreign value as it may stand in a message: at most 40 characters, no line breaks."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    # Messages are logged, and bodies are not: neither addresses nor what may be a token.
    if isinstance(value, str) and ("@" in value or "%40" in value):
        return "an email address"
    words = repr(value) if isinstance(value, str) else json.dumps(value)
    if LONG_WORD.search(words):
        return f"a text of {len(value)} characters" if isinstance(value, str) else "a long number"
    return words if len(words) <= 40 else words[:39] + "…"


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return an object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: object, path: str) -> list[tuple[str, Any]]:
    """Return the entries of a list, or of an object keyed by index, each with its path."""
    if not isinstance(value, dict | list):
        return [(path, value)]
    bound(len(value), path)
    indexed: Iterable[tuple[object, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    return [(f"{path}[{_place(index)}]", item) for index, item in indexed]


def bound(count: int, path: str = "") -> None:
    """Make sure that a body, or a part of it, has no more entries than anybody sends: each one costs."""
    if count > MAX_ITEMS:
        raise BodyError(f"{path or 'The body'} has more than {MAX_ITEMS} entries.")


def _place(index: object) -> str:
    """Return a foreign key as a part of a path: whole if it is short, as every number is."""
    words = as_text(index, limit=40)
    return "…" if "@" in words or LONG_WORD.search(words) or not words.isprintable() else words


def require_id(fields: Mapping[str, Any], name: str, path: str) -> int:
    """Return an id that must be there; raise FieldError with its path if it is missing or none."""
    value = fields.get(name)
    if value is None or value == "":
        raise FieldError(f"{path}.{name} is missing")
    number = as_id(value)
    if number is None:
        raise FieldError(f"{path}.{name} is not an id: {shown(value)}")
    return number


def as_text(value: object, *, limit: int = 500) -> str:
    """Return text or a whole number as clean text, without unresolved `{{tags}}`; empty for anything else."""
    clean = _clean(value, limit)
    text = UNRESOLVED.sub("", clean)
    if text == clean:
        return text
    text = re.sub(r" ([,.;:!?])", r"\1", " ".join(text.split()))
    return text.strip(" ,;:-–—|")  # `{{name}}, your offer` is `your offer`


def as_word(value: object, *, limit: int = 500) -> str:
    """Return text that means something only as a whole, an id or a name; empty if a part of it is unresolved."""
    clean = _clean(value, limit)
    return "" if UNRESOLVED.search(clean) else clean


def _clean(value: object, limit: int) -> str:
    """Return text or a whole number as text that can be stored; empty for anything else.

    Half characters (JSON's lone surrogates) and NUL are taken out: no database stores them. So is what a terminal
    would obey: much of this is printed by commands.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return ""
    clean = CONTROL.sub("", value).encode("utf-8", "replace").decode().strip()[:limit].rstrip()
    return "" if clean.lower() in NOTHING else clean


def as_flag(value: object) -> bool | None:
    """Return a truth value, be it a boolean, a number or a word; None for anything else."""
    return value if isinstance(value, bool) else FLAGS.get(as_word(value).lower())


def as_time(value: object) -> float | None:
    """Return a time in Unix seconds, be it in seconds, milliseconds or ISO 8601; None for anything else."""
    if isinstance(value, str):
        value = _seconds(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 < value < YEAR_2100 * 1000:
        return None
    seconds = value / 1000 if value >= MILLISECONDS else float(value)
    return seconds if seconds < YEAR_2100 else None


def _seconds(words: str) -> float | None:
    """Return the number or the ISO 8601 time that the words say."""
    if DIGITS.fullmatch(words):
        return int(words)
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def plain_name(name: str) -> str:
    """Return an event's name without case and separators: `Email.Link-Clicked` is `emaillinkclicked`."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def by_plain_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object by the plain names of its keys: `broadcastName`, `broadcast_name`, `Broadcast name` are one.

    The type and namespace before a field's name at Ortto do not count. Of keys that are alike the first that says
    anything is taken.
    """
    plain: dict[str, Any] = {}
    for key, value in values.items():
        name = plain_name(FIELD_ID.sub("", key[:MAX_KEY]))
        if plain.get(name) in (None, ""):
            plain[name] = value
    return plain


def first_text(places: Iterable[Mapping[str, Any]], *names: str, limit: int = 500) -> str:
    """Return the first text under one of the names; an earlier name wins over an earlier place."""
    places = tuple(filter(None, places))
    found = (as_text(place.get(name), limit=limit) for name in names for place in places)
    return next(filter(None, found), "")


def first_word(places: Iterable[Mapping[str, Any]], *names: str, limit: int = 500) -> str:
    """Return the first whole text under one of the names."""
    places = tuple(filter(None, places))
    found = (as_word(place.get(name), limit=limit) for name in names for place in places)
    return next(filter(None, found), "")


def first_flag(places: Iterable[Mapping[str, Any]], *names: str) -> bool | None:
    """Return the first truth value under one of the names."""
    places = tuple(filter(None, places))
    found = (as_flag(place.get(name)) for name in names for place in places)
    return next((flag for flag in found if flag is not None), None)


def first_id(places: Iterable[Mapping[str, Any]], *names: str) -> int | None:
    """Return the first valid id under one of the names."""
    places = tuple(filter(None, places))
    found = (as_id(place.get(name)) for name in names for place in places)
    return next(filter(None, found), None)


def first_time(places: Iterable[Mapping[str, Any]], *names: str) -> float | None:
    """Return the first valid time under one of the names."""
    places = tuple(filter(None, places))
    found = (as_time(place.get(name)) for name in names for place in places)
    return next(filter(None, found), None)


def digest(body: bytes) -> str:
    """Return what tells one body from another."""
    return sha256(body).hexdigest()


def journal_key(*parts: object) -> str:
    """Return the parts as one key for the journal; a very long one is replaced by its digest."""
    joined = ":".join(str(part) for part in parts)
    return joined if len(joined) <= MAX_KEY else f"{parts[0]}:{digest(joined.encode())}"
