"""deploy/Caddyfile as it is shipped, run by a real Caddy in front of the real service."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests
from proxies import require
from support import GENEROUS_SECONDS, ROOT, SECRET, Service, environment, eventually, free_port

from app.webhooks.routes import LARGEST_BODY
from bench.arrangement import HOST, Program, make_certificate
from sandbox.town import Town

CANARY = "canary-0123456789"
ELSEWHERE = "127.0.0.2"  # the client's address; Caddy has 127.0.0.1


def configuration(folder: Path, *, secure: int, upstream: str) -> Path:
    """Return the shipped file with other ports, a certificate, and the words of Debian's Caddy, which is old."""
    text = (ROOT / "deploy" / "Caddyfile").read_text(encoding="utf-8")
    for old, new in {
        "request_buffers 2MiB": "buffer_requests\nmax_buffer_size 2MiB",  # before 2.7
        "admin off": f"admin off\nhttps_port {secure}\nauto_https disable_redirects",
        "{$RELAY_DOMAIN} {": f"{HOST} {{\nbind 127.0.0.1\ntls {folder}/fullchain.pem {folder}/privkey.pem\n",
        "relay:8000": upstream,
        "lb_try_duration 10s": "lb_try_duration 1s",
        ":8080 {": f"http://127.0.0.1:{free_port()} {{\nbind 127.0.0.1\n",
    }.items():
        assert text.count(old) == 1, f"deploy/Caddyfile has no {old!r} any more"
        text = text.replace(old, new)
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    return folder / "Caddyfile"


class Caddy(Program):
    """A running Caddy."""

    def __init__(self, folder: Path, upstream: str) -> None:
        make_certificate(folder)
        self.secure = free_port()
        self.certificate = str(folder / "fullchain.pem")
        path = configuration(folder, secure=self.secure, upstream=upstream)
        home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        command = ("caddy", "run", "--config", str(path), "--adapter", "caddyfile")
        super().__init__("caddy", command, home, folder, lambda log: "serving initial configuration" in log)

    def post(self, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str]]:
        """Post from another address; return the status and the answer."""
        context = ssl.create_default_context(cafile=self.certificate)
        client = http.client.HTTPSConnection(
            HOST, self.secure, timeout=GENEROUS_SECONDS, source_address=(ELSEWHERE, 0), context=context
        )
        with closing(client):
            client.request("POST", path, body, {"Content-Type": "application/json", **headers})
            with client.getresponse() as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else {}


@pytest.fixture(scope="module")
def service(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    require("caddy", "openssl")
    folder = tmp_path_factory.mktemp("behind-caddy")
    started = Service({**environment(running_town, folder), "TRUSTED_PROXIES": "1"}, folder / "service.log")
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="module")
def caddy(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    started = Caddy(tmp_path_factory.mktemp("caddy"), service.url.removeprefix("http://"))
    try:
        started.start()
        yield started
    finally:
        started.kill()


def test_the_service_hears_who_the_client_is_and_not_what_it_says_of_itself(caddy: Caddy, service: Service) -> None:
    spoofed = {"X-Forwarded-For": "203.0.113.66", "X-Forwarded-Proto": "http"}
    assert caddy.post("/webhooks/encharge", **spoofed)[0] == 401
    lines = eventually(lambda: [line for line in service.log().splitlines() if '"code": 401' in line])
    told = json.loads(lines[-1])
    assert (told["address"], told["scheme"]) == (ELSEWHERE, "https")


@pytest.mark.parametrize(("route", "code"), [("kommo", 413), ("encharge", 413), ("ortto", 400)])
@pytest.mark.parametrize("size", [LARGEST_BODY + 1, 3 * LARGEST_BODY])
def test_what_is_too_large_is_answered_by_the_service(caddy: Caddy, route: str, code: int, size: int) -> None:
    try:
        status, answer = caddy.post(f"/webhooks/{route}/{SECRET}", b"x" * size)
    except (ConnectionError, ssl.SSLError):
        pytest.fail("the connection was closed before the answer")
    assert (status, answer["error"][:18]) == (code, "The body is larger")


def test_no_log_holds_a_secret_or_a_query(caddy: Caddy, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        dead = Caddy(tmp_path, f"127.0.0.1:{nobody.getsockname()[1]}")
        try:
            dead.start()
            for one in (caddy, dead):
                with suppress(TimeoutError, requests.RequestException):
                    one.post(f"/webhooks/kommo/{CANARY}?event={CANARY}", b"x", Authorization=f"Bearer {CANARY}")
        finally:
            dead.kill()
    written = caddy.log.read_text() + dead.log.read_text()
    assert CANARY not in written
