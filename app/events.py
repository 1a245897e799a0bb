"""Our own words: events, jobs, outcomes, and what we know of deals and people. Knows nothing else.

Times are Unix seconds (UTC). Ids are the vendors' own integers unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Source(StrEnum):
    """Who sent the webhook: Kommo, or one of the email platforms. A further platform is a line here."""

    KOMMO = "kommo"
    ENCHARGE = "encharge"
    ORTTO = "ortto"


PLATFORMS = tuple(source for source in Source if source is not Source.KOMMO)


class Kind(StrEnum):
    """What happened, whoever says it."""

    STAGE_CHANGED = "stage_changed"
    EMAIL_OPENED = "email_opened"
    EMAIL_CLICKED = "email_clicked"
    UNSUBSCRIBED = "unsubscribed"
    RESUBSCRIBED = "resubscribed"
    BOUNCED = "bounced"
    JOURNEY_COMPLETED = "journey_completed"
    OTHER = "other"  # well-formed, but nothing we act on: kept so that people see that it came


class Lane(StrEnum):
    """Where a job waits to be carried out: each platform has a lane of its name."""

    _ignore_ = "platform"
    RESOLVE = "resolve"  # reads Kommo: which deal, which person, which fields
    for platform in PLATFORMS:
        vars()[platform.name] = platform.value
    KOMMO = "kommo"


class Priority(IntEnum):
    """How urgent a call to a vendor is: the smaller, the sooner."""

    TASKS = 0  # a person waits for what it writes
    STAGES = 1
    BACKFILL = 2  # nobody waits


@dataclass(frozen=True)
class Turn:
    """When a call to a vendor may go.

    `taken`: another call was to go then, and does unless this was written down before. `closed`: no place was
    given, as the vendor wants no call at all before `at`.
    """

    at: float
    taken: bool = False
    closed: bool = False


class State(StrEnum):
    """How a job stands; spelled so in SQL, logs, answers and pages."""

    PENDING = "pending"  # owed: now, or again at its due time
    DONE = "done"
    SKIPPED = "skipped"  # nothing to do, with the reason
    DEAD = "dead"  # refused for good: a person must look, and can replay it


@dataclass(frozen=True)
class StageChange:
    """A deal entered a stage. A deal created in a stage has no old one."""

    lead_id: int
    status_id: int
    pipeline_id: int | None = None
    old_status_id: int | None = None


@dataclass(frozen=True)
class EmailActivity:
    """A person did something with an email."""

    email: str | None = None  # trimmed, lower-cased, syntactically valid
    lead_id: int | None = None  # the deal that the webhook names, if any
    person_id: str | None = None  # the platform's own id of the person
    campaign: str = ""  # broadcast name at Encharge, subject at Ortto
    subject: str = ""  # the email's subject, where the webhook says it
    link: str | None = None
    first: bool | None = None  # False: the platform says it is a repeat; None: it does not say
    machine: bool = False  # opened or clicked by a scanner or a privacy proxy
    name: str = ""  # the vendor's own name of the event


@dataclass(frozen=True)
class Repeat:
    """When an event without an id or a time of its own counts as a repeat of an earlier one.

    It does if the latest event of the same `scope` had the same `fingerprint`, less than `seconds` ago.
    """

    scope: str
    fingerprint: str
    seconds: int


LOGGED = "logged:"  # what the dedupe keys begin with that are ids in a vendor's log of events


@dataclass(frozen=True)
class Event:
    """One fact from one webhook, or from a vendor's own log of events."""

    source: Source
    kind: Kind
    data: StageChange | EmailActivity
    order_key: str  # events of one key are carried out in order: `lead:41500011`, `email:a@b.c`
    dedupe_key: str | None  # the same key again is the same event; None: only `repeat` can tell
    occurred_at: float | None = None  # as the vendor says it
    repeat: Repeat | None = None
    id: int = 0  # 0 until the journal has it
    received_at: float = 0.0

    @property
    def logged(self) -> bool:
        """Say whether it comes from the vendor's log of events and not from a webhook."""
        return bool(self.dedupe_key and self.dedupe_key.startswith(LOGGED))

    @property
    def moment(self) -> float:
        """When it happened, as well as we know: stable over retries."""
        return self.occurred_at or self.received_at


