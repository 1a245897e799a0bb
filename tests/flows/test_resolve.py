"""Which deal, which person, which company: what is found in Kommo for each event, and what is owed for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
import pytest
from databases import journal_at
from parts import Clock, Desk, email_event, kommo_client, rules_of, stage_event
from scripts import Script
from support import NEGOTIATION, PIPELINE, PROPOSAL_SENT, QUALIFIED, add_deals

from app.clients.errors import ApiError, Fault
from app.events import HELD, LOST, WON, Action, Event, Lane, Outcome, Owed, Response, StageNews, State
from app.flows import Result
from app.flows.resolve import ResolveFlow
from sandbox.town import Town
from sandbox.vendor import Fault as VendorFault
from sandbox.vendor import Faults

MAPPING = f"""
version: 1
stages:
  - {{stage: qualified, pipeline: {PIPELINE}, status: {QUALIFIED}, label: Qualification}}
  - {{stage: proposal_sent, pipeline: {PIPELINE}, status: {PROPOSAL_SENT}}}
rules:
  - when: {{event: email_clicked}}
    do: [note]
actions:
  note: {{note: {{text: "{{email}} clicked"}}}}
"""
WITH_COMPANY = (
    MAPPING
    + """
fields:
  - {from: contact.POSITION, encharge: jobTitle}
  - {from: company.name, encharge: companyName}
  - {from: company.COMPANY_SIZE, encharge: companySize}
"""
)
NO_DEAL = "no active deal: neither the deal it names nor a contact with this email has one"
UNKNOWN = 49_999_999
EMAIL = "ann@maker.example"
EARLY, LATE = 1_770_000_000, 1_780_000_000


@dataclass
class Bench:
    """The flow at a desk."""

    town: Town
    desk: Desk
    flow: ResolveFlow

    def carry(self, *events: Event) -> list[Result]:
        """Write events down and resolve them; return how, in the order of the events."""
        ids = self.desk.record(*events)
        results = self.desk.carry(self.flow, Lane.RESOLVE)
        return [results[event_id] for event_id in ids]

    def again(self) -> list[Result]:
        """Resolve what is still owed."""
        results = self.desk.carry(self.flow, Lane.RESOLVE)
        return [results[event_id] for event_id in sorted(results)]


@pytest.fixture
def make(town: Town, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a bench for a mapping; its journal is closed in the end."""
    town.kommo.switch(rate=0)
    made: list[Bench] = []

    def make(text: str = MAPPING) -> Bench:
        clock = Clock()
        rules = rules_of(tmp_path / "mapping.yaml", text)
        flow = ResolveFlow(kommo_client(town), rules, (Lane.ENCHARGE, Lane.ORTTO), clock=clock)
        made.append(Bench(town, Desk(journal_at(f"sqlite:///{tmp_path / 'journal.db'}"), clock), flow))
        return made[-1]

    yield make
    for bench in made:
        bench.desk.journal.close()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def note_for(result: Result) -> tuple[int, int | None, str]:
    """Return the deal, the contact and the words of the note that is owed."""
    assert isinstance(result, Outcome), result
    (owed,) = result.owed
    assert isinstance(owed.plan, Response)
    (action,) = owed.plan.actions
    assert owed == Owed(Lane.KOMMO, f"lead:{owed.plan.lead_id}", owed.plan)
    assert action == Action("note", "note", text=action.text)
    return owed.plan.lead_id, owed.plan.contact_id, action.text


# -- B2: which deal an email activity is about --------------------------------------------------------------------


@dataclass
class Maker:
    """Adds contacts and deals to the town's Kommo; deals are touched when they are told to be."""

    town: Town

    def contact(self, *emails: str, name: str = "Ann Maker") -> int:
        return self.town.kommo.add_contact(name, list(emails))

    def deal(self, *contacts: int, status: int = QUALIFIED, at: int = EARLY) -> int:
        deal: int = self.town.kommo.add_deal("Deal", status, contact_ids=list(contacts))
        self.town.kommo.account.leads[deal].updated_at = at
        return deal

    def deleted(self, *contacts: int, at: int = EARLY) -> int:
        deal = self.deal(*contacts, at=at)
        self.town.kommo.delete_deal(deal)
        return deal


