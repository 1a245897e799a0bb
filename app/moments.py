"""Points in time, as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}

# Up to how many seconds a length of time is told in which unit, and with how many digits behind the point.
SPANS = ((9.95, 1, "s", 1), (90, 1, "s", 0), (3570, 60, "min", 0), (34_200, 3600, "h", 1), (172_800, 3600, "h", 0))


def parse(words: str, *, now: float) -> float:
    """Return Unix seconds of `30m`, `6h` or `2d` (ago), or of an ISO date with or without a time (UTC if no zone).

    Raises ValueError with a sentence about what was written.
    """
    if ago := re.fullmatch(r"([0-9]{1,6})([mhd])", words):
        return now - int(ago[1]) * UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(words)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{words!r} is neither like 30m, 6h or 2d (ago) nor an ISO date.") from error


def as_time(seconds: float) -> str:
    """Return Unix seconds as people read them, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def as_span(seconds: float) -> str:
    """Return a length of time in a few characters: `0.4 s`, `12 s`, `5 min`, `3 h`, `2 d`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    for most, unit, word, digits in SPANS:
        if seconds < most:
            return f"{seconds / unit:.{digits}f} {word}".replace(".0 ", " ")
    return f"{seconds / 86400:.0f} d"
