"""What our own writes make the vendors send comes to nothing: answered 200, not written down, nobody asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from support import FORM, JSON

from app.webhooks.bodies import parse_form

FIXTURES = Path(__file__).parent.parent / "fixtures"
KOMMO = sorted((FIXTURES / "kommo/hooks").glob("*.form"))
ECHOES = [
    "encharge/hooks/stream_updatedUser_of_our_own.json",
    "encharge/hooks/subscription_updatedUser.json",
    "ortto/hooks/11-activity-of-our-own.json",
    "ortto/hooks/16-activity-unsubscribed-by-us.json",
    "ortto/hooks/17-activity-resubscribed-by-us.json",
]


def post(client: FlaskClient, vendor: str, body: bytes, content_type: str) -> dict[str, Any]:
    answer = client.post(f"/webhooks/{vendor}", data=body, content_type=content_type)
    assert answer.status_code == 200
    assert answer.json is not None
    return answer.json


def about_stages(body: bytes) -> bool:
    leads = parse_form(body.decode()).get("leads", {})
    return "status" in leads or "add" in leads


def test_there_are_hooks_of_both_kinds() -> None:
    assert {about_stages(path.read_bytes()) for path in KOMMO} == {True, False}


@pytest.mark.parametrize("path", KOMMO, ids=lambda path: path.stem)
def test_only_kommos_hooks_about_stages_are_written_down(client: FlaskClient, path: Path) -> None:
    body = path.read_bytes()
    answer = post(client, "kommo", body, FORM)
    assert any(event["id"] for event in answer["events"]) == about_stages(body)
    if not about_stages(body):
        assert answer["status"] == "ignored"
        assert all("only leads.status and leads.add" in event["reason"] for event in answer["events"])


@pytest.mark.parametrize("name", ECHOES)
def test_an_echo_of_our_own_write_comes_to_nothing(client: FlaskClient, name: str) -> None:
    answer = post(client, name.partition("/")[0], (FIXTURES / name).read_bytes(), JSON)
    (event,) = answer["events"]
    assert (answer["status"], event["id"], event["status"]) == ("ignored", None, "ignored")
    assert event["reason"]
