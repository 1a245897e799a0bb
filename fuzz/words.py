"""The vendors' words, and those of our mapping file: what an engine puts into inputs besides bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from app.events import Source
from app.mapping.file import ROWS
from app.mapping.rows import DAYS, EMAIL_KINDS, EMAIL_SOURCES, PLACEHOLDERS
from app.webhooks import activity, encharge, ortto

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"

# What nobody should send.
AWKWARD = (
    *(
        '{"',
        '":',
        "[]",
        "{}",
        "null",
        "true",
        "false",
        "NaN",
        "-1",
        "0",
        "1e999",
        '"\\ud800"',
        '"\\u0000"',
        "\ufeff",
    ),
    *("9223372036854775807", "9223372036854775808", "99999999999", "4102444800", "0001-01-01T00:00:00+14:00"),
    *("{{", "}}", "{%", "%}", "{{x}}", "undefined", "a@b.c", "%40", "%00", "%ff", "[]=", "[0]", "][", "&", "="),
    *("?application/json opened\n", "?application/x-www-form-urlencoded act::o\n", "?text/plain x\n"),
)
JSON_PIECES = ('{"v":', '":{"', '":[{"', '"},"', "}]", "}}", '":"', '":1,"')


def of_vendor(vendor: str) -> tuple[bytes, ...]:
    """Return the words of a vendor's webhooks: the keys and short values of its fixtures, and what we look for."""
    known = [
        *activity.NAMES,
        *(
            name
            for module in (activity, encharge, ortto)
            for names in vars(module).values()
            for name in _names(names)
        ),
        *ortto.ACTIVITIES,
    ]
    return _encoded([*_of_fixtures(vendor), *AWKWARD, *JSON_PIECES, *(known if vendor != "kommo" else ())])


def of_forms() -> tuple[bytes, ...]:
    """Return the words of Kommo's forms."""
    return _encoded([*_of_fixtures("kommo"), *AWKWARD])


def of_growth() -> tuple[bytes, ...]:
    """Return the words of all vendors, and of recipes."""
    recipe = ["%%", "#", '%%,"k#":', "%%,{}", "%%&a[#]=", *(f"{vendor} application/json x\n" for vendor in Source)]
    return (*_encoded(recipe), *dict.fromkeys(word for vendor in Source for word in of_vendor(vendor)))


def of_mapping() -> tuple[bytes, ...]:
    """Return the words of the mapping file, and YAML's own."""
    keys = [field.alias or name for row in ROWS.values() for name, field in row.model_fields.items()]
    own = [
        "owner",
        "other",
        "every",
        "latest",
        "skip",
        "deal",
        "kind",
        "mon-fri",
        "09:30",
        "2h",
        "$KOMMO_CF_EMAIL_STATUS",
    ]
    yaml = [
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "!!binary ",
        "%YAML 1.",
        "%TAG ",
        "--- ",
        "...",
        "? ",
        "- ",
        "|\n ",
        ">-\n ",
        "[",
        "{",
        "# ",
    ]
    escapes = ['"\\U00110000"', '"\\ud800"', '"\\0"', '"\\x07"', '"\\e"', "0o17", "1_000", "1:30", "~", "''"]
    return _encoded([*keys, *(f"{key}: " for key in keys), *own, *yaml, *escapes, *DAYS, *_templates()])


def of_texts() -> tuple[bytes, ...]:
    """Return the words of templates."""
    return _encoded([*_templates(), "{", "}", "{{", "}}", "\\1", "\\g<0>", "%s", "%(x)s", "{0}", "{email!r}", "%%"])


def _templates() -> Iterator[str]:
    yield from (
        f"{{{name}}}" for name in (*PLACEHOLDERS, "lead.price", "company.name", "contact.POSITION", "lead.1")
    )
    yield from (*EMAIL_KINDS, *EMAIL_SOURCES)


def _names(value: object) -> Iterable[str]:
    return value if isinstance(value, tuple) and all(isinstance(name, str) for name in value) else ()


def _of_fixtures(vendor: str) -> Iterator[str]:
    for path in sorted((FIXTURES / vendor / "hooks").iterdir()):
        body = path.read_bytes()
        if body.lstrip()[:1] in (b"{", b"["):
            yield from _of_json(json.loads(body))
        else:
            for key, value in parse_qsl(body.decode()):
                yield from (f"{key}=", f"&{key}=", value)


def _of_json(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f'"{key}":'
            yield from _of_json(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _of_json(inner)
    else:
        yield json.dumps(value)


def _encoded(words: Iterable[str]) -> tuple[bytes, ...]:
    found = dict.fromkeys(word.encode("utf-8", "surrogatepass") for word in words)
    return tuple(word for word in found if 0 < len(word) <= 48)
