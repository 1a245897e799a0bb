"""What `flask setup` cannot do: what people click at Encharge and Ortto, with all that is to be pasted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

ENCHARGE_BODY = {
    "event": "email_opened",
    "email": "{{ person.email }}",
    "person_id": "{{ person.id }}",
    "kommo_lead_id": "{{ person.kommo_lead_id }}",
    "broadcastName": "Proposal follow-up - May",
}
ORTTO_BODY = {
    "type": "email.clicked",
    "person": {
        "fields": {
            "str::email": "{{ people.email }}",
            "str:cm:kommo-lead-id": "{{ people.custom.kommo-lead-id }}",
        }
    },
    "email": {"subject": "Your offer is ready"},
}


def of(vendor: str, public_url: str, secret: str) -> Iterator[str]:
    """Yield the lines for a platform."""
    yield from LINES.get(vendor, partial(_of_any, vendor))(public_url, secret)


def _of_any(vendor: str, public_url: str, secret: str) -> Iterator[str]:
    yield "Have its webhooks of what people do with emails sent to this URL, by POST:"
    yield f"    {public_url}/webhooks/{vendor}/{secret}"


def of_encharge(public_url: str, secret: str) -> Iterator[str]:
    """Yield the lines for Encharge."""
    url = f"{public_url}/webhooks/encharge?secret={secret}"
    yield "For each email or broadcast, and for each of opened and clicked: a flow with the trigger Email Activity,"
    yield "then the step Send Webhook. Method POST, content type JSON, URL:"
    yield f"    {url}"
    yield "Webhook data, a row for each line (for clicks the event is email_link_clicked):"
    yield from _json(ENCHARGE_BODY)
    yield "Once, and only once (Encharge cannot list subscriptions), for unsubscribes:"
    yield '    curl -H "X-Encharge-Token: <ENCHARGE_API_KEY>" -H "Content-Type: application/json" \\'
    yield f'      -d \'{{"eventType": "unsubscribedUser", "url": "{url}"}}\' \\'
    yield "      https://api.encharge.io/v1/event-subscriptions"
    yield "Click by click: docs/encharge.md"


def of_ortto(public_url: str, secret: str) -> Iterator[str]:
    """Yield the lines for Ortto."""
    yield "A data source of the kind Webhook (advanced). Method POST, URL:"
    yield f"    {public_url}/webhooks/ortto"
    yield "Custom header:"
    yield f"    X-Webhook-Secret: {secret}"
    yield "Tick Send activity payload if relevant, and take Kommo lead ID among the additional person fields. Then"
    yield "choose the activities: Opened email, Clicked email, Unsubscribed from email, Subscribed to email,"
    yield "Bounced email, Left journey; or use it in a journey's action Send to webhook."
    yield "Or a dynamic webhook in a journey, with the same URL and header and this body:"
    yield from _json(ORTTO_BODY)
    yield "Click by click: docs/ortto.md"


LINES = {"encharge": of_encharge, "ortto": of_ortto}


def _json(body: object) -> Iterator[str]:
    for line in json.dumps(body, indent=2, ensure_ascii=False).splitlines():
        yield f"    {line}"
