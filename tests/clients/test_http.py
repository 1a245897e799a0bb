"""The wire: what is sent, what an answer or its absence is taken for. Time-outs and resets go over real sockets."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from responses import matchers
from urllib3.connection import HTTPConnection

from app.clients.errors import ApiError, Fault
from app.clients.http import Call, Http, Refusal

URL = "https://api.vendor.example/v1"
TOKEN = "s3cr3t-t0ken-0123456789"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def make() -> Iterator[Callable[..., Http]]:
    made: list[Http] = []

    def build(url: str = URL, **options: Any) -> Http:
        http = Http("Vendor", url, {"Authorization": f"Bearer {TOKEN}"}, **{"explain": _explain, **options})
        made.append(http)
        return http

    yield build
    for http in made:
        http.close()


def _explain(body: Any) -> Refusal:
    return Refusal(body["words"], body.get("wait"))


def failure(call: Callable[[], object]) -> ApiError:
    """Return the error of a call that fails."""
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value


def facts(error: ApiError) -> dict[str, object]:
    """Return all that an error says, so that tests can compare it whole."""
    told = {"message": str(error), **vars(error)}
    assert told.pop("vendor") == "vendor"
    return told


@contextmanager
def vendor(answer: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Run a vendor on loopback that takes one connection and does `answer`; yield its URL and what it was sent."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                received.append(connection.recv(65536))
                answer(connection, received[0])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", received
        thread.join(10)


# -- what is sent -----------------------------------------------------------------------------------------------


def test_it_sends_the_key_the_body_and_who_it_is(wire: responses.RequestsMock, make: Callable[..., Http]) -> None:
    wire.post(
        f"{URL}/things",
        json={"id": 7},
        match=[
            matchers.header_matcher(
                {
                    "Authorization": f"Bearer {TOKEN}",
                    "Accept": "application/json",
                    "Content-Type": "application/json",
                    "User-Agent": "kommo-relay",
                }
            ),
            matchers.json_params_matcher([{"name": "Zoë"}]),
        ],
    )

    assert make().post("/things", [{"name": "Zoë"}]) == {"id": 7}


def test_brackets_plus_and_unicode_of_a_query_arrive_as_they_were_meant(make: Callable[..., Http]) -> None:
    with vendor(lambda connection, _: connection.sendall(OK)) as (url, received):
        make(url).get("/leads", [("filter[id][]", 1), ("filter[id][]", 2), ("query", "a+b&ю@c.de")])

    line = received[0].split(b"\r\n")[0]
    assert line == (
        b"GET /leads?filter%5Bid%5D%5B%5D=1&filter%5Bid%5D%5B%5D=2&query=a%2Bb%26%D1%8E%40c.de HTTP/1.1"
    )


def test_every_request_waits_for_its_place(wire: responses.RequestsMock, make: Callable[..., Http]) -> None:
    order: list[str] = []

    def answered(request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        order.append("request")
        return 204, {}, ""

    wire.add_callback("PATCH", f"{URL}/a", callback=answered)
    wire.add_callback("GET", f"{URL}/b", callback=answered)
    http = make(throttle=lambda: order.append("throttle"))

    http.patch("/a", {})
    http.get("/b")

    assert order == ["throttle", "request", "throttle", "request"]


def test_only_a_call_too_many_is_told_as_one(wire: responses.RequestsMock, make: Callable[..., Http]) -> None:
    told: list[float | None] = []
    for status, headers in ((429, {"Retry-After": "7"}), (429, {}), (403, {}), (503, {"Retry-After": "7"})):
        wire.get(f"{URL}/a", status=status, headers=headers)
    http = make(refused=told.append)

    for _ in range(4):
        with pytest.raises(ApiError):
            http.get("/a")

    assert told == [7.0, None]


def test_another_pace_goes_over_the_same_connections(make: Callable[..., Http]) -> None:
    order: list[str] = []

    def twice(connection: socket.socket, first: bytes) -> None:
        connection.sendall(OK)
        order.append(connection.recv(65536).split(b" ")[1].decode())
        connection.sendall(OK)

    with vendor(twice) as (url, _):
        http = make(url, throttle=lambda: order.append("quick"))
        http.get("/a")
        http.paced(lambda: order.append("slow"), lambda retry_after: None).get("/b")

    assert order == ["quick", "slow", "/b"]


def test_whoever_counts_hears_of_every_call_that_went_out(
    wire: responses.RequestsMock, make: Callable[..., Http]
) -> None:
    heard: list[Call] = []
    wire.get(f"{URL}/leads/41500011", json={})
    wire.post(f"{URL}/a", status=500)
    wire.patch(f"{URL}/a", body=requests.ConnectionError("gone"))
    http = make(observe=heard.append)

    http.get("/leads/41500011", [("query", "zoe@example.com")])
    for call in (http.post, http.patch):
        with pytest.raises(ApiError):
            call("/a", {"email": "zoe@example.com"})
    with pytest.raises(ApiError, match="was not sent"):
        make(observe=heard.append, may_write=lambda: False).post("/a", {})

    assert [(call.vendor, call.method, call.path, call.status) for call in heard] == [
        ("vendor", "GET", "/leads/41500011", 200),
        ("vendor", "POST", "/a", 500),
        ("vendor", "PATCH", "/a", None),
    ]
    assert all(0 <= call.seconds < 5 for call in heard)


# -- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "application/hal+json", "text/html; charset=utf-8", ""])
def test_json_is_read_whatever_it_is_called(
    wire: responses.RequestsMock, make: Callable[..., Http], kind: str
) -> None:
    wire.get(f"{URL}/a", body='{"name":"Квалификация"}'.encode(), content_type=kind)

    assert make().get("/a") == {"name": "Квалификация"}


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_empty_answer_is_none(wire: responses.RequestsMock, make: Callable[..., Http], status: int) -> None:
    wire.get(f"{URL}/a", status=status, body=b"")

    assert make().get("/a") is None


def test_a_read_answered_with_something_else_than_json_is_tried_again(
    wire: responses.RequestsMock, make: Callable[..., Http]
) -> None:
    wire.get(f"{URL}/a", body="<html>  <p>We will be\nback</p>")

    assert facts(failure(lambda: make().get("/a"))) == {
        "message": "Vendor: GET /a answered 200 with something that is not JSON: '<html> <p>We will be back</p>'",
        "fault": Fault.PASSING,
        "status": 200,
        "retry_after": None,
        "ambiguous": False,
    }


HALF_AN_EMOJI = r'{"name": "Zo\u00eb \ud83d", "list": ["a\u0000b", 7, null, {"\udc00": "\ud83d\ude00"}]}'


def test_what_no_database_stores_is_taken_out_of_an_answer(
    wire: responses.RequestsMock, make: Callable[..., Http]
) -> None:
    wire.get(f"{URL}/a", body=HALF_AN_EMOJI)

    assert make().get("/a") == {"name": "Zoë ?", "list": ["ab", 7, None, {"?": "😀"}]}


@pytest.mark.parametrize("body", [r'{"words": "a\u0000b \ud83d"}', "ab\0 ?"], ids=["in its own form", "in another"])
def test_what_no_database_stores_is_taken_out_of_a_refusal(
    wire: responses.RequestsMock, make: Callable[..., Http], body: str
) -> None:
    wire.get(f"{URL}/a", status=422, body=body)

    assert str(failure(lambda: make().get("/a"))) == "Vendor: GET /a answered 422: ab ?"


def test_a_write_answered_with_plain_words_is_done(wire: responses.RequestsMock, make: Callable[..., Http]) -> None:
    wire.post(f"{URL}/a", body="OK", content_type="text/html")

    assert make().post("/a", {}) is None


def test_a_write_answered_with_a_page_may_not_be_done(
    wire: responses.RequestsMock, make: Callable[..., Http]
) -> None:
    wire.post(f"{URL}/a", body="\n<!DOCTYPE html><title>Maintenance</title>")

    error = failure(lambda: make().post("/a", {}))

    assert (error.fault, error.ambiguous) == (Fault.PASSING, True)


@pytest.mark.parametrize(
    ("status", "fault", "ambiguous"),
    [
        (301, Fault.LOCKED_OUT, False),
        (400, Fault.REFUSED, False),
        (401, Fault.LOCKED_OUT, False),
        (402, Fault.LOCKED_OUT, False),
        (403, Fault.LOCKED_OUT, False),
        (404, Fault.REFUSED, False),
        (405, Fault.REFUSED, False),
        (408, Fault.PASSING, False),
        (409, Fault.REFUSED, False),
        (410, Fault.REFUSED, False),
        (413, Fault.REFUSED, False),
        (422, Fault.REFUSED, False),
        (423, Fault.PASSING, False),
        (425, Fault.PASSING, False),
        (429, Fault.PASSING, False),
        (500, Fault.PASSING, True),
        (502, Fault.PASSING, True),
        (503, Fault.PASSING, True),
        (504, Fault.PASSING, True),
        (507, Fault.PASSING, True),
    ],
)
def test_a_status_says_whose_fault_it_is(
    wire: responses.RequestsMock, make: Callable[..., Http], status: int, fault: Fault, ambiguous: bool
) -> None:
    wire.post(f"{URL}/a", status=status, json={"words": "the vendor's words"})

    assert facts(failure(lambda: make().post("/a", {}))) == {
        "message": f"Vendor: POST /a answered {status}: the vendor's words",
        "fault": fault,
        "status": status,
        "retry_after": None,
        "ambiguous": ambiguous,
    }


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target",
    [
        pytest.param("https://elsewhere.example/", id="another host"),
        pytest.param("http://api.vendor.example/v1/a", id="without TLS"),
        pytest.param("/v1/b", id="the same host"),
        pytest.param("http://169.254.169.254/latest/meta-data/", id="inside of a cloud"),
        pytest.param("file:///etc/passwd", id="a file"),
    ],
)
def test_a_redirect_is_not_followed(
    wire: responses.RequestsMock, make: Callable[..., Http], status: int, target: str
) -> None:
    wire.get(f"{URL}/a", status=status, body=f'<a href="{target}">moved</a>', headers={"Location": target})

    error = failure(lambda: make().get("/a"))

    assert (error.fault, error.status, len(wire.calls)) == (Fault.LOCKED_OUT, status, 1)
    words = "a redirect, which is not followed; is the address of the API right?"
    assert str(error) == f"Vendor: GET /a answered {status}: {words}"


def test_no_write_is_sent_on_by_a_redirect(wire: responses.RequestsMock, make: Callable[..., Http]) -> None:
    wire.post(f"{URL}/a", status=307, headers={"Location": "https://elsewhere.example/"})
    wire.delete(f"{URL}/a", status=308, headers={"Location": "https://elsewhere.example/"})

    assert failure(lambda: make().post("/a", {})).status == 307
    assert failure(lambda: make().delete("/a", {})).status == 308
    assert len(wire.calls) == 2


# -- answers that are too much ------------------------------------------------------------------------------------


def gzipped(zeros: int) -> bytes:
    return gzip.compress(b"[" + b" " * zeros + b"]")


def packed(body: bytes, head: str = "Content-Encoding: gzip\r\n") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


BOMB = gzipped(20_000_000)


def test_a_packed_answer_is_unpacked(make: Callable[..., Http]) -> None:
    with vendor(lambda connection, _: connection.sendall(packed(gzipped(100_000)))) as (url, _):
        assert make(url).get("/a") == []


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("kind", ["packed", "plain", "chunks without an end"])
def test_no_more_of_an_answer_is_read_than_there_is_reason_for(
    make: Callable[..., Http], monkeypatch: pytest.MonkeyPatch, kind: str, status: int
) -> None:
    """A bomb of 20 MB in 20 KB; a body of 20 MB; chunks for ever. Of each, a little is read and unpacked."""
    monkeypatch.setattr("app.clients.http.LARGEST_ANSWER", 1024 * 1024)
    sent: list[int] = []

    def answer(connection: socket.socket, _: bytes) -> None:
        begin = {"packed": packed(BOMB), "plain": packed(b"", "").replace(b"Length: 0", b"Length: 20000000")}
        chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(begin.get(kind, chunks).replace(b"200", b"%d" % status))
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n" if kind.startswith("chunks") else b"x" * 65536
        with suppress(ConnectionError):
            for _ in range(0 if kind == "packed" else 300):
                connection.sendall(piece)
                sent.append(len(piece))

    tracemalloc.start()
    try:
        with vendor(answer) as (url, _):
            error = failure(lambda: make(url).get("/a"))
            assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()

    assert (str(error), error.fault) == ("Vendor: no answer to GET /a (more than 1 MiB)", Fault.PASSING)
    assert sum(sent) < 15_000_000


def test_an_answer_that_drips_is_given_up(make: Callable[..., Http], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.clients.http.ANSWER_SECONDS", 0.3)

    def drip(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(b"x")
                time.sleep(0.05)

    began = time.monotonic()
    with vendor(drip) as (url, _):
        error = failure(lambda: make(url).post("/a", {}))
        assert time.monotonic() - began < 3
    assert (str(error), error.ambiguous) == ("Vendor: no answer to POST /a (not whole after 0.3 s)", True)


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    "body", ["[" * 200_000, '{"a":' * 200_000, f"[{'9' * 5000}]"], ids=["lists", "objects", "number"]
)
def test_json_that_cannot_be_read_is_no_fault_of_ours(
    wire: responses.RequestsMock, make: Callable[..., Http], status: int, body: str
) -> None:
    wire.get(f"{URL}/a", status=status, body=body)

    error = failure(lambda: make().get("/a"))

    assert error.fault == Fault.PASSING
    assert str(error).startswith(f"Vendor: GET /a answered {status}")
    assert len(str(error)) < 300


def test_a_terminal_is_told_nothing_by_a_vendor(wire: responses.RequestsMock, make: Callable[..., Http]) -> None:
    """Its words are printed by commands: an escape sequence could change what stands there, or the window."""
    evil = "a\x1b[2J\x1b]0;b\x07c\x9b31md\x7f\x08"
    wire.get(f"{URL}/a", json={"name": evil, "text": "two\n\tlines"})
    wire.get(f"{URL}/b", status=422, body=evil)
    wire.get(f"{URL}/c", status=422, json={"words": evil})

    assert make().get("/a") == {"name": "a[2J]0;bc31md", "text": "two\n\tlines"}
    assert str(failure(lambda: make().get("/b"))).endswith("answered 422: a[2J]0;bc31md")
    assert str(failure(lambda: make().get("/c"))).endswith("answered 422: a[2J]0;bc31md")


def test_no_password_of_netrc_takes_the_place_of_the_key(
    make: Callable[..., Http], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password netrc-password\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert requests.utils.get_netrc_auth("http://127.0.0.1/") == ("somebody", "netrc-password")
    with vendor(lambda connection, _: connection.sendall(OK)) as (url, received):
        make(url).get("/a")
    assert f"Authorization: Bearer {TOKEN}\r\n".encode() in received[0]
    assert b"Basic" not in received[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(
            "<html>\r\n <h1>403  Forbidden</h1>\r\n" + "x" * 500,
            "<html> <h1>403 Forbidden</h1>",  # half a word could be half an address
            id="a page",
        ),
        pytest.param('{"other": "form"}', '{"other": "form"}', id="JSON in another form"),
        pytest.param('["a list"]', '["a list"]', id="a list"),
        pytest.param('{"words": ""}', '{"words": ""}', id="no words"),
        pytest.param("null", "null", id="null"),
        pytest.param("", "Forbidden", id="nothing"),
        pytest.param('{"words": "' + "y" * 500 + '"}', "y" * 300, id="long words"),
    ],
)
def test_a_refusal_is_told_in_the_words_there_are(
    wire: responses.RequestsMock, make: Callable[..., Http], body: str, words: str
) -> None:
    wire.get(f"{URL}/a", status=403, body=body)

    assert str(failure(lambda: make().get("/a"))) == f"Vendor: GET /a answered 403: {words}"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 86400.0),
        ("31536000", 86400.0),
        ("soon", None),
        ("", None),
        (None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 99 Foo 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read(
    wire: responses.RequestsMock, make: Callable[..., Http], header: str | None, seconds: float | None
) -> None:
    wire.get(f"{URL}/a", status=429, json={"words": "slow down"}, headers={"Retry-After": header} if header else {})

    assert failure(lambda: make().get("/a")).retry_after == seconds


def test_retry_after_may_be_a_date(wire: responses.RequestsMock, make: Callable[..., Http]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    wire.get(f"{URL}/a", status=503, headers={"Retry-After": date})

    assert failure(lambda: make().get("/a")).retry_after == pytest.approx(90, abs=3)


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [(300, 300.0), (0.5, 0.5), ("10", 10.0), (10**9, 86400.0), (None, 7.0), ("soon", 7.0), ({}, 7.0), (True, 7.0)],
)
def test_a_wait_in_the_body_goes_before_the_header(
    wire: responses.RequestsMock, make: Callable[..., Http], wait: object, seconds: float
) -> None:
    wire.get(f"{URL}/a", status=429, json={"words": "slow", "wait": wait}, headers={"Retry-After": "7"})

    assert failure(lambda: make().get("/a")).retry_after == seconds


# -- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(401, f'{{"words": "Bearer {TOKEN} is not known"}}', id="in the vendor's words"),
        pytest.param(403, f"<pre>Authorization: Bearer {TOKEN}</pre>", id="in a debug page"),
        pytest.param(403, "x" * 95 + TOKEN, id="where the words are cut"),
        pytest.param(200, f"<pre>{TOKEN}</pre>", id="in a page where JSON should be"),
    ],
)
def test_an_error_never_tells_the_key_even_if_the_vendor_does(
    wire: responses.RequestsMock, make: Callable[..., Http], status: int, body: str
) -> None:
    wire.get(f"{URL}/a", status=status, body=body)

    error = failure(lambda: make().get("/a"))

    assert TOKEN[:5] not in f"{error} {error!r} {facts(error)}"


def test_an_error_never_tells_the_query() -> None:
    http = Http("Vendor", "http://127.0.0.1:9", {"X-Api-Key": TOKEN}, explain=_explain)

    error = failure(lambda: http.get("/contacts", [("query", "zoe@example.com")]))

    http.close()
    assert str(error) == "Vendor: no connection to GET /contacts (ConnectionError)"


# -- no answer --------------------------------------------------------------------------------------------------


def test_a_refused_connection_has_carried_nothing(make: Callable[..., Http]) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # nobody else gets it, and nobody listens
        error = failure(lambda: make(f"http://127.0.0.1:{deaf.getsockname()[1]}").post("/a", {}))

    assert facts(error) == {
        "message": "Vendor: no connection to POST /a (ConnectionError)",
        "fault": Fault.PASSING,
        "status": None,
        "retry_after": None,
        "ambiguous": False,
    }


def test_a_name_that_does_not_resolve_has_carried_nothing(make: Callable[..., Http]) -> None:
    error = failure(lambda: make("http://vendor.invalid").post("/a", {}))

    assert (error.fault, error.ambiguous) == (Fault.PASSING, False)


def test_a_connection_that_takes_too_long_has_carried_nothing(
    wire: responses.RequestsMock, make: Callable[..., Http]
) -> None:
    wire.post(f"{URL}/a", body=requests.ConnectTimeout("connect timeout=3.05"))

    assert facts(failure(lambda: make().post("/a", {}))) == {
        "message": "Vendor: no connection in time to POST /a (ConnectTimeout)",
        "fault": Fault.PASSING,
        "status": None,
        "retry_after": None,
        "ambiguous": False,
    }


def test_a_proxy_of_the_environment_is_used(make: Callable[..., Http], monkeypatch: pytest.MonkeyPatch) -> None:
    with vendor(lambda connection, _: connection.sendall(OK)) as (url, received):
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert make("http://vendor.invalid").get("/a") == {}

    assert received[0].startswith(b"GET http://vendor.invalid/a HTTP/1.1\r\n")


def hang(connection: socket.socket, _: bytes) -> None:
    while connection.recv(65536):  # until the other side gives up
        pass


def hang_in_the_body(connection: socket.socket, body: bytes) -> None:
    connection.sendall(OK[:-1])
    hang(connection, body)


def close(connection: socket.socket, _: bytes) -> None:
    """Close without a word."""


def reset(connection: socket.socket, _: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def cut(connection: socket.socket, _: bytes) -> None:
    connection.sendall(OK[:-1])


def babble(connection: socket.socket, _: bytes) -> None:
    connection.sendall(b"this is not HTTP\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(hang, "no answer in time to POST /a (ReadTimeout)", id="silence"),
        pytest.param(hang_in_the_body, "no answer in time to POST /a (ReadTimeout)", id="silence in the body"),
        pytest.param(close, "no answer to POST /a (ConnectionError)", id="closed"),
        pytest.param(reset, "no answer to POST /a (ConnectionError)", id="reset"),
        pytest.param(cut, "no answer to POST /a (ConnectionError)", id="cut off in the body"),
        pytest.param(babble, "no answer to POST /a (ConnectionError)", id="not HTTP"),
    ],
)
def test_a_request_without_an_answer_may_have_been_done(
    make: Callable[..., Http], answer: Callable[[socket.socket, bytes], None], words: str
) -> None:
    patience = {hang: 0.3, hang_in_the_body: 2.0}.get(answer, 10.0)  # the others must come in time
    began = time.monotonic()
    with vendor(answer) as (url, received):
        error = failure(lambda: make(url, read_seconds=patience).post("/a", {"n": 1}))

    assert facts(error) == {
        "message": f"Vendor: {words}",
        "fault": Fault.PASSING,
        "status": None,
        "retry_after": None,
        "ambiguous": True,
    }
    assert received[0].startswith(b"POST /a HTTP/1.1\r\n")
    assert time.monotonic() - began < patience + 8


# -- leave to write -------------------------------------------------------------------------------------------


def test_a_request_goes_out_in_one_piece(make: Callable[..., Http], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is frozen after the headers would send the rest when it thaws: late, and out of date."""
    pieces: list[bytes] = []
    send = HTTPConnection.send

    def spy(connection: HTTPConnection, data: bytes) -> None:
        pieces.append(data)
        send(connection, data)

    monkeypatch.setattr(HTTPConnection, "send", spy)

    with vendor(lambda connection, first: connection.sendall(OK)) as (url, _):
        make(url).post("/x", {"a": "b"})

    assert [(piece.split(b"\r\n")[0], piece[-10:]) for piece in pieces] == [(b"POST /x HTTP/1.1", b'{"a": "b"}')]


@pytest.mark.parametrize("call", ["post", "patch", "delete"])
def test_a_write_is_asked_for_once_more_when_the_connection_stands(make: Callable[..., Http], call: str) -> None:
    """The lease may end while a connection is made."""
    answers = iter([True, False])

    with vendor(lambda connection, first: connection.sendall(OK)) as (url, received):
        http = make(url, may_write=lambda: next(answers))
        error = failure(lambda: getattr(http, call)("/x", {}))

    assert (error.fault, error.ambiguous) == (Fault.OURS, False)
    assert str(error) == f"Vendor: {call.upper()} /x was not sent: another process may have taken over"
    assert received == [b""], "the connection was made, and nothing was sent"


def test_a_read_needs_no_leave_to_write(make: Callable[..., Http]) -> None:
    with vendor(lambda connection, first: connection.sendall(OK)) as (url, _):
        assert make(url, may_write=lambda: False).get("/x") == {}
