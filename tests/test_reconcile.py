"""Kommo's log of events and its webhooks, merged: every move of a deal once, whichever tells of it, and in whatever order."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from databases import run_sql
from flask.testing import FlaskCliRunner
from parts import FIELDS, kommo_client
from support import (
    FORM,
    NEGOTIATION,
    PIPELINE,
    PROPOSAL_SENT,
    QUALIFIED,
    ROOT,
    SECRET,
    Service,
    add_deals,
    arrived,
    environment,
    eventually,
    stage_hook,
)

from app import EXTENSION, create_app, mapping, settings
from app.clients.errors import ApiError
from app.events import Source, State, Webhook
from app.flows import Ledger
from app.flows.stage_changes import superseded
from app.guardian import Guardian
from app.journal import Journal
from app.reconcile import OVERLAP_SECONDS, TURN, InterruptedLookError, Reconciler, Report
from app.rounds import Rounds
from app.webhooks import kommo as hooks
from sandbox.kommo.hooks import Parcel
from sandbox.town import Town

NEW, WHOLESALE = 61_000_101, 7_100_020
NAMES = {NEW: "new", QUALIFIED: "A", PROPOSAL_SENT: "B", NEGOTIATION: "C"}
A, B, C = QUALIFIED, PROPOSAL_SENT, NEGOTIATION
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


@dataclass
class World:
    """A journal, a Kommo whose webhooks wait in a pile, and a clock for both."""

    town: Town
    journal: Journal
    now: float
    pile: dict[str, list[Parcel]] = field(default_factory=lambda: {"settings": [], "dp": []})
    rules: Any = field(default_factory=lambda: mapping.load(ROOT / "config" / "mapping.yaml", FIELDS))

    def reconciler(self, journal: Journal | None = None) -> Reconciler:
        return Reconciler(journal or self.journal, kommo_client(self.town), self.rules, lambda: self.now)

    def deal(self, status: int = NEW) -> int:
        return self.town.kommo.add_deal("Deal", status)

    def move(self, deal: int, status: int, after: float = 0.0) -> None:
        self.now += after
        self.town.kommo.move(deal, status)

    def deliver(self, parcel: Parcel) -> list[bool]:
        """Have a webhook come in; return for each event in it whether it was known."""
        reading = hooks.read(Webhook(Source.KOMMO, FORM, parcel.body), now=self.now)
        found = [(event, self.rules.refusal(event)) for event in reading.events]
        webhook = Webhook(Source.KOMMO, FORM, parcel.body)
        return [item.duplicate for item in self.journal.record(webhook, found, now=self.now)]

    def hook(self, number: int, kind: str = "settings", after: float = 0.0) -> None:
        """Have the webhook of the move of that number come in."""
        self.now += after
        self.deliver(self.pile[kind][number])

    def stages(self, deal: int) -> str:
        """Return the stages that the journal has of a deal, in its order."""
        rows = run_sql(self.url, "SELECT data FROM events WHERE order_key = :key ORDER BY id", key=f"lead:{deal}")
        return " ".join(NAMES[int(row[0].split('"status_id":')[1].split(",")[0])] for row in rows)

    @property
    def url(self) -> str:
        engine = self.journal._engine
        return engine.url.render_as_string(hide_password=False).replace("+psycopg", "")


@pytest.fixture
def world(town: Town, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    journal = Journal(database_url)
    made = World(town, journal, time.time())
    town.kommo.switch(rate=0)
    monkeypatch.setattr(town.kommo, "clock", lambda: made.now)
    town.kommo.hook("https://relay.test/webhooks/kommo")
    town.kommo.hook("https://relay.test/dp", kind="dp")
    monkeypatch.setattr(
        town.kommo.hooks,
        "send",
        lambda parcel: made.pile["dp" if parcel.kind == "dp" else "settings"].append(parcel),
    )
    yield made
    journal.close()


# -- both tell of it ----------------------------------------------------------------------------------------------

Step = Callable[[World, int, Reconciler], Any]


def move(status: int, after: float = 0.0) -> Step:
    return lambda world, deal, reconciler: world.move(deal, status, after)


def hook(number: int, kind: str = "settings", after: float = 0.0) -> Step:
    return lambda world, deal, reconciler: world.hook(number, kind, after)


def look(after: float = 5.0) -> Step:
    def step(world: World, deal: int, reconciler: Reconciler) -> None:
        world.now += after
        reconciler.look()

    return step


def save(after: float) -> Step:
    """Have another field saved, so that the next webhook has a later time than its move."""

    def step(world: World, deal: int, reconciler: Reconciler) -> None:
        world.now += after
        parcel = world.pile["settings"][-1]
        lead = world.town.kommo.account.leads[deal]
        told, later = f"updated_at%5D={lead.updated_at}", f"updated_at%5D={int(world.now)}"
        assert told.encode() in parcel.body
        body = parcel.body.replace(told.encode(), later.encode())
        world.pile["settings"][-1] = Parcel(parcel.hook, parcel.kind, body)

    return step


again = partial(hook, after=35 * MINUTE)
CASES: dict[str, tuple[list[Step], str]] = {
    "no webhook": ([move(A), look()], "A"),
    "no webhook, and many looks": ([move(A), look(), look(), look(HOUR), look()], "A"),
    "the webhook first": ([move(A), hook(0), look(), look()], "A"),
    "the log first": ([move(A), look(), hook(0, after=2), look()], "A"),
    "the log first, the webhook an hour and a half later": ([move(A), look(), hook(0, after=95 * MINUTE)], "A"),
    "the log first, the webhook later and again": ([move(A), look(), hook(0, after=60), again(0), look()], "A"),
    "the webhook's time is later": ([move(A), save(3), hook(0), look()], "A"),
    "the log first, the webhook's time is later": ([move(A), look(1), save(3), hook(0), look()], "A"),
    "the same stage twice": (
        [move(A), hook(0), move(B, 20), hook(1), move(A, 20), hook(2), move(B, 20), hook(3), look()],
        "A B A B",
    ),
    "the same stage twice, no webhook": (
        [move(A), move(B, 20), move(A, 20), move(B, 20), look(), look()],
        "A B A B",
    ),
    "the same stage twice, a look in between": (
        [move(A), move(B, 20), look(), move(A, 20), move(B, 20), look(), *(hook(n) for n in range(4)), look()],
        "A B A B",
    ),
    "the same stage twice, the first webhook lost": (
        [move(A), move(B, 20), move(A, 20), hook(2), look(), look()],
        "A A B",  # what is told late stands later, but stands there once
    ),
    "the same stage twice, the first webhook late": (
        [move(A), move(B, 20), move(A, 20), hook(2), look(), hook(0, after=HOUR), hook(1), look()],
        "A A B",
    ),
    "the same stage three times, the webhooks in the wrong order": (
        [
            *(move(status, 140) for status in (A, B, A, B, A)),
            look(),
            *(hook(number, after=MINUTE) for number in (4, 2, 0, 3, 1)),
            look(),
        ],
        "A B A B A",
    ),
    "within one second": ([move(A), move(B), move(C), look()], "A B C"),
    "a pipeline webhook first": ([move(A), hook(0, "dp"), look(), look()], "A"),
    "a pipeline webhook later": ([move(A), look(), hook(0, "dp", 40 * MINUTE), look()], "A"),
    "a pipeline webhook sent again": (
        [move(A), hook(0, "dp"), look(), hook(0, "dp", 20 * MINUTE), look()],
        "A",
    ),
    "both webhooks": ([move(A), hook(0, "dp"), hook(0), look(), look()], "A"),
    "both webhooks after the log, the deal is further": (
        [move(A), move(B, 60), look(), hook(0, after=60), hook(0, "dp"), hook(1, "dp"), hook(1), look()],
        "A B",
    ),
    "pipeline webhooks, the same stage twice": (
        [move(A), hook(0, "dp"), move(B, 60), hook(1, "dp"), move(A, 60), hook(2, "dp"), look()],
        "A B A",
    ),
    "a pipeline webhook of a second time is taken for a late one, until the log tells": (
        [move(A), move(B, 60), look(), move(A, 60), hook(2, "dp"), look(5 * MINUTE)],
        "A B A",
    ),
    "a webhook long after": ([move(A), hook(0), look(), move(B, DAY), look(), hook(1), move(A, DAY), look()], "A B A"),
}


@pytest.mark.parametrize("name", CASES)
def test_every_move_is_recorded_once(world: World, name: str) -> None:
    steps, stages = CASES[name]
    deal, other = world.deal(), world.deal()
    for parcels in world.pile.values():
        parcels.clear()
    world.now += 1  # the log counts in seconds, and what was before the first look is no business of ours
    reconciler = world.reconciler()
    reconciler.begin()
    world.town.kommo.account.events.all[:] = []

    for step in steps:
        step(world, deal, reconciler)

    assert (world.stages(deal), world.stages(other)) == (stages, "")


@pytest.mark.parametrize("kind", ["settings", "dp"])
def test_moves_of_many_deals_and_whatever_becomes_of_their_webhooks(world: World, kind: str) -> None:
    """Forty deals move for two hours; webhooks come at once, late, again, never. Looks by two processes, at times."""
    chance = random.Random(f"{kind} 1")
    deals = [world.deal() for _ in range(40)]
    world.now += 1
    world.town.kommo.account.events.all[:] = []
    another = Journal(world.url)
    lookers = [world.reconciler(), world.reconciler(another)]
    lookers[0].begin()
    moved = Counter[tuple[int, int]]()
    coming: list[tuple[float, Parcel]] = []
    end = world.now + 2 * HOUR

    while world.now < end or coming:
        world.now += chance.expovariate(1 / 20)
        deal, status = chance.choice(deals), chance.choice([A, B, C])
        if world.now < end and world.town.kommo.account.leads[deal].status_id != status:
            world.pile[kind].clear()
            world.move(deal, status)
            moved[deal, status] += 1
            (parcel,) = world.pile[kind]
            fate = chance.choice(["at once", "at once", "late", "later", "never"])
            # A pipeline's webhook cannot be told from another one that comes long after, but by the log.
            late = {"at once": 0.5, "late": 300, "later": 5700 if kind == "settings" else 1800}.get(fate)
            if late:
                coming += [(world.now + late, parcel)]
                coming += [(world.now + late + 300, parcel)] if kind == "settings" and chance.random() < 0.2 else []
        if chance.random() < 0.07:
            chance.choice(lookers).look()
        due = [parcel for at, parcel in coming if at <= world.now]
        coming = [(at, parcel) for at, parcel in coming if at > world.now]
        for parcel in due:
            world.deliver(parcel)
    lookers[1].look()
    another.close()

    assert sum(moved.values()) > 100
    known = Counter({(deal, status): 0 for deal, status in moved})
    for deal in deals:
        for name in world.stages(deal).split():
            known[deal, next(status for status in NAMES if NAMES[status] == name)] += 1
    assert known == moved
