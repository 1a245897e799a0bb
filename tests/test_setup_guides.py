"""What the guides tell people to paste into Encharge and Ortto arrives as they promise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from support import ROOT
from test_docs import filled

from app.events import EmailActivity, Kind, Reading, Source, Webhook
from app.webhooks import encharge, ortto
from sandbox.encharge.bodies import EVENT_TYPE

GUIDES = {source: ROOT / "docs" / f"{source}.md" for source in (Source.ENCHARGE, Source.ORTTO)}
READERS: dict[Source, Callable[..., Reading]] = {Source.ENCHARGE: encharge.read, Source.ORTTO: ortto.read}
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$\s*(Arrives as .*?\.(?=\n\n))?", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"Arrives as `(\w+)`(?:, by `[?&]event=([\w.]+)`)?: (.*)\.", re.DOTALL)
FIELDS = {"email": "email", "deal": "lead_id", "person": "person_id"}
ROUTES = re.compile(r"https://relay\.example\.com(/[^\s`\"']*)")


@dataclass(frozen=True)
class Example:
    """A block of a guide, and what the guide promises of it."""

    source: Source
    language: str
    text: str
    promise: str


EXAMPLES = [
    pytest.param(
        Example(source, language, text, promise), id=f"{source}:{page[: found.start()].count(chr(10)) + 1}"
    )
    for source, path in GUIDES.items()
    for page in [path.read_text(encoding="utf-8")]
    for found in FENCE.finditer(page)
    for language, text, promise in [found.groups()]
]
BODIES = [example for example in EXAMPLES if example.values[0].language != "text"]


def pasted(example: Example) -> dict[str, Any]:
    """Return the body in a block: the whole of it, or what its curl sends."""
    text = example.text if example.language == "json" else re.findall(r"-d '(.*?)'", example.text, re.DOTALL)[0]
    body: dict[str, Any] = json.loads(text)
    return body


@pytest.mark.parametrize("example", BODIES)
def test_a_body_of_a_guide_arrives_as_it_promises(example: Example) -> None:
    body = pasted(example)
    if "url" in body:  # a subscription: it goes to Encharge
        assert EVENT_TYPE.fullmatch(body["eventType"])
        assert body.keys() == {"eventType", "url"}
        return
    promised = PROMISE.fullmatch(" ".join((example.promise or "").split()))
    assert promised, "no promise follows it"
    kind, url_event, facts = promised.groups()
    webhook = Webhook(example.source, "application/json", filled(json.dumps(body)))
    (event,) = READERS[example.source](webhook, now=0, event=url_event).events
    said = dict(re.findall(r"(\w+) `(.*?)`", facts))
    assert isinstance(event.data, EmailActivity)
    found = {name: str(getattr(event.data, FIELDS.get(name, name))) for name in said}
    assert (event.kind, found) == (kind, said)
    assert {"email", "person"} & said.keys()


@pytest.mark.parametrize(
    ("source", "promised"),
    [
        (Source.ENCHARGE, {kind for kind in Kind if kind not in (Kind.STAGE_CHANGED, Kind.OTHER)}),
        (Source.ORTTO, {Kind.EMAIL_OPENED, Kind.EMAIL_CLICKED, Kind.UNSUBSCRIBED, Kind.JOURNEY_COMPLETED}),
    ],
)
def test_a_guide_has_an_example_of_each_event(source: Source, promised: set[Kind]) -> None:
    kinds = set(re.findall(r"Arrives as `(\w+)`", GUIDES[source].read_text(encoding="utf-8")))
    assert kinds == promised


@pytest.mark.parametrize("source", GUIDES)
def test_a_guide_names_events_and_addresses_that_exist(source: Source) -> None:
    page = GUIDES[source].read_text(encoding="utf-8")
    for route in ROUTES.findall(page):
        url = urlsplit(route)
        assert url.path == f"/webhooks/{source}"
        assert parse_qs(url.query).keys() <= {"secret", "event"}
    for name in re.findall(r"[?&]event=([\w.]+)", page):
        body = b'{"email": "nora@example.test", "person": {"email": "nora@example.test"}}'
        (event,) = READERS[source](Webhook(source, "application/json", body), now=0, event=name).events
        assert event.kind != Kind.OTHER


def test_the_words_for_orttos_urls_cover_every_event() -> None:
    (words,) = re.findall(r"The words for the URL:(.*?)\.\n", GUIDES[Source.ORTTO].read_text("utf-8"), re.DOTALL)
    body = b'{"person": {"email": "nora@example.test"}}'
    kinds = [
        ortto.read(Webhook(Source.ORTTO, "application/json", body), now=0, event=name).events[0].kind
        for name in re.findall(r"`(.+?)`", words)
    ]
    assert kinds == [kind for kind in Kind if kind not in (Kind.STAGE_CHANGED, Kind.OTHER)]


@pytest.mark.parametrize("field_id", ["act::o", "act::c", "act::u-all", "act::s-all", "act::b", "act::lj"])
def test_the_guide_of_ortto_says_what_each_activity_is_read_as(field_id: str) -> None:
    page = GUIDES[Source.ORTTO].read_text(encoding="utf-8")
    (words,) = re.findall(rf"`{field_id}` ([\w ]+)[,.]", page)
    assert ortto.ACTIVITIES[field_id].removeprefix("email_").replace("_", " ") == words
