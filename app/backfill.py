"""Brings over what Kommo already has: walks its deals and writes their persons, or records their stage events.

Persons go to the vendors directly, not through the journal: an upsert may be repeated, so all that a resumed walk
has to know is how far it was. That is one row; as jobs, 20,000 deals would be 80,000 rows, ahead of what happens
now in every lane. Events may not be repeated and have an order, so those go through the journal.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TypeVar

import structlog
from pydantic import TypeAdapter

from app.clients.errors import ApiError, Fault
from app.clients.kommo import Choice, KommoClient
from app.events import (
    PLATFORMS,
    Company,
    Contact,
    Context,
    Event,
    Kind,
    Lane,
    Lead,
    Source,
    StageChange,
    StageNews,
    State,
    Webhook,
    stage_repeat,
)
from app.flows import Size, deliver, read_by_halves
from app.flows.resolve import company_id_of
from app.journal import Journal, Search
from app.mapping import Rules
from app.retry import decide

PEOPLE_A_CALL = 100  # Ortto takes no more: https://help.ortto.com/a-235-rate-limits; Encharge documents no limit
PROBES = 3  # persons that are asked about alone before all are held for refused
REFUSALS_KEPT = 1_000  # with their words; the rest is only counted
UNDER_WAY = 250  # events that may be owed when more are recorded: what happens now must not queue behind them
POLL_SECONDS = 1.0
ROUNDS = 5  # in which the deals of a page that move while they are written are written again

EVENTS = "events"  # in Tally.written, beside the lanes' names

T = TypeVar("T")

log = structlog.get_logger("relay.backfill")

Upsert = Callable[[Sequence[StageNews]], Iterable[str] | None]
"""Writes persons, up to PEOPLE_A_CALL; may return why each was refused ("" = taken). Raises ApiError."""


class BackfillError(Exception):
    """The walk cannot go on until a person has mended something."""


@dataclass(frozen=True)
class Order:
    """What to bring over. `stage`: its name in the mapping file; None: the stages of all active deals.

    `since` and `until`: when the deal was last changed, in Unix seconds. `key`: the same for the same order.
    """

    key: str
    pipeline_ids: tuple[int, ...] = ()
    stage: str | None = None
    since: float | None = None
    until: float | None = None
    events: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Refused:
    """A person that a vendor did not take, with its words; `email` "": before the walk was resumed."""

    vendor: str
    email: str
    lead_id: int
    words: str


@dataclass
class Tally:
    """What became of the deals so far."""

    deals: int = 0
    written: dict[str, int] = field(default_factory=dict)  # persons by lane; events
    skipped: dict[str, int] = field(default_factory=dict)  # deals by reason
    refusals: int = 0
    refused: list[Refused] = field(default_factory=list)

    def skip(self, reason: str) -> None:
        """Count a deal of which nothing is carried over."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def write(self, what: str, count: int) -> None:
        """Count persons or events that were taken."""
        self.written[what] = self.written.get(what, 0) + count

    def add(self, other: Tally) -> None:
        """Add what became of more deals."""
        self.deals += other.deals
        self.written = dict(Counter(self.written) + Counter(other.written))
        self.skipped = dict(Counter(self.skipped) + Counter(other.skipped))
        self.refusals += other.refusals
        self.refused = [*self.refused, *other.refused][:REFUSALS_KEPT]


@dataclass
class Place:
    """How far a walk has come: all deals changed before `since`, and the `page - 1` pages from there, are done.

    `seen`: those of them that were changed at `since` or later, each with that time and its stage. `found_some`:
    whether this look at the pages from `since` has found new ones. `again_to`: in a second look, its last page;
    `then`: from which time to go on after it.
    """

    begun: float
    until: float | None
    since: int = 0
    page: int = 1
    seen: set[tuple[int, float, int]] = field(default_factory=set)
    found_some: bool = False
    again_to: int = 0
    then: int = 0
    tally: Tally = field(default_factory=Tally)

    @property
    def day(self) -> str:
        """Return the day of the run, which its events carry: a run after it sends them again."""
        return datetime.fromtimestamp(self.begun, UTC).date().isoformat()


