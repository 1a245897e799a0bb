"""deploy/nginx.conf as it is shipped, run by a real nginx in front of the real service."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from proxies import require
from support import GENEROUS_SECONDS, SECRET, Service, environment, eventually, free_port

from app.webhooks.routes import LARGEST_BODY
from bench.arrangement import HOST, Nginx
from sandbox.town import Town

CANARY = "canary-0123456789"
THREADS = 4
BODY_SECONDS = 5  # client_body_timeout and client_header_timeout
ELSEWHERE = "127.0.0.2"  # the client's address; nginx has 127.0.0.1
EMPTY = "The body is empty."


@dataclass(frozen=True)
class Front:
    """nginx, and the one replica behind it that lives: the other is down in all tests."""

    nginx: Nginx
    service: Service

    def post(self, path: str, body: Any = b"", **headers: str) -> requests.Response:
        """Post to nginx, on a connection of its own."""
        return requests.post(
            f"{self.nginx.url}{path}",
            data=body,
            headers={"Content-Type": "application/json", "X-Webhook-Secret": SECRET, **headers},
            verify=self.nginx.certificate,
            timeout=GENEROUS_SECONDS,
        )

    def connect(self, name: str = HOST, address: str = ELSEWHERE) -> ssl.SSLSocket:
        """Connect to nginx from another address."""
        plain = socket.create_connection(("127.0.0.1", self.nginx.secure), GENEROUS_SECONDS, (address, 0))
        context = ssl.create_default_context(cafile=self.nginx.certificate)
        return context.wrap_socket(plain, server_hostname=name)

    def hooks(self) -> list[dict[str, Any]]:
        """Return what the service said of webhooks."""
        found = [json.loads(line) for line in self.service.log().splitlines() if '"webhook"' in line]
        return [line for line in found if line["event"] == "webhook"]

    def accesses(self) -> list[dict[str, Any]]:
        """Return the lines of nginx's access log."""
        return [json.loads(line) for line in (self.nginx.folder / "access.log").read_text().splitlines()]


