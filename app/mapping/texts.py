"""Texts for Kommo: templates, and the words that may stand in them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from app.events import Contact, Context, EmailActivity, Event, Kind, Lead
from app.mapping.person_fields import kommo_value

LONGEST_WORD = 250  # characters of a campaign, a link or a name in a text for Kommo

DID = {
    Kind.EMAIL_OPENED: "opened an email",
    Kind.EMAIL_CLICKED: "clicked a link",
    Kind.UNSUBSCRIBED: "unsubscribed",
    Kind.RESUBSCRIBED: "subscribed again",
    Kind.BOUNCED: "did not get an email (it bounced)",
    Kind.JOURNEY_COMPLETED: "completed a journey",
}


def words_of(
    event: Event, activity: EmailActivity, context: Context, *, stage: str, zone: str, fields: frozenset[str]
) -> dict[str, str]:
    """Return what may stand in a text, each on one line: campaigns, links and names are other people's.

    `stage`: the name of the deal's stage. `zone`: the time zone of `{time}`. `fields`: the values of Kommo that
    are asked for, as lead.800101.
    """
    contact = context.contact
    names = person_names(contact) if contact else ("", "")
    words = {
        "email": activity.email or context.email or _first(contact) or "no email address",
        "name": " ".join(filter(None, names)) or "the contact",
        "first_name": names[0] or "the contact",
        "last_name": names[1],
        "campaign": activity.campaign or "(no campaign name)",
        "subject": activity.subject or activity.campaign or "(no subject)",
        "link": activity.link or "",
        "event": event.kind.value,
        "did": DID[event.kind],
        "platform": event.source.value.title(),
        "source": event.source.value,
        "time": datetime.fromtimestamp(event.moment, UTC).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M"),
        **_deal_words(context.lead, stage),
        **{name: plain(kommo_value(name, context)) for name in fields},
    }
    return {name: flat(word) for name, word in words.items()}


def _deal_words(lead: Lead | None, stage: str) -> dict[str, str]:
    if lead is None:
        return {"lead": "no active deal", "lead_id": "", "price": "", "stage": ""}
    return {
        "lead": lead.name or f"deal {lead.id}",
        "lead_id": str(lead.id),
        "price": str(lead.price),
        "stage": stage or f"stage {lead.status_id}",
    }


def _first(contact: Contact | None) -> str:
    return contact.emails[0] if contact and contact.emails else ""


def plain(value: object) -> str:
    """Return a value of Kommo as people write it; "" for none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str | int | float) else ""


def render(template: str, words: Mapping[str, str]) -> str:
    """Put the words into a template, in one pass."""
    rendered = re.sub(r"\{([\w.]+)\}", lambda match: words[match[1]], template)
    return "\n".join(line.rstrip() for line in rendered.splitlines()).strip()


def flat(text: str) -> str:
    """Return foreign text on one line, without control characters, not too long.

    Braces become parentheses: to whoever reads a task, a brace is a template that was not filled in.
    """
    text = text.translate({ord("{"): "(", ord("}"): ")"})
    # Zero-width joiners belong to Persian words and to emoji.
    seen = "".join(char if char.isprintable() or char in "\u200c\u200d" else " " for char in text)
    return shortened(" ".join(seen.split()), LONGEST_WORD)


def shortened(text: str, limit: int) -> str:
    """Return text of at most `limit` characters, the last one of which tells that some were cut off."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def person_names(contact: Contact) -> tuple[str, str]:
    """Return first and last name: Kommo's own where set, else the full name split at its first space."""
    first, last = _trimmed(contact.first_name), _trimmed(contact.last_name)
    full = _trimmed(contact.name)
    if full in (first, last):
        # A person with one name: it is not the other name too.
        return first, last
    split_first, _, split_last = full.partition(" ")
    return first or split_first, last or split_last


def _trimmed(text: str) -> str:
    return " ".join(text.split())
