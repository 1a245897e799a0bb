"""The fault report, short: real processes on both databases; and the auditor, who must not be blind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.clients.encharge import EnchargeClient, Person
from app.clients.kommo import KommoClient, NewNote, NewTask
from app.clients.ortto import Activity, OrttoClient
from bench.chaos import load, report
from bench.chaos.audit import Findings, audit
from bench.chaos.load import Deal, Fact, Hook, Ledger
from bench.chaos.run import Options, run
from sandbox.town import Town


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_was_acknowledged_has_its_effect_once_and_in_order_through_kills_and_outages(database: str) -> None:
    options = Options(
        database=database,
        # Two deaths at commits that come often, an outage of the database, a death at random.
        seed=4796,
        seconds=8,
        acknowledged=60,
        kills=3,
        lease=2.4,
        read=1.0,
        troubles=("commit", "kill", "database"),
        rate_seconds=0,
        real_lease=False,
    )

    result = run(options, say=lambda line: None)

    assert result.faults() == [], "\n".join([*result.stories, report.table(result)])


# -- the auditor ---------------------------------------------------------------------------------------------------


class Vendors:
    """The vendors of a town, written to as the service would."""

    def __init__(self, town: Town) -> None:
        told = town.environment()
        self.encharge = EnchargeClient(
            told["ENCHARGE_API_URL"],
            told["ENCHARGE_INGEST_URL"],
            told["ENCHARGE_API_KEY"],
            told["ENCHARGE_WRITE_KEY"],
        )
        self.ortto = OrttoClient(told["ORTTO_API_URL"], told["ORTTO_API_KEY"])
        self.kommo = KommoClient(told["KOMMO_API_URL"], told["KOMMO_ACCESS_TOKEN"])

    def hear(self, deal: Deal, stage: int, *, key: str = "") -> None:
        """Let both platforms hear of a stage."""
        name, label = load.stage_name(stage), load.stage_label(stage)
        who = Person(deal.email, "", "", {})
        properties = {"lead_id": str(deal.id), "stage": name}
        self.encharge.track(who, event="moved", properties=properties, key=name)
        attributes = {"str:cm:lead-id": str(deal.id), "str:cm:stage": label}
        fields = {"str:cm:kommo-stage": label}
        activity = Activity(
            "act:cm:crm-stage-changed", deal.email, fields, attributes, key or f"{deal.id} {stage}", 1e9
        )
        assert self.ortto.create_activities([activity]) == [""]

    def note(self, deal: Deal, *campaigns: str) -> None:
        """Write notes on a deal."""
        self.kommo.add_notes(
            [NewNote(deal.id, f"Encharge: somebody clicked a link: '{word}'") for word in campaigns]
        )

    def task(self, deal: Deal, count: int) -> None:
        """Write tasks on a deal."""
        self.kommo.add_tasks([NewTask(deal.id, "Follow up", 2_000_000_000, 1, None)] * count)


@pytest.fixture
def deal(town: Town) -> Deal:
    """A deal that moved twice and whose contact clicked twice: all of it acknowledged."""
    load.add_stages(town)
    return load.add_deals(town, 1)[0]


@pytest.fixture
def ledger(deal: Deal, tmp_path: Path) -> Iterator[Ledger]:
    kept = Ledger(tmp_path / "ledger.jsonl")
    deal.stage = 2
    facts = [
        Fact(deal.id, "stage", stage=1),
        Fact(deal.id, "stage", stage=2),
        Fact(deal.id, "encharge click", campaign="One"),
        Fact(deal.id, "encharge click", campaign="Two"),
    ]
    for number, fact in enumerate(facts):
        kept.keep(Hook(number, "kommo", load.FORM, b"", (fact,)))
    yield kept
    kept.close()


def person(deal: Deal, stage: int) -> Person:
    """Return a deal's person, in a stage."""
    return Person(deal.email, "Person", "Number", {"kommo_current_stage": load.stage_name(stage)})


def counts(findings: Findings) -> dict[str, int]:
    """Return how much is wrong, by kind."""
    found = {
        "lost": len(findings.lost),
        "out of order": len(findings.out_of_order),
        "wrong": len(findings.wrong_state),
        **{kind: len(sentences) for kind, sentences in findings.duplicates.items()},
    }
    return {kind: count for kind, count in found.items() if count}


def test_the_audit_is_content_with_everything_once_and_in_order(town: Town, deal: Deal, ledger: Ledger) -> None:
    vendors = Vendors(town)
    vendors.encharge.upsert_people([person(deal, 2)])
    for stage in (1, 2):
        vendors.hear(deal, stage)
    vendors.note(deal, "One", "Two")
    vendors.task(deal, 1)

    assert counts(audit(town, ledger, [deal])) == {}


def test_the_audit_sees_that_nothing_came(town: Town, deal: Deal, ledger: Ledger) -> None:
    # Two events, two activities, two notes, a task; and the person's stage at both platforms.
    assert counts(audit(town, ledger, [deal])) == {"lost": 7, "wrong": 2}


def test_the_audit_sees_what_came_twice(town: Town, deal: Deal, ledger: Ledger) -> None:
    vendors = Vendors(town)
    vendors.encharge.upsert_people([person(deal, 2)])
    for stage in (1, 2):
        vendors.hear(deal, stage)
    vendors.hear(deal, 2, key="another key")
    vendors.note(deal, "One", "Two", "Two")
    vendors.task(deal, 2)

    found = counts(audit(town, ledger, [deal]))

    assert found == {"Encharge events": 1, "Ortto activities": 1, "notes": 1, "tasks": 1}


def test_the_audit_sees_what_came_out_of_order_and_a_stage_written_back(
    town: Town, deal: Deal, ledger: Ledger
) -> None:
    vendors = Vendors(town)
    vendors.encharge.upsert_people([person(deal, 1)])
    for stage in (2, 1):
        vendors.hear(deal, stage)
    vendors.note(deal, "Two", "One")
    vendors.task(deal, 1)

    assert counts(audit(town, ledger, [deal])) == {"out of order": 3, "wrong": 2}
