"""Ortto's API v1. Reference: https://help.ortto.com/developer/latest/"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Unpack

from app.clients.fields import ACTIVITY, Field
from app.clients.http import Http, Refusal, Wire, understanding
from app.clients.people import PEOPLE_A_READ, found_person
from app.events import Access, FoundPerson, StageNews, StageNotice

ACTIVITIES_A_CALL = 100  # https://help.ortto.com/a-235-rate-limits
EMAIL, LEAD_ID, STAGE = "str::email", "str:cm:kommo-lead-id", "str:cm:kommo-stage"
MOVED_LEAD_ID, MOVED_TO, DEAL_VALUE = "str:cm:lead-id", "str:cm:stage", "int:cm:deal-value"  # of the activity
ICON = "flag-activities-illustration-icon"
MERGE_BY = [EMAIL]
PERSON_ID = re.compile(r"[0-9a-f]{24}", re.IGNORECASE)
REFUSALS = ("invalid", "suppressed")
OVERWRITE = 2  # merge_strategy: what is sent wins, what is not sent stays


@dataclass(frozen=True)
class Activity:
    """A custom activity of a person, who is merged by email in the same call.

    Repeats of the same `key` and `created_at` (Unix seconds) are one activity to Ortto. `fields` and `attributes`
    go by Ortto's field ids; money is an integer, in thousandths.
    """

    activity_id: str
    email: str
    fields: Mapping[str, Any]
    attributes: Mapping[str, Any]
    key: str
    created_at: float


@dataclass(frozen=True)
class Person:
    """A person to merge by email; `fields` go by Ortto's field ids."""

    email: str
    fields: Mapping[str, Any]


