"""Callers without the right secret: told apart, kept waiting, told of; never in the way of those who have it."""

from __future__ import annotations

import base64
import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import structlog
from parts import Clock
from support import FORM, SECRET, Service, at_once, environment, eventually

from app import strangers
from app.strangers import Strangers, is_ours
from sandbox.town import Town

OURS = ("a-secret-0123456789", "its-successor-9876543210")
NOTHING_NEW = b"contacts[update][0][id]=5"  # a hook that is not written down


# -- told apart ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("presented", [[OURS[0]], [OURS[1]], ["wrong", "", OURS[1]], [*"abcdefgh", OURS[0]]])
def test_a_right_one_among_others_is_enough(presented: list[str]) -> None:
    assert is_ours(presented, OURS)


@pytest.mark.parametrize(
    "presented",
    [
        pytest.param([], id="none"),
        pytest.param(["", ""], id="empty"),
        pytest.param([OURS[0][:-1]], id="all but the last character"),
        pytest.param([f"{OURS[0]}x"], id="one character more"),
        pytest.param([f"{OURS[0]}\0"], id="a NUL behind it"),
        pytest.param([OURS[0].upper()], id="another case"),
        pytest.param([",".join(OURS)], id="both at once"),
        pytest.param(["секрет-ключ-пароль", "é" * 16, "\ud800"], id="not ASCII"),
        pytest.param(["x" * 1_000_000], id="very long"),
        pytest.param([f"wrong-{number}" for number in range(1000)], id="a thousand"),
    ],
)
def test_nothing_else_is_right(presented: list[str]) -> None:
    assert not is_ours(presented, OURS)
    assert not is_ours([*OURS, *presented], ())


