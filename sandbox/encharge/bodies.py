"""The bodies that Encharge posts to others: flow step, event subscription, Activity Stream, article."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.encharge.fields import DEFAULT_NAMES
from sandbox.encharge.people import Change, Person

FLOW_EVENTS = {
    "opened": "email_opened",
    "clicked": "email_link_clicked",
    "unsubscribed": "user_unsubscribed",
    "resubscribed": "user_resubscribed",
    "bounced": "email_bounced",
}
"""What the user typed as the constant `event` in the flow of each activity."""

ARTICLE_EVENTS = {**FLOW_EVENTS, "resubscribed": "user_subscribed"}
"""The article's own words."""

FLOW_ROWS = {
    "email": "{{ person.email }}",
    "person_id": "{{ person.id }}",
    "user_id": "{{ person.userId }}",
    "first_name": "{{ person.firstName }}",
    "broadcastName": "{{ mail }}",
    "kommo_lead_id": "{{ person.kommo_lead_id }}",
    "kommo_stage": "{{ person.kommo_stage }}",
}
"""What the user typed as "Webhook Data" after `event`; `{{ mail }}` is a constant, the flow's mail."""

EVENT_TYPE = re.compile(
    r"newUser|updatedUser|unsubscribedUser|(added|removed)-tag-.+|native-form-submitted-.+"
    r"|(new|updated|deleted)Object-.+|newAssociation-.+"
)
"""The event types that can be subscribed to; none is about opens or clicks."""

_STREAM_EVENTS = {
    "opened": ("emailOpened", "email"),
    "clicked": ("emailClicked", "email"),
    "bounced": ("emailBounced", "email"),
    "unsubscribed": ("unsubscribedUser", "unsubscribedUser"),
    "resubscribed": ("updatedUser", "updatedUser"),
}
_MERGE_TAG = re.compile(r"{{\s*person\.(\w+)\s*}}")


def render(template: str, person: Mapping[str, Any]) -> str:
    """Fill in a value's merge tags; one that cannot be resolved stays as literal text."""

    def fill(tag: re.Match[str]) -> str:
        value = person.get(tag[1])
        return f"{{{{person.{tag[1]}}}}}" if value is None else _text(value)

    return _MERGE_TAG.sub(fill, template)


@dataclass(frozen=True)
class Act:
    """What a person did with a mail."""

    person: Person
    event: str
    mail: str
    email_id: int
    link: str | None
    first: bool
    at: float
    change: Change | None
    """What it changed on the person, if anything."""


def flow_step(act: Act, rows: Mapping[str, str]) -> dict[str, Any]:
    """Build the body of a "Send Webhook" step: the keys that the user typed, all values text.

    `link` can only be a constant, in a flow whose trigger is the click of that one link.
    """
    person = act.person.read()
    body = {"event": FLOW_EVENTS[act.event]}
    body |= {key: act.mail if value == "{{ mail }}" else render(value, person) for key, value in rows.items()}
    return {**body, "link": act.link} if act.link else body


def article(act: Act) -> dict[str, Any]:
    """Build the body that the source article shows; `link` is our addition to it."""
    body = {
        "event": ARTICLE_EVENTS[act.event],
        "email": act.person.values["email"],
        "broadcastName": act.mail,
        "isFirstEvent": act.first,
    }
    return {**body, "link": act.link} if act.link else body


def stream(act: Act) -> dict[str, Any]:
    """Build an Activity Stream event (docs.encharge.io/advanced/activity-stream).

    The page names the parts; the keys of the person's id and email, the names of the email events and their
    `link` are not known and assumed here.
    """
    name, kind = _STREAM_EVENTS[act.event]
    properties: dict[str, Any] = {}
    if kind == "email":
        properties = {"emailId": act.email_id, **({"link": act.link} if act.link else {})}
    elif kind == "updatedUser":
        properties = {"changedFields": act.change.fields if act.change else {}}
    return {
        "name": name,
        "type": kind,
        "id": act.person.id,
        "email": act.person.values["email"],
        "properties": properties,
        "timestamp": int(act.at * 1000),
    }


def act_body(shape: str, act: Act, rows: Mapping[str, str]) -> dict[str, Any]:
    """Build the body of one of the four shapes."""
    if shape == "flow":
        return flow_step(act, rows)
    if shape == "article":
        return article(act)
    if shape == "stream":
        return stream(act)
    return subscription("unsubscribedUser", {}, subscribed_person(act.person.values))


def subscription(event_type: str, payload: dict[str, Any], person: dict[str, Any]) -> dict[str, Any]:
    """Build the body of an event subscription's delivery."""
    return {"eventType": event_type, "eventPayload": payload, "endUserData": [person]}


def subscribed_person(values: Mapping[str, Any]) -> dict[str, Any]:
    """Show a person as subscriptions do: custom fields under `data`, no tags."""
    own = {key: value for key, value in values.items() if key in DEFAULT_NAMES}
    return {**own, "data": {key: value for key, value in values.items() if key not in DEFAULT_NAMES}}


def events_of(change: Change, source: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return the type, payload and person of each subscribable event that a change is.

    `updatedUser` carries the person as it was before, tags the person's id only (both as recorded in public
    samples). The shapes of `added-tag-x` and `unsubscribedUser` are assumed.
    """
    person = change.person
    after = subscribed_person(person.values)
    events: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    if not change.before:
        events.append(("newUser", {}, after))
    elif change.fields:
        payload = {"changedFields": change.fields, "source": source}
        events.append(("updatedUser", payload, subscribed_person(change.before)))
    events += [(f"added-tag-{tag}", {"tag": tag}, {"id": person.id}) for tag in change.added_tags]
    events += [(f"removed-tag-{tag}", {"tag": tag}, {"id": person.id}) for tag in change.removed_tags]
    if change.left_mail:
        events.append(("unsubscribedUser", {}, after))
    return events


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