_place = TypeAdapter(Place)


def _without_addresses(place: Place) -> Place:
    """Return a place as it is noted: what is erased from the journal must not come back from a walk's memory."""
    refused = [
        replace(item, email="", words=re.sub(re.escape(item.email), "…", item.words, flags=re.IGNORECASE))
        for item in place.tally.refused
    ]
    return replace(place, tally=replace(place.tally, refused=refused))


class Audience(Protocol):
    """Who watches a walk."""

    def resumed(self, place: Place) -> None:
        """Hear that the walk goes on from a place."""

    def progress(self, tally: Tally, total: int) -> None:
        """Hear how far the walk is; `total`: deals, as they were counted at the start."""

    def waiting(self, why: str) -> None:
        """Hear why nothing moves; said again and again while it lasts."""


class Backfill:
    """One walk: read a page of deals, write their persons, note how far it is; again, until nothing is new.

    The deals come in the order of their last change, and each page is asked for from the last change seen. So
    nothing is missed when deals are changed or deleted under way, and one that moves is met again at the end: what
    a webhook wrote for it meanwhile is not left overwritten. A person with several deals is written once, for the
    one changed last.
    """

    def __init__(
        self,
        kommo: KommoClient,
        rules: Rules,
        journal: Journal,
        upserts: Mapping[Lane, Upsert],
        order: Order,
        audience: Audience,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._kommo = kommo
        self._rules = rules
        self._journal = journal
        self._upserts = upserts
        self._sizes = {lane: Size(PEOPLE_A_CALL) for lane in upserts}
        self._order = order
        self._key = f"{order.key}:{'+'.join(upserts)}"  # a platform that is switched on later gets all of it
        self._audience = audience
        self._clock = clock
        self._sleep = sleep
        self._chance = random.Random()
        self.place = Place(begun=clock(), until=order.until, since=int(order.since or 0))
        self.samples: list[tuple[Lane, StageNews]] = []  # of a dry run: what would be written, the first page
        # What vendors said of persons of a page that is not done yet: why they were refused, "" if they were not.
        self._said: dict[tuple[Lane, str], tuple[StageNews, str]] = {}
        self._unchecked: dict[int, float] = {}  # deals of a page that is not done yet, and when it was asked for
        self._takers: set[Lane] = set()  # vendors that took somebody
        self._under_way: list[int] = []  # ids of recorded events that may still be owed
        self._over = False

    def run(self, *, restart: bool = False) -> Tally:
        """Walk to the end; go on where an earlier walk of the same order was stopped.

        Waits out a vendor that is down. Raises BackfillError and JournalError; what was done until then is noted.
        """
        if not self._upserts:
            raise BackfillError(
                f"Neither {' nor '.join(map(str.title, PLATFORMS))} is on: "
                f"set {' or '.join(f'{platform.name}_API_KEY' for platform in PLATFORMS)}."
            )
        noted = None if restart or self._order.dry_run else self._journal.bookmark(self._key)
        if noted:
            self.place = _place.validate_json(noted)
            self._audience.resumed(self.place)
        rest = self._patiently(lambda: self._kommo.count_leads(self._choice()))
        total = self.place.tally.deals + rest - len(self.place.seen)
        while not self._over:
            if self.place.tally.deals < total:
                self._audience.progress(self.place.tally, total)
            self._wait_for_lanes()
            self._patiently(self._carry_page)
        self._audience.progress(self.place.tally, self.place.tally.deals)
        if not self._order.dry_run:
            self._journal.drop_bookmark(self._key)
        return self.place.tally

    # -- the walk --

    def _choice(self) -> Choice:
        """Return what to ask Kommo for: from here on, and no more than is chosen if it can tell."""
        named = [stage for stage in self._rules.stages if stage.name == self._order.stage]
        pipelines = {stage.pipeline_id for stage in named} - {None} or set(self._order.pipeline_ids)
        pair = None
        if len(named) == len(pipelines) == 1:  # it honours one pair only
            pair = (next(iter(pipelines)) or 0, named[0].status_id)
        until = None if self.place.until is None else int(self.place.until)
        return Choice(self._order.pipeline_ids, pair, self.place.since, until)

    def _carry_page(self) -> None:
        asked_at = self._clock()
        leads, more = self._kommo.leads_page(self._choice(), self.place.page)
        fresh = [lead for lead in leads if _mark(lead) not in self.place.seen]
        tally = Tally(deals=len(fresh))
        wanted = [lead for lead in fresh if not self._is_skipped(lead, tally)]
        if self._order.events and not self._order.dry_run:
            self._record(wanted, tally)
        elif wanted:
            news = self._plan(wanted, leads, tally)
            # What an attempt that failed has written is still to be checked, from then on.
            self._unchecked = dict.fromkeys((lead.id for lead in wanted), asked_at) | self._unchecked
            self._write(news, tally)
        if not self._order.dry_run:
            self._write_moved(tally)
        self.place.tally.add(tally)
        self._advance(leads, fresh, more)
        self._said.clear()
        self._unchecked.clear()
        if not self._order.dry_run:
            noted = _place.dump_json(_without_addresses(self.place)).decode()
            self._journal.set_bookmark(self._key, noted, now=self._clock())

    def _advance(self, leads: Sequence[Lead], fresh: Sequence[Lead], more: bool) -> None:
        """Move on, once a page is done."""
        place = self.place
        last = max((int(lead.updated_at) for lead in leads), default=place.since)
        place.seen |= {_mark(lead) for lead in fresh}
        place.found_some = place.found_some or bool(fresh)
        if place.again_to:
            if place.page < place.again_to:
                place.page += 1
                return
            if place.found_some:
                place.page, place.found_some = 1, False
                return
        elif more and last <= place.since:
            place.page += 1  # more than a page was changed within one second, say by an import
            return
        elif place.page > 1 and place.found_some:
            # Pages shift when a deal leaves that second: what slipped over an edge is on the page before it now.
            place.again_to, place.then, place.page, place.found_some = place.page - more, last, 1, False
            return
        self._over = not more and not place.found_some
        place.since, place.page, place.again_to = max(last, place.then), 1, 0
        place.then, place.found_some = 0, False
        place.seen = {mark for mark in place.seen if mark[1] >= place.since}

    def _is_skipped(self, lead: Lead, tally: Tally) -> bool:
        """Say whether a deal is not carried over, as far as it says that itself; count it if so."""
        stage = self._rules.stage(lead.pipeline_id, lead.status_id)
        if self._order.stage is not None:
            reason = None if stage and stage.name == self._order.stage else "in another stage"
        else:
            reason = None if lead.active else "won or lost"
        reason = reason or self._rules.refusal(self._event(lead))
        if reason:
            tally.skip(reason)
        return reason is not None

    def _event(self, lead: Lead) -> Event:
        change = StageChange(lead.id, lead.status_id, lead.pipeline_id)
        return Event(
            source=Source.KOMMO,
            kind=Kind.STAGE_CHANGED,
            data=change,
            order_key=f"lead:{lead.id}",
            dedupe_key=f"backfill:{self.place.day}:{lead.id}:{lead.pipeline_id}:{lead.status_id}",
            # Of a deal that moves under way a webhook tells too.
            repeat=stage_repeat(change, int(self._clock() - self.place.begun) + 1),
        )

    # -- persons --

    def _plan(self, wanted: Sequence[Lead], page: Sequence[Lead], tally: Tally) -> dict[Lane, list[StageNews]]:
        """Return what each destination is to hear of deals; `page`: those to choose among, empty to take all."""
        contacts, unreadable = self._contacts(wanted)
        known = {lead.id: lead for lead in page}
        if page:
            others = {lead_id for contact in contacts.values() for lead_id in contact.lead_ids} - known.keys()
            known |= read_by_halves(self._kommo.leads, others)[0]
        contexts = [Context(lead, _main(lead, contacts)) for lead in wanted]
        companies = self._companies(contexts)
        news: dict[Lane, list[StageNews]] = {lane: [] for lane in self._upserts}
        for lead, context in zip(wanted, contexts, strict=True):
            error = unreadable.get(lead.contact_ids[0]) if lead.contact_ids else None
            found = str(error) if error else self._news(lead, context, companies, known)
            if isinstance(found, str):
                tally.skip(found)
                continue
            for lane, item in found.items():
                news[lane].append(item)
        return news

    def _news(
        self, lead: Lead, context: Context, companies: Mapping[int, Company], known: Mapping[int, Lead]
    ) -> dict[Lane, StageNews] | str:
        """Return what the destinations are to hear of a deal, or the reason why it is nothing."""
        contact = context.contact
        if contact and not contact.emails:
            return "the contact has no valid email"
        whole = replace(context, company=companies.get(company_id_of(context) or 0))
        plan = self._rules.plan(self._event(lead), whole, list(self._upserts))
        if isinstance(plan, str):
            return plan
        news = {owed.lane: owed.plan for owed in plan if isinstance(owed.plan, StageNews)}
        if self._order.events or contact is None:
            return news
        latest = {lane: item for lane, item in news.items() if not self._is_outdone(lead, contact, known, lane)}
        return latest or "another deal of the person was changed later"

    def _is_outdone(self, lead: Lead, contact: Contact, known: Mapping[int, Lead], lane: Lane) -> bool:
        """Say whether the person's stage at a destination is that of another deal: an active one, changed later."""
        rank = (lead.active, lead.updated_at, lead.id)
        return any(
            other.active and self._is_told(other, lane) and (other.active, other.updated_at, other.id) > rank
            for lead_id in contact.lead_ids
            if (other := known.get(lead_id)) and other.contact_ids[:1] == (contact.id,)
        )

    def _is_told(self, lead: Lead, lane: Lane) -> bool:
        stage = self._rules.stage(lead.pipeline_id, lead.status_id)
        return bool(stage and stage.events.get(Source(lane)))

    def _write_moved(self, tally: Tally) -> None:
        """Write persons again whose deals moved while they were written: a webhook's write may be overwritten."""
        since = min(self._unchecked.values(), default=0.0)
        for _ in range(ROUNDS):
            moved = self._journal.moved_since(self._unchecked, since)
            if not moved:
                return
            since = self._clock()
            leads, _ = read_by_halves(self._kommo.leads, moved)
            latest_last = sorted(leads.values(), key=lambda lead: (moved[lead.id], lead.id))
            again = Tally()
            self._write(self._plan(latest_last, (), again), again)
            tally.add(Tally(refusals=again.refusals, refused=again.refused))
        log.warning("deals move faster than their persons are written", deals=len(self._unchecked))

    def _contacts(self, leads: Sequence[Lead]) -> tuple[dict[int, Contact], dict[int, ApiError]]:
        """Return the deals' main contacts, and why Kommo does not read some."""
        ids = {lead.contact_ids[0] for lead in leads if lead.contact_ids}
        read = partial(self._kommo.contacts, with_leads=not self._order.events)
        return read_by_halves(read, ids)

    def _companies(self, contexts: Sequence[Context]) -> dict[int, Company]:
        ids = {company_id for context in contexts if (company_id := company_id_of(context))}
        return read_by_halves(self._kommo.companies, ids)[0] if self._rules.needs_companies else {}

    def _write(self, news: Mapping[Lane, Sequence[StageNews]], tally: Tally) -> None:
        for lane, items in news.items():
            # Two contacts may have one address: the deal changed last stands.
            people = items if self._order.events else list({item.email: item for item in items}.values())
            if self._order.dry_run:
                tally.write(lane, len(people))
                self.samples += [(lane, item) for item in people] if not self.place.tally.deals else []
            else:
                self._upsert(lane, people, tally)

    def _upsert(self, lane: Lane, people: Sequence[StageNews], tally: Tally) -> None:
        """Write persons. Raises ApiError if the vendor is not to be had; what it has said is not asked again."""
        waiting = [person for person in people if self._said.get((lane, person.email), ())[:1] != (person,)]
        errors = deliver(waiting, partial(self._try, lane), self._sizes[lane])
        passing = None
        for person, error in zip(waiting, errors, strict=True):
            if error and error.fault != Fault.REFUSED:
                passing = error
            else:
                self._said[lane, person.email] = (person, str(error or ""))
        if passing:
            raise passing
        for person in people:
            _, words = self._said[lane, person.email]
            if words:
                tally.refusals += 1
                tally.refused.append(Refused(lane, person.email, person.lead_id, words))
            else:
                tally.write(lane, 1)

    def _try(self, lane: Lane, part: Sequence[StageNews]) -> Iterable[str] | None:
        """Call a vendor with some persons; raise BackfillError if it takes nobody at all.

        Halving what it refuses down to single persons costs hundreds of bad calls; after 15 Ortto locks us out.
        """
        try:
            refusals = self._upserts[lane](part)
        except ApiError as error:
            few = len(part) <= PROBES
            if error.fault != Fault.REFUSED or few or lane in self._takers or self._takes_any(lane, part):
                raise
            raise BackfillError(
                f"{error}\n{lane.title()} refuses everybody: is there a mapped field that it does not have?"
            ) from error
        self._takers.add(lane)
        return refusals

    def _takes_any(self, lane: Lane, part: Sequence[StageNews]) -> bool:
        for person in (part[0], part[len(part) // 2], part[-1]):
            try:
                self._upserts[lane]([person])
            except ApiError as error:
                if error.fault != Fault.REFUSED:
                    raise
            else:
                self._takers.add(lane)
                return True
        return False

    # -- events --

    def _record(self, leads: Sequence[Lead], tally: Tally) -> None:
        """Have the lanes deliver the stages in which deals are, each once for this run's day."""
        if not leads:
            return
        told = {"backfill": self.place.day, "deals": [lead.id for lead in leads]}
        webhook = Webhook(Source.KOMMO, "application/json", json.dumps(told).encode())
        found = [(self._event(lead), None) for lead in leads]
        for item in self._journal.record(webhook, found, now=self._clock()):
            if item.duplicate:
                tally.skip("its event is in the journal already")
            else:
                tally.write(EVENTS, 1)
                self._under_way.append(item.event.id)

    def _wait_for_lanes(self) -> None:
        """Wait until most of what was recorded is delivered."""
        while len(self._under_way) > UNDER_WAY:
            owed = Search(ids=self._under_way, state=State.PENDING, limit=len(self._under_way))
            self._under_way = [story.id for story in self._journal.find(owed)]
            if len(self._under_way) > UNDER_WAY:
                self._audience.waiting("the service delivers what was recorded (if none runs: flask work)")
                self._sleep(POLL_SECONDS)

    # -- patience --

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do something that asks vendors; wait and do it again while one is not to be had."""
        failures = 0
        while True:
            self._wait_out_pauses()
            try:
                return act()
            except ApiError as error:
                if error.fault != Fault.PASSING:
                    raise BackfillError(str(error)) from error
                decision = decide(error, attempts=failures, age=0.0, streak=failures, chance=self._chance)
                why = str(error)
            failures += 1
            self._wait(self._clock() + decision.pause, why)

    def _wait_out_pauses(self) -> None:
        """Wait while the service leaves a vendor alone that this walk needs."""
        needed = {"kommo"} if self._order.events else {"kommo", *self._upserts}
        while held := [
            pause for vendor, pause in self._journal.pauses(now=self._clock()).items() if vendor in needed
        ]:
            # Not until the end of the pause: the service may end it sooner.
            self._wait(min(held[0].until, self._clock() + POLL_SECONDS), held[0].reason)

    def _wait(self, until: float, why: str) -> None:
        self._audience.waiting(why)
        self._sleep(max(0.0, until - self._clock()))


def _mark(lead: Lead) -> tuple[int, float, int]:
    """Return what tells a deal from itself as it was before: it may move twice within a second."""
    return lead.id, lead.updated_at, lead.status_id


def _main(lead: Lead, contacts: Mapping[int, Contact]) -> Contact | None:
    return contacts.get(lead.contact_ids[0]) if lead.contact_ids else None