@dataclass(frozen=True)
class Access:
    """How a platform is reached, and its webhooks' secrets. No key: it is off. `more`: settings of its own."""

    api_key: str | None = field(repr=False)
    webhook_secrets: tuple[str, ...] = field(repr=False)
    api_url: str | None = None  # None: where the vendor has it
    more: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Webhook:
    """A webhook as it came in: kept so that a person can see it and it can be read again."""

    source: Source
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Ignored:
    """Something in a webhook that is not for us, or one that cannot be read, with the reason."""

    kind: str  # the vendor's own words: `contacts.update`
    reason: str


@dataclass(frozen=True)
class Reading:
    """What a webhook's body says: events, what is ignored, and what is wrong in it (each with its path)."""

    events: tuple[Event, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    faults: tuple[str, ...] = ()


def stage_repeat(change: StageChange, seconds: int) -> Repeat:
    """Return how a stage change is known that is told again without an id.

    A deal cannot enter the stage it is in, so the same stage twice in a row is one move told twice.
    """
    return Repeat(f"kommo:lead:{change.lead_id}", f"{change.pipeline_id or 0}:{change.status_id}", seconds)


# -- what Kommo knows --

WON, LOST = 142, 143  # the same ids in every pipeline


@dataclass(frozen=True)
class Company:
    """A company of Kommo. `fields`: first value by field id (as text) and by field code."""

    id: int
    name: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contact:
    """A contact of Kommo. `emails` are trimmed, lower-cased and syntactically valid."""

    id: int
    name: str = ""
    first_name: str = ""
    last_name: str = ""
    emails: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    lead_ids: tuple[int, ...] = ()
    company_id: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FoundPerson:
    """A person of an email platform, as far as we need to know them. `email` as in Contact."""

    email: str | None = None
    lead_id: int | None = None  # the deal that we, or the user, wrote on the person


@dataclass(frozen=True)
class Lead:
    """A deal of Kommo. `contact_ids`: the main contact first."""

    id: int
    name: str = ""
    status_id: int = 0
    pipeline_id: int = 0
    price: int = 0
    responsible_user_id: int | None = None
    updated_at: float = 0.0
    is_deleted: bool = False
    contact_ids: tuple[int, ...] = ()
    company_id: int | None = None
    tags: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Neither deleted nor closed."""
        return not self.is_deleted and self.status_id not in (WON, LOST)


@dataclass(frozen=True)
class Context:
    """What the resolve lane found out about an event.

    Of a change of consent also everybody with the address, and their active deals: it holds for all of them.
    """

    lead: Lead | None = None
    contact: Contact | None = None
    company: Company | None = None
    read_at: float = 0.0
    email: str = ""  # the address by which the person was found
    contact_ids: tuple[int, ...] = ()
    lead_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What the journal knows of a person's earlier email activity, by the order in which it came."""

    first: bool = True  # nothing of this kind in this campaign before
    quiet_seconds: float | None = None  # since the last open or click before; None: there was none
    open_id: int = 0  # the event of an open in this campaign, moments before or after
    click: SeenClick | None = None  # the same of a click


@dataclass(frozen=True)
class SeenClick:
    """A click of which an open may be the same signal; `seen`: what the person had done before it."""

    event_id: int
    activity: EmailActivity
    seen: Seen


# -- what is owed --


@dataclass(frozen=True)
class StageNews:
    """What a destination is to hear of a stage change: the person, and the event."""

    lead_id: int
    email: str
    first_name: str
    last_name: str
    stage: str  # the event's: the stage that was entered
    person_stage: str  # the person's: the stage in which the deal was when Kommo was asked
    status_id: int
    pipeline_id: int | None
    deal_value: int
    event: str  # the event's name at Encharge, the activity's id at Ortto
    fields: Mapping[str, Any]  # more person fields, by the destination's own names
    read_at: float  # when Kommo was asked


@dataclass(frozen=True)
class WorkingHours:
    """When a team works: days from 0 (Monday), minutes of the day, an IANA time zone."""

    days: tuple[int, ...]
    opens: int
    closes: int
    zone: str = "UTC"


@dataclass(frozen=True)
class Action:
    """One thing to write into Kommo. `name` is the action's name in the mapping file, and the step's.

    A task or a note with a `scope` is made once in `cooldown` seconds for all that have the same one; the later
    ones are left out, or their texts are added to the one that was made (`extend`).
    """

    name: str
    kind: str  # task, note, field, tag, untag
    text: str = ""  # task and note: the text; field: the value; tag and untag: the tag's name
    on: str = "lead"  # note, tag and untag: `lead` or `contact`
    due_in: int = 0  # task: seconds
    due_at: int | None = None  # task: minute of the day, instead of `due_in`
    hours: WorkingHours | None = None  # task: when it may be due
    task_type: int = 1
    user_id: int | None = None  # task: who is to do it
    cooldown: int = 0
    scope: str = ""
    extend: bool = False
    joins: int = 0  # note: the event whose note of the same name gets the text, if it has one
    field_id: int = 0


@dataclass(frozen=True)
class Consent:
    """A change of consent: everybody with the address, and their deals, are to show how it stands."""

    email: str
    unsubscribed: bool
    contact_ids: tuple[int, ...] = ()
    lead_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Response:
    """What Kommo is to hear of an email activity; without a deal, what its contact is to show."""

    lead_id: int | None
    contact_id: int | None
    actions: tuple[Action, ...]
    consent: Consent | None = None


Plan = StageNews | Response


@dataclass(frozen=True)
class StageNotice:
    """A stage change as a platform is told of it; a repeat of the same `key` is the same change."""

    news: StageNews
    key: str
    at: float  # when it happened


@dataclass(frozen=True)
class Owed:
    """A job to be made: what `lane` owes once an event is understood."""

    lane: Lane
    order_key: str
    plan: Plan


@dataclass(frozen=True)
class Step:
    """A step of a job: begun (it may have happened) or finished, with what the vendor said of it."""

    finished: bool
    note: str = ""


@dataclass(frozen=True)
class Job:
    """One thing owed for one event in one lane."""

    id: int
    lane: Lane
    event: Event
    order_key: str
    attempts: int  # failed ones so far
    created_at: float
    plan: Plan | None = None  # None in the resolve lane
    steps: Mapping[str, Step] = field(default_factory=dict)
    token: str = field(default="", compare=False)  # of the claim that holds it

    @property
    def lead_id(self) -> int | None:
        """The deal that it is about, if that is known."""
        data = self.event.data
        return self.plan.lead_id if self.plan else data.lead_id

    @property
    def email(self) -> str | None:
        """The person's address, if that is known."""
        if isinstance(self.plan, StageNews):
            return self.plan.email
        return self.event.data.email if isinstance(self.event.data, EmailActivity) else None


@dataclass(frozen=True)
class Outcome:
    """How a job ended: done, skipped with the reason, or dead with the vendor's words.

    `context` and `owed` come from the resolve lane: what it found, and what follows.
    """

    state: State
    reason: str = ""
    context: Context | None = None
    owed: tuple[Owed, ...] = ()


@dataclass(frozen=True)
class Failure:
    """What an attempt at a job failed on: whose fault it was, the vendor's HTTP status, and how long it took."""

    fault: str
    status: int | None
    seconds: float


DOUBTFUL = (
    "*"  # in a job's ledger, the step that stands for all: any may have been taken, in a time we know nothing of
)

CONSENT_KINDS = (Kind.UNSUBSCRIBED, Kind.RESUBSCRIBED)

DONE = Outcome(State.DONE)
HELD = Outcome(State.PENDING, "waits for an earlier one of its key")  # not attempted: no fault of its own


def skipped(reason: str, context: Context | None = None) -> Outcome:
    """Return the outcome of a job for which there is nothing to do."""
    return Outcome(State.SKIPPED, reason, context)
