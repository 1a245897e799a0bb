"""How Ortto writes things: errors, ids and times."""

from __future__ import annotations

import json
import random
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

# The texts of 401, 403, 405 and 5xx are nowhere recorded; that of 404 is on help.ortto.com/a-714.
TEXTS = {
    400: "Bad request",
    401: "Invalid API key",
    403: "Account expired",
    404: "Unknown endpoint or method",
    405: "Method not allowed",
    408: "Request timeout",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
    507: "Storage limit of the account reached",
}

HEX_ID = re.compile(r"[0-9a-f]{24}", re.IGNORECASE)


class RefusedError(Exception):
    """A whole request that Ortto refuses."""

    def __init__(self, status: int, error: str = "", details: list[dict[str, str]] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.details = details


class ItemError(Exception):
    """One person or activity of a request that Ortto refuses."""

    def __init__(self, error: str, status: str = "invalid") -> None:
        super().__init__(error)
        self.detail = {"status": status, "error": error}


def envelope(status: int, error: str = "", details: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """Build the body of an error answer."""
    body = {"request_id": str(uuid.uuid4()), "code": status, "error": error or TEXTS.get(status, "Error")}
    return {**body, "details": details} if details else body


def too_many(seconds: int) -> dict[str, Any]:
    """Build the body of a 429, the only one whose `error` is an object (help.ortto.com/a-235)."""
    return {"error": {"code": "rate-limit", "message": "rate limit", "try-in-seconds": seconds}}


def require_id(value: object) -> str:
    """Return a record id as it is, or refuse a malformed one in Ortto's words."""
    if isinstance(value, str) and HEX_ID.fullmatch(value):
        return value
    length = len(json.dumps(value, ensure_ascii=False))
    raise ItemError(f"cannot unmarshal into an ID, the length must be 12 or 24 + 2 for hex but it is {length}")


class Ids:
    """Makes ids that look like Ortto's: 24 hex digits that hold the time of their making."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random.Random()

    def person(self) -> str:
        """Make the id of a person: `00`, the time, chance, `00`."""
        return f"00{self._time()}{self._random.getrandbits(48):012x}00"

    def record(self) -> str:
        """Make the id of an activity or a webhook call: `00`, the time, chance."""
        return f"00{self._time()}{self._random.getrandbits(56):014x}"

    def bare(self) -> str:
        """Make the id of a campaign, a run, a data source or a cursor: the time, chance."""
        return f"{self._time()}{self._random.getrandbits(64):016x}"

    def _time(self) -> str:
        return f"{int(self._clock()) & 0xFFFFFFFF:08x}"


def seconds(at: float) -> str:
    """Write a time with whole seconds."""
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds(at: float) -> str:
    """Write a time with milliseconds."""
    return f"{seconds(at)[:-1]}.{int(at % 1 * 1000):03d}Z"


def nanoseconds(at: float, below: int) -> str:
    """Write a time with up to nine fractional digits, closing zeros cut off.

    `below` (0 to 99) stands for the digits that a float of Unix time does not hold.
    """
    digits = f"{int(at % 1 * 10_000_000):07d}{below:02d}".rstrip("0")
    return f"{seconds(at)[:-1]}{'.' if digits else ''}{digits}Z"


def parse_time(text: object) -> float | None:
    """Read an RFC 3339 time as Unix seconds; None if it is none."""
    if not isinstance(text, str) or "T" not in text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None