Scene = Callable[[Maker], tuple[int | None, str | None, tuple[int, int | None] | None]]
"""Make a scene; return the deal that the webhook names, its email, and which deal and contact are meant."""


def names_an_active_deal(make: Maker) -> Any:
    ann = make.contact(EMAIL)
    named, _newer = make.deal(ann), make.deal(ann, at=LATE)
    return named, EMAIL, (named, ann)


def names_a_deal_of_several_people(make: Maker) -> Any:
    boss, ann = make.contact("boss@maker.example"), make.contact(EMAIL)
    named = make.deal(boss, ann)
    return named, EMAIL, (named, ann)


def names_a_deal_of_other_people(make: Maker) -> Any:
    boss, other = make.contact("boss@maker.example"), make.contact("other@maker.example")
    named = make.deal(boss, other)
    return named, EMAIL, (named, boss)


def names_a_deal_without_people(make: Maker) -> Any:
    named = make.deal()
    return named, EMAIL, (named, None)


def names_a_deal_and_no_email(make: Maker) -> Any:
    boss = make.contact("boss@maker.example")
    named = make.deal(boss)
    return named, None, (named, boss)


def names_a_closed_deal(status: int) -> Scene:
    def scene(make: Maker) -> Any:
        ann = make.contact(EMAIL)
        named, active = make.deal(ann, status=status, at=LATE), make.deal(ann)
        return named, EMAIL, (active, ann)

    return scene


def names_a_deleted_deal(make: Maker) -> Any:
    ann = make.contact(EMAIL)
    named, active = make.deleted(ann, at=LATE), make.deal(ann)
    return named, EMAIL, (active, ann)


def names_an_unknown_deal(make: Maker) -> Any:
    ann = make.contact(EMAIL)
    return UNKNOWN, EMAIL, (make.deal(ann), ann)


def names_a_closed_deal_and_no_email(make: Maker) -> Any:
    ann = make.contact(EMAIL)
    named, active = make.deal(ann, status=WON), make.deal(ann)
    return named, None, (active, ann)


def names_an_unknown_deal_of_an_unknown_person(make: Maker) -> Any:
    return UNKNOWN, EMAIL, None


def the_latest_of_several_deals(make: Maker) -> Any:
    ann = make.contact(EMAIL)
    _older, newer, _old = make.deal(ann, at=EARLY + 1), make.deal(ann, at=LATE), make.deal(ann)
    return None, EMAIL, (newer, ann)


def closed_and_deleted_deals_do_not_count(make: Maker) -> Any:
    ann = make.contact(EMAIL)
    active = make.deal(ann)
    make.deal(ann, status=WON, at=LATE)
    make.deal(ann, status=LOST, at=LATE)
    make.deleted(ann, at=LATE)
    return None, EMAIL, (active, ann)


def only_closed_deals(make: Maker) -> Any:
    ann = make.contact(EMAIL)
    make.deal(ann, status=WON)
    make.deal(ann, status=LOST)
    return None, EMAIL, None


def no_deals(make: Maker) -> Any:
    make.contact(EMAIL)
    return None, EMAIL, None


def several_contacts_with_one_email(make: Maker) -> Any:
    first, second, _third = make.contact(EMAIL), make.contact(EMAIL), make.contact(EMAIL)
    make.deal(first)
    return None, EMAIL, (make.deal(second, at=LATE), second)


def not_the_main_contact_of_the_deal(make: Maker) -> Any:
    boss, ann = make.contact("boss@maker.example"), make.contact(EMAIL)
    return None, EMAIL, (make.deal(boss, ann), ann)


def the_email_is_the_contacts_second(make: Maker) -> Any:
    ann = make.contact("private@maker.example", EMAIL)
    return None, EMAIL, (make.deal(ann), ann)


def kommo_has_it_in_capitals(make: Maker) -> Any:
    ann = make.contact(" Ann@Maker.EXAMPLE ")
    return None, EMAIL, (make.deal(ann), ann)


def the_search_finds_others_too(make: Maker) -> Any:
    """Kommo's search looks into every field and for parts of words."""
    for near in (f"jo{EMAIL}", f"{EMAIL}.uk"):
        make.deal(make.contact(near), at=LATE)
    make.deal(make.contact("other@maker.example", name=f"Formerly {EMAIL}"), at=LATE)
    ann = make.contact(EMAIL)
    return None, EMAIL, (make.deal(ann), ann)