@pytest.fixture(scope="module")
def front(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    require("nginx", "openssl")
    folder = tmp_path_factory.mktemp("front")
    told = {"TRUSTED_PROXIES": "1", "WEB_THREADS": str(THREADS)}
    service = Service({**environment(running_town, folder), **told}, folder / "service.log")
    nginx = Nginx(folder / "nginx", [free_port(), int(service.url.rpartition(":")[2])])
    try:
        service.wait_until_ready()
        nginx.start()
        yield Front(nginx, service)
    finally:
        nginx.kill()
        service.kill()


def test_our_name_is_served_with_tls_and_no_other(front: Front) -> None:
    answer = front.post("/webhooks/kommo")
    assert (answer.status_code, answer.json()["error"]) == (400, EMPTY)
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "nginx/" not in answer.headers["Server"]
    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        front.connect("other.example")


def test_what_is_not_encrypted_is_led_to_what_is(front: Front) -> None:
    plain = f"http://127.0.0.1:{front.nginx.plain}"
    answer = requests.get(f"{plain}/ops?q=1", timeout=GENEROUS_SECONDS, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (308, f"https://{HOST}/ops?q=1")
    assert requests.get(f"{plain}/healthz", timeout=GENEROUS_SECONDS).json() == {"status": "ok"}
    challenge = front.nginx.folder / "acme" / ".well-known" / "acme-challenge" / "token"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("proof")
    assert requests.get(f"{plain}/.well-known/acme-challenge/token", timeout=GENEROUS_SECONDS).text == "proof"


def test_the_service_hears_who_the_client_is_and_not_what_it_says_of_itself(front: Front) -> None:
    before = len(front.hooks())
    with closing(front.connect()) as connection:
        request = http.client.HTTPConnection(HOST)
        request.sock = connection
        spoofed = {"X-Forwarded-For": "203.0.113.66", "X-Forwarded-Proto": "http", "Forwarded": "for=203.0.113.66"}
        request.request("POST", "/webhooks/encharge", headers=spoofed)
        with request.getresponse() as answer:
            assert answer.status == 401
    (line,) = eventually(lambda: front.hooks()[before:])
    assert (line["code"], line["address"], line["scheme"]) == (401, ELSEWHERE, "https")
    assert front.accesses()[-1]["client"] == ELSEWHERE


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
@pytest.mark.parametrize(
    ("route", "code"), [("kommo", 413), ("kommo/stage", 413), ("encharge", 413), ("ortto", 400)]
)
def test_what_is_too_large_does_not_reach_the_service(front: Front, route: str, code: int, chunked: bool) -> None:
    before = len(front.hooks())
    body = b"x" * (LARGEST_BODY + 1)
    answer = front.post(f"/webhooks/{route}/{CANARY}", iter([body[:-1], body[-1:]]) if chunked else body)
    assert answer.status_code == code
    assert answer.json() == {"error": f"The body is larger than {LARGEST_BODY} bytes: send it in parts."}
    assert front.hooks()[before:] == []


def test_what_is_just_not_too_large_does(front: Front) -> None:
    answer = front.post("/webhooks/ortto", b"x" * LARGEST_BODY)
    assert (answer.status_code, answer.json()["error"][:20]) == (400, "The body is not JSON")


def test_slow_senders_are_cut_off_and_hold_no_thread(front: Front) -> None:
    before = len(front.hooks())
    head = f"POST /webhooks/kommo HTTP/1.1\r\nHost: {HOST}\r\nX-Webhook-Secret: {SECRET}\r\n".encode()
    slow = [front.connect() for _ in range(4 * THREADS)]
    began = time.monotonic()
    for number, connection in enumerate(slow):
        connection.sendall(head if number % 2 else head + b"Content-Length: 100\r\n\r\nleads[status]")

    assert front.post("/webhooks/kommo").status_code == 400
    assert time.monotonic() - began < BODY_SECONDS
    for connection in slow:
        with closing(connection), suppress(ConnectionResetError, ssl.SSLEOFError):
            assert connection.recv(1000)[:12] in (b"", b"HTTP/1.1 408")
    assert BODY_SECONDS - 1 < time.monotonic() - began < BODY_SECONDS + 10
    assert len(front.hooks()[before:]) == 1  # the quick one


def test_connections_to_the_service_are_used_again(front: Front) -> None:
    (worker,) = front.service.workers()
    port = int(front.service.url.rpartition(":")[2])

    def connections() -> set[int]:
        found = psutil.Process(worker.pid).net_connections("tcp4")
        return {one.raddr.port for one in found if one.raddr and one.laddr.port == port}

    with requests.Session() as session:  # one connection to nginx, and so one process of it

        def post() -> int:
            url = f"{front.nginx.url}/webhooks/kommo"
            return session.post(url, verify=front.nginx.certificate, timeout=GENEROUS_SECONDS).status_code

        post()
        before = eventually(connections)
        seen = [(post(), connections()) for _ in range(20)]
    assert seen == [(401, before)] * 20


@pytest.mark.parametrize("route", ["kommo", "encharge", "ortto"])
def test_a_webhook_that_both_replicas_died_over_is_offered_once_more(tmp_path: Path, route: str) -> None:
    require("nginx", "openssl")
    body, asked = b"x" * 20_000, list[tuple[int, bool]]()

    class Replica(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.server.server_address[1], self.rfile.read(len(body)) == body))
            if len(asked) > 2:  # the one that died first is back
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True

        def log_message(self, *args: Any) -> None:
            """Keep quiet."""

    with ExitStack() as stack:
        replicas = [stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Replica)) for _ in range(2)]
        ports = [replica.server_address[1] for replica in replicas]
        for replica in replicas:
            threading.Thread(target=replica.serve_forever).start()
            stack.callback(replica.shutdown)
        nginx = Nginx(tmp_path / "nginx", ports)
        stack.callback(nginx.kill)
        nginx.start()
        url = f"{nginx.url}/webhooks/{route}"
        answer = requests.post(url, data=body, verify=nginx.certificate, timeout=GENEROUS_SECONDS)
    assert (answer.status_code, [whole for _, whole in asked]) == (200, [True] * 3)
    assert {port for port, _ in asked[:2]} == set(ports)


def test_no_log_holds_a_secret_or_a_query(front: Front, tmp_path: Path) -> None:
    dead = Front(Nginx(tmp_path / "nginx", [free_port(), free_port()]), front.service)
    dead.nginx.start()
    paths = {
        f"/webhooks/kommo/{CANARY}": "/webhooks/kommo",
        f"/webhooks/kommo/stage/{CANARY}?event={CANARY}": "/webhooks/kommo/stage",
        f"/webhooks/ortto?secret={CANARY}": "/webhooks/ortto",
        f"/webhook/kommo/{CANARY}": "",
        f"/webhooks/komo/{CANARY}": "",
        f"/webhooks/kommo%2F{CANARY}": "/webhooks/kommo",
        f"/{CANARY}": "",
        f"/ops/{CANARY}": "",
        f"/ops/events/1?q={CANARY}": "/ops/events/1",
        "/metrics": "/metrics",
    }
    large = b"x" * (LARGEST_BODY + 1)
    try:
        for one in (front, dead):
            before = len(one.accesses()) if one is front else 1  # of its start
            for path in paths:
                said = {"Authorization": f"Bearer {CANARY}", "Referer": f"https://{CANARY}", "User-Agent": CANARY}
                answer = one.post(path, **said)
                assert (answer.status_code == 502) == (one is dead), path
            assert one.post(f"/webhooks/kommo/{CANARY}", large).status_code == 413
            eventually(lambda: len(one.accesses()) - before == len(paths) + 1)  # noqa: B023
            assert [line["place"] for line in one.accesses()[before:]] == [*paths.values(), "/webhooks/kommo"]
            written = one.nginx.log.read_text() + (one.nginx.folder / "access.log").read_text()
            assert [word for word in (CANARY, SECRET) if word in written] == []
    finally:
        dead.nginx.kill()
    assert dead.accesses()[-2]["upstream_status"] == "502, 502"  # what the error log would have said
