"""The guardian of our webhook in Kommo: what it finds, what it mends, what it tells a person to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from parts import kommo_client
from structlog.testing import capture_logs
from support import FORM, SECRET, stage_hook

from app.guardian import Answers, Guardian
from sandbox.town import Town

HERE = "https://relay.example.com"
OURS = f"{HERE}/webhooks/kommo/{SECRET}"
OLD = "the-secret-before-0123456789"
EVENTS = ("status_lead", "add_lead")
BY_HAND = "in Kommo, Settings, Integrations, or set PUBLIC_URL, and it is done for you."
MISSING = (
    "Kommo has no webhook that leads here with our secret: add <our address>/webhooks/kommo/<KOMMO_WEBHOOK_SECRET> "
)


def guardian(town: Town, public_url: str | None = None, **options: Any) -> Guardian:
    town.kommo.switch(rate=0)
    return Guardian(kommo_client(town), (SECRET, OLD), public_url, **options)


def stand(town: Town) -> list[tuple[str, list[str], bool]]:
    """Return the account's webhooks: where they go, what they tell, whether they are switched off."""
    return [(hook["url"], hook["settings"], hook["disabled"]) for hook in town.kommo.state()["hooks"]]


def hook(town: Town, url: str = OURS, settings: tuple[str, ...] = EVENTS, *, disabled: bool = False) -> None:
    town.kommo.hook(url, settings)
    town.kommo.hooks.by_url[url].disabled = disabled


@pytest.mark.parametrize(
    "url",
    [
        OURS,
        f"{HERE}/webhooks/kommo/{OLD}",
        f"{HERE}/webhooks/kommo/stage/{SECRET}",
        f"{HERE}/behind/a/proxy/webhooks/kommo/{SECRET}/",
        f"{HERE}/webhooks/kommo?secret={SECRET}",
    ],
)
def test_our_webhook_is_known_by_its_path_and_secret(town: Town, url: str) -> None:
    hook(town, "https://other.example.com/hook")
    hook(town, url)

    with capture_logs() as logged:
        assert guardian(town).look() == ""

    assert [line for line in logged if line["log_level"] != "debug"] == []
    assert town.kommo.count(method="POST") == 0


@pytest.mark.parametrize(
    ("prepare", "fault"),
    [
        pytest.param(lambda town: None, MISSING + BY_HAND, id="none"),
        pytest.param(lambda town: hook(town, f"{HERE}/webhooks/kommo/another"), MISSING + BY_HAND, id="no secret"),
        pytest.param(lambda town: hook(town, f"{HERE}/?x={SECRET}"), MISSING + BY_HAND, id="elsewhere"),
        pytest.param(
            lambda town: hook(town, disabled=True),
            f"Kommo has switched our webhook off: save it again {BY_HAND}",
            id="off",
        ),
        pytest.param(
            lambda town: hook(town, settings=("add_lead", "note_lead")),
            f"Our webhook in Kommo does not send status_lead: choose it {BY_HAND}",
            id="lacks an event",
        ),
    ],
)
def test_without_a_public_url_it_says_what_to_do_and_does_nothing(
    town: Town, prepare: Callable[[Town], None], fault: str
) -> None:
    prepare(town)
    before = stand(town)

    with capture_logs() as logged:
        assert guardian(town).look() == fault

    assert [line["fault"] for line in logged if line["log_level"] == "error"] == [fault]
    assert stand(town) == before
    assert SECRET not in json.dumps(logged)


@pytest.mark.parametrize(
    ("prepare", "after"),
    [
        pytest.param(lambda town: None, [(OURS, list(EVENTS), False)], id="none"),
        pytest.param(lambda town: hook(town, disabled=True), [(OURS, list(EVENTS), False)], id="off"),
        pytest.param(
            lambda town: hook(town, settings=("note_lead", "add_lead")),
            [(OURS, ["note_lead", "add_lead", "status_lead"], False)],
            id="lacks an event, has another",
        ),
        pytest.param(
            lambda town: hook(town, f"{HERE}/webhooks/kommo/{OLD}", disabled=True),
            [(f"{HERE}/webhooks/kommo/{OLD}", list(EVENTS), False)],
            id="off, with the secret of before",
        ),
        pytest.param(
            lambda town: hook(town, f"https://old.example.com/webhooks/kommo/{SECRET}"),
            [
                (f"https://old.example.com/webhooks/kommo/{SECRET}", list(EVENTS), False),
                (OURS, list(EVENTS), False),
            ],
            id="at another address",
        ),
    ],
)
def test_with_a_public_url_it_mends_the_webhook(
    town: Town, prepare: Callable[[Town], None], after: list[Any]
) -> None:
    prepare(town)

    with capture_logs() as logged:
        assert guardian(town, HERE).look() == ""

    assert stand(town) == after
    assert SECRET not in json.dumps(logged)
    assert [line["log_level"] for line in logged if line["log_level"] != "debug"] == ["warning"]
    town.kommo.calls.clear()
    assert guardian(town, HERE).look() == ""
    assert town.kommo.count() == town.kommo.count(method="GET") == 1