def the_search_finds_only_others(make: Maker) -> Any:
    make.deal(make.contact(f"jo{EMAIL}"))
    make.deal(make.contact("other@maker.example", name=f"Formerly {EMAIL}"))
    return None, EMAIL, None


def an_address_with_a_plus(make: Maker) -> Any:
    ann = make.contact("ann+offer@maker.example")
    make.deal(make.contact(EMAIL), at=LATE)
    return None, "ann+offer@maker.example", (make.deal(ann), ann)


SCENES: list[Scene] = [
    names_an_active_deal,
    names_a_deal_of_several_people,
    names_a_deal_of_other_people,
    names_a_deal_without_people,
    names_a_deal_and_no_email,
    names_a_deleted_deal,
    names_an_unknown_deal,
    names_a_closed_deal_and_no_email,
    names_an_unknown_deal_of_an_unknown_person,
    the_latest_of_several_deals,
    closed_and_deleted_deals_do_not_count,
    only_closed_deals,
    no_deals,
    several_contacts_with_one_email,
    not_the_main_contact_of_the_deal,
    the_email_is_the_contacts_second,
    kommo_has_it_in_capitals,
    the_search_finds_others_too,
    the_search_finds_only_others,
    an_address_with_a_plus,
]


@pytest.mark.parametrize(
    "scene",
    [
        *(pytest.param(scene, id=scene.__name__.replace("_", " ")) for scene in SCENES),
        pytest.param(names_a_closed_deal(WON), id="names a won deal"),
        pytest.param(names_a_closed_deal(LOST), id="names a lost deal"),
    ],
)
def test_an_email_activity_finds_its_deal_and_person(scene: Scene, bench: Bench) -> None:
    named, email, meant = scene(Maker(bench.town))

    (result,) = bench.carry(email_event(lead_id=named, email=email))

    if meant is None:
        assert isinstance(result, Outcome)
        assert (result.state, result.reason, result.owed) == (State.SKIPPED, NO_DEAL, ())
    else:
        assert note_for(result)[:2] == meant


def test_in_one_batch_each_activity_finds_its_own(bench: Bench) -> None:
    make = Maker(bench.town)
    ann, bob = make.contact(EMAIL), make.contact("bob@maker.example")
    anns, bobs, named = make.deal(ann), make.deal(bob), make.deal(ann, bob)

    results = bench.carry(
        email_event(0, email=EMAIL),
        email_event(1, lead_id=named, email="bob@maker.example"),
        email_event(2, email="nobody@maker.example"),
        email_event(3, email="bob@maker.example"),
        email_event(4, lead_id=bobs),
    )

    found = [note_for(result)[:2] for number, result in enumerate(results) if number != 2]
    latest = max(anns, named)  # touched at the same second: whichever, but always the same one
    assert found[0][0] in (anns, latest)
    assert found[1:] == [(named, bob), found[2], (bobs, bob)]
    assert isinstance(results[2], Outcome)
    assert results[2].reason == NO_DEAL


# -- a stage change -----------------------------------------------------------------------------------------------


def news_for(result: Result) -> dict[Lane, StageNews]:
    """Return the news that is owed, by lane."""
    assert isinstance(result, Outcome), result
    plans = {owed.lane: owed.plan for owed in result.owed}
    assert all(isinstance(plan, StageNews) for plan in plans.values())
    return plans  # type: ignore[return-value]


def test_both_destinations_hear_of_the_main_contact(bench: Bench) -> None:
    kommo = bench.town.kommo
    main = kommo.add_contact("Ann Maker", [" Ann@Maker.example ", "second@maker.example"])
    other = kommo.add_contact("Bob Maker", ["bob@maker.example"])
    deal = kommo.add_deal("Deal", NEGOTIATION, price=1_500, contact_ids=[main, other])

    (result,) = bench.carry(stage_event(deal, QUALIFIED))

    shared = {
        "lead_id": deal,
        "email": EMAIL,
        "first_name": "Ann",
        "last_name": "Maker",
        "status_id": QUALIFIED,
        "pipeline_id": PIPELINE,
        "deal_value": 1_500,
        "fields": {},
        "read_at": pytest.approx(bench.desk.clock(), abs=10),
    }
    encharge = {"stage": "qualified", "person_stage": "qualified", "event": "deal_moved_to_qualified"}
    ortto = {"stage": "Qualification", "person_stage": "Qualification", "event": "act:cm:crm-stage-changed"}
    assert {lane: vars(news) for lane, news in news_for(result).items()} == {
        Lane.ENCHARGE: shared | encharge,
        Lane.ORTTO: shared | ortto,
    }


