"""Whatever comes in, a reader returns a Reading or raises BodyError, and what it returns can be stored."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from app.events import Reading, Source, Webhook
from app.webhooks import encharge, kommo, ortto
from app.webhooks.bodies import BodyError

FIXTURES = Path(__file__).parent.parent / "fixtures"
READERS: dict[Source, Callable[..., Reading]] = {
    Source.KOMMO: kommo.read,
    Source.ENCHARGE: encharge.read,
    Source.ORTTO: ortto.read,
}
CONTENT_TYPES = ["", "application/json", "application/x-www-form-urlencoded", "text/plain", "multipart/form-data"]
NASTY_BYTES = [
    b"\x00",
    b"\xff",
    b"%",
    b"%00",
    b"%FF",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"&",
    b"=",
    b"\\ud800",
    b"0",
    b"-",
]
NASTY_VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"),
    "", "x" * 5000, "9" * 5000, "\x00", "\ud800", "{{x}}", "a@b", "2026-03-04T10:42:10Z",
    "0001-01-01T00:00:00+14:00",
    [], [[]], {}, {"v": {"v": 1}}, {"": None}, {"\x00\ud800": {"id": 1}}, [None, 1, "x", {}],
]  # fmt: skip


def assert_readable(source: Source, content_type: str, body: bytes, event: str | None) -> None:
    """Read a body; the reading must go into any database, and through UTF-8."""
    extra = {"subdomain": event} if source is Source.KOMMO else {"event": event}
    try:
        reading = READERS[source](Webhook(source, content_type, body), now=1_772_700_000.0, **extra)
    except BodyError as error:
        words = str(error)
    else:
        words = json.dumps(asdict(reading), ensure_ascii=False, allow_nan=False)
        assert all(len(event.order_key) <= 330 and len(event.dedupe_key or "") <= 200 for event in reading.events)
    words.encode()
    assert "\0" not in words
    assert r"\u0000" not in words


def mutated_bytes(body: bytes, rng: random.Random) -> bytes:
    """Cut, repeat or overwrite pieces of a body."""
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randrange(len(body) + 1) for _ in range(2))
        end = min(end, at + 40)
        body = body[:at] + rng.choice([b"", body[at:end] * 2, rng.choice(NASTY_BYTES)]) + body[end:]
    return body


def mutated_json(body: bytes, rng: random.Random) -> bytes:
    """Replace some values of a JSON body by nasty ones, keep its shape."""
    said = json.loads(body)
    for _ in range(rng.randint(1, 3)):
        node = said
        while isinstance(node, dict | list) and node:
            place = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if not isinstance(node[place], dict | list) or rng.random() < 0.3:
                node[place] = deepcopy(rng.choice(NASTY_VALUES))
                break
            node = node[place]
    return json.dumps(said).encode()


@pytest.mark.parametrize("source", READERS)
def test_no_mutation_of_a_body_breaks_its_reader(source: Source) -> None:
    rng = random.Random(f"kommo relay {source}")
    bodies = [path.read_bytes() for path in sorted((FIXTURES / source / "hooks").iterdir())]
    for _ in range(2000):
        body = rng.choice(bodies)
        mutate = mutated_json if body[:1] in b"{[" and rng.random() < 0.7 else mutated_bytes
        body = mutate(body, rng)
        assert_readable(source, rng.choice(CONTENT_TYPES), body, rng.choice([None, "", "opened", "x\0\ud800"]))


@pytest.mark.parametrize("value", NASTY_VALUES, ids=lambda value: repr(value)[:30])
@pytest.mark.parametrize("source", READERS)
def test_no_value_anywhere_breaks_a_reader(source: Source, value: object) -> None:
    for name in ("leads", "account", "event", "name", "email", "activity", "person", "contact", "endUserData"):
        for around in (
            value,
            {name: value},
            {"event": "opened", name: value},
            {"leads": {"status": {"0": {"id": 1, "status_id": 2, "updated_at": value}}}, name: value},
            {"eventType": "x", "endUserData": [value], "eventPayload": value},
            {"name": "opened", "properties": {"emailId": value}, "timestamp": value, name: value},
            {"type": "opened", "person": {"fields": {"str::email": value, "kommo_lead_id": value}}, name: value},
            {"activity": {"field_id": "act::o", "id": value, "attr": value, "created": value}, name: value},
            {"campaign_id": value, "contact_id": value, "run_id": value, "event": "opened", name: value},
        ):
            assert_readable(source, "application/json", json.dumps(around).encode(), None)


@pytest.mark.parametrize("source", READERS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00" * 1000, id="zeros"),
        pytest.param(b"\xff" * 1_048_576, id="1 MiB that is not UTF-8"),
        pytest.param(b"a" * 1_048_576, id="1 MiB of one letter"),
        pytest.param(b"&" * 1_048_576, id="1 MiB of separators"),
        pytest.param(b"%E" * 524_288, id="1 MiB of cut-off percents"),
        pytest.param("&".join(f"leads[status][{n}][x]=1" for n in range(10_000)).encode(), id="10,000 keys"),
        pytest.param(b"[" * 1_048_576, id="1 MiB of lists"),
        pytest.param(b'{"a":' * 209_715, id="1 MiB of objects"),
        pytest.param(b'{"leads":{"status":' + b"[" * 900 + b"1" + b"]" * 900 + b"}}", id="just not too deep"),
        pytest.param(b'{"event":"x","email":' + b'{"v":' * 900 + b"1" + b"}" * 901, id="wrapped just not too deep"),
        pytest.param(b"[" + b"9" * 1_000_000 + b"]", id="a number of a million digits"),
    ],
)
def test_no_monster_breaks_a_reader(source: Source, body: bytes) -> None:
    for content_type in CONTENT_TYPES:
        assert_readable(source, content_type, body, None)
