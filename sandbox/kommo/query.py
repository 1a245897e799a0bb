"""Reads a list call's query: filters in PHP's brackets, order, page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sandbox.kommo.refusals import BAD_CHOICE, Problems, Refusal, refuse_all

MOST = 250
DEFAULT_LIMIT = 50
Range = tuple[int | None, int | None]


class Query:
    """The query string of a list call."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = [(tuple(key.replace("]", "").split("[")), value) for key, value in pairs]

    def get(self, *path: str) -> str | None:
        """Return the value at a path, such as `filter[entity]`."""
        return next((value for key, value in self._pairs if key == path), None)

    def texts(self, name: str) -> list[str] | None:
        """Return the values of `filter[name]`, `filter[name][]` and `filter[name][0]`; None = no such filter."""
        found = [value for key, value in self._pairs if key[:2] == ("filter", name) and len(key) <= 3]
        if len(found) > MOST:
            raise Refusal(422, f"Limit {MOST} per page")
        return found or None

    def words(self, name: str) -> list[str] | None:
        """Return the values of a filter whose values may also stand behind one another, with commas."""
        found = self.texts(name)
        return None if found is None else [word for value in found for word in value.split(",")]

    def numbers(self, name: str) -> list[int] | None:
        """Return the whole numbers of a filter; None = no such filter."""
        values = self.words(name)
        return None if values is None else [_number(value, f"filter.{name}") for value in values]

    def number(self, *path: str) -> int | None:
        """Return the whole number at a path."""
        value = self.get(*path)
        return None if value is None else _number(value, ".".join(path))

    def between(self, name: str) -> Range:
        """Return the ends of `filter[name][from]` and `[to]`; a bare `filter[name]` is one moment."""
        moment = self.number("filter", name)
        if moment is not None:
            return moment, moment
        return self.number("filter", name, "from"), self.number("filter", name, "to")

    def with_(self) -> set[str]:
        """Return the values of `with`; unknown ones do no harm."""
        return set((self.get("with") or "").split(","))

    def order(self, allowed: tuple[str, ...], default: str = "id") -> tuple[str, bool]:
        """Return what to order by, and whether downwards."""
        for key, value in self._pairs:
            if key[0] != "order":
                continue
            # What an unknown order does is not documented; refusing shows the caller's mistake.
            if len(key) != 2 or key[1] not in allowed or value.lower() not in ("asc", "desc"):
                _refuse(".".join(key))
            return key[1], value.lower() == "desc"
        return default, False

    def page(self) -> tuple[int, int]:
        """Return page and limit; a limit above the most is capped.

        https://developers.kommo.com/docs/limitations
        """
        page, limit = self.number("page"), self.number("limit")
        if page is not None and page < 1:
            _refuse("page")
        if limit is not None and limit < 1:
            _refuse("limit")
        return page or 1, min(limit or DEFAULT_LIMIT, MOST)


def within(value: int | None, ends: Range) -> bool:
    """Say whether a value lies in a range, both ends included."""
    since, until = ends
    if since is None and until is None:
        return True
    return value is not None and (since is None or value >= since) and (until is None or value <= until)


def one_of(wanted: list[Any] | None, value: Callable[[Any], Any]) -> list[Callable[[Any], bool]]:
    """Return the test that a filter makes, or none if it was not given."""
    if wanted is None:
        return []
    chosen = set(wanted)
    return [lambda item: value(item) in chosen]


def in_range(ends: Range, value: Callable[[Any], int | None]) -> list[Callable[[Any], bool]]:
    """Return the test that a range makes, or none if it was not given."""
    return [] if ends == (None, None) else [lambda item: within(value(item), ends)]


def _number(value: str, path: str) -> int:
    try:
        return int(value)
    except ValueError:
        _refuse(path)
        raise


def _refuse(path: str) -> None:
    problems = Problems("0")
    problems.add(BAD_CHOICE, path)
    refuse_all([problems])
