"""A webhook's body as people can read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import parse_qsl

from app.ops.masks import Mask

FIELDS_SHOWN = 400
CHARACTERS_SHOWN = 60_000


@dataclass(frozen=True)
class Body:
    """A body: the fields of a form, or text; `cut`: what was left out, in words."""

    content_type: str
    size: int
    fields: list[tuple[str, str]]
    text: str
    cut: str


def readable(content_type: str, body: bytes, mask: Mask) -> Body:
    """Return a body decoded, without secrets, and cut if it is very long."""
    text = body.decode("utf-8-sig", "replace")
    if "form" in content_type and not text.lstrip().startswith(("{", "[")):
        pairs = parse_qsl(text, keep_blank_values=True, errors="replace")
        if pairs:
            cut = f"{len(pairs) - FIELDS_SHOWN} more fields" if len(pairs) > FIELDS_SHOWN else ""
            fields = [mask.pair(key, value) for key, value in pairs[:FIELDS_SHOWN]]
            return Body(content_type, len(body), fields, "", cut)
    shown = _json(text, mask)
    cut = f"{len(shown) - CHARACTERS_SHOWN} more characters" if len(shown) > CHARACTERS_SHOWN else ""
    return Body(content_type, len(body), [], shown[:CHARACTERS_SHOWN], cut)


def _json(text: str, mask: Mask) -> str:
    try:
        parsed = json.loads(text)
        return json.dumps(mask.value(parsed), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return mask.text(text)