def test_the_person_gets_the_deals_stage_and_the_event_its_own(bench: Bench) -> None:
    (deal,) = add_deals(bench.town, 1, PROPOSAL_SENT)

    (result,) = bench.carry(stage_event(deal, QUALIFIED))

    news = news_for(result)[Lane.ENCHARGE]
    assert (news.stage, news.person_stage, news.event) == ("qualified", "proposal_sent", "deal_moved_to_qualified")


@pytest.mark.parametrize(
    ("contacts", "reason"),
    [
        pytest.param([], "the deal has no contact", id="no contact"),
        pytest.param([[]], "contact {0} has no valid email", id="no email"),
        pytest.param([["not an address"]], "contact {0} has no valid email", id="not an address"),
        pytest.param([[], ["bob@maker.example"]], "contact {0} has no valid email", id="only the second has one"),
    ],
)
def test_a_deal_without_an_address_is_skipped_with_the_reason(
    contacts: list[list[str]], reason: str, bench: Bench
) -> None:
    made = [bench.town.kommo.add_contact(f"Person {number}", emails) for number, emails in enumerate(contacts)]
    deal = bench.town.kommo.add_deal("Deal", QUALIFIED, contact_ids=made)

    (result,) = bench.carry(stage_event(deal, QUALIFIED))

    assert isinstance(result, Outcome)
    assert (result.state, result.reason) == (State.SKIPPED, reason.format(*made))


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "unknown"])
def test_a_deal_that_is_gone_is_skipped(deleted: bool, bench: Bench) -> None:
    deal = Maker(bench.town).deleted() if deleted else UNKNOWN

    (result,) = bench.carry(stage_event(deal, QUALIFIED))

    assert isinstance(result, Outcome)
    assert (result.state, result.reason) == (State.SKIPPED, f"deal {deal} is gone")


@pytest.mark.parametrize(
    ("of_deal", "of_contact", "fields"),
    [
        pytest.param(True, True, {"companyName": "Deal's", "companySize": 10}, id="the deal's company"),
        pytest.param(True, False, {"companyName": "Deal's", "companySize": 10}, id="only the deal has one"),
        pytest.param(False, True, {"companyName": "Contact's", "companySize": 20}, id="only the contact has one"),
        pytest.param(False, False, {}, id="none"),
    ],
)
def test_company_fields_come_from_the_deals_company_else_from_the_contacts(
    of_deal: bool, of_contact: bool, fields: dict[str, Any], make: Callable[..., Bench]
) -> None:
    bench = make(WITH_COMPANY)
    kommo = bench.town.kommo
    deals = kommo.add_company("Deal's", fields={"COMPANY_SIZE": 10}) if of_deal else None
    contacts = kommo.add_company("Contact's", fields={"COMPANY_SIZE": 20}) if of_contact else None
    ann = kommo.add_contact("Ann Maker", [EMAIL], company_id=contacts, fields={"POSITION": "Owner"})
    deal = kommo.add_deal("Deal", QUALIFIED, contact_ids=[ann], company_id=deals)

    (result,) = bench.carry(stage_event(deal, QUALIFIED))

    found = {key: _number(value) for key, value in news_for(result)[Lane.ENCHARGE].fields.items()}
    assert found == {"jobTitle": "Owner", **fields}


def _number(value: Any) -> Any:
    """Kommo gives numbers as texts."""
    return int(value) if str(value).isdigit() else value


# -- batches and failures -----------------------------------------------------------------------------------------


def test_a_batch_costs_two_calls_and_only_the_companies_that_are_mapped_a_third(make: Callable[..., Bench]) -> None:
    bench = make(WITH_COMPANY)
    deals = list(add_deals(bench.town, 60))
    company = bench.town.kommo.add_company("Company")
    ann = bench.town.kommo.add_contact("Ann", [EMAIL], company_id=company)
    deals.append(bench.town.kommo.add_deal("Deal", QUALIFIED, contact_ids=[ann]))

    results = bench.carry(*(stage_event(deal, QUALIFIED) for deal in deals))

    assert len([news_for(result) for result in results]) == 61
    assert [call.path for call in bench.town.kommo.calls] == [
        "/api/v4/leads",
        "/api/v4/contacts",
        f"/api/v4/companies/{company}",
    ]


