"""From a webhook to what is owed: by the shipped mapping file, whatever comes is planned, or is not for a reason.

An input is a line of `vendor content-type name`, and the body.
"""

from __future__ import annotations

from pathlib import Path

from app.events import EmailActivity, Reading
from app.mapping import load
from fuzz.grown import head
from fuzz.plans import FIELDS, check_event, contexts
from fuzz.webhooks import read_as

SHIPPED = Path(__file__).parent.parent / "config" / "mapping.yaml"
RULES = load(SHIPPED, {**FIELDS, "KOMMO_CF_EMAIL_STATUS": 800_111})
MOST = 3  # events of one body


def check(data: bytes) -> None:
    """Read a body and plan its events; fail if one cannot be planned."""
    source, content_type, name, body = head(data)
    outcome = read_as(source, content_type, name, body)
    if not isinstance(outcome, Reading):
        return
    for event in outcome.events[:MOST]:
        foreign = event.data.campaign if isinstance(event.data, EmailActivity) else "{name}"
        for context in contexts(foreign):
            check_event(RULES, event, context)
