"""The web server under slow and unwilling senders: real sockets, a real gunicorn with few threads."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest
import requests
from support import FORM, GENEROUS_SECONDS, SECRET, Service, environment, eventually

from app import server
from sandbox.town import Town

THREADS = 4
REQUEST_SECONDS = 1.5  # in place of the 10, so that the tests need not wait as long
BODY = b"contacts[update][0][id]=5"  # a hook that is not written down
HEAD = b"POST /webhooks/kommo/%s HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def service(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("server")
    variables = {**environment(running_town, folder), "WEB_THREADS": str(THREADS)}
    made = Service(variables, folder / "service.log", {"app.server.REQUEST_SECONDS": REQUEST_SECONDS})
    made.wait_until_ready()
    yield made
    made.kill()


def connect(service: Service) -> socket.socket:
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


@contextmanager
def senders(service: Service, first: bytes, count: int = 5 * THREADS) -> Iterator[list[socket.socket]]:
    """Have many connections send the beginning of something, and stay."""
    with ExitStack() as stack:
        made = [stack.enter_context(connect(service)) for _ in range(count)]
        for connection in made:
            connection.sendall(first)
        yield made


def seconds_until_answered(service: Service) -> float:
    began = time.monotonic()
    assert service.post("kommo", BODY, FORM).status_code == 200
    return time.monotonic() - began


SLOW = {
    "silence": b"",
    "a part of a line": b"POST /webhoo",
    "a part of the headers": HEAD % b"wrong" + b"X-Some: thi",
    "no body behind the right secret": HEAD % SECRET.encode() + b"Content-Length: 1000\r\n\r\n",
    "a part of the body behind the right secret": HEAD % SECRET.encode() + b"Content-Length: 1000\r\n\r\nleads[",
    "no body behind a wrong secret": HEAD % b"wrong" + b"Content-Length: 1000000\r\n\r\n",
    "chunks without an end": HEAD % b"wrong" + b"Transfer-Encoding: chunked\r\n\r\n5\r\nleads\r\n",
}


@pytest.mark.parametrize("first", SLOW.values(), ids=SLOW)
def test_slow_senders_do_not_hold_it_for_good(first: bytes, service: Service) -> None:
    """Each round of senders, as many as there are threads, costs a request's time at most; then all go on."""
    rounds = 5  # that wait before us
    with senders(service, first, rounds * THREADS):
        assert seconds_until_answered(service) < (rounds + 1) * REQUEST_SECONDS + 5


def test_one_that_drips_is_cut_off(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(HEAD % SECRET.encode())
        began = time.monotonic()
        cut_off = False
        while not cut_off and time.monotonic() - began < 10:
            try:
                connection.sendall(b"X-a: b\r\n")
                time.sleep(0.1)
                connection.settimeout(0.01)
                cut_off = connection.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                cut_off = True
        assert cut_off
        assert time.monotonic() - began > REQUEST_SECONDS - 0.5


def test_a_refused_body_is_not_waited_for(service: Service) -> None:
    with connect(service) as connection:
        began = time.monotonic()
        connection.sendall(HEAD % b"wrong" + b"Content-Length: 1000000\r\n\r\nleads[")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - began < 4.5


def test_who_never_closes_is_not_waited_for(service: Service) -> None:
    """Not by the thread that accepts: with such callers nobody else would get in for seconds each."""
    with senders(service, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 12) as asked:
        answers = [b"".join(iter(lambda one=one: one.recv(65536), b"")) for one in asked]  # to the server's end
        assert [answer[:13] for answer in answers] == [b"HTTP/1.1 200 "] * 12
        assert max(seconds_until_answered(service) for _ in range(3)) < 8


def test_who_sends_in_two_parts_is_understood(service: Service) -> None:
    with connect(service) as connection:
        whole = HEAD % SECRET.encode() + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (
            FORM.encode(),
            len(BODY),
        )
        for part in (whole, BODY):
            connection.sendall(part[:10])
            time.sleep(0.3)
            connection.sendall(part[10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_connection_is_used_again_and_again(service: Service) -> None:
    with requests.Session() as session:
        url = f"{service.url}/webhooks/kommo"
        for secret, status in ((SECRET, 200), ("wrong", 401), (SECRET, 200), (SECRET, 200)):
            answer = session.post(url, data=BODY, headers={"X-Webhook-Secret": secret}, timeout=30)
            assert (answer.status_code, answer.headers["Connection"]) == (status, "keep-alive")
            time.sleep(REQUEST_SECONDS / 2)  # between requests there is time
        (pool,) = session.get_adapter(url).poolmanager.pools._container.values()  # type: ignore[attr-defined]
        assert pool.num_connections == 1


def test_it_does_not_say_which_version_it_is(service: Service) -> None:
    for path in ("/healthz", "/nowhere", "/webhooks/kommo", "/ops"):
        headers = requests.get(f"{service.url}{path}", timeout=30).headers
        assert headers["Server"] == "gunicorn"
        assert "X-Powered-By" not in headers


def test_nothing_of_it_is_an_error_in_the_log(service: Service) -> None:
    with senders(service, SLOW["a part of the headers"], 2):
        time.sleep(REQUEST_SECONDS + 0.5)
    assert eventually(lambda: "webhook" in service.log())
    assert re.findall(r'"level": "(?:error|critical)"|Traceback', service.log()) == []


def test_a_stop_waits_for_nobody_who_says_nothing(start_service: Callable[..., Service]) -> None:
    """Browsers open connections that they may need. A stop is given 30 seconds; nothing is under way here."""
    service = start_service()
    with senders(service, b"", 3):
        time.sleep(2 * server.FIRST_BYTE_SECONDS)
        began = time.monotonic()
        service.process.terminate()
        service.process.wait(60)
        assert time.monotonic() - began < 20


def test_a_sender_has_a_time_for_the_whole_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    theirs, ours = socket.socketpair()
    with theirs, server.Sender(ours.family, ours.type, ours.proto, ours.detach()) as sender:
        assert not sender.speaks(0.05)
        sender.setblocking(True)
        theirs.sendall(b"abc")
        assert sender.speaks(10)
        assert sender.recv(2) == b"ab"
        sender.settimeout(0.05)  # whoever reads the rest of a body has less patience
        assert sender.recv(2) == b"c"
        with pytest.raises(TimeoutError):
            sender.recv(2)
        time.sleep(0.3)
        theirs.sendall(b"more")
        with pytest.raises(ConnectionResetError):
            sender.recv(1)
        sender.setblocking(True)
        theirs.sendall(b"next")
        assert sender.recv(100) == b"morenext"
        sender.sendall(b"answer")
        assert theirs.recv(100) == b"answer"


def test_a_caller_who_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.2)
    theirs, ours = socket.socketpair()
    with theirs, server.Sender(ours.family, ours.type, ours.proto, ours.detach()) as sender:
        began = time.monotonic()
        with pytest.raises(ConnectionResetError, match="took nothing"):
            sender.sendall(b"x" * 10_000_000)
        assert time.monotonic() - began < GENEROUS_SECONDS


def test_who_has_gone_is_taken_up_and_not_waited_for() -> None:
    theirs, ours = socket.socketpair()
    with server.Sender(ours.family, ours.type, ours.proto, ours.detach()) as sender:
        theirs.close()
        assert sender.speaks(60)
        sender.setblocking(True)
        assert sender.recv(1) == b""