class OrttoClient:
    """The calls to one Ortto account. Every method raises ApiError."""

    CHANGES_A_CALL = ACTIVITIES_A_CALL

    def __init__(self, url: str, api_key: str, **wire: Unpack[Wire]) -> None:
        self._http = Http("Ortto", url, {"X-Api-Key": api_key}, explain=_explain, **wire)

    def tell(self, changes: Sequence[StageNotice]) -> list[str]:
        """Record stage changes, which carry their persons; Ortto tells repeats by their key."""
        return self.create_activities([_activity(change) for change in changes])

    def upsert(self, news: Sequence[StageNews]) -> list[str]:
        """Create or update the persons of deals; return why each one was refused ("" = it was taken)."""
        return self.merge_people([Person(item.email, _person_fields(item)) for item in news])

    def check(self) -> str:
        """Return that the key is taken."""
        self.schema()
        return "lets us in, in this region"

    def create_activities(self, activities: Sequence[Activity]) -> list[str]:
        """Record activities and merge their persons; return why each one was refused ("" = it was taken).

        Ortto may take some and refuse others, or refuse the whole call (ApiError) if one is invalid.
        """
        # Reference: https://help.ortto.com/a-271-create-a-custom-activity-event-create
        items = [
            {
                "activity_id": activity.activity_id,
                "fields": {EMAIL: activity.email, **activity.fields},
                "attributes": dict(activity.attributes),
                "key": activity.key,
                "created": datetime.fromtimestamp(activity.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            for activity in activities
        ]
        body = {"activities": items, "merge_by": MERGE_BY, "merge_strategy": OVERWRITE}
        answer = self._http.post("/activities/create", body)
        return _refusals(answer, "activities", len(items))

    def merge_people(self, people: Sequence[Person]) -> list[str]:
        """Create or update people; return why each one was refused ("" = it was taken). Fields not sent stay.

        Ortto may take some and refuse others, or refuse the whole call (ApiError) if none is valid.
        """
        # Reference: https://help.ortto.com/a-257-create-or-update-one-or-more-people-merge
        items = [{"fields": {"str::email": person.email, **person.fields}} for person in people]
        body = {"people": items, "merge_by": MERGE_BY, "merge_strategy": OVERWRITE}
        return _refusals(self._http.post("/person/merge", body), "people", len(items))

    def find_people(self, ids: Sequence[str]) -> dict[str, FoundPerson]:
        """Return the people with these ids of Ortto's; unknown ones are missing."""
        # Recorded by https://github.com/phpdevkits/ortto-sdk: `contacts` is an object by id. A single id that is
        # none makes Ortto refuse the whole call.
        wanted = [person_id for person_id in dict.fromkeys(ids) if PERSON_ID.fullmatch(person_id)]
        found: dict[str, FoundPerson] = {}
        for start in range(0, len(wanted), PEOPLE_A_READ):
            body = {"contact_ids": wanted[start : start + PEOPLE_A_READ], "fields": [EMAIL, LEAD_ID]}
            with understanding("Ortto", "POST /person/get-by-ids"):
                contacts = self._http.ask("/person/get-by-ids", body)["contacts"] or {}
                for person_id, contact in contacts.items():
                    fields = contact["fields"]
                    found[person_id] = found_person(fields.get(EMAIL), fields.get(LEAD_ID))
        return found

    def schema(self) -> list[Field]:
        """Return the fields of persons, Ortto's own and the account's, and the activities with their attributes.

        What has been archived is missing.
        """
        # Recorded by https://github.com/phpdevkits/ortto-sdk; a namespace without fields is absent.
        with understanding("Ortto", "POST /instance-schema/get"):
            namespaces = self._http.ask("/instance-schema/get", {"namespaces": []})["namespaces"]
            return [
                field
                for space in namespaces.values()
                for body in space["fields"].values()
                for field in _fields(body)
            ]

    def add_person_field(self, name: str, kind: str) -> Field:
        """Make a custom field of persons; Ortto derives its id from the name and says it."""
        # Reference: https://help.ortto.com/developer/latest/api-reference/custom-field/create.html
        answer = self._http.post("/person/custom-field/create", {"name": name, "type": kind})
        with understanding("Ortto", "POST /person/custom-field/create"):
            return Field(answer["field_id"], answer["name"], answer["display_type"])

    def add_activity(self, name: str, attributes: Mapping[str, str]) -> list[Field]:
        """Make a custom activity with attributes (name → type); return it, and them, as they are."""
        # Reference: https://help.ortto.com/a-273-create-a-custom-activity-definition-create
        body = {
            "name": name,
            "icon_id": ICON,
            "attributes": [{"name": one, "display_type": kind} for one, kind in attributes.items()],
        }
        answer = self._http.post("/definitions/activity/create", body)
        with understanding("Ortto", "POST /definitions/activity/create"):
            made = answer["custom_activity"]
            attributes_made = [{**item, "id": item["field_id"]} for item in made["attributes"]]
            whole = {
                **made,
                "id": made["activity_field_id"],
                "display_type": ACTIVITY,
                "attributes": attributes_made,
            }
            return list(_fields(whole))


def connect(access: Access, **wire: Unpack[Wire]) -> OrttoClient:
    """Return the client."""
    return OrttoClient(access.api_url or "", access.api_key or "", **wire)


def _person_fields(news: StageNews) -> dict[str, Any]:
    """Return the person's fields as Ortto is to have them, by its ids."""
    names = {"str::first": news.first_name, "str::last": news.last_name}
    return {
        # With strategy 2 an empty name would wipe the one that Ortto has.
        **{field: name for field, name in names.items() if name},
        LEAD_ID: str(news.lead_id),
        STAGE: news.person_stage,
        **news.fields,
    }


def _activity(change: StageNotice) -> Activity:
    news = change.news
    return Activity(
        activity_id=news.event,
        email=news.email,
        fields=_person_fields(news),
        attributes={
            MOVED_LEAD_ID: str(news.lead_id),
            MOVED_TO: news.stage,
            DEAL_VALUE: news.deal_value * 1000,  # money travels in thousandths
        },
        key=change.key,
        created_at=change.at,
    )


def _fields(body: Mapping[str, Any]) -> Iterator[Field]:
    """Read a field of the schema, or an activity with its attributes."""
    yield Field(body["id"], body.get("name") or body["id"], body["display_type"])
    for item in body.get("attributes") or ():
        yield Field(item["id"], item.get("name") or item["id"], item["display_type"], of=body["id"])


def _refusals(answer: Any, name: str, count: int) -> list[str]:
    """Return why each item of a call was refused, or "" if it was taken."""
    said = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(said, list) or len(said) != count:
        return [""] * count  # taken; nothing is said of the single ones
    return [_refusal(item) for item in said]


def _refusal(item: Any) -> str:
    """Return why an item was refused, or "" if it was taken."""
    status = item.get("status") if isinstance(item, dict) else None
    return str(item.get("error") or status) if status in REFUSALS else ""


def _explain(body: Any) -> Refusal:
    error = body["error"]  # text, or an object for 429
    if isinstance(error, str):
        return Refusal(error)
    return Refusal(error.get("message"), error.get("try-in-seconds"))
