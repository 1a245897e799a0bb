"""A webhook of any vendor: a reader returns events that can be stored, or refuses with a sentence.

The first line of an input may say what stands around the body: `?application/json email_opened`, the content type
and the name in the URL (at Kommo: the account). All else is the body.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from zlib import crc32

from app.addresses import clean_email
from app.events import PLATFORMS, EmailActivity, Event, Kind, Reading, Source, StageChange, Webhook
from app.ids import LARGEST_ID
from app.webhooks import kommo
from app.webhooks.bodies import MAX_ITEMS, MAX_KEY, YEAR_2100, BodyError
from app.webhooks.readers import reader
from fuzz.oracles import cheap, sentence, storable

NOW = 1_772_700_000.0
LONGEST_SENTENCE = 400
LONGEST_ORDER_KEY = 330
READERS: dict[Source, Callable[..., Reading]] = {
    Source.KOMMO: kommo.read,
    **{platform: reader(platform).read for platform in PLATFORMS},
}


def check(source: Source, data: bytes) -> None:
    """Read an input as a webhook of the vendor; fail if anything that is promised does not hold."""
    content_type, name, body = parts(data)
    read_as(source, content_type, name, body)


def read_as(source: Source, content_type: str, name: str | None, body: bytes) -> Reading | str:
    """Read a body twice; return the reading, or the refusal."""
    webhook = Webhook(source, content_type, body)
    around = {"subdomain" if source is Source.KOMMO else "event": name}
    read = partial(_outcome, lambda: READERS[source](webhook, now=NOW, **around))
    outcome = cheap(read, len(body), partial(_things, body))
    if isinstance(outcome, str):
        sentence(outcome, LONGEST_SENTENCE)
    else:
        _check_reading(outcome, source)
    if is_read_twice(body):
        assert read() == outcome, "read twice it says two things"
    return outcome


def is_read_twice(body: bytes) -> bool:
    """Say whether a body is one of those that are read a second time: one in four, as it doubles the cost."""
    return crc32(body) % 4 == 0


def parts(data: bytes) -> tuple[str, str | None, bytes]:
    """Return the content type, the name in the URL and the body of an input."""
    if not data.startswith(b"?"):
        return "", None, data
    head, _, body = data[1:].partition(b"\n")
    content_type, _, name = head.decode("utf-8", "replace").partition(" ")
    return content_type, name or None, body


def _outcome(read: Callable[[], Reading]) -> Reading | str:
    try:
        return read()
    except BodyError as error:
        return str(error)


def _things(body: bytes, outcome: Reading | str) -> int:
    """Return how many things a body tells; of one that is refused, how many at most, as each was looked at."""
    return min(MAX_ITEMS, body.count(b",")) if isinstance(outcome, str) else _count(outcome)


def _count(reading: Reading) -> int:
    return len(reading.events) + len(reading.ignored) + len(reading.faults)


def _check_reading(reading: Reading, source: Source) -> None:
    assert _count(reading) <= MAX_ITEMS, f"{_count(reading)} things of one body"
    for event in reading.events:
        _check_event(event, source)
    for ignored in reading.ignored:
        storable(ignored.kind, 500)
        storable(ignored.reason, 4000)
        assert ignored.kind, "ignored without words"
        assert ignored.reason, "ignored without a reason"
    for fault in reading.faults:
        sentence(fault, LONGEST_SENTENCE)


def _check_event(event: Event, source: Source) -> None:
    assert event.source is source
    assert isinstance(event.kind, Kind)
    assert event.received_at == NOW
    storable(event.order_key, LONGEST_ORDER_KEY)
    assert event.dedupe_key or event.repeat, "nothing tells the event from its repetition"
    if event.dedupe_key is not None:
        storable(event.dedupe_key, MAX_KEY)
        assert not event.logged, "a webhook's event cannot be one of the vendor's log"
    if event.repeat is not None:
        storable(event.repeat.scope, MAX_KEY)
        storable(event.repeat.fingerprint, MAX_KEY)
    if event.occurred_at is not None:
        assert 0 < event.occurred_at < YEAR_2100
    if isinstance(event.data, StageChange):
        _check_change(event, event.data)
    else:
        _check_activity(event, event.data)


def _check_change(event: Event, change: StageChange) -> None:
    assert event.source is Source.KOMMO
    assert event.kind is Kind.STAGE_CHANGED
    assert event.order_key == f"lead:{change.lead_id}"
    for number in (change.lead_id, change.status_id, change.pipeline_id, change.old_status_id):
        assert number is None or _is_id(number), number
    assert change.lead_id
    assert change.status_id


def _check_activity(event: Event, activity: EmailActivity) -> None:
    assert event.source is not Source.KOMMO
    assert event.kind is not Kind.STAGE_CHANGED
    assert activity.lead_id is None or _is_id(activity.lead_id), activity.lead_id
    assert activity.email is None or clean_email(activity.email) == activity.email, activity.email
    assert activity.first in (None, True, False)
    assert activity.machine in (True, False)
    assert activity.name, "an event without a name"
    words = (activity.person_id, activity.campaign, activity.subject, activity.name)
    for text, longest in ((activity.link, 2000), *((text, 500) for text in words)):
        if text:
            storable(text, longest)
            assert "{{" not in text, f"a tag that nobody filled in: {text!r}"


def _is_id(number: object) -> bool:
    return type(number) is int and 0 < number <= LARGEST_ID
