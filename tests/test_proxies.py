"""Whom we believe when a request says where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask import request
from support import FORM, Service, eventually

from app import EXTENSION, create_app
from app.settings import Settings

PEER = "10.0.0.9"
SPOOFED = "203.0.113.66"
CLIENT, FIRST_PROXY = "198.51.100.7", "10.0.0.8"


def told(lines: str) -> tuple[str, str]:
    """Return the address and the scheme of the one webhook in a log."""
    found: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines() if '"webhook"' in line]
    (line,) = [line for line in found if line["event"] == "webhook"]
    return line["address"], line["scheme"]


@pytest.mark.parametrize(
    ("hops", "forwarded", "proto", "seen"),
    [
        pytest.param(0, CLIENT, "https", (PEER, "http"), id="nobody is believed unless told so"),
        pytest.param(1, CLIENT, "https", (CLIENT, "https"), id="one proxy says who came, and how"),
        pytest.param(
            1, f"{SPOOFED}, {CLIENT}", "http,https", (CLIENT, "https"), id="what the client said does not count"
        ),
        pytest.param(1, f"{SPOOFED}\t,{CLIENT} ", "http", (CLIENT, "http"), id="however it is written"),
        pytest.param(2, f"{CLIENT}, {FIRST_PROXY}", "https,http", (CLIENT, "https"), id="two proxies"),
        pytest.param(
            2, f"{SPOOFED}, {CLIENT}, {FIRST_PROXY}", "http,https,http", (CLIENT, "https"), id="and no third"
        ),
        pytest.param(2, CLIENT, "https", (PEER, "http"), id="fewer than there should be: it did not come by them"),
        pytest.param(1, None, None, (PEER, "http"), id="no word"),
    ],
)
def test_as_many_proxies_are_believed_as_there_are(
    configured: Settings, hops: int, forwarded: str | None, proto: str | None, seen: tuple[str, str]
) -> None:
    app = create_app(replace(configured, trusted_proxies=hops))
    app.add_url_rule("/seen", view_func=lambda: [request.remote_addr, request.scheme, request.host])
    headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": proto, "X-Forwarded-Host": "evil.example"}
    answer = app.test_client().get(
        "/seen",
        headers={name: value for name, value in headers.items() if value},
        environ_base={"REMOTE_ADDR": PEER},
    )
    app.extensions[EXTENSION].close()

    assert answer.json == [*seen, "localhost"]


@pytest.mark.parametrize(("hops", "seen"), [("0", ("127.0.0.1", "http")), ("1", (CLIENT, "https"))])
def test_the_server_believes_nobody_by_itself(
    start_service: Callable[..., Service], hops: str, seen: tuple[str, str]
) -> None:
    service = start_service(TRUSTED_PROXIES=hops)
    # gunicorn takes these from 127.0.0.1, unless it is told otherwise, and refuses what contradicts itself.
    headers = {"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off"}
    answer = service.post("kommo", b"", FORM, SCRIPT_NAME="/elsewhere", **headers)

    assert answer.status_code == 400
    assert answer.json() == {"error": "The body is empty."}
    eventually(lambda: '"event": "webhook"' in service.log())
    assert told(service.log()) == seen
