"""Consent is a state: whatever comes in which order, Kommo shows how it stands, and the strictest platform wins."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from databases import journal_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import FIELDS, WEBHOOK, Clock, Desk, email_event, kommo_client
from support import ROOT, add_deals

from app import mapping
from app.clients.kommo import Change
from app.events import DONE, Event, Kind, Lane, Outcome, Source, State
from app.flows.email_activity import EmailActivityFlow
from app.flows.resolve import ResolveFlow
from app.journal import Journal
from sandbox.town import Town

TAG, STATUS_FIELD = "Email Unsubscribed", 800_111
EMAIL = "zoe@consent.example"
AT = 1_770_000_000.0


def said(source: Source, kind: Kind, at: float, *, email: str = EMAIL, lead_id: int | None = None) -> Event:
    """Return the event of a person who (un)subscribed at a platform at a time."""
    event = email_event(int(at), email=email, lead_id=lead_id, kind=kind, source=source)
    return replace(event, occurred_at=at)


OUT, IN = Kind.UNSUBSCRIBED, Kind.RESUBSCRIBED
ENCHARGE, ORTTO = Source.ENCHARGE, Source.ORTTO


def stands(events: Sequence[Event]) -> tuple[Source, ...]:
    """Return where a person is unsubscribed after all this, by plain reasoning: the latest at each platform."""
    latest: dict[Source, tuple[float, bool]] = {}
    for event in events:
        word = (event.occurred_at or 0.0, event.kind == OUT)
        latest[event.source] = max(latest.get(event.source, word), word)
    return tuple(source for source in sorted(latest) if latest[source][1])


# -- the state in the journal --------------------------------------------------------------------------------------


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    made = Journal(database_url)
    yield made
    made.close()


happened = st.builds(
    said, st.sampled_from([ENCHARGE, ORTTO]), st.sampled_from([OUT, IN]), st.integers(0, 4).map(lambda n: AT + n)
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(happened, min_size=1, max_size=6).flatmap(lambda all_: st.permutations(all_)))
def test_any_order_of_the_same_events_leaves_the_same_state(journal: Journal, events: list[Event]) -> None:
    number = uuid.uuid4()
    email = f"{number}@consent.example"
    mine = [
        replace(event, data=replace(event.data, email=email), dedupe_key=f"{number}-{index}")  # type: ignore[arg-type]
        for index, event in enumerate(events)
    ]

    Desk(journal).record(*mine)

    assert journal.unsubscribed([email]).get(email, ()) == stands(events)


def test_what_has_no_time_of_its_own_counts_when_it_comes_even_if_the_clock_was_set_back(journal: Journal) -> None:
    for number, (kind, now) in enumerate([(OUT, AT + 3600), (IN, AT)]):
        event = replace(said(ORTTO, kind, AT), occurred_at=None, dedupe_key=f"untimed {number}")
        journal.record(WEBHOOK, [(event, None)], now=now)

    assert journal.unsubscribed([EMAIL]) == {}


def test_while_our_clock_is_behind_what_a_platform_says_last_counts(journal: Journal) -> None:
    for kind, at, now in ((OUT, AT, AT + 1), (IN, AT + 60, AT - 3540)):  # ours was set back by an hour in between
        journal.record(WEBHOOK, [(said(ORTTO, kind, at), None)], now=now)

    assert journal.unsubscribed([EMAIL]) == {}


def test_nobody_is_unsubscribed_of_whom_nothing_is_known(journal: Journal) -> None:
    assert journal.unsubscribed([EMAIL]) == {}
    assert journal.unsubscribed([]) == {}


# -- what Kommo shows ----------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Both flows at a desk, with the shipped rules."""

    town: Town
    desk: Desk
    resolve: ResolveFlow
    write: EmailActivityFlow

    def carry(self, *events: Event, batch: int = 250) -> list[Outcome | None]:
        """Write events down and carry them; return how the jobs of the kommo lane ended, None if there is none."""
        ids = self.desk.record(*events)
        self.desk.carry(self.resolve, Lane.RESOLVE)
        ended: dict[int, Outcome] = {}
        while results := self.desk.carry(self.write, Lane.KOMMO, batch):
            ended |= {key: result for key, result in results.items() if isinstance(result, Outcome)}
        return [ended.get(event_id) for event_id in ids]

    def shown(self) -> dict[str, object]:
        """Return what Kommo shows of the people with the address: contacts with the tag, deals and their status."""
        state = self.town.kommo.state()
        return {
            "tagged": sorted(
                contact["name"]
                for contact in state["contacts"].values()
                if TAG in [tag["name"] for tag in contact["_embedded"]["tags"]]
            ),
            "status": {
                lead["name"]: item["values"][0]["value"]
                for lead in state["leads"].values()
                for item in lead["custom_fields_values"] or []
                if item["field_id"] == STATUS_FIELD
            },
        }


@pytest.fixture
def bench(town: Town, tmp_path: Path) -> Iterator[Bench]:
    town.kommo.switch(rate=0)
    journal = journal_at(f"sqlite:///{tmp_path / 'journal.db'}")
    rules = mapping.load(ROOT / "config" / "mapping.yaml", FIELDS)
    kommo, clock = kommo_client(town), Clock()
    yield Bench(
        town, Desk(journal, clock), ResolveFlow(kommo, rules, [], clock=clock), EmailActivityFlow(kommo, clock)
    )
    journal.close()


