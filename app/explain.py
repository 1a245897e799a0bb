"""What would happen now, by the very code that would do it: only what would be written is caught.

A webhook is made up, and goes the whole way: reader, rules, the resolve lane, the lanes that write. What the
vendors know is read for real, and counts within Kommo's limit. In the journal nothing is noted but those calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.clients.errors import ApiError, Fault
from app.clients.kommo import KommoClient
from app.clients.rehearsal import Rehearsal, WireCall
from app.events import (
    LOST,
    WON,
    Action,
    Context,
    EmailActivity,
    Event,
    Job,
    Kind,
    Lane,
    Lead,
    Owed,
    Plan,
    Reading,
    Response,
    Seen,
    Source,
    StageChange,
    State,
    Step,
    Webhook,
)
from app.flows import Flow, Ledger, Result
from app.flows.resolve import Considered
from app.journal import EventStory, Journal, Particulars, Search
from app.mapping import Rules, Stage
from app.mapping.activity_rules import Judgement
from app.webhooks import pretended

Flows = Mapping[Lane, tuple[str, Flow]]
Read = Callable[[Webhook, float, str | None], Reading]

FIRST_JOB = -1  # no job of the journal has an id below 0
FAILED = "failed"  # how a job stands that would be tried again, or would be refused


@dataclass(frozen=True)
class Candidate:
    """A deal that an email activity could be about, and why it is or is not."""

    lead_id: int
    name: str
    chosen: bool
    why: str


@dataclass(frozen=True)
class Deed:
    """What one lane would do. `steps`: what would come of each. `calls`: the reads it made, and its writes."""

    lane: Lane
    state: str
    reason: str
    plan: Plan
    steps: Mapping[str, str]
    calls: tuple[WireCall, ...]


@dataclass
class Outlook:
    """What would come of one webhook. `state` is one of done, skipped, ignored, failed."""

    webhook: Webhook
    event: Event
    state: str = State.DONE.value
    reason: str = ""
    stage: Stage | None = None
    context: Context | None = None
    candidates: Sequence[Candidate] = ()
    rules: Sequence[Judgement] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)  # actions that come to nothing, and why
    unsubscribed_at: Sequence[Source] = ()
    calls: tuple[WireCall, ...] = ()  # of the resolve lane; they stand with the first of several that they serve
    deeds: Sequence[Deed] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Past:
    """An event of the journal, with what it said and what Kommo knew of it."""

    story: EventStory
    particulars: Particulars


class Memory:
    """What flows remember, read from the journal; nothing is noted there. It is `StepStore` for a rehearsal."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._clock = clock
        self.seen: dict[int, Seen] = {}  # by job id
        self.held: dict[str, str] = {}  # cooldowns that somebody has: until when, in words
        # How consent would stand once the event was written down; it has no time, and so it is the latest word.
        self._said: dict[str, tuple[Source, bool]] = {}

    def write_steps(self, ledgers: Mapping[int, Mapping[str, Step]], token: str) -> set[int]:
        """Say that all jobs are ours."""
        return set(ledgers)

    def claim_cooldown(self, key: str, job: Job, seconds: float, *, now: float) -> bool:
        """Say whether a cooldown could be claimed."""
        held = self._journal.cooldown(key)
        if held is None or held.until <= now:
            return True
        self.held[key] = f"until {_moment(held.until)}, by {held.holder.replace(':', ' ')}"
        return False

    def free_cooldown(self, key: str, job: Job) -> None:
        """Do nothing: nothing was claimed."""

    def notes_of(self, order_key: str) -> set[str]:
        """Return what vendors said of all finished steps of a key."""
        return self._journal.notes_of(order_key)

    def remember(self, people: Mapping[int, str], batch: Sequence[Job], *, moments: float) -> dict[int, Seen]:
        """Return what the person of each job had done before, as if each job were the only one."""
        for job in batch:
            who = people[job.id]
            self.seen[job.id] = self._journal.foresee(job.event, who, moments=moments, now=self._clock())
        return self.seen

    def pretend(self, event: Event, who: str) -> None:
        """Let a change of consent have been written down."""
        if event.kind in (Kind.UNSUBSCRIBED, Kind.RESUBSCRIBED) and "@" in who:
            self._said = {who: (event.source, event.kind == Kind.UNSUBSCRIBED)}

    def unsubscribed(self, emails: Collection[str]) -> dict[str, tuple[Source, ...]]:
        """Return the platforms at which addresses are unsubscribed."""
        found = {email: set(sources) for email, sources in self._journal.unsubscribed(emails).items()}
        for email, (source, left) in self._said.items():
            if email in emails:
                platforms = found.setdefault(email, set())
                platforms.add(source) if left else platforms.discard(source)
        return {email: tuple(sorted(sources)) for email, sources in found.items() if sources}

    def made_under(self, scopes: Collection[str]) -> dict[str, str]:
        """Return what Kommo said of the task or note that was made under each scope."""
        return self._journal.made_under(scopes)

    def made_by(self, event_ids: Sequence[int]) -> dict[int, Mapping[str, str]]:
        """Return what Kommo said of each finished step of events."""
        return self._journal.made_by(event_ids)


