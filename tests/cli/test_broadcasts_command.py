"""`flask broadcasts`, in both dialects, against the sandbox over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskCliRunner

from app import EXTENSION, create_app, settings
from sandbox.town import Town

SENT = 1_780_000_000.0  # 2026-05-28 20:26:40 UTC
PROPOSAL = "Proposal follow-up - May"
MARTA, JONAS = "marta@example.test", "jonas@example.test"
OFFER = "https://example.test/offer"

Start = Callable[..., FlaskCliRunner]


@pytest.fixture
def start(town: Town, env: dict[str, str]) -> Iterator[Start]:
    """Make the app, whose carriers are not started, with more variables; return what runs its commands."""
    apps = []

    def started(dialect: str = "documented", **variables: str) -> FlaskCliRunner:
        town.encharge.switch(dialect=dialect)
        app = create_app(settings.load({**env, "ENCHARGE_DIALECT": dialect, **variables}))
        apps.append(app)
        return app.test_cli_runner()

    yield started
    for app in apps:
        app.extensions[EXTENSION].close()


@pytest.fixture
def acted(town: Town) -> Iterator[Town]:
    """Three people got the proposal: one opened it, one opened and clicked it, one's mailbox is gone."""
    clock, town.encharge.clock = town.encharge.clock, lambda: SENT
    town.encharge.reset()
    for email in (MARTA, JONAS, "gone@example.test"):
        town.encharge.add_person(email)
    town.encharge.act("gone@example.test", "bounced")
    town.encharge.act(MARTA, "opened")
    for event in ("opened", "clicked"):
        town.encharge.act(JONAS, event, link=OFFER if event == "clicked" else None)
    yield town
    town.encharge.clock = clock


