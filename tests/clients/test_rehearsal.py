"""In a rehearsal every read is made and told, and no write is sent."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
import responses

from app.clients.encharge import ArticleEnchargeClient, EnchargeClient, Person
from app.clients.errors import ApiError
from app.clients.kommo import Change, KommoClient, NewNote, NewTask
from app.clients.ortto import Activity, OrttoClient
from app.clients.ortto import Person as OrttoPerson
from app.clients.rehearsal import Rehearsal

KOMMO, ENCHARGE, INGEST, ORTTO = (f"https://{name}.example" for name in ("kommo", "encharge", "ingest", "ortto"))
ZOE = Person("zoe@example.com", "Zoë", "", {"kommo_lead_id": "5"})


@pytest.fixture
def wire() -> responses.RequestsMock:  # type: ignore[misc]
    with responses.RequestsMock() as mock:
        yield mock


def test_no_client_sends_a_write(wire: responses.RequestsMock) -> None:
    heard = Rehearsal()
    kommo = KommoClient(KOMMO, "key-1", rehearsal=heard)
    activity = Activity("act:cm:x", "zoe@example.com", {}, {}, "k", 0.0)
    ortto = OrttoClient(ORTTO, "key-2", rehearsal=heard)
    kommo.add_tasks([NewTask(5, "Call", 0, 1, None)])
    kommo.add_notes([NewNote(5, "Clicked")])
    kommo.update_leads([Change(5, {7: "x"})])
    kommo.update_contacts([Change(6, add_tags=("y",))])
    kommo.update_tasks({1: "x"})
    kommo.update_notes({1: "x"})
    kommo.set_webhook("https://relay.example", ["add_lead"])
    kommo.delete_webhook("https://relay.example")
    assert ortto.create_activities([activity]) == [""]
    assert ortto.merge_people([OrttoPerson("zoe@example.com", {})]) == [""]
    for flavour in (EnchargeClient, ArticleEnchargeClient):
        encharge = flavour(ENCHARGE, INGEST, "key-3", "key-4", rehearsal=heard)
        encharge.upsert_people([ZOE])
        encharge.track(ZOE, event="moved", properties={}, key="k")
        encharge.add_tag(email="zoe@example.com", tag="moved")

    calls = heard.take()

    assert (len(calls), len(wire.calls)) == (16, 0)
    assert all(call.caught and call.status is None for call in calls)
    assert heard.take() == ()


def test_a_write_is_told_to_the_last_byte_but_for_the_key(wire: responses.RequestsMock) -> None:
    heard = Rehearsal()
    EnchargeClient(ENCHARGE, INGEST, "key-3", "key-4", rehearsal=heard).track(
        ZOE, event="moved", properties={"price": 5}, key="k"
    )
    (call,) = heard.take()
    assert (call.vendor, call.method, call.url) == ("Encharge Ingest", "POST", f"{INGEST}/")
    assert call.body == (
        '{"name": "moved", "user": {"email": "zoe@example.com", "firstName": "Zo\\u00eb", "kommo_lead_id": "5", '
        '"kommo_last_event": "k"}, "properties": {"price": 5}}'
    )
    assert (call.headers["X-Encharge-Token"], call.headers["Content-Length"]) == ("***", str(len(call.body)))


def test_a_read_is_made_and_told_with_the_vendors_clock(wire: responses.RequestsMock) -> None:
    heard = Rehearsal()
    headers = {"Date": formatdate(time.time() + 100, usegmt=True)}
    wire.get(f"{KOMMO}/api/v4/leads/5", json={"id": 5, "status_id": 1, "pipeline_id": 2}, headers=headers)
    assert 5 in KommoClient(KOMMO, "key-1", rehearsal=heard).leads([5])
    (call,) = heard.take()
    assert (call.method, call.status, call.caught) == ("GET", 200, False)
    assert call.headers["Authorization"] == "Bearer ***"
    assert call.ahead == pytest.approx(100, abs=3)


def test_a_read_that_fails_is_told_too(wire: responses.RequestsMock) -> None:
    heard = Rehearsal()
    client = KommoClient(KOMMO, "key-1", rehearsal=heard)
    wire.get(f"{KOMMO}/api/v4/webhooks", status=503, headers={"Date": "soon"})
    wire.get(f"{KOMMO}/api/v4/webhooks", body=responses.ConnectionError("away"))
    for _ in range(2):
        with pytest.raises(ApiError):
            client.webhooks()
    refused, unanswered = heard.take()
    assert (refused.status, refused.ahead) == (503, None)
    assert (unanswered.status, unanswered.trouble) == (None, "Kommo: no answer to GET /webhooks (ConnectionError)")
