"""Encharge's REST and Ingest APIs, in both dialects.

`documented` is what Encharge documents: https://docs.encharge.io and its OpenAPI file. `article` is what a widely
copied article tells: Bearer, nested fields, `POST /events`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.clients.errors import ApiError, Fault
from app.clients.http import Http, Refusal, understanding
from app.clients.people import PEOPLE_A_READ, found_person
from app.events import FoundPerson

PEOPLE_A_CALL = 100  # Encharge documents no limit
PERSON_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
LEAD_ID = "kommo_lead_id"


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

    def find_people(self, ids: Sequence[str]) -> dict[str, FoundPerson]:
        """Return the people with these ids of Encharge's; unknown ones are missing."""
        # Reference: https://app-encharge-resources.s3.amazonaws.com/redoc.html, GET /people. Ids are UUIDs there;
        # what it makes of other words is not documented.
        wanted = [person_id for person_id in dict.fromkeys(ids) if PERSON_ID.fullmatch(person_id)]
        found: dict[str, FoundPerson] = {}
        for start in range(0, len(wanted), PEOPLE_A_READ):
            found |= self._find(wanted[start : start + PEOPLE_A_READ])
        return found

    def _find(self, ids: Sequence[str]) -> dict[str, FoundPerson]:
        try:
            with understanding("Encharge", "GET /people"):
                users = self._http.get("/people", [(f"people[{n}][id]", one) for n, one in enumerate(ids)])["users"]
                return {user["id"]: _found(user) for user in users}
        except ApiError as error:
            # Unknown people are left out, or the answer is a 404: the documentation does not say which. If one of
            # many made it a 404, the others are found by halves.
            if error.status != 404 or error.fault != Fault.REFUSED:
                raise
        if len(ids) == 1:
            return {}
        half = len(ids) // 2
        return self._find(ids[:half]) | self._find(ids[half:])


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


def _found(user: Mapping[str, Any]) -> FoundPerson:
    """Return a person; custom fields stand beside the email, or below `data`."""
    data = user.get("data")
    below = data.get(LEAD_ID) if isinstance(data, dict) else None
    return found_person(user.get("email"), user.get(LEAD_ID), below)


def _explain(body: Any) -> Refusal:
    error = body["error"]  # REST: an object; Ingest: a string
    return Refusal(error if isinstance(error, str) else error["message"])