@pytest.fixture
def people(town: Town) -> dict[str, int]:
    """Two contacts with the address, one of them with two active deals and a won one; ids of the deals by name."""
    zoe = town.kommo.add_contact("Zoë", [EMAIL])
    kommo_client(town).update_contacts([Change(zoe, add_tags=("vip",))])
    twin = town.kommo.add_contact("Zoë again", ["other@consent.example", EMAIL.upper()])
    deals = {"first": zoe, "second": zoe, "twin's": twin}
    made = {name: town.kommo.add_deal(name, 61_000_102, contact_ids=[who]) for name, who in deals.items()}
    return made | {"won": town.kommo.add_deal("won", 142, contact_ids=[zoe])}


NOTHING: dict[str, object] = {"tagged": [], "status": {}}
ALL_OUT = {
    "tagged": ["Zoë", "Zoë again"],
    "status": {"first": "Unsubscribed", "second": "Unsubscribed", "twin's": "Unsubscribed"},
}
ALL_IN = {
    "tagged": [],
    "status": {"first": "Subscribed", "second": "Subscribed", "twin's": "Subscribed"},
}


def test_an_unsubscribe_shows_on_everybody_with_the_address(bench: Bench, people: dict[str, int]) -> None:
    assert bench.carry(said(ORTTO, OUT, AT, lead_id=people["first"])) == [DONE]

    assert bench.shown() == ALL_OUT
    (zoe,) = [item for item in bench.town.kommo.state()["contacts"].values() if item["name"] == "Zoë"]
    assert sorted(tag["name"] for tag in zoe["_embedded"]["tags"]) == sorted([TAG, "vip"])


def test_a_resubscription_undoes_it_on_every_deal_that_showed_it(bench: Bench, people: dict[str, int]) -> None:
    bench.carry(said(ORTTO, OUT, AT, lead_id=people["first"]))

    assert bench.carry(said(ORTTO, IN, AT + 60, lead_id=people["second"])) == [DONE]

    assert bench.shown() == ALL_IN


def test_a_resubscription_at_one_platform_does_not_undo_an_unsubscribe_at_the_other(
    bench: Bench, people: dict[str, int]
) -> None:
    bench.carry(said(ENCHARGE, OUT, AT), said(ORTTO, OUT, AT + 1))

    assert bench.carry(said(ORTTO, IN, AT + 60)) == [
        Outcome(State.SKIPPED, "still unsubscribed at Encharge"),
    ]
    assert bench.shown() == ALL_OUT

    assert bench.carry(said(ENCHARGE, IN, AT + 90)) == [DONE]
    assert bench.shown() == ALL_IN


def test_an_unsubscribe_that_comes_late_does_not_undo_what_was_said_since(
    bench: Bench, people: dict[str, int]
) -> None:
    bench.carry(said(ORTTO, IN, AT + 60))

    assert bench.carry(said(ORTTO, OUT, AT)) == [Outcome(State.SKIPPED, "subscribed again since")]

    assert bench.shown() == ALL_IN


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_in_which_order_kommo_shows_how_it_stands(
    seed: int, bench: Bench, people: dict[str, int]
) -> None:
    chance = random.Random(seed)
    deals = [None, people["first"], people["twin's"]]
    events = [
        said(chance.choice([ENCHARGE, ORTTO]), chance.choice([OUT, IN]), AT + n, lead_id=chance.choice(deals))
        for n in range(6)
    ]
    came = chance.sample(events, len(events))
    cut = chance.randrange(len(came))

    bench.carry(*came[:cut], batch=chance.choice([1, 3, 250]))
    bench.carry(*came[cut:], batch=chance.choice([1, 3, 250]))

    assert bench.shown() == (ALL_OUT if stands(events) else ALL_IN)


def test_two_of_one_person_in_one_batch_are_written_one_after_the_other(
    bench: Bench, people: dict[str, int]
) -> None:
    """They name different deals, so that their jobs have different keys."""
    ended = bench.carry(
        said(ORTTO, OUT, AT, lead_id=people["first"]), said(ENCHARGE, OUT, AT + 1, lead_id=people["second"])
    )

    assert ended == [DONE, DONE]
    assert bench.shown() == ALL_OUT


def test_while_another_process_writes_a_persons_consent_the_job_waits(
    bench: Bench, people: dict[str, int], tmp_path: Path
) -> None:
    other = Journal(f"sqlite:///{tmp_path / 'journal.db'}")
    ids = bench.desk.record(said(ORTTO, OUT, AT))
    bench.desk.carry(bench.resolve, Lane.RESOLVE)
    (job,) = bench.desk.claim(Lane.KOMMO)
    bench.desk.journal.release([job])
    assert other.claim_cooldown(f"consent:{EMAIL}", replace(job, id=job.id + 1), 60, now=bench.desk.clock())

    results = bench.desk.carry(bench.write, Lane.KOMMO)

    assert str(results[ids[0]]) == "another process is writing this person's consent"
    assert bench.shown() == NOTHING
    other.close()


def test_an_address_that_kommo_does_not_know_shows_on_the_deal_that_was_named(bench: Bench, town: Town) -> None:
    (deal,) = add_deals(town, 1)

    assert bench.carry(said(ORTTO, OUT, AT, lead_id=deal, email="elsewhere@consent.example")) == [DONE]

    shown = bench.shown()
    assert list(shown["status"].values()) == ["Unsubscribed"]  # type: ignore[attr-defined]
