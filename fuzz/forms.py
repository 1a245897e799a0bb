"""A form with PHP's brackets: what goes in comes out, each value at its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

from app.webhooks.bodies import MAX_DEPTH, MAX_FIELDS, BodyError, decode, parse_form
from fuzz.oracles import cheap, sentence

LONGEST_SENTENCE = 400
NEXT = re.compile(r"[^\[\]]+(\[[^\[\]]*\])*\[\](\[[^\[\]]*\])*")


def check(data: bytes) -> None:
    """Parse an input as a form; fail if a value is lost or stands in a place that it did not name."""
    try:
        text = decode(data)
        form = cheap(lambda: parse_form(text), len(data))
    except BodyError as error:
        sentence(str(error), LONGEST_SENTENCE)
        return
    leaves = list(_leaves(form, ""))
    pairs = parse_qsl(text, keep_blank_values=True)
    assert len(leaves) <= len(pairs) <= MAX_FIELDS
    # Each key is a place of its own, and so is each use of one that says "the next".
    keys = [key for key, _ in pairs]
    named = {key for key in keys if _is_named(key)}
    following = [key for key in keys if not _is_named(key)]
    if all(map(_is_named, keys[: len(keys) - len(following)])):
        assert len(leaves) == len(named) + len(following), f"{len(named)} + {len(following)} are {len(leaves)}"
    assert {value for _, value in leaves} <= {value for _, value in pairs}, "a value that nobody sent"
    if all("[" not in key.partition("[")[0] and key.count("[") == key.count("]") for key in named):
        assert parse_form(urlencode(leaves)) == form, "what was parsed means something else when it is sent again"


def _is_named(key: str) -> bool:
    """Say whether a key names its place, and not just the next one; one with unpaired brackets is a name."""
    return bool(key) and not NEXT.fullmatch(key)


def _leaves(value: Any, key: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Return each plain value of a form with the key that names it."""
    if isinstance(value, str):
        yield key, value
        return
    assert isinstance(value, dict), f"{type(value)} in a form"
    assert depth <= MAX_DEPTH, f"{depth} levels"
    for name, inner in value.items():
        assert isinstance(name, str)
        yield from _leaves(inner, f"{key}[{name}]" if depth else name, depth + 1)
