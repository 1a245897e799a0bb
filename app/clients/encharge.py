"""Encharge's REST and Ingest APIs, in both dialects.

`documented` is what Encharge documents: https://docs.encharge.io and its OpenAPI file. `article` is what a widely
copied article tells: Bearer, nested fields, `POST /events`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, Unpack

from app.addresses import clean_email
from app.clients.errors import ApiError, Fault
from app.clients.fields import Field
from app.clients.http import Http, Refusal, Wire, understanding
from app.clients.people import PEOPLE_A_READ, found_person
from app.events import Access, FoundPerson, StageNews

PEOPLE_A_CALL = 100  # Encharge documents no limit
PERSON_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
LEAD_ID = "kommo_lead_id"
STAGE = "kommo_current_stage"
LAST_EVENT = "kommo_last_event"  # the key of the event that came with the person last
Told = TypeVar("Told")
ACTIVITY_LISTS = ("activity", "activities", "items")
MILLISECONDS = 1e11  # a number from here on is no time in seconds: they would be in the year 5138


@dataclass(frozen=True)
class Person:
    """A person to upsert by email: Encharge's own fields and ours, by Encharge's field names."""

    email: str
    first_name: str
    last_name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Account:
    """The account that a key is of. `status`: active, canceled, trial, trialExpired; '' if it does not say it."""

    name: str
    status: str


@dataclass(frozen=True)
class Broadcast:
    """A broadcast with its totals: people, each counted once. None: Encharge does not say it.

    Times are Unix seconds; `counted_at` is when Encharge counted last.
    """

    id: int
    name: str
    status: str  # draft, scheduled, sending, sent, ab-testing, ab-test-sending-winner, canceled, failed
    sent_at: float | None = None  # or when it is to be sent
    entered: int | None = None
    delivered: int | None = None
    opened: int | None = None
    clicked: int | None = None
    bounced: int | None = None
    unsubscribed: int | None = None
    counted_at: float | None = None


@dataclass(frozen=True)
class BroadcastActivity:
    """Something that a person did with a broadcast; `at` in Unix seconds. Empty or None: it is not said."""

    email: str | None
    event: str  # in Encharge's words
    link: str = ""
    at: float | None = None


class EnchargeClient:
    """The calls to one Encharge account in the documented dialect. Every method raises ApiError."""

    EVENTS_CARRY_PEOPLE = True  # one call upserts the person and records the event

    def __init__(
        self,
        url: str,
        ingest_url: str,
        api_key: str,
        write_key: str | None,
        **wire: Unpack[Wire],
    ) -> None:
        self._http = Http("Encharge", url, self._key(api_key), explain=_explain, **wire)
        # The Ingest API has a host and a key of its own.
        key = self._key(write_key or api_key)
        self._ingest = Http("Encharge Ingest", ingest_url, key, explain=_explain, **wire)

    @staticmethod
    def _key(key: str) -> dict[str, str]:
        return {"X-Encharge-Token": key}

    def upsert(self, news: Sequence[StageNews]) -> None:
        """Create or update the persons of deals."""
        self.upsert_people([person_of(item) for item in news])

    def upsert_people(self, people: Sequence[Person]) -> None:
        """Create or update people; fields that are not sent stay."""
        self._http.post("/people", [_flat(person) for person in people])

    def track(self, person: Person, *, event: str, properties: Mapping[str, Any], key: str) -> None:
        """Record an event of a person, who is upserted with it if `EVENTS_CARRY_PEOPLE`, and then tells its key."""
        # Reference: https://docs.encharge.io/getting-started/connecting-your-app-to-encharge/ingest-api
        user = {**_flat(person), LAST_EVENT: key}
        self._ingest.post("/", {"name": event, "user": user, "properties": dict(properties)})

    def add_tag(self, *, email: str, tag: str) -> None:
        """Put a tag on a person, who must exist."""
        self._http.post("/tags", {"tag": tag, "email": email})

    def find_people(self, ids: Sequence[str]) -> dict[str, FoundPerson]:
        """Return the people with these ids of Encharge's; unknown ones are missing."""
        # Ids are UUIDs; what Encharge makes of other words is not documented.
        wanted = [person_id for person_id in dict.fromkeys(ids) if PERSON_ID.fullmatch(person_id)]
        return self._people(
            "id", wanted, lambda user: (user["id"], found_person(user.get("email"), *_all(user, LEAD_ID)))
        )

    def last_events(self, emails: Sequence[str]) -> dict[str, str]:
        """Return the key of the last event that was recorded with each of these people; by email."""
        return self._people(
            "email",
            list(dict.fromkeys(emails)),
            lambda user: (str(user["email"]).strip().lower(), str(next(filter(None, _all(user, LAST_EVENT)), ""))),
        )

    def _people(self, by: str, values: Sequence[str], told: Callable[[Any], tuple[str, Told]]) -> dict[str, Told]:
        """Return what is told of the people whom identifiers select; unknown ones are missing."""
        # Reference: https://app-encharge-resources.s3.amazonaws.com/redoc.html, GET /people
        found: dict[str, Told] = {}
        for start in range(0, len(values), PEOPLE_A_READ):
            found |= self._some_people(by, values[start : start + PEOPLE_A_READ], told)
        return found

    def _some_people(
        self, by: str, values: Sequence[str], told: Callable[[Any], tuple[str, Told]]
    ) -> dict[str, Told]:
        try:
            with understanding("Encharge", "GET /people"):
                query = [(f"people[{number}][{by}]", value) for number, value in enumerate(values)]
                return dict(map(told, self._http.get("/people", query)["users"]))
        except ApiError as error:
            # Unknown people are left out, or the answer is a 404: the documentation does not say which. If one of
            # many made it a 404, the others are found by halves.
            if error.status != 404 or error.fault != Fault.REFUSED:
                raise
        if len(values) == 1:
            return {}
        half = len(values) // 2
        return self._some_people(by, values[:half], told) | self._some_people(by, values[half:], told)

    def account(self) -> Account:
        """Return the account."""
        # Reference: https://app-encharge-resources.s3.amazonaws.com/redoc.html, GET /accounts/info
        with understanding("Encharge", "GET /accounts/info"):
            body = self._http.get("/accounts/info")
            return Account(str(body.get("name") or ""), str(body.get("status") or ""))

    def person_fields(self) -> list[Field]:
        """Return the fields that persons have."""
        # Reference: https://app-encharge-resources.s3.amazonaws.com/redoc.html, GET /fields
        with understanding("Encharge", "GET /fields"):
            return [_field(item) for item in self._http.get("/fields")["items"]]

    def add_person_field(self, name: str, title: str, kind: str) -> Field:
        """Make a field of persons with exactly this name; return it as it is."""
        # Of what is sent, the older of two documents wants `readOnly` and `array` too.
        field = {"name": name, "title": title, "type": kind, "readOnly": False, "array": False}
        answer = self._http.post("/fields", [field])
        with understanding("Encharge", "POST /fields"):
            return _field(answer["items"][0])

    def broadcasts(self) -> list[Broadcast]:
        """Return the broadcasts with their totals, as Encharge lists them."""
        # Encharge documents the shape of a broadcast and not this call:
        # https://app-encharge-resources.s3.amazonaws.com/redoc.html
        with understanding("Encharge", "GET /broadcasts"):
            return [_broadcast(item) for item in self._http.get("/broadcasts")["items"]]

    def broadcast_activity(self, broadcast_id: int) -> list[BroadcastActivity] | None:
        """Return who did what with a broadcast; None: the documented API has only totals."""
        return None


