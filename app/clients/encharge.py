"""Encharge's REST and Ingest APIs, in both dialects.

`documented` is what Encharge documents: https://docs.encharge.io and its OpenAPI file. `article` is what a widely
copied article tells: Bearer, nested fields, `POST /events`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.clients.http import Http, Refusal

PEOPLE_A_CALL = 100  # Encharge documents no limit


@dataclass(frozen=True)
class Person:
    """A person to upsert by email: Encharge's own fields and ours, by Encharge's field names."""

    email: str
    first_name: str
    last_name: str
    fields: Mapping[str, Any]


class EnchargeClient:
    """The calls to one Encharge account in the documented dialect. Every method raises ApiError."""

    def __init__(
        self,
        url: str,
        ingest_url: str,
        api_key: str,
        write_key: str | None,
        *,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self._http = Http("Encharge", url, self._key(api_key), explain=_explain, may_write=may_write)
        # The Ingest API has a host and a key of its own.
        key = self._key(write_key or api_key)
        self._ingest = Http("Encharge Ingest", ingest_url, key, explain=_explain, may_write=may_write)

    @staticmethod
    def _key(key: str) -> dict[str, str]:
        return {"X-Encharge-Token": key}

    def upsert_people(self, people: Sequence[Person]) -> None:
        """Create or update people; fields that are not sent stay."""
        self._http.post("/people", [{**_names(person), **person.fields} for person in people])

    def track(self, *, email: str, event: str, properties: Mapping[str, Any]) -> None:
        """Record an event of a person."""
        # Reference: https://docs.encharge.io/getting-started/connecting-your-app-to-encharge/ingest-api
        self._ingest.post("/", {"name": event, "user": {"email": email}, "properties": dict(properties)})

    def add_tag(self, *, email: str, tag: str) -> None:
        """Put a tag on a person, who must exist."""
        self._http.post("/tags", {"tag": tag, "email": email})


class ArticleEnchargeClient(EnchargeClient):
    """The same calls in the article's dialect."""

    @staticmethod
    def _key(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def upsert_people(self, people: Sequence[Person]) -> None:
        """Create or update people, one call each: the article knows no batch."""
        for person in people:
            self._http.post("/people", {**_names(person), "fields": dict(person.fields)})

    def track(self, *, email: str, event: str, properties: Mapping[str, Any]) -> None:
        """Record an event of a person."""
        self._http.post("/events", {"name": event, "email": email, "properties": dict(properties)})


def _names(person: Person) -> dict[str, str]:
    """Return who the person is; an empty name is left out, since an upsert overwrites with what it is given."""
    names = {"email": person.email, "firstName": person.first_name, "lastName": person.last_name}
    return {key: value for key, value in names.items() if value}


def _explain(body: Any) -> Refusal:
    error = body["error"]  # REST: an object; Ingest: a string
    return Refusal(error if isinstance(error, str) else error["message"])
