"""Ids of Kommo's: positive whole numbers that fit into 64 bits, as databases hold them."""

from __future__ import annotations

import re

LARGEST_ID = 2**63 - 1
DIGITS = re.compile(r"[0-9]{1,19}")


def as_id(value: object) -> int | None:
    """Return an id, be it a number or text; None for anything else."""
    if isinstance(value, str):
        digits = value.strip()
        value = int(digits) if DIGITS.fullmatch(digits) else None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value <= LARGEST_ID else None