class ArticleEnchargeClient(EnchargeClient):
    """The same calls in the article's dialect."""

    EVENTS_CARRY_PEOPLE = False

    @staticmethod
    def _key(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def upsert_people(self, people: Sequence[Person]) -> None:
        """Create or update people, one call each: the article knows no batch."""
        for person in people:
            self._http.post("/people", {**_names(person), "fields": dict(person.fields)})

    def track(self, person: Person, *, event: str, properties: Mapping[str, Any], key: str) -> None:
        """Record an event of a person."""
        self._http.post("/events", {"name": event, "email": person.email, "properties": dict(properties)})

    def broadcast_activity(self, broadcast_id: int) -> list[BroadcastActivity] | None:
        """Return who did what with a broadcast, as Encharge lists it."""
        path = f"/broadcasts/{broadcast_id}/activity"
        with understanding("Encharge", f"GET {path}"):
            answer = self._http.get(path)
            if isinstance(answer, dict):
                # The article shows the call and not its answer.
                answer = next((answer[name] for name in ACTIVITY_LISTS if name in answer), None)
            return [_activity(item) for item in answer]


def connect(access: Access, **wire: Unpack[Wire]) -> EnchargeClient:
    """Return the client, in the dialect that is set."""
    flavour = ArticleEnchargeClient if access.more["dialect"] == "article" else EnchargeClient
    more = access.more
    return flavour(access.api_url or "", more["ingest_url"], access.api_key or "", more["write_key"], **wire)


def person_of(news: StageNews) -> Person:
    """Return the person as Encharge is to have them."""
    return Person(
        email=news.email,
        first_name=news.first_name,
        last_name=news.last_name,
        fields={LEAD_ID: str(news.lead_id), STAGE: news.person_stage, **news.fields},
    )


def _flat(person: Person) -> dict[str, Any]:
    return {**_names(person), **person.fields}


def _names(person: Person) -> dict[str, str]:
    """Return who the person is; an empty name is left out, since an upsert overwrites with what it is given."""
    names = {"email": person.email, "firstName": person.first_name, "lastName": person.last_name}
    return {key: value for key, value in names.items() if value}


def _all(user: Mapping[str, Any], field: str) -> tuple[object, ...]:
    """Return what may be the value of a field: custom ones stand beside the email, or below `data`."""
    data = user.get("data")
    return user.get(field), data.get(field) if isinstance(data, dict) else None


def _field(item: Mapping[str, Any]) -> Field:
    kind = str(item.get("type") or "") + ("[]" if item.get("array") else "")
    return Field(str(item["name"]), str(item.get("title") or item["name"]), kind)


def _broadcast(item: Mapping[str, Any]) -> Broadcast:
    metric = item.get("cachedMetric") or {}
    totals = metric.get("data") or {}
    return Broadcast(
        id=int(item["id"]),
        name=str(item.get("name") or ""),
        status=str(item.get("status") or ""),
        sent_at=_time(item.get("sendAt")),
        entered=_count(item.get("peopleEntered")),
        delivered=_count(totals.get("delivered")),
        opened=_count(totals.get("open")),
        clicked=_count(totals.get("click")),
        bounced=_count(totals.get("bounce")),
        unsubscribed=_count(totals.get("unsubscribe")),
        counted_at=_time(metric.get("updatedAt")),
    )


def _activity(item: Mapping[str, Any]) -> BroadcastActivity:
    """Read one entry under the names that are usual at Encharge."""
    return BroadcastActivity(
        email=clean_email(str(item.get("email") or "")),
        event=str(item.get("event") or item.get("name") or item.get("type") or ""),
        link=str(item.get("link") or item.get("url") or ""),
        at=_time(item.get("at") or item.get("timestamp") or item.get("createdAt")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: object) -> float | None:
    """Return Unix seconds: Encharge writes ISO 8601, or milliseconds; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if value >= MILLISECONDS else float(value)
        return seconds if 0 < seconds < MILLISECONDS else None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _explain(body: Any) -> Refusal:
    error = body["error"]  # REST: an object; Ingest: a string
    return Refusal(error if isinstance(error, str) else error["message"])
