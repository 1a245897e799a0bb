"""Sets variables in the text of a `.env` file; every other line stays as it is. Pure."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from dotenv.parser import parse_stream


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return the text with these variables set: in the line that counts, else in a new one at the end.

    Values are plain words, which need no quotes. Raises ValueError if a line is written too oddly for that.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    bindings = list(parse_stream(io.StringIO(text, newline="")))
    parts = [binding.original.string for binding in bindings]
    at = {binding.key: number for number, binding in enumerate(bindings) if binding.key}  # the last one counts
    for name, value in values.items():
        if name in at:
            parts[at[name]] = _set(parts[at[name]], name, value)
        else:
            fresh_line = "" if not parts or parts[-1].endswith("\n") else newline
            parts.append(f"{fresh_line}{name}={value}{newline}")
    new = "".join(parts)
    if _values(new) != {**_values(text), **values}:
        raise ValueError(f"{', '.join(values)} could not be set there")
    return new


def _values(text: str) -> dict[str, str]:
    found = parse_stream(io.StringIO(text, newline=""))
    return {binding.key: binding.value or "" for binding in found if binding.key}


VALUE = r"""'[^']*'|"[^"]*"|[^\r\n]*?"""


def _set(line: str, name: str, value: str) -> str:
    """Return a line with another value; a comment behind it stays."""
    return re.sub(
        rf"(?P<begin>\b{name})[ \t]*(=[ \t]*?(?:{VALUE}))?(?P<comment>[ \t]+#[^\r\n]*)?(?P<end>[ \t]*(?:\r?\n|\Z))",
        lambda found: f"{found['begin']}={value}{found['comment'] or ''}{found['end']}",
        line,
        count=1,
    )
