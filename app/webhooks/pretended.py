"""Webhooks as the vendors would send them if something happened now, to see what would come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

from app.events import EmailActivity, Kind, Source, StageChange, Webhook

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def stage_change(change: StageChange, at: float) -> Webhook:
    """Return the hook of Kommo's settings that tells of a deal that entered a stage."""
    said = {
        "id": change.lead_id,
        "status_id": change.status_id,
        "pipeline_id": change.pipeline_id,
        "updated_at": int(at),
    }
    form = {f"leads[status][0][{name}]": value for name, value in said.items() if value is not None}
    return Webhook(Source.KOMMO, FORM, urlencode(form, safe="[]").encode())


def email_activity(source: Source, kind: Kind, activity: EmailActivity) -> Webhook:
    """Return what a platform sends of an email activity: without a time, so that it happens when it comes."""
    said = _encharge(kind, activity) if source == Source.ENCHARGE else _ortto(kind, activity)
    return Webhook(source, JSON, json.dumps(said, ensure_ascii=False).encode())


def _encharge(kind: Kind, activity: EmailActivity) -> Mapping[str, object]:
    """Return the body of a flow's Send Webhook step."""
    return _without_gaps(
        {
            "event": kind.value,
            "email": activity.email,
            "kommo_lead_id": activity.lead_id,
            "broadcastName": activity.campaign,
            "subject": activity.subject,
            "link": activity.link,
        }
    )


def _ortto(kind: Kind, activity: EmailActivity) -> Mapping[str, object]:
    """Return the body of a dynamic webhook."""
    fields = {"str::email": activity.email, "str:cm:kommo-lead-id": activity.lead_id}
    body = {"type": kind.value, "person": {"fields": _without_gaps(fields)}}
    if kind is Kind.JOURNEY_COMPLETED:
        return body | _without_gaps({"journey": {"name": activity.campaign} if activity.campaign else None})
    email = _without_gaps({"subject": activity.subject or activity.campaign, "link": activity.link})
    return body | _without_gaps({"email": email})


def _without_gaps(said: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in said.items() if value}