def test_one_search_serves_all_activities_of_an_address(bench: Bench) -> None:
    deals = add_deals(bench.town, 1)
    ((deal, email),) = deals.items()

    results = bench.carry(*(email_event(number, email=email) for number in range(20)))

    assert {note_for(result)[0] for result in results} == {deal}
    assert [call.path for call in bench.town.kommo.calls] == ["/api/v4/contacts", f"/api/v4/leads/{deal}"]


@pytest.mark.parametrize("path", ["/api/v4/leads", "/api/v4/contacts"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"drop": True}], ids=["500", "429", "dropped"])
def test_what_could_not_be_read_is_read_again(path: str, fault: dict[str, Any], bench: Bench) -> None:
    deals = add_deals(bench.town, 3)
    bench.town.kommo.faults.add(path=path, times=1, **fault)

    failed = bench.carry(*(stage_event(deal, QUALIFIED) for deal in deals))

    assert [isinstance(result, ApiError) and result.fault for result in failed] == [Fault.PASSING] * 3
    again = bench.again()
    assert [news_for(result)[Lane.ENCHARGE].lead_id for result in again] == list(deals)


def refuse(number: int) -> Callable[[str, str, Any], str | None]:
    """Return what refuses every read that names a deal."""
    return lambda method, path, body: "not this one" if str(number) in path else None


def test_one_deal_that_kommo_does_not_read_stops_no_other(bench: Bench, monkeypatch: Any) -> None:
    deals = list(add_deals(bench.town, 5))
    monkeypatch.setattr(bench.town.kommo, "faults", Script(bad=refuse(deals[2])))

    results = bench.carry(*(stage_event(deal, QUALIFIED) for deal in deals))

    refusal = results.pop(2)
    assert isinstance(refusal, ApiError)
    assert (refusal.fault, str(refusal)) == (
        Fault.REFUSED,
        f"Kommo: GET /leads/{deals[2]} answered 400: not this one",
    )
    assert [news_for(result)[Lane.ORTTO].lead_id for result in results] == [*deals[:2], *deals[3:]]


def test_no_event_overtakes_an_earlier_one_of_its_deal(bench: Bench, monkeypatch: Any) -> None:
    """A batch is halved for one bad deal, and the first half then fails: the second half could be resolved."""
    first, bad_deal, other = add_deals(bench.town, 3)
    monkeypatch.setattr(bench.town.kommo, "faults", Script(["500"], bad=refuse(bad_deal)))

    results = bench.carry(
        stage_event(first, QUALIFIED, 0),
        stage_event(first, PROPOSAL_SENT, 1),
        stage_event(bad_deal, QUALIFIED, 2),
        stage_event(first, QUALIFIED, 3),
        stage_event(other, QUALIFIED, 4),
    )

    assert isinstance(results[0], ApiError)
    assert (results[1], results[3]) == (HELD, HELD)
    again = [result for result in bench.again() if isinstance(result, Outcome)]
    firsts = [news_for(result)[Lane.ENCHARGE] for result in again]
    assert [news.stage for news in firsts if news.lead_id == first] == ["qualified", "proposal_sent", "qualified"]


class TooHeavy(Faults):
    """Answers 504 to whoever asks for more than so many entities at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def any(self) -> bool:
        return True

    def take(self, method: str, path: str) -> VendorFault | None:
        asked = flask.request.args.getlist("filter[id][]")
        return VendorFault(status=504) if len(asked) > self._most else None


def test_a_page_that_is_too_heavy_for_kommo_is_read_in_parts(
    make: Callable[..., Bench], town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    deals = list(add_deals(town, 60))
    monkeypatch.setattr(town.kommo, "faults", TooHeavy(20))

    results = make().carry(*(stage_event(deal, QUALIFIED) for deal in deals))

    assert [result.state for result in results if isinstance(result, Outcome)] == [State.DONE] * 60
    assert town.kommo.count("GET", "/api/v4/leads", 504) == 3