class Explainer:
    """Says what would happen now, and what did happen."""

    def __init__(
        self,
        journal: Journal,
        rules: Rules,
        kommo: KommoClient,
        flows: Flows,
        rehearsal: Rehearsal,
        considered: list[Considered],
        readers: Mapping[Source, Read],
        platforms: Sequence[Source],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """The clients of `kommo` and of the `flows` take part in the `rehearsal`.

        `considered`: where the resolve flow tells from what it chooses. `readers`: of the vendors' webhooks.
        `platforms`: the email platforms whose webhooks are taken.
        """
        self.platforms = platforms
        self._journal = journal
        self._rules = rules
        self._kommo = kommo
        self._readers = readers
        self._clock = clock
        self._flows = flows
        self._rehearsal = rehearsal
        self._considered = considered

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of the mapping file."""
        return self._rules.stages

    def lead(self, lead_id: int) -> Lead | None:
        """Return a deal as Kommo has it now; None: it is gone. Raises ApiError."""
        return self._kommo.leads([lead_id]).get(lead_id)

    def stage_change(self, change: StageChange) -> Outlook:
        """Say what would come of a deal that enters a stage now."""
        (outlook,) = self._foresee([pretended.stage_change(change, self._clock())])
        outlook.stage = self._stage(change, outlook.context)
        return outlook

    def email_activities(self, wanted: Sequence[tuple[Source, Kind]], activity: EmailActivity) -> list[Outlook]:
        """Say what would come of each of some email activities, if it were the only one."""
        return self._foresee([pretended.email_activity(source, kind, activity) for source, kind in wanted])

    def past(self, search: Search) -> list[Past]:
        """Return the newest events that fit, oldest first."""
        stories = self._journal.find(search)
        particulars = self._journal.particulars([story.id for story in stories])
        return [Past(story, particulars[story.id]) for story in reversed(stories) if story.id in particulars]

    def pauses(self) -> dict[str, str]:
        """Return the vendors that are left alone now, until when and why."""
        found = self._journal.pauses(now=self._clock())
        return {vendor: f"until {_moment(pause.until)}: {pause.reason}" for vendor, pause in found.items()}

    # -- inside --

    def _stage(self, change: StageChange, context: Context | None) -> Stage | None:
        pipeline_id = change.pipeline_id
        if pipeline_id is None and context and context.lead:
            pipeline_id = context.lead.pipeline_id
        return self._rules.stage(pipeline_id, change.status_id)

    def _foresee(self, webhooks: Sequence[Webhook]) -> list[Outlook]:
        outlooks = [self._read(webhook) for webhook in webhooks]
        for outlook in outlooks:
            if refusal := self._rules.refusal(outlook.event):
                outlook.state, outlook.reason = "ignored", refusal
        self._resolve([outlook for outlook in outlooks if outlook.state == State.DONE])
        for outlook in outlooks:
            self._judge(outlook)
        return outlooks

    def _read(self, webhook: Webhook) -> Outlook:
        reading = self._readers[webhook.source](webhook, self._clock(), None)
        (event,) = reading.events  # we made the body: it says one thing
        return Outlook(webhook, replace(event, received_at=self._clock()))

    def _resolve(self, outlooks: Sequence[Outlook]) -> None:
        """Ask Kommo once for all, then let the other lanes carry out what follows from each."""
        if not outlooks:
            return
        memory = Memory(self._journal, self._clock)
        jobs = [
            Job(FIRST_JOB - number, Lane.RESOLVE, item.event, item.event.order_key, 0, self._clock())
            for number, item in enumerate(outlooks)
        ]
        self._considered.clear()
        results = self._flows[Lane.RESOLVE][1].carry(jobs, Ledger(memory, jobs))
        outlooks[0].calls = self._rehearsal.take()
        for job, outlook in zip(jobs, outlooks, strict=True):
            result = results[job.id]
            if isinstance(result, ApiError):
                outlook.state, outlook.reason = FAILED, _later(result)
                continue
            outlook.state, outlook.reason, outlook.context = result.state.value, result.reason, result.context
            self._remember(outlook, memory.seen.get(job.id))
            outlook.deeds = [self._carry(item, job, outlook, memory) for item in result.owed]

    def _remember(self, outlook: Outlook, seen: Seen | None) -> None:
        event, context = outlook.event, outlook.context
        if not isinstance(event.data, EmailActivity) or context is None:
            return
        seen = seen or Seen()
        outlook.candidates = tuple(self._candidates(context))
        outlook.rules = self._rules.activities.judge(event, event.data, context, seen)
        outlook.left_out = self._rules.activities.left_out(event, event.data, context, seen)
        if context.email:
            outlook.unsubscribed_at = self._journal.unsubscribed([context.email]).get(context.email, ())

    def _judge(self, outlook: Outlook) -> None:
        """Judge the rules by the event alone, where it came no further."""
        if isinstance(outlook.event.data, EmailActivity) and not outlook.rules:
            outlook.rules = self._rules.activities.judge(outlook.event, outlook.event.data)

    def _carry(self, owed: Owed, resolved: Job, outlook: Outlook, memory: Memory) -> Deed:
        """Have a lane carry out what it would owe."""
        job = replace(resolved, lane=owed.lane, order_key=owed.order_key, plan=owed.plan)
        who = outlook.context.email if outlook.context else ""
        memory.pretend(job.event, who)
        memory.held.clear()
        ledger = Ledger(memory, [job])
        result = self._flows[owed.lane][1].carry([job], ledger)[job.id]
        state, reason = _ending(result)
        outlook.notes = (*outlook.notes, *(f"{key} is taken {words}" for key, words in memory.held.items()))
        steps = {
            action.name: _step(action, ledger.note(job, action.name) if ledger.finished(job, action.name) else None)
            for action in (owed.plan.actions if isinstance(owed.plan, Response) else ())
        }
        return Deed(owed.lane, state, reason, owed.plan, steps, self._rehearsal.take())

    def _candidates(self, context: Context) -> Iterator[Candidate]:
        chosen = context.lead.id if context.lead else 0
        latest = context.lead.updated_at if context.lead else 0.0
        named = any(considered.named == chosen for considered in self._considered)
        told: set[int] = set()
        for considered in self._considered:
            if considered.email and considered.email != context.email:
                continue
            ids = [considered.named] if considered.named else []
            ids += [lead_id for contact in considered.contacts for lead_id in contact.lead_ids]
            for lead_id in ids:
                if lead_id in told:
                    continue
                told.add(lead_id)
                lead = considered.leads.get(lead_id)
                why = _why(lead, chosen=lead_id == chosen, named=named, latest=latest)
                yield Candidate(lead_id, lead.name if lead else "", lead_id == chosen, why)


def _step(action: Action, note: str | None) -> str:
    """Return what would come of an action; `note`: what was noted when it was ticked off, None: it was not."""
    if note is None:
        return "not done"
    if action.kind in ("task", "note"):
        return "would be made" if note == "0" else note  # Kommo was not asked, and so it told no id
    return note or "would be written, where it is not so already"


def _ending(result: Result) -> tuple[str, str]:
    if isinstance(result, ApiError):
        return FAILED, _later(result)
    return result.state.value, result.reason


def _later(error: ApiError) -> str:
    """Return an error with what the service would do about it."""
    if error.fault == Fault.REFUSED:
        return f"{error}. The service would give it up, as `dead`."
    if error.fault == Fault.LOCKED_OUT:
        return f"{error}. The service would keep it, and ask again every 5 minutes."
    return f"{error}. The service would try again."


def _why(lead: Lead | None, *, chosen: bool, named: bool, latest: float) -> str:
    """Return why a deal is chosen, or is not; `named`: the webhook names the chosen one, changed at `latest`."""
    if chosen:
        return "chosen: the webhook names it" if named else "chosen: active, and changed last"
    if lead is None:
        return "no: Kommo does not have it, or it is deleted"
    if lead.is_deleted:
        return "no: deleted"
    if lead.status_id in (WON, LOST):
        return f"no: closed, {'won' if lead.status_id == WON else 'lost'}"
    if named:
        return "no: the webhook names another"
    return f"no: active, but changed {_moment(lead.updated_at)}, before {_moment(latest)}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