def lines(runner: FlaskCliRunner, *arguments: str) -> list[str]:
    result = runner.invoke(args=["broadcasts", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def refusal(runner: FlaskCliRunner, *arguments: str) -> str:
    result = runner.invoke(args=["broadcasts", *arguments], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stdout == ""
    return result.stderr


def told(broadcast_id: int, name: str, **totals: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("entered", "delivered", "opened", "clicked"), 0)
    unsaid = dict.fromkeys(("bounced", "unsubscribed", "opened_percent", "clicked_percent"))
    whole = {"id": broadcast_id, "name": name, "status": "sent", "sent_at": SENT, "counted_at": SENT}
    return {**whole, **counts, **unsaid, **totals}


PROPOSAL_TOLD = told(
    501, PROPOSAL, entered=3, delivered=2, opened=2, clicked=1, opened_percent=100.0, clicked_percent=50.0
)
NEWS_TOLD = told(502, "Product news 14")


@pytest.mark.usefixtures("acted")
@pytest.mark.parametrize("dialect", ["documented", "article"])
def test_broadcasts_are_listed_newest_first(start: Start, dialect: str) -> None:
    runner = start(dialect)
    assert lines(runner) == [
        "broadcast  status     sent (UTC)           delivered          opened         clicked  name",
        "      502  sent       2026-05-28 20:26:40          0               0               0  Product news 14",
        f"      501  sent       2026-05-28 20:26:40          2      2 (100.0%)       1 (50.0%)  {PROPOSAL}",
    ]
    assert [json.loads(line) for line in lines(runner, "--json")] == [NEWS_TOLD, PROPOSAL_TOLD]


TOTALS = [
    f"broadcast      501  {PROPOSAL}",
    "status         sent",
    "sent (UTC)     2026-05-28 20:26:40",
    "entered        3",
    "delivered      2",
    "opened         2 (100.0%)",
    "clicked        1 (50.0%)",
    "bounced        –",
    "unsubscribed   –",
    "counted (UTC)  2026-05-28 20:26:40",
    "",
]


@pytest.mark.usefixtures("acted")
def test_the_documented_api_tells_the_totals_of_one(start: Start) -> None:
    runner = start()
    assert lines(runner, "501") == [
        *TOTALS,
        "Who did what is not known: Encharge's documented API has only totals.",
    ]
    assert [json.loads(line) for line in lines(runner, "501", "--json")] == [{**PROPOSAL_TOLD, "activity": None}]


@pytest.mark.usefixtures("acted")
def test_the_article_also_tells_who_did_what(start: Start) -> None:
    runner = start("article")
    assert lines(runner, "501") == [
        *TOTALS,
        "when (UTC)           what         who                              link",
        "2026-05-28 20:26:40  bounced      gone@example.test",
        "2026-05-28 20:26:40  opened       marta@example.test",
        "2026-05-28 20:26:40  opened       jonas@example.test",
        f"2026-05-28 20:26:40  clicked      jonas@example.test               {OFFER}",
    ]
    assert lines(runner, "502")[-1] == "Nobody has done anything with it yet."
    (line,) = lines(runner, "501", "--json")
    story = json.loads(line)
    activity = story.pop("activity")
    assert story == PROPOSAL_TOLD
    assert activity[-1] == {"email": JONAS, "event": "clicked", "link": OFFER, "at": SENT}
    assert len(activity) == 4


def test_what_encharge_does_not_say_is_no_zero(start: Start, town: Town) -> None:
    town.encharge.mails.broadcasts[503] = {"id": 503, "name": "Draft – März", "status": "draft"}
    runner = start()
    _, row, *_ = lines(runner)
    assert row.split() == ["503", "draft", "–", "–", "–", "–", "Draft", "–", "März"]
    assert "–" in lines(runner, "503")[-3]
    assert json.loads(lines(runner, "--json")[0])["delivered"] is None


def test_no_broadcasts_at_all(start: Start, town: Town) -> None:
    town.encharge.mails.broadcasts.clear()
    runner = start()
    assert lines(runner) == ["Encharge lists no broadcasts."]
    assert lines(runner, "--json") == []
    assert refusal(runner, "9") == "Error: There is no broadcast 9: Encharge lists none.\n"


def test_an_unknown_id_lists_the_known(start: Start, town: Town) -> None:
    runner = start()
    assert refusal(runner, "9") == (
        f"Error: There is no broadcast 9. Encharge lists:\n  502  Product news 14\n  501  {PROPOSAL}\n"
    )
    for number in range(503, 523):
        town.encharge.mails.broadcasts[number] = {"id": number, "name": f"News {number}"}
    _, *names, more = refusal(runner, "9").splitlines()
    assert (names[0], len(names)) == ("  522  News 522", 20)
    assert more == "  and 2 more: flask broadcasts"


def test_encharge_is_off(start: Start) -> None:
    assert (
        refusal(start(ENCHARGE_API_KEY="", ENCHARGE_WRITE_KEY=""))
        == "Error: Encharge is off: set ENCHARGE_API_KEY.\n"
    )


def test_a_wrong_key_names_the_settings(start: Start) -> None:
    words = refusal(start(ENCHARGE_API_KEY="wrong-0123456789"))
    assert words == (
        "Error: Encharge: GET /broadcasts answered 401: Token without payload (should be JWT token).\n"
        "Encharge does not accept the key: check ENCHARGE_API_KEY, and ENCHARGE_DIALECT, "
        "which says how the key is sent.\n"
    )


def test_the_wrong_dialect_is_named_too(start: Start, town: Town) -> None:
    runner = start("article")
    town.encharge.switch(dialect="documented")
    assert "check ENCHARGE_API_KEY, and ENCHARGE_DIALECT" in refusal(runner)


@pytest.mark.parametrize(
    ("arguments", "path"), [((), "/broadcasts"), (("501",), "/broadcasts/501/activity")], ids=["list", "one"]
)
def test_a_call_that_the_account_does_not_have_is_named(
    start: Start, town: Town, arguments: tuple[str, ...], path: str
) -> None:
    runner = start("article")
    town.encharge.faults.add(path=f"/v1{path}", status=404)  # Express's page
    assert refusal(runner, *arguments) == (
        f"Error: Encharge does not know GET {path}, which it does not document: your account or plan may not have "
        "it, or ENCHARGE_API_URL or ENCHARGE_DIALECT is wrong.\n"
    )


def test_anything_else_is_told_in_encharges_words(start: Start, town: Town) -> None:
    runner = start()
    town.encharge.faults.add(path="/v1/broadcasts", status=500)
    assert refusal(runner) == "Error: Encharge: GET /broadcasts answered 500: Internal Server Error\n"


def test_an_id_is_a_number(start: Start) -> None:
    result = start().invoke(args=["broadcasts", "May"])
    assert (result.exit_code, "'May' is not a valid integer" in result.output) == (2, True)
