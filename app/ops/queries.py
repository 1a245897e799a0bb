"""What the address of the page asks for, as a search of the journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app import moments
from app.events import Source, State
from app.ids import LARGEST_ID
from app.journal import Search

PAGE = 50

Reader = Callable[[str, float], dict[str, Any]]  # of what was written, now


@dataclass(frozen=True)
class Query:
    """What was asked for, as it was written, as a search, and what is wrong with it."""

    search: Search
    written: dict[str, str]  # only what is not blank
    faults: tuple[str, ...]

    @property
    def asked(self) -> dict[str, str]:
        """Return what was written without the place in the list."""
        return {name: words for name, words in self.written.items() if name not in ("below", "above")}


def read(arguments: Mapping[str, str], *, now: float, limit: int = PAGE) -> Query:
    """Read the fields of the search form; what cannot be understood is said and left out.

    `q` is a deal's id, an address or words of a campaign's name; `#4711` is an event's id.
    """
    written = {name: words for name in FIELDS if (words := arguments.get(name, "").strip())}
    faults: list[str] = []
    found: dict[str, Any] = {"limit": limit}
    for name, words in written.items():
        try:
            found |= FIELDS[name](words, now)
        except ValueError as error:
            faults.append(str(error))
    return Query(Search(**found), written, tuple(faults))


def _words(words: str, now: float) -> dict[str, Any]:
    if words.startswith("#"):
        return {"ids": [_id(words[1:])]}
    if words.isdecimal():
        return {"lead_id": _id(words)}
    if "@" in words and " " not in words:
        return {"email": words.lower()}
    return {"campaign": words}


def _id(words: str) -> int:
    if not (words.isascii() and words.isdecimal()) or not int(words[:20]) <= LARGEST_ID or len(words) > 20:
        raise ValueError(f"{words!r} is not a number that an event or a deal can have.")
    return int(words)


def _state(words: str, now: float) -> dict[str, Any]:
    return {"state": State(words)}


def _source(words: str, now: float) -> dict[str, Any]:
    return {"source": Source(words)}


def _moment(name: str) -> Reader:
    return lambda words, now: {name: moments.parse(words, now=now)}


FIELDS: dict[str, Reader] = {
    "q": _words,
    "state": _state,
    "source": _source,
    "since": _moment("since"),
    "until": _moment("until"),
    "below": lambda words, now: {"below": _id(words)},
    "above": lambda words, now: {"above": _id(words)},
}
