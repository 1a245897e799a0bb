"""What Kommo's webhooks are read as: every captured body, and bodies that nobody should send."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from app.events import Event, Ignored, Kind, Reading, Repeat, Source, StageChange, Webhook
from app.webhooks import kommo
from app.webhooks.bodies import BodyError

HOOKS = Path(__file__).parent.parent / "fixtures/kommo/hooks"
NOW = 1_767_700_000.0
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
NOTHING_IN_IT = (
    "The body is none of Kommo's: it has no entries like leads[status][0][id] (a form) or "
    '{"leads": {"status": [{"id": …}]}} (JSON).'
)


def moved(
    lead: int, status: int, pipeline: int | None = 7100010, *, old: int | None = None, at: float | None = None
) -> Event:
    stage = f"{pipeline or 0}:{status}"
    return Event(
        source=Source.KOMMO,
        kind=Kind.STAGE_CHANGED,
        data=StageChange(lead_id=lead, status_id=status, pipeline_id=pipeline, old_status_id=old),
        order_key=f"lead:{lead}",
        dedupe_key=f"kommo:stage:{lead}:{stage}:{int(at)}" if at else None,
        occurred_at=at,
        repeat=Repeat(scope=f"kommo:lead:{lead}", fingerprint=stage, seconds=60 if at else 3600),
        received_at=NOW,
    )


def ignored(*kinds: str, count: int = 1) -> tuple[Ignored, ...]:
    return tuple(
        Ignored(kind, f"{count} of them; only leads.status and leads.add are carried on") for kind in kinds
    )


def read(body: bytes | str, content_type: str = FORM, subdomain: str | None = None) -> Reading:
    body = body.encode() if isinstance(body, str) else body
    return kommo.read(Webhook(Source.KOMMO, content_type, body), now=NOW, subdomain=subdomain)


FIXTURES = {
    "contact_update.form": Reading(ignored=ignored("contacts.update")),
    "dp_lead_add.form": Reading((moved(41500015, 61000101),)),
    "dp_lead_status.form": Reading((moved(41500011, 61000103, old=61000102),)),
    "lead_add.form": Reading((moved(41500014, 61000101, at=1767608100.0),)),
    "lead_delete.form": Reading(ignored=ignored("leads.delete")),
    "lead_note.form": Reading(ignored=ignored("leads.note")),
    "lead_status_and_contact_update.form": Reading(
        (moved(41500017, 61000101, at=1767607890.0), moved(41500017, 61000103, at=1767607900.0)),
        (*ignored("leads.update", count=2), *ignored("contacts.update")),
    ),
    "lead_status_awkward_values.form": Reading((moved(41500016, 61000102, at=1767607850.0),)),
    "lead_status_indexed.json": Reading(
        (moved(41500012, 142, old=61000103), moved(41500013, 143, 7100020)),
    ),
    "lead_status_list.json": Reading((moved(41500011, 61000102, old=61000101, at=1767607800.0),)),
    "lead_status_settings.form": Reading((moved(41500011, 61000102, old=61000101, at=1767607800.0),)),
    "lead_status_two_leads.form": Reading(
        (
            moved(41500012, 142, old=61000103, at=1767607900.0),
            moved(41500013, 143, 7100020, old=61000201, at=1767607900.0),
        ),
    ),
    "lead_update_account_last.form": Reading(ignored=ignored("leads.update")),
    "task_update_completed.form": Reading(ignored=ignored("task.update")),
}


def test_every_fixture_has_its_reading() -> None:
    assert sorted(FIXTURES) == sorted(path.name for path in HOOKS.iterdir())


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_is_read(name: str) -> None:
    content_type = JSON if name.endswith(".json") else FORM
    assert read((HOOKS / name).read_bytes(), content_type, "examplebakery") == FIXTURES[name]


@pytest.mark.parametrize("content_type", ["", FORM, f"{FORM}; charset=utf-8", "text/plain"])
def test_a_form_is_read_whatever_its_content_type(content_type: str) -> None:
    name = "dp_lead_status.form"
    assert read((HOOKS / name).read_bytes(), content_type) == FIXTURES[name]


@pytest.mark.parametrize("content_type", ["", FORM, JSON, "application/hal+json"])
def test_json_is_read_whatever_its_content_type(content_type: str) -> None:
    name = "lead_status_list.json"
    assert read(b"\n" + (HOOKS / name).read_bytes(), content_type) == FIXTURES[name]


def test_both_hooks_for_one_move_have_the_same_repeat_but_for_its_window() -> None:
    settings = read("leads[status][0][id]=1&leads[status][0][status_id]=2&leads[status][0][updated_at]=1767607800")
    thin = read("leads[status][0][id]=1&leads[status][0][status_id]=2&leads[status][0][old_pipeline_id]=3")

    assert settings.events[0].repeat == Repeat("kommo:lead:1", "0:2", 60)
    assert thin.events[0].repeat == Repeat("kommo:lead:1", "0:2", 3600)


def test_another_accounts_body_is_ignored_and_says_whose_it_is() -> None:
    body = (HOOKS / "lead_status_two_leads.form").read_bytes()
    reason = "sent by the account 'examplebakery'; this service works for 'acme'"
    assert read(body, subdomain="acme") == Reading(ignored=(Ignored("account", reason),))


@pytest.mark.parametrize("subdomain", ["examplebakery", "ExampleBakery", None, ""])
def test_our_own_accounts_body_is_read_in_any_case(subdomain: str | None) -> None:
    name = "lead_status_two_leads.form"
    assert read((HOOKS / name).read_bytes(), subdomain=subdomain) == FIXTURES[name]


def test_a_body_without_an_account_is_ours() -> None:
    assert read("leads[add][0][id]=1&leads[add][0][status_id]=2", subdomain="acme") == Reading((moved(1, 2, None),))


def test_moves_of_one_deal_stand_in_the_order_in_which_they_happened() -> None:
    later, earlier = ({"id": 1, "status_id": s, "updated_at": at} for s, at in ((3, 1767607900), (2, 1767607800)))
    assert read(json.dumps({"leads": {"status": [later, earlier]}})) == Reading(
        (moved(1, 2, None, at=1767607800.0), moved(1, 3, None, at=1767607900.0))
    )


def test_one_bad_deal_among_good_ones_is_a_fault() -> None:
    deals = [{"id": 1, "status_id": 2}, {"id": "none", "status_id": 2}, {"id": 3}, None, {"id": 4, "status_id": 5}]
    assert read(json.dumps({"leads": {"status": deals}})) == Reading(
        (moved(1, 2, None), moved(4, 5, None)),
        faults=(
            "leads.status[1].id is not an id: 'none'",
            "leads.status[2].status_id is missing",
            "leads.status[3] is not a deal: null",
        ),
    )


@pytest.mark.parametrize(
    ("lead", "fault"),
    [
        pytest.param({"status_id": 2}, "leads.status[0].id is missing", id="no id"),
        pytest.param({"id": "", "status_id": 2}, "leads.status[0].id is missing", id="empty id"),
        pytest.param({"id": True, "status_id": 2}, "leads.status[0].id is not an id: true", id="boolean"),
        pytest.param({"id": -1, "status_id": 2}, "leads.status[0].id is not an id: -1", id="negative"),
        pytest.param({"id": 1, "status_id": 0}, "leads.status[0].status_id is not an id: 0", id="zero"),
        pytest.param({"id": 1, "status_id": 1.5}, "leads.status[0].status_id is not an id: 1.5", id="half"),
        pytest.param({"id": 2**63, "status_id": 2}, f"leads.status[0].id is not an id: {2**63}", id="over 64 bits"),
        pytest.param({"id": [1], "status_id": 2}, "leads.status[0].id is not an id: a list", id="list"),
        pytest.param({"id": {"v": 1}, "status_id": 2}, "leads.status[0].id is not an id: an object", id="object"),
        pytest.param("1", "leads.status[0] is not a deal: '1'", id="text for a deal"),
        pytest.param([], "leads.status[0] is not a deal: a list", id="list for a deal"),
    ],
)
def test_a_bad_deal_is_named_by_its_path(lead: object, fault: str) -> None:
    assert read(json.dumps({"leads": {"status": [lead]}})) == Reading(faults=(fault,))


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"pipeline_id": "none", "old_status_id": -1}, id="ids that are none"),
        pytest.param({"pipeline_id": None, "old_status_id": [], "updated_at": {}}, id="other types"),
        pytest.param({"updated_at": "yesterday", "last_modified": "0"}, id="times that are none"),
        pytest.param({"custom_fields": "x", "tags": 1, "name": None}, id="fields we do not read"),
    ],
)
def test_a_deal_is_read_without_what_it_need_not_have(odd: dict[str, Any]) -> None:
    body = json.dumps({"leads": {"status": [{"id": 1, "status_id": 2, **odd}]}})
    assert read(body) == Reading((moved(1, 2, None),))


@pytest.mark.parametrize(
    ("body", "reading"),
    [
        pytest.param(
            {"leads": {"status": []}}, Reading(ignored=(Ignored("leads.status", "no deals in it"),)), id="[]"
        ),
        pytest.param({"robots": {"hum": {"0": {}}}}, Reading(ignored=ignored("robots.hum")), id="unknown entity"),
        pytest.param(
            {"leads": {"status": None}, "talk": {"add": [{}, {}]}},
            Reading((), ignored("talk.add", count=2), ("leads.status is not a deal: null",)),
            id="null beside another entity",
        ),
    ],
)
def test_what_is_not_for_us_is_named(body: dict[str, Any], reading: Reading) -> None:
    assert read(json.dumps(body), JSON) == reading


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("", "The body is empty.", id="empty"),
        pytest.param("hello", NOTHING_IN_IT, id="a word"),
        pytest.param("leads=1", NOTHING_IN_IT, id="no entity"),
        pytest.param("leads[status]=1", NOTHING_IN_IT, id="no entries"),
        pytest.param("{}", NOTHING_IN_IT, id="an empty object"),
        pytest.param('{"leads": null}', NOTHING_IN_IT, id="null"),
        pytest.param('{"leads": [1, 2]}', NOTHING_IN_IT, id="a list for an entity"),
        pytest.param('{"leads": true}', NOTHING_IN_IT, id="a boolean"),
        pytest.param("account[subdomain]=x&account[_links][self]=y", NOTHING_IN_IT, id="only the account"),
        pytest.param("[1]", "The body must be a JSON object and is a list.", id="a list"),
        pytest.param(b"\xff", "The body is not UTF-8 (see its byte 0): send it as UTF-8.", id="not UTF-8"),
        pytest.param(
            '{"leads": {"status": [' + "1," * 10_000 + "1]}}",
            "leads.status has more than 10000 entries.",
            id="10,001 deals",
        ),
        pytest.param(
            json.dumps({"leads": {"status": [1] * 6000, "add": [1] * 6000}}),
            "The body has more than 10000 entries.",
            id="12,000 deals in two lists",
        ),
        pytest.param(
            json.dumps({f"k{number}": {"": []} for number in range(10_001)}),
            "The body has more than 10000 entries.",
            id="10,001 kinds of entries",
        ),
    ],
)
def test_a_body_that_kommo_does_not_send_is_refused(body: bytes | str, message: str) -> None:
    with pytest.raises(BodyError) as caught:
        read(body)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param({"{{entity}}": {"{{": []}}, "….…", id="tags that nobody filled in"),
        pytest.param({"a\0b ": {"": []}}, "ab.…", id="no name"),
        pytest.param({"e" * 5000: {"a" * 5000: []}}, f"{'e' * 40}.{'a' * 40}", id="long names"),
    ],
)
def test_what_is_ignored_has_a_short_name_whatever_its_keys(body: dict[str, Any], kind: str) -> None:
    (found,) = read(json.dumps(body), JSON).ignored
    assert found.kind == kind


def test_a_long_key_around_many_is_not_copied_for_each() -> None:
    """Once it cost the square of the body."""
    body = json.dumps({"e" * 500_000: {str(number): [] for number in range(9_000)}})
    begun = time.process_time()
    assert len(read(body, JSON).ignored) == 9_000
    assert time.process_time() - begun < 2


def test_a_fault_is_one_line_whatever_the_key_of_its_deal() -> None:
    assert read('{"leads": {"add": {"a\\nb": {}}}}', JSON).faults == ("leads.add[…].id is missing",)


def test_thousands_of_deals_are_read_in_under_a_second() -> None:
    deals = "&".join(
        f"leads%5Bstatus%5D%5B{n}%5D%5Bid%5D={n + 1}&leads%5Bstatus%5D%5B{n}%5D%5Bstatus_id%5D=142"
        for n in range(9_900)
    )
    begun = time.perf_counter()
    reading = read(deals)
    assert len(reading.events) == 9_900
    assert time.perf_counter() - begun < 10