def test_a_webhook_that_saving_does_not_switch_on_is_made_anew(town: Town) -> None:
    hook(town, disabled=True)
    town.kommo.switch(saving_enables=False)

    assert guardian(town, HERE).look() == ""

    assert stand(town) == [(OURS, list(EVENTS), False)]
    assert town.kommo.count(method="DELETE", status=204) == 1


def test_a_token_without_the_right_is_told_and_loses_nothing(town: Town) -> None:
    town.kommo.switch(admin=False)

    with capture_logs() as logged:
        fault = guardian(town, HERE).look()

    assert fault.startswith("Kommo's webhook cannot be looked after: Kommo: GET /webhooks answered 403: ")
    assert fault.endswith("KOMMO_ACCESS_TOKEN must be an administrator's.")
    assert [line["fault"] for line in logged if line["log_level"] == "error"] == [fault]


def test_a_refusal_that_repeats_the_address_does_not_tell_the_secret(town: Town) -> None:
    town.kommo.faults.add(method="POST", path="/api/v4/webhooks", status=400, body=f"no such host: {OURS}")

    fault = guardian(town, HERE).look()

    assert "no such host" in fault
    assert SECRET not in fault


def test_whoever_wants_to_hear_it_is_told_what_is_certain(town: Town) -> None:
    heard: list[str] = []
    watching = guardian(town, heard=heard.append)
    watching.look()
    hook(town)
    watching.look()
    for fault in ({"status": 500}, {"drop": True}, {"status": 401}):
        town.kommo.faults.add(times=1, **fault)
        watching.look()

    refused = heard.pop()
    assert refused.startswith("Kommo's webhook cannot be looked after: Kommo: GET /webhooks answered 401: ")
    assert heard == [MISSING + BY_HAND, ""], "what a server that is down says is not how the webhook stands"


def test_an_address_that_kommo_refuses_is_told_to_whoever_wants_to_hear_it(town: Town) -> None:
    heard: list[str] = []
    town.kommo.faults.add(method="POST", path="/api/v4/webhooks", status=400, body="no such host")
    guardian(town, HERE, heard=heard.append).look()
    assert [words[:40] for words in heard] == ["Kommo's webhook cannot be looked after: "]


def test_a_fault_is_told_once_an_hour_and_its_end_once(town: Town) -> None:
    now = [0.0]
    watching = guardian(town, clock=lambda: now[0])
    said = []
    for step in (0, 300, 300, 3600):
        now[0] += step
        with capture_logs() as logged:
            watching.look()
        said.append([line["log_level"] for line in logged if line["log_level"] != "debug"])
    hook(town)
    for _ in range(2):
        with capture_logs() as logged:
            watching.look()
        said.append([line["log_level"] for line in logged if line["log_level"] != "debug"])

    assert said == [["error"], [], [], ["error"], ["info"], []]


# -- answers that Kommo does not take -----------------------------------------------------------------------------


def warnings(answers: list[tuple[float, int, float]]) -> list[int]:
    """Return how many bad answers there had been when it warned; each has its moment, status and seconds."""
    now = [0.0]
    counting = Answers(lambda: now[0])
    with capture_logs() as logged:
        for now[0], status, seconds in answers:
            counting.answered(status, seconds)
    return [line["bad_answers"] for line in logged]


def test_fifty_answers_that_kommo_does_not_take_are_warned_of_once() -> None:
    assert warnings([(at, 503, 0.1) for at in range(49)]) == []
    assert warnings([(at, 503, 0.1) for at in range(99)]) == [50]
    assert warnings([(at, 200, 2.1) for at in range(50)]) == [50]
    assert warnings([(at, 200, 0.1) for at in range(500)]) == []
    assert warnings([(at * 150, 400, 0.1) for at in range(500)]) == []  # 48 in two hours
    twice = [(at, 503, 0.1) for at in range(60)] + [(10_000 + at, 503, 0.1) for at in range(60)]
    assert warnings(twice) == [50, 50]


@pytest.mark.parametrize(
    ("headers", "body", "count"),
    [
        pytest.param({}, b"nothing", 1, id="a body that is none"),
        pytest.param({}, stage_hook(1), 0, id="a good one"),
        pytest.param({"X-Webhook-Secret": "wrong", "User-Agent": "curl/8"}, b"", 0, id="a stranger"),
        pytest.param(
            {"X-Webhook-Secret": "wrong", "User-Agent": "amoCRM-Webhooks/3.0"},
            b"",
            1,
            id="Kommo with a wrong secret",
        ),
    ],
)
def test_what_is_answered_to_kommo_is_counted(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], body: bytes, count: int
) -> None:
    heard: list[int] = []
    monkeypatch.setattr(
        "app.guardian.log.warning", lambda words, **values: heard.append(values["bad_answers"]), raising=False
    )
    monkeypatch.setattr("app.guardian.BAD_ANSWERS", 1)
    monkeypatch.setattr("app.guardian.ANSWER_SECONDS", 60.0)

    client.post("/webhooks/kommo", data=body, content_type=FORM, headers=headers)

    assert len(heard) == count
