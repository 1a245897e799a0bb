"""With 100,000 events of one day in the journal every page answers within 300 ms; the times are printed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from grown import EVENTS, grow
from ops_support import AUTH, TOKEN

from app import EXTENSION, create_app
from app.settings import Settings

MOST_MILLISECONDS = 300
PAGES = {
    "list, with charts": ("/ops", "Latest events"),
    "list, far back": ("/ops?below=5000", "#4999"),
    "counters": (f"/ops/now?above={EVENTS - 7}", "7 new events"),
    "deal": ("/ops?q=777", "#20777"),
    "unknown deal": ("/ops?q=99999999", "No event fits"),
    "email": ("/ops?q=person777@crowd.example", "#20777"),
    "another address": ("/ops?q=other30@crowd.example", "#30<"),
    "unknown email": ("/ops?q=nobody@crowd.example", "No event fits"),
    "campaign": ("/ops?q=PRICING+77+", "pricing 77"),
    "campaign of all": ("/ops?q=pricing", "pricing 499"),
    "unknown campaign": ("/ops?q=nothing", "No event fits"),
    "dead": ("/ops?state=dead", "no such deal"),
    "skipped, of a campaign": ("/ops?state=skipped&q=spring", "No event fits"),
    "an hour": ("/ops?since=1h&until=30m", "Events that fit"),
    "a source without events": ("/ops?source=ortto", "No event fits"),
    "story": ("/ops/events/50000", "What happened"),
    "replay of all dead": ("/ops/replay?state=dead", "Replay 500 events?"),
}


@pytest.fixture
def client(configured: Settings, database_url: str) -> Iterator[FlaskClient]:
    grow(database_url)
    app: Flask = create_app(replace(configured, database_url=database_url, ops_tokens=(TOKEN,)))
    yield app.test_client()
    app.extensions[EXTENSION].close()


@pytest.mark.alone
def test_pages_are_quick(client: FlaskClient, capsys: pytest.CaptureFixture[str]) -> None:
    took = {name: best(client, *page) for name, page in PAGES.items()}
    with capsys.disabled():
        lines = (f"  {ms:6.1f} ms  {name}" for name, ms in took.items())
        print(f"\n{EVENTS} events:", *lines, sep="\n")  # noqa: T201
    assert {name: ms for name, ms in took.items() if ms > MOST_MILLISECONDS} == {}


def best(client: FlaskClient, path: str, words: str) -> float:
    """Return the quickest of three tries; of more, as long as the machine is too busy with other things."""
    tries = [milliseconds(client, path, words) for _ in range(3)]
    while min(tries) > MOST_MILLISECONDS and len(tries) < 30:
        tries.append(milliseconds(client, path, words))
    return min(tries)


def milliseconds(client: FlaskClient, path: str, words: str) -> float:
    """Return how long a page took, if it shows these words."""
    began = time.perf_counter()
    answer = client.get(path, headers=AUTH)
    took = (time.perf_counter() - began) * 1000
    assert (answer.status_code, words in answer.text) == (200, True), (path, words)
    return took
