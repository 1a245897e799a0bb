"""The sandbox's web server keeps connections alive, hangs and hangs up as told, and is gone when it is stopped."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime

import pytest
from flask import Flask, Response, request

from sandbox.server import DELAY, DROP, SHARED, Server

HOST = "127.0.0.1"


class Faulty:
    """An app and the server in front of it."""

    def __init__(self) -> None:
        self.sleeping = False
        self.app = Flask("faulty")
        self.server = Server(HOST, 0, self.app, lambda: self.sleeping)
        self.port = int(self.server.url.rsplit(":", 1)[1])
        self.app.add_url_rule("/echo", view_func=self.echo, methods=["GET", "POST"])
        self.app.add_url_rule("/late", view_func=self.late)
        self.app.add_url_rule("/drop", view_func=self.drop)
        self.app.add_url_rule("/sleep", view_func=self.sleep)
        self.app.add_url_rule("/nothing", view_func=lambda: Response(status=204))

    def echo(self) -> Response:
        answer = Response(request.get_data() + request.query_string)
        answer.headers["X-Path"] = request.path
        answer.headers["X-Shared"] = str(request.environ[SHARED])
        return answer

    def late(self) -> str:
        request.environ[DELAY] = 0.3
        return "late"

    def drop(self) -> str:
        request.environ[DROP] = True
        return "never seen"

    def sleep(self) -> str:
        time.sleep(1.0)
        return "slept"

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        connection.connect()
        return connection


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    made = Faulty()
    yield made
    made.server.stop()


def get(connection: http.client.HTTPConnection, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_many_calls_go_over_one_connection(faulty: Faulty) -> None:
    with closing(faulty.connect()) as connection:
        first = connection.sock
        for number in range(5):
            assert get(connection, f"/echo?{number}", b"body ") == (200, f"body {number}".encode())
            assert get(connection, "/nothing") == (204, b"")
            assert get(connection, "/unknown", b"a body that nobody reads")[0] == 404
        assert connection.sock is first


def test_a_body_in_chunks_and_one_that_comes_slowly_are_read_whole(faulty: Faulty) -> None:
    with closing(faulty.connect()) as connection:
        connection.request("POST", "/echo", iter([b"one ", b"two"]), encode_chunked=True)
        assert connection.getresponse().read() == b"one two"
    with closing(socket.create_connection((HOST, faulty.port), timeout=10)) as wire:
        for piece in (b"POST /ec", b"ho HTTP/1.1\r\nHost: a\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cd"):
            wire.sendall(piece)
            time.sleep(0.02)
        assert wire.recv(1000).endswith(b"\r\n\r\nabcd")


def test_two_requests_at_once_are_answered_in_order(faulty: Faulty) -> None:
    asked = b"GET /late HTTP/1.1\r\nHost: a\r\n\r\nGET /echo?2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with closing(socket.create_connection((HOST, faulty.port), timeout=10)) as wire:
        wire.sendall(asked)
        heard = b""
        while piece := wire.recv(1000):
            heard += piece
    assert heard.count(b"HTTP/1.1 200 OK") == 2
    assert 0 < heard.index(b"late") < heard.index(b"\r\n\r\n2")


def test_what_is_no_http_is_refused(faulty: Faulty) -> None:
    with closing(socket.create_connection((HOST, faulty.port), timeout=10)) as wire:
        wire.sendall(b"nonsense\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_late_answer_comes_late_and_holds_up_no_other(faulty: Faulty) -> None:
    with closing(faulty.connect()) as late, closing(faulty.connect()) as other:
        began = time.monotonic()
        late.request("GET", "/late")
        assert get(other, "/echo?quick") == (200, b"quick")
        assert late.getresponse().read() == b"late"
        assert time.monotonic() - began >= 0.3


def test_a_call_that_sleeps_holds_up_no_other(faulty: Faulty) -> None:
    faulty.sleeping = True
    with closing(faulty.connect()) as asleep, closing(faulty.connect()) as other:
        asleep.request("GET", "/sleep")
        other.request("GET", "/echo?awake")
        answer = other.getresponse()
        assert (answer.read(), answer.headers["X-Shared"]) == (b"awake", "False")
        asleep.sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            asleep.sock.recv(1)


def test_a_dropped_call_gets_no_answer_and_the_next_connection_works(faulty: Faulty) -> None:
    with closing(faulty.connect()) as connection:
        connection.request("GET", "/drop")
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
        assert get(connection, "/echo?again") == (200, b"again")


def test_a_stopped_server_closes_what_is_open_and_takes_nothing_new(faulty: Faulty) -> None:
    with closing(faulty.connect()) as connection:
        assert get(connection, "/echo?1") == (200, b"1")
        faulty.server.stop()
        assert connection.sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        faulty.connect()


def test_its_clock_can_be_wrong() -> None:
    app = Flask("late")
    app.add_url_rule("/", view_func=lambda: "here")
    ahead = [0.0]
    server = Server(HOST, 0, app, ahead=lambda: ahead[0])
    try:
        shown = []
        for ahead[0] in (0.0, -3_600.0):
            with closing(
                http.client.HTTPConnection(HOST, int(server.url.rsplit(":", 1)[1]), timeout=10)
            ) as connection:
                connection.request("GET", "/")
                date = connection.getresponse().headers["Date"]
                shown.append(parsedate_to_datetime(date).timestamp() - time.time())
    finally:
        server.stop()
    assert shown == [pytest.approx(0, abs=5), pytest.approx(-3_600, abs=5)]