def test_the_time_taken_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs are compared, also behind a right one, by a function of constant time, at the same length."""
    pairs: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        pairs.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert is_ours([OURS[0], "x", "x" * 5000], OURS)
    assert pairs == [(32, 32)] * 6


# -- kept waiting, and told of ------------------------------------------------------------------------------------


def test_so_many_wait_and_the_next_does_not() -> None:
    gate = Strangers(places=2)
    began = time.monotonic()
    waited: list[float] = []

    def wait() -> None:
        gate.keep_waiting()
        waited.append(time.monotonic() - began)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    gate.keep_waiting()
    assert time.monotonic() - began < 0.45
    for thread in threads:
        thread.join()
    assert min(waited) >= 0.5
    gate.keep_waiting()  # the places are free again
    assert time.monotonic() - began >= 1.0


def test_a_wave_is_told_by_a_few_lines() -> None:
    clock, heard = Clock(), list[tuple[str, bool]]()
    gate = Strangers(observe=lambda door, tried: heard.append((door, tried)), clock=clock)
    with structlog.testing.capture_logs() as lines:
        own = [gate.refused("ops", f"192.0.2.{number % 9}", tried=True) for number in range(2500)]
        assert gate.refused("kommo", None, tried=False)  # another door has a wave of its own
    assert (own.count(True), own[:10]) == (10, [True] * 10)
    assert [(line["log_level"], line["door"], line["count"], line["address"]) for line in lines] == [
        ("warning", "ops", 100, "192.0.2.0"),
        ("warning", "ops", 1000, "192.0.2.0"),
    ]
    assert heard == [("ops", True)] * 2500 + [("kommo", False)]
    clock.put_forward(strangers.WAVE_SECONDS + 1)
    assert gate.refused("ops", None, tried=True)


# -- the service --------------------------------------------------------------------------------------------------


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'anybody:{password}'.encode()).decode()}"


def test_whoever_has_the_secret_gets_in_whatever_others_do(start_service: Callable[..., Service]) -> None:
    """A crowd guesses as fast as it can, at all doors; vendors, ops and the health check are answered in time."""
    token = "ops-token-0123456789"
    service = start_service(WEB_THREADS="8", OPS_TOKEN=token)
    stop, guesses = threading.Event(), list[int]()

    def guess(number: int) -> None:
        session = requests.Session()
        while not stop.is_set():
            path = ("/webhooks/kommo/wrong-secret-0123", "/ops", "/metrics")[number % 3]
            verb, password = ("POST", "") if number % 3 == 0 else ("GET", f"guess-{number}-0123456789")
            headers = {"Authorization": basic(password)} if password else {}
            guesses.append(session.request(verb, service.url + path, headers=headers, timeout=30).status_code)

    crowd = [threading.Thread(target=guess, args=(number,)) for number in range(12)]
    for thread in crowd:
        thread.start()
    try:
        eventually(lambda: len(guesses) > 200)
        answers = at_once([lambda: _timed(service, token) for _ in range(4)], 4)
    finally:
        stop.set()
        for thread in crowd:
            thread.join()

    assert [said for said, _ in answers] == [[200, 200, 200, 200]] * 4
    assert max(seconds for _, seconds in answers) < 15
    assert set(guesses) == {401}
    lines = [json.loads(line) for line in service.log().splitlines()]
    assert len([line for line in lines if line["event"] == "webhook" and line["code"] == 401]) == strangers.LINES
    waves = [line for line in lines if line["event"].startswith("many callers without")]
    assert {(line["level"], line["address"]) for line in waves} == {("warning", "127.0.0.1")}
    numbers = requests.get(f"{service.url}/metrics", auth=("x", token), timeout=30).text
    counted = re.findall(r'^kommo_relay_unauthorized_total{door="(kommo|ops)",tried="yes"} (\d+)', numbers, re.M)
    assert sum(int(count) for _, count in counted) == len(guesses)


def _timed(service: Service, token: str) -> tuple[list[int], float]:
    began = time.monotonic()
    answers = [
        service.post("kommo", NOTHING_NEW, FORM),
        requests.get(f"{service.url}/ops", auth=("x", token), timeout=30),
        requests.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=30),
        requests.get(f"{service.url}/healthz", timeout=30),
    ]
    return [answer.status_code for answer in answers], time.monotonic() - began


ODD: dict[str, dict[str, Any]] = {
    "not ASCII": {"headers": {"X-Webhook-Secret": "секрет".encode()}},
    "no UTF-8": {"headers": {"X-Webhook-Secret": b"\xff\xfe\xfd"}},
    "no UTF-8 in the path": {"path": "/%ff%fe%00"},
    "no UTF-8 in the query": {"path": "?secret=%ff%fe&secret=%00"},
    "as long as a header may be": {"headers": {"X-Webhook-Secret": "x" * 8000}},
    "a password of bytes": {"headers": {"Authorization": "Basic " + base64.b64encode(b"a:\xff\xfe").decode()}},
    "no base64": {"headers": {"Authorization": "Basic %%%"}},
    "another scheme": {"headers": {"Authorization": f'Digest username="x", response="{SECRET}"'}},
    "a scheme alone": {"headers": {"Authorization": "Bearer"}},
    "a right one behind a wrong one": {"path": f"?secret=wrong&secret={SECRET}"},
    "a right one in a list": {"headers": {"X-Webhook-Secret": f"wrong, {SECRET}"}},
    "a right one in a cookie": {"headers": {"Cookie": f"secret={SECRET}"}},
}


@pytest.fixture(scope="module")
def one_service(running_town: Town, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service in the midst of a rotation: of both secrets, and of both tokens."""
    folder = tmp_path_factory.mktemp("strangers")
    old_and_new = {"KOMMO_WEBHOOK_SECRET": f"{OURS[0]},{SECRET}", "OPS_TOKEN": f"{OURS[1]},{OURS[0]}"}
    service = Service(
        {**environment(running_town, folder), **old_and_new},
        folder / "service.log",
        {"app.strangers.WAIT_SECONDS": 0},
    )
    service.wait_until_ready()
    yield service
    service.kill()


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_wrong_and_no_more(name: str, one_service: Service) -> None:
    options = {"path": "", "headers": {}, **ODD[name]}
    url = f"{one_service.url}/webhooks/kommo{options['path']}"
    answer = requests.post(url, data=NOTHING_NEW, headers=options["headers"], timeout=30)
    assert (answer.status_code, list(answer.json())) == (401, ["error"])
    ops = requests.get(f"{one_service.url}/ops{options['path']}", headers=options["headers"], timeout=30)
    assert ops.status_code in (401, 404)
    assert "Traceback" not in one_service.log()


@pytest.mark.parametrize("secret", [OURS[0], SECRET])
def test_the_old_and_the_new_secret_of_a_webhook_are_valid_at_once(secret: str, one_service: Service) -> None:
    url = f"{one_service.url}/webhooks/kommo"
    for path, headers in (
        (f"/{secret}", {}),
        (f"/stage/{secret}", {}),
        (f"?secret={secret}", {}),
        ("", {"X-Webhook-Secret": secret}),
        ("", {"Authorization": f"Bearer {secret}"}),
        ("", {"Authorization": basic(secret)}),
        ("/wrong", {"Authorization": "Bearer wrong", "X-Webhook-Secret": secret}),
    ):
        answer = requests.post(f"{url}{path}", data=NOTHING_NEW, headers=headers, timeout=30)
        assert answer.status_code == 200, path


@pytest.mark.parametrize("token", [OURS[0], OURS[1]])
def test_the_old_and_the_new_token_of_ops_are_valid_at_once(token: str, one_service: Service) -> None:
    for path in ("/ops", "/metrics"):
        for headers in ({"Authorization": f"Bearer {token}"}, {"Authorization": basic(token)}):
            assert requests.get(one_service.url + path, headers=headers, timeout=30).status_code == 200
    both = {"Authorization": f"Bearer {OURS[1]},{OURS[0]}"}
    assert requests.get(f"{one_service.url}/ops", headers=both, timeout=30).status_code == 401
