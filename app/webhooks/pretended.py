"""Webhooks as the vendors would send them if something happened now, to see what would come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

from app.events import EmailActivity, Kind, Source, StageChange, Webhook
from app.webhooks.readers import reader

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
    said = _without_gaps(reader(source).pretended(kind, activity))
    return Webhook(source, JSON, json.dumps(said, ensure_ascii=False).encode())


def _without_gaps(said: Mapping[str, object]) -> dict[str, object]:
    """Return what says something, at any depth."""
    whole = {name: _without_gaps(value) if isinstance(value, Mapping) else value for name, value in said.items()}
    return {name: value for name, value in whole.items() if value}
