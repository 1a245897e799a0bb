"""Kommo's log of events and its webhooks, merged: every move of a deal once, whoever tells of it, in any order."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
    at_once,
    environment,
    eventually,
    rows,
    stage_hook,
)

from app import EXTENSION, create_app, mapping, settings
from app.clients.errors import ApiError
from app.events import Lane, Source, State, Webhook
from app.flows import Ledger
from app.flows.stage_changes import superseded
from app.guardian import Guardian
from app.journal import Journal
from app.reconcile import RECORDED_AT_ONCE, REST_SECONDS, TURN, InterruptedLookError, Reconciler, Report
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
    "the same stage again within minutes, without a webhook": (
        [move(A), hook(0), look(), move(B, 30), move(A, 30), look()],
        "A B A",
    ),
    "the same stage again within minutes, the log had been first": (
        [move(A), look(), hook(0), move(B, 30), hook(1), move(A, 30), hook(2)],
        "A B A",
    ),
    "a pipeline webhook again, after the log told of an earlier stage": (
        [move(A), move(B, 60), hook(1, "dp"), look(), hook(1, "dp", 10 * MINUTE), look()],
        "B A",
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
    "a webhook long after": (
        [move(A), hook(0), look(), move(B, DAY), look(), hook(1), move(A, DAY), look()],
        "A B A",
    ),
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
    """Twelve deals move for two hours; webhooks come at once, late, again, never. Two processes look at times."""
    chance = random.Random(f"{kind} 1")
    deals = [world.deal() for _ in range(12)]
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
    known = Counter(dict.fromkeys(moved, 0))
    for deal in deals:
        for name in world.stages(deal).split():
            known[deal, next(status for status in NAMES if NAMES[status] == name)] += 1
    assert known == moved


# -- how far it looks, and what it finds --------------------------------------------------------------------------


def test_the_first_look_begins_now_and_sends_no_history(world: World) -> None:
    deal = world.deal()
    world.move(deal, A)
    world.now += MINUTE
    reconciler = world.reconciler()

    assert (reconciler.begin(), reconciler.begin()) == (True, False)
    assert reconciler.look() == Report()
    world.move(deal, B, MINUTE)
    assert reconciler.look() == Report(read=1, new=1)

    assert world.stages(deal) == "B"


def test_an_outage_of_weeks_loses_nothing_and_is_told_in_order(world: World) -> None:
    deals = [world.deal(A) for _ in range(3)]
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    for status in (B, C, A, B):
        for deal in deals:
            world.move(deal, status, 2.4 * DAY)
    world.now += DAY

    world.journal.purge(world.now)  # how far the log is known is not forgotten
    report = world.reconciler().look()

    assert (report.new, report.known) == (12, 0)
    assert [world.stages(deal) for deal in deals] == ["B C A B"] * 3
    world.town.kommo.calls.clear()
    assert world.reconciler().look().new == 0
    assert world.town.kommo.count(path="/api/v4/events") <= 2


def test_a_look_that_fails_half_way_keeps_what_it_has_and_goes_on_from_there(world: World) -> None:
    deal = world.deal(A)
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    for status in (B, C, A):
        world.move(deal, status, DAY)
    failing = iter(range(6))

    with pytest.raises(InterruptedLookError):
        reconciler.look(may_go_on=lambda: next(failing) < 5)
    first = world.stages(deal)
    world.town.kommo.faults.add(path="/api/v4/events", status=500, times=1)
    with pytest.raises(ApiError):
        reconciler.look()
    reconciler.look()

    assert (first, world.stages(deal)) == ("B", "B C A")


def test_a_large_log_is_read_page_after_page(world: World) -> None:
    deals = [world.deal() for _ in range(250)]
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    world.now += MINUTE
    world.town.kommo.move_many(deals, A)
    world.now += MINUTE
    heard: list[int] = []

    report = reconciler.look(heard=lambda so_far, new: heard.append(so_far.read))

    assert (report.read, report.new) == (250, 250)
    assert world.town.kommo.count(path="/api/v4/events") == 3
    assert heard[:2] == [100, 200]
    assert reconciler.look() == Report(read=250, known=250)


def test_between_its_transactions_a_look_leaves_the_journal_to_others_for_as_long(world: World) -> None:
    deals = [world.deal() for _ in range(2 * RECORDED_AT_ONCE + 1)]
    world.now += MINUTE
    rests: list[float] = []
    taken: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        taken.append(time.monotonic())

    reconciler = Reconciler(world.journal, kommo_client(world.town), world.rules, lambda: world.now, rest)
    reconciler.begin()
    world.now += MINUTE
    world.town.kommo.move_many(deals, A)
    world.now += MINUTE
    reconciler.look()

    assert len(rests) == 3
    assert all(0 < seconds <= REST_SECONDS for seconds in rests)
    # As long as the transaction itself took, and not a time of its own.
    assert all(rests[n] <= taken[n] - taken[n - 1] for n in (1, 2))


@pytest.mark.parametrize("moved", ["never", "in the same look", "in a later part of the time"])
def test_a_deal_that_was_added_entered_the_stage_that_it_left_first(world: World, moved: str) -> None:
    """The log says that a deal was added, and not where."""
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    world.now += MINUTE
    deal = world.town.kommo.add_deal("New", A, quiet=False)
    gone = world.deal(A)
    world.town.kommo.delete_deal(gone)
    if moved != "never":
        world.move(deal, B, DAY if "part" in moved else MINUTE)
        world.move(deal, C, MINUTE)
    world.now += MINUTE

    report = reconciler.look()
    world.hook(0)

    assert world.stages(deal) == ("A" if moved == "never" else "A B C")
    assert (world.stages(gone), report.gone) == ("", 1)


@pytest.mark.parametrize("later", [0.0, 1.0], ids=["in the same second", "a second later"])
@pytest.mark.parametrize("hooked", ["meanwhile", "afterwards", "never"])
def test_a_deal_that_moves_between_a_look_at_the_log_and_one_at_the_deal_entered_each_stage_once(
    world: World, monkeypatch: pytest.MonkeyPatch, hooked: str, later: float
) -> None:
    """Where the deal stands by then is not where it was added: the log has yet to tell of that move."""
    world.now = float(int(world.now))
    reconciler = world.reconciler()
    reconciler.begin()
    deal = world.deal(NEW)
    read_deals = reconciler._kommo.leads

    def move_and_read(deals: Iterable[int]) -> Any:
        world.move(deal, A, later)
        if hooked == "meanwhile":
            world.hook(0)
        return read_deals(deals)

    with monkeypatch.context() as patched:
        patched.setattr(reconciler._kommo, "leads", move_and_read)
        reconciler.look()
    if hooked == "afterwards":
        world.hook(0)
    world.now += MINUTE
    reconciler.look()

    assert world.stages(deal) == ("A new" if hooked == "meanwhile" else "new A")


def test_a_stage_that_is_not_in_the_mapping_is_recorded_and_not_owed(world: World) -> None:
    deal = world.deal(A)
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    world.move(deal, NEW, MINUTE)

    assert reconciler.look() == Report(read=1, new=1, refused=1)

    reason = f"stage {NEW} of pipeline {PIPELINE} is not in the mapping"
    assert run_sql(world.url, "SELECT state, reason FROM jobs") == [("skipped", reason)]


def test_a_rehearsal_changes_nothing_and_says_what_would_be(world: World) -> None:
    deal = world.deal()
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    for status in (A, B, A):
        world.move(deal, status, MINUTE)
    world.hook(2)
    before = world.journal.progress("kommo")

    assert reconciler.look(rehearse=True) == Report(read=3, new=2, known=1)
    assert (world.stages(deal), world.journal.progress("kommo")) == ("A", before)
    assert reconciler.look() == Report(read=3, new=2, known=1)


def test_going_back_on_purpose_leaves_no_gap(world: World) -> None:
    deal = world.deal()
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    world.move(deal, A, DAY)
    world.move(deal, B, DAY)
    world.now += MINUTE

    reconciler.look(world.now - HOUR)  # only the second
    assert world.stages(deal) == "B"
    reconciler.look()

    assert world.stages(deal) == "B A"


def test_what_is_told_late_stands_behind_what_happened_after_it(world: World) -> None:
    """With `latest`, the stage in which the deal has been since is sent, in whatever order it was heard of."""
    deal = world.deal()
    world.now += MINUTE
    reconciler = world.reconciler()
    reconciler.begin()
    world.move(deal, A, MINUTE)
    world.move(deal, B, MINUTE)
    world.hook(1)
    reconciler.look()

    batch = world.journal.claim(Lane.RESOLVE, "kommo", 10, now=world.now)
    skips, left = superseded(batch, Ledger(world.journal, batch))

    assert [job.event.data.status_id for job in batch] == [B, A]
    assert [job.event.data.status_id for job in left] == [B]
    assert [outcome.state for outcome in skips.values()] == [State.SKIPPED]


# -- one at a time ------------------------------------------------------------------------------------------------


def test_one_process_has_the_turn(world: World) -> None:
    other = Journal(world.url)
    ours, theirs = world.reconciler(), world.reconciler(other)

    assert (ours.take_turn(), theirs.take_turn(), ours.take_turn()) == (True, False, True)
    theirs.end_turn()  # it is not theirs to end
    assert not theirs.take_turn()
    ours.end_turn()
    assert (theirs.take_turn(), ours.take_turn()) == (True, False)
    world.now += 61  # it died
    assert ours.take_turn()
    world.now -= DAY  # and took it with a clock that was wrong
    assert theirs.take_turn()
    other.close()


def test_two_that_look_at_once_record_every_move_once(world: World) -> None:
    """As when one was frozen for longer than its turn."""
    deals = [world.deal() for _ in range(60)]
    world.now += MINUTE
    other = Journal(world.url)
    lookers = [world.reconciler(), world.reconciler(other)]
    lookers[0].begin()
    for status in (A, B):
        world.now += MINUTE
        world.town.kommo.move_many(deals, status)

    reports = at_once([looker.look for looker in lookers], 2)
    other.close()

    assert [report.read for report in reports] == [120, 120]
    assert sum(report.new for report in reports) == 120
    assert [world.stages(deal) for deal in deals] == ["A B"] * 60


def rounds(world: World, **options: Any) -> Rounds:
    client = kommo_client(world.town)
    guardian = Guardian(client, (SECRET,), None)
    return Rounds(
        world.journal, world.reconciler(), guardian, clock=lambda: world.now, **{"seconds": 0.05, **options}
    )


def test_rounds_go_on_after_whatever_fails(world: World) -> None:
    deal = world.deal()
    world.now += MINUTE
    world.reconciler().begin()
    world.move(deal, A, MINUTE)
    for status in (500, 403, 429):
        world.town.kommo.faults.add(path="/api/v4/events", status=status, times=1)
    stopping = threading.Event()
    thread = threading.Thread(target=rounds(world).run, args=(stopping,))

    thread.start()
    eventually(lambda: world.stages(deal) == "A")
    world.move(deal, B, MINUTE)
    eventually(lambda: world.stages(deal) == "A B")
    stopping.set()
    thread.join(20)

    assert not thread.is_alive()
    assert world.journal.take_turn(TURN, 60, now=world.now)


def test_what_was_found_is_told_to_whoever_counts(world: World) -> None:
    deal = world.deal()
    world.now += MINUTE
    world.reconciler().begin()
    world.move(deal, A, MINUTE)
    world.move(deal, B, MINUTE)
    counts: list[int] = []
    stopping = threading.Event()
    thread = threading.Thread(target=rounds(world, found=counts.append).run, args=(stopping,))

    thread.start()
    eventually(lambda: len(counts) >= 3)
    stopping.set()
    thread.join(20)

    assert sum(counts) == 2
    assert counts[-1] == 0


def test_no_round_is_made_while_kommo_is_left_alone(world: World) -> None:
    world.journal.pause("kommo", world.now + HOUR, "Kommo: 403")
    made = rounds(world)

    assert not made._make(threading.Event())
    assert world.town.kommo.count() == 0
    assert world.journal.progress("kommo") is not None  # what happens from now on will be looked for
    world.now += 2 * HOUR
    assert made._make(threading.Event())


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def runner(town: Town, tmp_path: Path, database_url: str) -> Iterator[FlaskCliRunner]:
    town.kommo.switch(rate=0)
    app = create_app(settings.load({**environment(town, tmp_path), "DATABASE_URL": database_url}))
    yield app.test_cli_runner()
    app.extensions[EXTENSION].close()


def said(runner: FlaskCliRunner, *arguments: str, code: int = 0) -> list[str]:
    result = runner.invoke(args=["reconcile", *arguments])
    assert result.exit_code == code, result.output
    return result.output.splitlines()


def test_the_command_begins_now_and_goes_back_when_told(
    runner: FlaskCliRunner, town: Town, database_url: str
) -> None:
    deal = town.kommo.add_deal("Deal", NEW)
    town.kommo.move(deal, A)
    town.kommo.move(deal, NEW)

    first = "Stage changes from now on are looked for. To go back, say --since 2d."
    assert said(runner) == [first]
    rehearsed = said(runner, "--since", "1h", "--dry-run")
    assert [line.split(" ", 2)[2] for line in rehearsed[:3]] == [
        f"lead:{deal} entered stage {NEW} of pipeline {PIPELINE} "
        f"(ignored: stage {NEW} of pipeline {PIPELINE} is not in the mapping)",
        f"lead:{deal} entered stage {A} of pipeline {PIPELINE}",
        f"lead:{deal} entered stage {NEW} of pipeline {PIPELINE} "
        f"(ignored: stage {NEW} of pipeline {PIPELINE} is not in the mapping)",
    ]
    summary = [
        "3 stage changes in Kommo's log: 3 new, 0 known.",
        "2 of the new ones are ignored: their stage is not in the mapping.",
    ]
    assert rehearsed[3:] == [*summary, "Nothing was changed."]
    assert run_sql(database_url, "SELECT id FROM events") == []
    assert said(runner, "--since", "1h") == [*summary, "The running service delivers them."]
    assert said(runner, "--since", "1h") == ["3 stage changes in Kommo's log: 0 new, 3 known."]


def test_the_command_says_what_went_wrong(runner: FlaskCliRunner, town: Town) -> None:
    said(runner)
    assert "RETENTION_DAYS" in said(runner, "--since", "31d", code=2)[-1]
    town.kommo.faults.add(path="/api/v4/events", status=500, times=1)
    (line,) = said(runner, code=1)
    assert line.startswith("Error: Kommo: GET /events answered 500: ")
    assert line.endswith(" What was recorded stays; try again.")
    said(runner)  # the turn was given back


# -- the service --------------------------------------------------------------------------------------------------


OWED = "SELECT id FROM jobs WHERE state = 'pending'"
DONE = "SELECT count(*) FROM jobs WHERE lane = 'ortto' AND state = 'done'"
BEGUN = "SELECT holder FROM cooldowns WHERE key = 'log:kommo'"


def _activities(town: Town) -> Counter[tuple[int, str]]:
    """Count what arrived at Ortto, by deal and stage."""
    found = [activity["attributes"] for activity in town.ortto.state()["activities"]]
    return Counter((int(item["str:cm:lead-id"]), item["str:cm:stage"]) for item in found)


def test_five_hundred_changes_during_an_outage_arrive_once(
    start_service: Callable[..., Service], env: dict[str, str], town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty moves are told by webhooks; then nobody listens, Kommo gives the webhook up, and 500 more happen."""
    town.kommo.switch(rate=0)
    # Ortto takes a hundred a call, so it is quick to see what arrives.
    without = {"ENCHARGE_API_KEY": "", "ENCHARGE_WRITE_KEY": ""}
    told = {**without, "RECONCILE_MINUTES": "5", "KOMMO_RATE_LIMIT": "50"}
    with monkeypatch.context() as earlier:
        # The log is looked at from the second on in which the service begins: these are not to be read as new.
        earlier.setattr(town.kommo, "clock", lambda: time.time() - MINUTE)
        deals = list(add_deals(town, 500, NEW))
    # It may be killed while it has the turn: the next one is not to wait a minute for that.
    turns = {"app.reconcile.TURN_SECONDS": 5.0, "app.rounds.AGAIN_SECONDS": 1.0}
    service = start_service(turns, **told)
    eventually(lambda: rows(env, BEGUN))
    service.connect(town)
    for deal in deals[:50]:
        town.kommo.move(deal, A)
    eventually(lambda: rows(env, DONE) == [(50,)])
    service.kill()
    at = int(time.time())
    for deal in deals:
        town.kommo.move(deal, B)
    assert town.courier.wait(60)
    assert [hook["disabled"] for hook in town.kommo.hooks.state()] == [True]

    service = start_service(turns, **told, PUBLIC_URL=service.url)
    for deal in deals[:10]:  # one after the other they come late, before the log is read or after
        service.post("kommo", stage_hook(deal, status=B, at=at), FORM)

    wanted = {(deal, "Proposal sent"): 1 for deal in deals} | {(deal, "Qualification"): 1 for deal in deals[:50]}
    eventually(lambda: rows(env, DONE)[0][0] >= 550, 90)
    eventually(lambda: not rows(env, OWED))
    assert _activities(town) == wanted
    assert town.ortto.state()["counters"]["duplicates"] == 0
    people = town.ortto.state()["people"]
    assert {person["fields"]["str:cm:kommo-stage"] for person in people} == {"Proposal sent"}
    eventually(lambda: [hook["disabled"] for hook in town.kommo.hooks.state()][-1:] == [False])
    assert SECRET not in service.log()
