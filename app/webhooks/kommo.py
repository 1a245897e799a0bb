"""Kommo's webhooks: the deals that entered a stage.

Kommo sends two kinds, both as forms with PHP's brackets: settings hooks with the whole deal, and those of the
Digital Pipeline with ids only. Reference: https://developers.kommo.com/docs/webhooks-general and
https://developers.kommo.com/docs/webhooks-dp
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app.events import Event, Ignored, Kind, Reading, Source, StageChange, Webhook, stage_repeat
from app.ids import as_id
from app.webhooks.bodies import (
    BodyError,
    FieldError,
    as_mapping,
    as_text,
    as_word,
    bound,
    decode,
    first_time,
    is_json,
    items,
    journal_key,
    parse_form,
    parse_object,
    require_id,
    shown,
)

# A settings hook has a time, and by it its retries are known; the window only joins it with the Digital Pipeline's
# hook for the same move. That one has no time, and Kommo retries it within an hour.
SECONDS_WITH_TIME = 60
SECONDS_WITHOUT_TIME = 3600


def read(webhook: Webhook, *, now: float, subdomain: str | None = None) -> Reading:
    """Return a stage change for each deal in the body that entered a stage; `subdomain` is our own account's.

    Raises BodyError if Kommo sends no such body.
    """
    body = _parse(webhook)
    entries = _entries(body)
    theirs = as_text(as_mapping(body.get("account")).get("subdomain"))
    if subdomain and theirs and theirs.lower() != subdomain.lower():
        reason = f"sent by the account {theirs!r}; this service works for {subdomain!r}"
        return Reading(ignored=(Ignored("account", reason),))
    deals = [
        (to_change, lead, path)
        for (entity, action), to_change in EVENTS.items()
        for path, lead in items(entries.get((entity, action), []), f"{entity}.{action}")
    ]
    bound(len(entries) + len(deals))
    events: list[Event] = []
    faults: list[str] = []
    for to_change, lead, path in deals:
        try:
            events.append(_event(to_change, lead, path, now))
        except FieldError as error:
            faults.append(str(error))
    # A body may tell several moves of one deal: they are carried out in the order in which they happened.
    events.sort(key=lambda event: event.occurred_at or 0)
    return Reading(tuple(events), _ignored(entries), tuple(faults))


def _parse(webhook: Webhook) -> dict[str, Any]:
    """Return the body as nested objects, whether Kommo sent it or a relay that made JSON of it."""
    text = decode(webhook.body)
    return parse_object(text) if is_json(webhook.content_type, text) else parse_form(text)


def _entries(body: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return what the body says by entity and action, whatever the entity; raise BodyError if it says nothing."""
    entries = {
        (entity, action): entry
        for entity, actions in body.items()
        if entity != "account"
        for action, entry in as_mapping(actions).items()
    }
    if not any(isinstance(entry, dict | list) for entry in entries.values()):
        raise BodyError(
            "The body is none of Kommo's: it has no entries like leads[status][0][id] (a form) or "
            '{"leads": {"status": [{"id": …}]}} (JSON).'
        )
    return entries


def _ignored(entries: Mapping[tuple[str, str], Any]) -> tuple[Ignored, ...]:
    """Return what is not for us, once for each entity and action, and what is for us but empty."""
    ignored = []
    for (entity, action), entry in entries.items():
        count = len(entry) if isinstance(entry, dict | list) else 1
        kind = f"{_word(entity)}.{_word(action)}"
        if (entity, action) not in EVENTS:
            ignored.append(Ignored(kind, f"{count} of them; only leads.status and leads.add are carried on"))
        elif count == 0:
            ignored.append(Ignored(kind, "no deals in it"))
    return tuple(ignored)


def _word(key: str) -> str:
    """Return a foreign key as it may be shown: cut first, as one long key may stand around very many."""
    return as_word(key[:40]) or "…"


def _event(to_change: ToChange, lead: object, path: str, now: float) -> Event:
    """Return the event of one deal; raise FieldError if it lacks what an event needs."""
    if not isinstance(lead, dict):
        raise FieldError(f"{path} is not a deal: {shown(lead)}")
    change = to_change(lead, path)
    at = first_time([lead], "updated_at", "last_modified")
    stage = f"{change.pipeline_id or 0}:{change.status_id}"
    return Event(
        source=Source.KOMMO,
        kind=Kind.STAGE_CHANGED,
        data=change,
        order_key=f"lead:{change.lead_id}",
        dedupe_key=journal_key("kommo", "stage", change.lead_id, stage, int(at)) if at else None,
        occurred_at=at,
        # One move may be told by a settings hook and one of the Digital Pipeline, which have no key in common, or
        # by a retry of the latter, which has nothing else to tell it by.
        repeat=stage_repeat(change, SECONDS_WITH_TIME if at else SECONDS_WITHOUT_TIME),
        received_at=now,
    )


def _stage_changed(lead: Mapping[str, Any], path: str) -> StageChange:
    """Read a deal that came from another stage."""
    return StageChange(
        lead_id=require_id(lead, "id", path),
        status_id=require_id(lead, "status_id", path),
        pipeline_id=as_id(lead.get("pipeline_id")),
        old_status_id=as_id(lead.get("old_status_id")),
    )


def _stage_entered(lead: Mapping[str, Any], path: str) -> StageChange:
    """Read a deal that was created in its stage."""
    return StageChange(
        lead_id=require_id(lead, "id", path),
        status_id=require_id(lead, "status_id", path),
        pipeline_id=as_id(lead.get("pipeline_id")),
    )


ToChange = Callable[[Mapping[str, Any], str], StageChange]

EVENTS: Mapping[tuple[str, str], ToChange] = {
    ("leads", "add"): _stage_entered,
    ("leads", "status"): _stage_changed,
}
