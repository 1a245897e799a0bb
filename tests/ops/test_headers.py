"""What browsers are told about every answer, whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from support import FORM, SECRET

from app import EXTENSION, create_app
from app.settings import Settings

TOKEN = "ops-token-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
WEBHOOK = {"X-Webhook-Secret": SECRET}
EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@pytest.fixture
def app(configured: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("app.webhooks.encharge.read", fail)
    made = create_app(replace(configured, ops_tokens=(TOKEN,)))
    monkeypatch.setattr("app.ops.health._Readiness.failing", fail)
    made.testing = False
    made.config["PROPAGATE_EXCEPTIONS"] = False
    yield made
    made.extensions[EXTENSION].close()


ANSWERS = {
    "a webhook": (200, "POST", "/webhooks/kommo", WEBHOOK, b"contacts[update][0][id]=5"),
    "a bad body": (400, "POST", "/webhooks/kommo", WEBHOOK, b"x"),
    "no secret": (401, "POST", "/webhooks/kommo", {}, b"x"),
    "too large": (413, "POST", "/webhooks/kommo", WEBHOOK, b"x" * 1_100_000),
    "a fault of ours in a webhook": (500, "POST", "/webhooks/encharge", WEBHOOK, b"{}"),
    "another method": (405, "GET", "/webhooks/kommo", WEBHOOK, b""),
    "what methods there are": (200, "OPTIONS", "/webhooks/kommo", {}, b""),
    "no such path": (404, "GET", "/nowhere", {}, b""),
    "no such path of the page": (404, "GET", "/ops/nowhere", BEARER, b""),
    "health": (200, "GET", "/healthz", {}, b""),
    "a fault of ours elsewhere": (500, "GET", "/readyz", {}, b""),
    "metrics": (200, "GET", "/metrics", BEARER, b""),
    "metrics without the token": (401, "GET", "/metrics", {}, b""),
    "a static folder of Flask's": (404, "GET", "/static/x.css", {}, b""),
}
PAGE = {
    "the page": (200, "GET", "/ops", BEARER, b""),
    "the page without the token": (401, "GET", "/ops", {}, b""),
    "no such event": (404, "GET", "/ops/events/1", BEARER, b""),
    "a file of the page": (200, "GET", "/ops/static/ops.css", BEARER, b""),
    "no such file": (404, "GET", "/ops/static/nothing.css", BEARER, b""),
    "a foreign form": (403, "POST", "/ops/replay", BEARER, b"ids=1"),
    "a redirect": (308, "GET", "/ops//now", BEARER, b""),
}


@pytest.mark.parametrize(
    ("name", "policy"),
    [*((name, NOTHING) for name in ANSWERS), *((name, "default-src 'none'; script-src 'self'") for name in PAGE)],
)
def test_every_answer_has_them(name: str, policy: str, app: Flask) -> None:
    status, verb, path, headers, body = {**ANSWERS, **PAGE}[name]
    client: FlaskClient = app.test_client()
    answer = client.open(path, method=verb, headers=headers, data=body, content_type=FORM)
    assert answer.status_code == status
    assert {key: answer.headers.getlist(key) for key in EVERYWHERE} == {k: [v] for k, v in EVERYWHERE.items()}
    if status != 308:
        (told,) = answer.headers.getlist("Content-Security-Policy")
        assert told.startswith(policy)
    assert answer.headers.get("Access-Control-Allow-Origin") is None
    answer.close()


def test_no_page_holds_a_script_or_a_style(app: Flask) -> None:
    """Then the policy can forbid them, wherever one comes from."""
    client = app.test_client()
    for path in ("/ops", "/ops/events/1", "/ops?state=dead"):
        page = client.get(path, headers=BEARER).text
        assert [
            word for word in ("<style", " style=", " onclick=", " onload=", "javascript:") if word in page
        ] == []
        assert page.count("<script") == page.count("<script src=")
